"""The worker's figures in the forms that others read: Prometheus metrics, and a plain dictionary."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, TypeVar

import torch
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from streamlearn import __version__
from streamlearn.continual import ContinualFigures
from streamlearn.families import counter, gauge, histogram, info, printable
from streamlearn.histograms import Histogram
from streamlearn.observe import EvaluationFigures, MemoryFigures, Observation, Vitals
from streamlearn.reasons import REASONS
from streamlearn.surroundings import surroundings

Figure = tuple[str, str, str]
T = TypeVar("T")

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
        "Free on the disk of the checkpoints after the last attempt to write one, or at the start.",
        "checkpoint.free_bytes",
    ),
    (
        "checkpoint_writing_seconds",
        "For so long the checkpoint under way has been being written; 0 when none is.",
        "checkpoint.writing_seconds",
    ),
    (
        "last_checkpoint_timestamp_seconds",
        "When the newest checkpoint was written, in seconds since 1970; absent before the first.",
        "checkpoint.last_timestamp",
    ),
)

CONTINUAL: tuple[tuple[str, str], ...] = (
    ("average_accuracy", "Mean accuracy on the held-out sets of everything taught so far."),
    ("forgetting", "Mean of each held-out set's best accuracy so far minus the present one."),
    ("worst_set_drop", "Largest drop of one held-out set from its best accuracy so far, over all of them."),
    ("min_accuracy", "Mean over past sets of the lowest accuracy since a newer class appeared."),
    ("worst_case_accuracy", "Lower bound of the accuracy at any time since: WC-ACC."),
    ("stability_gap", "Accuracy on past sets lost at the last new class, until it recovered."),
    ("stability_gap_recovery_events", "Events until it had recovered; absent while it hasn't."),
)
"""Continual evaluation: names in ContinualFigures, and help."""
OLDEST_SETS = NEWEST_SETS = 25
"""Held-out sets with an accuracy of their own, where there are more: the averages are over all.

