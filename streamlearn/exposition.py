"""The worker's figures in the forms that others read: Prometheus metrics, and a plain dictionary."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import accumulate
from operator import attrgetter
from typing import Any, TypeVar

import torch
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from streamlearn import __version__
from streamlearn.continual import ContinualFigures
from streamlearn.observe import ROLES, EvaluationFigures, Histogram, Observation, Vitals

Figure = tuple[str, str, str]

COUNTERS: tuple[Figure, ...] = (
    ("skipped_steps", "Updates left out because their loss was not a finite number.", "skipped_steps"),
    ("checkpoints", "Checkpoints written.", "checkpoint.written"),
    ("checkpoint_failures", "Checkpoints that could not be written.", "checkpoint.failures"),
)
"""Name without prefix and _total, help, and the place in Observation. Tables below: name without prefix."""

GAUGES: tuple[Figure, ...] = (
    ("known_classes", "Classes the model can answer with.", "known_classes"),
    ("parameters", "Trainable numbers in the model.", "parameters"),
    ("model_step", "Updates that the model has seen since its first start.", "step"),
    ("epoch", "How often a worker has started on this state folder.", "epoch"),
    ("memory_examples", "Examples in the replay memory.", "memory_examples"),
    ("memory_capacity_examples", "Examples that the replay memory has room for.", "memory_capacity"),
    ("images_per_event", "Inputs through the network for each event learned, mean.", "images_per_event"),
    ("pending_events", "Labeled events that wait for their batch to be full.", "pending"),
    ("recall_interval_steps", "Steps between two recalls of the same stored example.", "recall_interval"),
    ("expected_recall_interval_steps", "Examples stored by those recalled a step.", "expected_recall"),
    ("prequential_kappa", "Cohen's kappa of all predictions made before learning.", "kappa"),
    ("checkpoint_bytes", "Size of the last checkpoint.", "checkpoint.bytes"),
    (
        "checkpoint_free_bytes",
        "Free on the disk of the checkpoints when the last one had been written; absent before the first.",
        "checkpoint.free_bytes",
    ),
    (
        "last_checkpoint_timestamp_seconds",
        "When this process last wrote a checkpoint, in seconds since 1970; absent before the first.",
        "checkpoint.last_timestamp",
    ),
)

CONTINUAL: tuple[tuple[str, str], ...] = (
    ("average_accuracy", "Mean accuracy on the held-out sets of everything taught so far."),
    ("forgetting", "Mean of each held-out set's best accuracy so far minus the present one."),
    ("min_accuracy", "Mean over past sets of the lowest accuracy since a newer class appeared."),
    ("worst_case_accuracy", "Lower bound of the accuracy at any time since: WC-ACC."),
    ("stability_gap", "Accuracy on past sets lost at the last new class, until it recovered."),
    ("stability_gap_recovery_events", "Events until it had recovered; absent while it hasn't."),
)
"""Continual evaluation: names in ContinualFigures, and help."""
MOST_SETS = 50
"""Held-out sets with an accuracy of their own, the newest; the averages are over all."""

HISTOGRAMS: tuple[Figure, ...] = (
    ("prediction_latency_seconds", "From reading an event to handing over its answer.", "latency"),
    ("checkpoint_duration_seconds", "From a checkpoint's begin to its end on disk.", "checkpoint.duration"),
    ("checkpoint_pause_seconds", "Time that learning stopped for a checkpoint.", "checkpoint.pause"),
)

PREQUENTIAL = (
    ("accuracy", "Share of labeled events predicted right before they were learned."),
    ("kappa_majority", "Prequential accuracy above that of predicting the most frequent label so far."),
    ("kappa_no_change", "Prequential accuracy above that of predicting the label before."),
)


class WorkerCollector(Collector):
    """The worker's figures as Prometheus metrics; a figure that is None is left out.

    Counters count from this process's start. The worker's own counts are part of its state: a crash takes
    them back to the last checkpoint, which Prometheus would read as a restart from zero, adding all of
    them to every rate.
    """

    def __init__(self, vitals: Vitals) -> None:
        self.vitals = vitals

    def collect(self) -> Iterator[Metric]:
        seen, base = self.vitals.observation, self.vitals.base
        yield from _events(seen, base)
        for name, text, place in COUNTERS:
            value = attrgetter(place)
            yield _counter(name, text, {(): value(seen) - value(base)})
        for name, text, place in GAUGES:
            yield _gauge(name, text, {(): attrgetter(place)(seen)})
        for name, text in PREQUENTIAL:
            by_kind = {(kind,): getattr(figures, name) for kind, figures in seen.prequential.items()}
            yield _gauge(f"prequential_{name}", text, by_kind, "kind")
        yield _gauge(
            "prequential_log_loss",
            "Mean negative log-likelihood of the labels before they were learned, in nats.",
            {("cumulative",): seen.log_loss, ("fading",): seen.fading_log_loss},
            "kind",
        )
        yield from _continual(seen, base)
        recall = {(printable(label),): value for label, value in seen.class_recall.items()}
        yield _gauge(
            "class_recall",
            "Share of a class's labeled events predicted right before they were learned. The first "
            "classes have their own label, later ones share other.",
            recall,
            "label",
        )
        losses = {(part,): value for part, value in seen.losses.items()}
        yield _gauge("loss", "The last update's loss, by part.", losses, "part")
        yield _gauge(
            "next_offset",
            "Offset at which reading goes on: every record below it has been applied and answered.",
            {(printable(t), str(p)): o for t, offsets in seen.offsets.items() for p, o in offsets.items()},
            "topic",
            "partition",
        )
        yield from _traffic(seen, self.vitals.role)
        # Looked up now, on the server's thread: all else stands still when the learner hangs.
        healthy = float(self.vitals.sickness() is None)
        yield _gauge("healthy", "1 while /healthz says ok, 0 while it says what is wrong.", {(): healthy})
        stages = {(stage,): histogram for stage, histogram in seen.stages.items()}
        yield _histogram("step_seconds", "Time of each stage of the worker's turn.", stages, "stage")
        for name, text, place in HISTOGRAMS:
            yield _histogram(name, text, {(): attrgetter(place)(seen)})
        if seen.nearest:
            text = "Distance (1 - cosine) of the nearest prototypes of two classes, at the last evaluation."
            yield _gauge("prototype_nearest_distance", text, {(): 1 - seen.nearest[0][2]})
            pairs = {(printable(a), printable(b)): 1 - cosine for a, b, cosine in seen.nearest}
            text = "The same of the pairs of classes that are easiest to confuse."
            yield _gauge("prototype_distance", text, pairs, "class", "other")
        if seen.serving:
            yield InfoMetricFamily("streamlearn_serving", "What answers.", {"predictor": seen.serving})
        versions = {"torch": str(torch.__version__), "python": platform.python_version()}
        yield InfoMetricFamily("streamlearn_build", "What is running.", {"version": __version__, **versions})


def _continual(seen: Observation, base: Observation) -> Iterator[Metric]:
    """Nothing before the shape of x is settled."""
    figures, evaluation = seen.continual, seen.evaluation
    if figures is None or evaluation is None:
        return
    for name, text in CONTINUAL:
        yield _gauge(name, text, {(): getattr(figures, name)})
    for name, text, by_window in (
        ("windowed_forgetting", "Mean over the sets of the largest drop within", figures.windowed_forgetting),
        ("windowed_plasticity", "Mean over the sets of the largest gain within", figures.windowed_plasticity),
    ):
        values = {(str(window),): value for window, value in by_window.items()}
        yield _gauge(name, f"{text} so many evaluations.", values, "window")
    last = figures.sets[-MOST_SETS:]
    accuracies = {(printable(one.name), "fixed"): one.fixed for one in last}
    accuracies |= {(printable(one.name), "rolling"): one.rolling for one in last}
    text = "Accuracy on a held-out set: on its fixed examples, and on its newest ones."
    yield _gauge("set_accuracy", text, accuracies, "set", "kind")
    errors = {(printable(o.name),): e for o, e in zip(last, evaluation.errors[-MOST_SETS:], strict=True)}
    yield _gauge("set_accuracy_standard_error", "At most, of the fixed examples'.", errors, "set")
    for name, text, value in (
        ("evaluation_interval_steps", "Steps between the last two evaluations.", evaluation.interval_steps),
        ("held_out_examples", "Examples in the held-out sets.", evaluation.examples),
        ("held_out_bytes", "What they take up.", evaluation.bytes),
    ):
        yield _gauge(name, text, {(): value})
    before = base.evaluation
    for name, text, count, earlier in (
        ("evaluations", "Evaluations of the held-out sets.", evaluation.count, before and before.count),
        (
            "evaluated_images",
            "Inputs put through the network for them.",
            evaluation.images,
            before and before.images,
        ),
    ):
        yield _counter(name, text, {(): count - (earlier or 0)})


def _traffic(seen: Observation, role: str) -> Iterator[Metric]:
    """What a source and a sink with queues of their own say, and the worker's part in its group."""
    lag = {(printable(t), str(p)): n for t, partitions in seen.lag.items() for p, n in partitions.items()}
    text = "Records in the topic that were not applied yet, at the last look."
    yield _gauge("consumer_lag_events", text, lag, "topic", "partition")
    queues = {(queue,): depth for queue, depth in seen.queues.items()}
    yield _gauge("queue_depth", "Records and outputs that wait in memory.", queues, "queue")
    text = "1 for what this worker is: of a group one learns, the others stand by."
    yield _gauge("role", text, {(name,): float(name == role) for name in ROLES}, "role")
    yield _gauge("paused", "1 while a command has paused the worker.", {(): float(seen.paused)})