The oldest, which have had the most time to be forgotten, are there for good; one of the newest is there until
as many newer ones have come, and never again: no series comes back with a hole in it.
"""

HISTOGRAMS: tuple[Figure, ...] = (
    ("prediction_latency_seconds", "From reading an event to handing over its answer.", "latency"),
    (
        "event_to_prediction_seconds",
        "From a record's Kafka timestamp to the commit that made its answer visible.",
        "to_prediction",
    ),
    ("label_delay_seconds", "From a labeled event's own time to its arrival.", "label_delay"),
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
        seen, base = self.vitals.look(), self.vitals.base
        yield from _events(seen, base)
        for name, text, place in COUNTERS:
            value = attrgetter(place)
            yield counter(name, text, {(): value(seen) - value(base)})
        for name, text, place in GAUGES:
            yield gauge(name, text, {(): attrgetter(place)(seen)})
        for name, text in PREQUENTIAL:
            by_kind = {(kind,): getattr(figures, name) for kind, figures in seen.prequential.items()}
            yield gauge(f"prequential_{name}", text, by_kind, "kind")
        yield gauge(
            "prequential_log_loss",
            "Mean negative log-likelihood of the labels before they were learned, in nats.",
            {("cumulative",): seen.log_loss, ("fading",): seen.fading_log_loss},
            "kind",
        )
        yield from _continual(seen, base)
        recall = {(printable(label),): value for label, value in seen.class_recall.items()}
        yield gauge(
            "class_recall",
            "Share of a class's labeled events predicted right before they were learned. The first "
            "classes have their own label, later ones share other.",
            recall,
            "label",
        )
        yield from _memory(seen)
        losses = {(part,): value for part, value in seen.losses.items()}
        yield gauge("loss", "The last update's loss, by part.", losses, "part")
        stages = {(stage,): found for stage, found in seen.stages.items()}
        yield histogram("step_seconds", "Time of each stage of the worker's turn.", stages, "stage")
        for name, text, place in HISTOGRAMS:
            yield histogram(name, text, {(): attrgetter(place)(seen)})
        if seen.nearest:
            text = "Distance (1 - cosine) of the nearest prototypes of two classes."
            yield gauge("prototype_nearest_distance", text, {(): 1 - seen.nearest[0][2]})
            pairs = {(printable(a), printable(b)): 1 - cosine for a, b, cosine in seen.nearest}
            text = "The same of the pairs of classes that are easiest to confuse."
            yield gauge("prototype_distance", text, pairs, "class", "other")
        if seen.serving:
            yield info("serving", "What answers.", {"predictor": seen.serving})
        versions = {"torch": str(torch.__version__), "python": platform.python_version()}
        yield info("build", "What is running.", {"version": __version__, **versions})
        yield from surroundings(seen, self.vitals)


def _memory(seen: Observation) -> Iterator[Metric]:
    """Nothing before the shape of x is settled."""
    memory = seen.memory
    if memory is None:
        return
    yield gauge(
        "memory_bytes",
        "What the replay memory takes up, also while it is not full.",
        {(): memory.bytes},
    )
    yield gauge(
        "memory_classes", "Classes of which the replay memory holds an example.", {(): memory.classes}
    )
    shares = {(printable(label),): share for label, share in memory.shares.items()}
    text = "Share of the replay memory's examples. The first classes have their own label, later ones other."
    yield gauge("memory_class_share", text, shares, "label")
    ages = {(statistic,): age for statistic, age in memory.ages.items()}
    text = "Labeled events that came since an example of the replay memory was stored."
    yield gauge("memory_age_events", text, ages, "statistic")


def _continual(seen: Observation, base: Observation) -> Iterator[Metric]:
    """Nothing before the shape of x is settled."""
    figures, evaluation = seen.continual, seen.evaluation
    if figures is None or evaluation is None:
        return
    for name, text in CONTINUAL:
        yield gauge(name, text, {(): getattr(figures, name)})
    for name, text, by_window in (
        ("windowed_forgetting", "Mean over the sets of the largest drop within", figures.windowed_forgetting),
        ("windowed_plasticity", "Mean over the sets of the largest gain within", figures.windowed_plasticity),
    ):
        values = {(str(window),): value for window, value in by_window.items()}
        yield gauge(name, f"{text} so many evaluations.", values, "window")
    sets = shown(figures.sets)
    accuracies = {(printable(one.name), "fixed"): one.fixed for one in sets}
    accuracies |= {(printable(one.name), "rolling"): one.rolling for one in sets}
    text = "Accuracy on a held-out set: on its fixed examples, and on its newest ones."
    yield gauge("set_accuracy", text, accuracies, "set", "kind")
    errors = {(printable(o.name),): e for o, e in zip(sets, shown(evaluation.errors), strict=True)}
    yield gauge("set_accuracy_standard_error", "At most, of the fixed examples'.", errors, "set")
    for name, text, value in (
        ("evaluation_interval_steps", "Steps between the last two evaluations.", evaluation.interval_steps),
        ("held_out_examples", "Examples in the held-out sets.", evaluation.examples),
        ("held_out_bytes", "What they take up.", evaluation.bytes),
    ):
        yield gauge(name, text, {(): value})
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
        yield counter(name, text, {(): count - (earlier or 0)})


def _events(seen: Observation, base: Observation) -> Iterator[Metric]:
    # All reasons from the start: of a series that begins with 1 Prometheus can't see that 1.
    counts = dict.fromkeys(REASONS, 0) | dict(seen.rejected)
    dead = {reason: count - base.rejected.get(reason, 0) for reason, count in sorted(counts.items())}
    outcomes = {
        ("learned",): seen.learned - base.learned,
        ("predicted",): seen.predicted - base.predicted,
        ("held_out",): seen.held_out - base.held_out,
        ("forgotten",): seen.forgotten - base.forgotten,
        ("dead_lettered",): sum(dead.values()),
    }
    text = "Events by what became of them: those learned, held out or forgotten were predicted, too."
    yield counter("events", text, outcomes, "outcome")
    by_reason = {(reason,): count for reason, count in dead.items()}
    yield counter("dead_letters", "Records refused, by reason.", by_reason, "reason")
    yield counter("read_bytes", "Bytes of the records' values, as they came.", {(): seen.read_bytes})


def status(vitals: Vitals) -> dict[str, Any]:
    """Everything there is to know, for /status. Counts are those of the state: since its first start."""
    seen, sickness = vitals.look(), vitals.sickness()
    unready = vitals.unready()
    checkpoint = seen.checkpoint
    problem = vitals.output_problem
    return {
        "ready": unready is None,
        "unready": None if unready is None else printable(unready),
        "healthy": sickness is None,
        "sickness": None if sickness is None else printable(sickness),
        "output_problem": None if problem is None else printable(problem),
        "version": __version__,
        "time": utc(time.time()),
        "role": vitals.role,
        "paused": seen.paused,
        "epoch": seen.epoch,
        "resumed": seen.resumed,
        "read_bytes": seen.read_bytes,
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
        "checkpointed_offsets": {printable(t): dict(offsets) for t, offsets in seen.checkpointed.items()},
        **_traffic(seen),
        "memory": {
            "examples": seen.memory_examples,
            "capacity": seen.memory_capacity,
            **({} if seen.memory is None else _plain_memory(seen.memory)),
        },
        "device_memory": None if seen.device is None else dict(seen.device.memory),
        "device_utilization": None if seen.device is None else seen.device.utilization,
        "last_checkpoint": {
            "id": checkpoint.last_id or None,
            "timestamp": checkpoint.last_timestamp,
            "time": None if checkpoint.last_timestamp is None else utc(checkpoint.last_timestamp),
            "bytes": checkpoint.bytes,
            "written": checkpoint.written,
            "failures": checkpoint.failures,
            "duration_seconds": checkpoint.last_duration,
            "pause_seconds": checkpoint.last_pause,
            "writing_seconds": checkpoint.writing_seconds,
            "free_bytes": checkpoint.free_bytes,
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
        "nearest_prototypes": [[printable(a), printable(b), 1 - cosine] for a, b, cosine in seen.nearest],
        "recall_interval_steps": seen.recall_interval,
        "expected_recall_interval_steps": seen.expected_recall,
        "losses": dict(seen.losses),
        "stage_seconds": {stage: _mean(histogram) for stage, histogram in seen.stages.items()},
        "prediction_latency_seconds": _mean(seen.latency),
        "event_to_prediction_seconds": _mean(seen.to_prediction),
        "label_delay_seconds": _mean(seen.label_delay),
    }


def utc(seconds: float) -> str:
    """Seconds since 1970 as a person reads them."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _traffic(seen: Observation) -> dict[str, Any]:
    """By topic and partition; empty where there is no group."""
    traffic = seen.traffic
    if traffic is None:
        return {"lag": {}, "ends": {}, "queues": dict(seen.queues), "traffic": None}
    topics = [printable(topic) for topic in seen.offsets]
    return {
        "lag": {topic: {str(p): n for p, n in traffic.lag.items()} for topic in topics},
        "ends": {topic: {str(p): n for p, n in traffic.ends.items()} for topic in topics},
        "queues": dict(seen.queues),
        "traffic": {**traffic.counts, "answered_at": traffic.answered_at, "held": traffic.held},
    }