def _events(seen: Observation, base: Observation) -> Iterator[Metric]:
    dead = {reason: count - base.rejected.get(reason, 0) for reason, count in sorted(seen.rejected.items())}
    outcomes = {
        ("learned",): seen.learned - base.learned,
        ("predicted",): seen.predicted - base.predicted,
        ("held_out",): seen.held_out - base.held_out,
        ("forgotten",): seen.forgotten - base.forgotten,
        ("dead_lettered",): sum(dead.values()),
    }
    text = "Events by what became of them: those learned, held out or forgotten were predicted, too."
    yield _counter("events", text, outcomes, "outcome")
    by_reason = {(reason,): count for reason, count in dead.items()}
    yield _counter("dead_letters", "Records refused, by reason.", by_reason, "reason")


Labels = TypeVar("Labels", bound=tuple[str, ...])


def _counter(name: str, text: str, values: Mapping[Labels, float], *labels: str) -> Metric:
    counter = CounterMetricFamily(f"streamlearn_{name}", text, labels=labels)
    for of, value in values.items():
        # below zero: the base is set and the first observation is still to come
        counter.add_metric(of, max(0, value))
    return counter


def _gauge(name: str, text: str, values: Mapping[Labels, float | None], *labels: str) -> Metric:
    gauge = GaugeMetricFamily(f"streamlearn_{name}", text, labels=labels, unit=_unit(name))
    for of, value in values.items():
        if value is not None:
            gauge.add_metric(of, value)
    return gauge