def _plain_memory(figures: MemoryFigures) -> dict[str, Any]:
    return asdict(figures) | {"shares": {printable(name): share for name, share in figures.shares.items()}}


def continual(figures: ContinualFigures) -> dict[str, Any]:
    """The figures of continual evaluation as plain values; of the sets, those that are `shown`."""
    sets = shown(figures.sets)
    return {
        **{name: getattr(figures, name) for name, _ in CONTINUAL},
        "evaluations": figures.evaluations,
        "windowed_forgetting": {str(w): value for w, value in figures.windowed_forgetting.items()},
        "windowed_plasticity": {str(w): value for w, value in figures.windowed_plasticity.items()},
        "sets": {printable(one.name): {"fixed": one.fixed, "rolling": one.rolling} for one in sets},
    }


def shown(sets: Sequence[T]) -> list[T]:
    """Of what there is by set, in the order in which they appeared: that of the oldest and of the newest."""
    if len(sets) <= OLDEST_SETS + NEWEST_SETS:
        return list(sets)
    return [*sets[:OLDEST_SETS], *sets[-NEWEST_SETS:]]


def _evaluation(figures: EvaluationFigures) -> dict[str, Any]:
    return asdict(figures) | {"errors": shown(figures.errors)}


def _mean(histogram: Histogram) -> float | None:
    count = sum(histogram.counts)
    return histogram.sum / count if count else None