def _histogram(name: str, text: str, values: Mapping[Labels, Histogram], *labels: str) -> Metric:
    family = HistogramMetricFamily(f"streamlearn_{name}", text, labels=labels, unit=_unit(name))
    for of, histogram in values.items():
        bounds = [*map(repr, histogram.bounds), "+Inf"]
        family.add_metric(of, list(zip(bounds, accumulate(histogram.counts), strict=True)), histogram.sum)
    return family


def _unit(name: str) -> str:
    unit = name.rpartition("_")[2]
    return unit if unit in ("seconds", "bytes") else ""


def printable(text: str) -> str:
    """Text that UTF-8 can hold: the topic of a file source is a path, and paths may be any bytes."""
    return text.encode("utf-8", "backslashreplace").decode()


def status(vitals: Vitals) -> dict[str, Any]:
    """Everything there is to know, for /status. Counts are those of the state: since its first start."""
    seen, sickness = vitals.observation, vitals.sickness()
    checkpoint = seen.checkpoint
    problem = vitals.output_problem
    return {
        "ready": vitals.ready,
        "healthy": sickness is None,
        "sickness": None if sickness is None else printable(sickness),
        "output_problem": None if problem is None else printable(problem),
        "version": __version__,
        "role": vitals.role,
        "paused": seen.paused,
        "epoch": seen.epoch,
        "step": seen.step,
        "skipped_steps": seen.skipped_steps,
        "records": seen.records,
        "learned": seen.learned,
        "predicted": seen.predicted,
        "held_out": seen.held_out,
        "forgotten": seen.forgotten,
        "blocked_ids": seen.blocked,
        "pending": seen.pending,
        "held": seen.held,
        "dead_letters": dict(seen.rejected),
        "known_classes": seen.known_classes,
        "classes": [printable(label) for label in seen.classes],
        "parameters": seen.parameters,
        "images_per_event": seen.images_per_event,
        "offsets": {printable(topic): dict(offsets) for topic, offsets in seen.offsets.items()},
        "lag": {printable(t): {str(p): n for p, n in lag.items()} for t, lag in seen.lag.items()},
        "queues": dict(seen.queues),
        "memory": {"examples": seen.memory_examples, "capacity": seen.memory_capacity},
        "last_checkpoint": {
            "id": checkpoint.last_id or None,
            "timestamp": checkpoint.last_timestamp,
            "bytes": checkpoint.bytes,
            "written": checkpoint.written,
            "failures": checkpoint.failures,
        },
        "prequential": {
            kind: {name: getattr(figures, name) for name, _ in PREQUENTIAL}
            for kind, figures in seen.prequential.items()
        },
        "kappa": seen.kappa,
        "class_recall": {printable(label): value for label, value in seen.class_recall.items()},
        "log_loss": {"cumulative": seen.log_loss, "fading": seen.fading_log_loss},
        "continual": None if seen.continual is None else continual(seen.continual),
        "evaluation": None if seen.evaluation is None else _evaluation(seen.evaluation),
        "serving": seen.serving or None,
        "nearest_prototypes": [[printable(a), printable(b), cosine] for a, b, cosine in seen.nearest],
        "recall_interval_steps": seen.recall_interval,
        "expected_recall_interval_steps": seen.expected_recall,
        "losses": dict(seen.losses),
        "stage_seconds": {stage: _mean(histogram) for stage, histogram in seen.stages.items()},
        "prediction_latency_seconds": _mean(seen.latency),
    }


def continual(figures: ContinualFigures) -> dict[str, Any]:
    """The figures of continual evaluation as plain values, of the newest sets."""
    last = figures.sets[-MOST_SETS:]
    return {
        **{name: getattr(figures, name) for name, _ in CONTINUAL},
        "evaluations": figures.evaluations,
        "windowed_forgetting": {str(w): value for w, value in figures.windowed_forgetting.items()},
        "windowed_plasticity": {str(w): value for w, value in figures.windowed_plasticity.items()},
        "sets": {printable(one.name): {"fixed": one.fixed, "rolling": one.rolling} for one in last},
    }


def _evaluation(figures: EvaluationFigures) -> dict[str, Any]:
    return asdict(figures) | {"errors": list(figures.errors[-MOST_SETS:])}


def _mean(histogram: Histogram) -> float | None:
    count = sum(histogram.counts)
    return histogram.sum / count if count else None
