"""What the worker lets others see: figures taken by the learner's thread, read by the HTTP server's.

The worker replaces one `Observation` by the next; a reader takes the reference and has a consistent whole.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from streamlearn.continual import ContinualFigures
from streamlearn.events import Traffic
from streamlearn.histograms import Histogram
from streamlearn.learner import OnlineLearner
from streamlearn.method import chain
from streamlearn.prequential import KINDS, Figures, Prequential
from streamlearn.trainer import Trainer

MOST_CLASSES = 100
"""Labels that an observation names."""
MOST_RECALLS = 50
"""Classes with a recall of their own; those that came later share one, under OTHER."""
OTHER = "other"
ROLES = ("learner", "standby")
STARTING = "starting"
"""What a worker is before it is one of ROLES: whether it is to learn or to stand by isn't known at once."""


@dataclass
class CheckpointFigures:
    """Of the checkpoints of this run. `last_timestamp`: seconds since 1970, None before the first.

    free_bytes: on their disk, after the last attempt to write one, or at the start. writing_seconds: for so
    long the one under way has been being written, 0 when none is; looked up by `Vitals.look`, as free_bytes
    is. last_duration, last_pause: of the last one, in seconds.
    """

    written: int = 0
    failures: int = 0
    last_id: str = ""
    last_timestamp: float | None = None
    bytes: int = 0
    free_bytes: int | None = None
    duration: Histogram = field(default_factory=Histogram)
    pause: Histogram = field(default_factory=Histogram)
    writing_seconds: float = 0.0
    last_duration: float | None = None
    last_pause: float | None = None

    def copy(self) -> CheckpointFigures:
        return replace(self, duration=self.duration.copy(), pause=self.pause.copy())


@dataclass(frozen=True)
class EvaluationFigures:
    """What continual evaluation has to ask, and what it costs.

    examples, bytes: of the held-out sets. errors: standard error, at most, of each fixed set's accuracy.
    count: evaluations so far. images: put through the network for them. interval_steps: steps between the
    last two scheduled ones.
    """

    examples: int
    bytes: int
    count: int
    images: int
    interval_steps: int | None
    errors: Sequence[float | None]


@dataclass(frozen=True)
class MemoryFigures:
    """Of the replay memory.

    bytes: what it takes up. classes: those of which it holds an example. shares: of its examples, by label,
    later classes together under OTHER. ages: by statistic, in labeled events since an example was stored.
    """

    bytes: int
    classes: int
    shares: Mapping[str, float]
    ages: Mapping[str, float]


@dataclass(frozen=True)
class DeviceFigures:
    """Of the accelerator. memory: bytes by kind. utilization: share of the last moments that it was busy."""

    memory: Mapping[str, int]
    utilization: float | None


@dataclass(frozen=True)
class Observation:
    """One moment of a worker. `traffic`, `memory` and `device` are looked up by `Vitals.look`.

    answered_at: when a broker last answered, in seconds since 1970; before the first answer, when the worker
    began to ask. None where there is no broker.
    """

    step: int = 0
    epoch: int = 0
    resumed: bool = False
    read_bytes: int = 0
    records: int = 0
    learned: int = 0
    predicted: int = 0
    skipped_steps: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    pending: int = 0
    held: int = 0
    known_classes: int = 0
    classes: Sequence[str] = ()
    class_recall: Mapping[str, float] = field(default_factory=dict)
    parameters: int = 0
    held_out: int = 0
    forgotten: int = 0
    blocked: int = 0
    memory_examples: int = 0
    memory_capacity: int = 0
    images_per_event: float = 0.0
    losses: Mapping[str, float] = field(default_factory=dict)
    prequential: Mapping[str, Figures] = field(default_factory=dict)
    kappa: float | None = None
    log_loss: float | None = None
    fading_log_loss: float | None = None
    continual: ContinualFigures | None = None
    evaluation: EvaluationFigures | None = None
    serving: str = ""
    nearest: Sequence[tuple[str, str, float]] = ()
    recall_interval: float | None = None
    expected_recall: float | None = None
    offsets: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    checkpointed: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    traffic: Traffic | None = None
    answered_at: float | None = None
    queues: Mapping[str, int] = field(default_factory=dict)
    memory: MemoryFigures | None = None
    device: DeviceFigures | None = None
    paused: bool = False
    stages: Mapping[str, Histogram] = field(default_factory=dict)
    latency: Histogram = field(default_factory=Histogram)
    label_delay: Histogram = field(default_factory=Histogram)
    to_prediction: Histogram = field(default_factory=Histogram)
    checkpoint: CheckpointFigures = field(default_factory=CheckpointFigures)


def observe(learner: OnlineLearner, **more: Any) -> Observation:
    """The learner's figures, and `more` of the worker's."""
    counts, settled = learner.counts, learner.settled
    scores = learner.prequential
    known = learner.model.classes if settled else 0
    return Observation(
        step=counts.steps,
        records=counts.records,
        learned=counts.learned,
        predicted=counts.predicted,
        skipped_steps=counts.skipped_steps,
        rejected=dict(counts.rejected),
        pending=learner.pending if settled else 0,
        held=len(learner.held),
        known_classes=known,
        classes=learner.classes.labels[: min(known, MOST_CLASSES)],
        class_recall=_recall(scores, learner.classes.labels[:MOST_RECALLS]),
        parameters=learner.model.parameters if settled else 0,
        held_out=counts.held_out,
        forgotten=counts.forgotten,
        blocked=len(learner.blocked),
        memory_examples=learner.memory.size if settled else 0,
        memory_capacity=learner.settings.memory.capacity,
        images_per_event=counts.images / counts.learned if counts.learned else 0.0,
        losses=dict(learner.losses),
        prequential={kind: scores.figures(kind) for kind in KINDS},
        kappa=scores.kappa(),
        log_loss=scores.loss(),
        fading_log_loss=scores.fading_loss(),
        **(_evaluated(learner.trainer) if settled else {}),
        **more,
    )


def _evaluated(trainer: Trainer) -> dict[str, Any]:
    evaluator = trainer.evaluator
    labels = evaluator.classes.labels
    held = evaluator.held
    recall = [layer.recall_interval for layer in chain(trainer.method)]
    expected = [layer.expected_recall_interval for layer in chain(trainer.method)]
    return {
        "continual": evaluator.figures,
        "evaluation": EvaluationFigures(
            held.size,
            held.bytes,
            evaluator.figures.evaluations,
            evaluator.images,
            evaluator.schedule.interval_steps,
            evaluator.errors,
        ),
        "serving": trainer.serving.name,
        "nearest": [(labels[a], labels[b], cosine) for a, b, cosine in evaluator.nearest],
        "recall_interval": next((steps for steps in recall if steps is not None), None),
        "expected_recall": next((steps for steps in expected if steps is not None), None),
    }


def _recall(scores: Prequential, labels: Sequence[str]) -> dict[str, float]:
    """Share of right predictions by actual class: of `labels`, and of all later ones under OTHER.

    O(len(labels)), however many classes there are. A class that is itself called OTHER is counted there.
    """
    first = list(zip(labels, scores.hits, scores.actual, strict=False))
    hits: dict[str, int] = {}
    actual: dict[str, int] = {}
    rest = sum(of for _, of, _ in first), sum(of for _, _, of in first)
    later = (OTHER, scores.correct[0] - rest[0], scores.events - rest[1])
    for label, right, all_of_it in [*first, later]:
        hits[label] = hits.get(label, 0) + right
        actual[label] = actual.get(label, 0) + all_of_it
    return {label: hits[label] / count for label, count in actual.items() if count}


class Vitals:
    """Is the worker alive? Written by the worker's thread, read by the HTTP server's.

    Healthy means: no thread has died or hangs, checkpoints have not failed for longer than they may, and
    whenever there was something to apply, something was applied within `stall_seconds`. Waiting for input,
    also for a broker that is away, is healthy: a restart would not bring it back.
    """

    def __init__(self, stall_seconds: float) -> None:
        self.stall_seconds = stall_seconds
        self.observation = Observation()
        self.base = Observation()
        """What the loaded state had counted already: Prometheus counters count from there."""
        self.ready = False
        self.cast: Callable[[str], object] = lambda role: None
        """Called with the role whenever this worker begins to stand by, or ends."""
        self.role = STARTING
        """STARTING, then one of ROLES: of a group one learns, the others stand by."""
        self.failure: str | None = None
        self.output_problem: str | None = None
        self.checkpoint_problem: Callable[[], str | None] = lambda: None
        """Asked anew each time: the worker's thread may be waiting for the very write that hangs."""
        self.source_silence: Callable[[], float] = lambda: 0.0
        """Seconds for which the thread that reads has given no sign of life. Asked anew each time."""
        self.threads_beside: Callable[[], Sequence[Any]] = lambda: ()
        """Where those of the process are that talks to the brokers (see `watchdog.Place`)."""
        self.away: Callable[[], str | None] = lambda: None
        """That no broker has answered since the start, in words. Asked anew each time."""
        self.live: Callable[[Observation], Mapping[str, Any]] = lambda seen: {}
        """What is looked up when somebody asks, for the fields of an Observation."""
        self.held: Callable[[], bool] = lambda: True
        """Are the partitions this worker's?"""
        self._busy_since: float | None = None
        self._inside: tuple[float, str, float] | None = None
        """Since when, in what, and after how many seconds that hangs."""

    def look(self) -> Observation:
        """How it stands now. From any thread."""
        seen = self.observation
        return replace(seen, **self.live(seen))

    def play(self, role: str) -> None:
        """What this worker is from now on, STARTING or one of ROLES, for which it is ready."""
        before, self.role = self.role, role
        self.ready = role in ROLES
        if role != before and "standby" in (role, before):
            self.cast(role)

    def busy(self) -> None:
        """There is something to apply (call again after every application)."""
        self._busy_since = time.monotonic()

    def behind(self) -> None:
        """There is something to apply, and it doesn't come."""
        if self._busy_since is None:
            self._busy_since = time.monotonic()

    def idle(self) -> None:
        """Everything that came has been applied."""
        self._busy_since = None

    @contextmanager
    def inside(self, what: str, hangs: bool = True) -> Iterator[None]:
        """Around a call that comes back soon, or hangs. May be nested: the inner one counts.

        hangs: whether to say so when it takes longer than `stall_seconds`; else something else watches it.
        """
        outer = self._inside
        self._inside = time.monotonic(), what, self.stall_seconds if hangs else math.inf
        try:
            yield
        finally:
            # Time spent in the inner one isn't held against the outer one.
            self._inside = (time.monotonic(), *outer[1:]) if outer is not None else None

    def waits(self, stopped: Callable[[], bool]) -> Callable[[], bool]:
        """`stopped`, for a call that asks it while it waits for what may come: the asking shows life."""

        def asked() -> bool:
            if self._inside is not None:
                self._inside = (time.monotonic(), *self._inside[1:])
            return stopped()

        return asked

    def sickness(self) -> str | None:
        """Why the worker is not healthy, or None."""
        if self.failure is not None:
            return self.failure
        if (problem := self.checkpoint_problem()) is not None:
            return problem
        if (silence := self.source_silence()) > self.stall_seconds:
            return f"the thread that talks to the brokers has hung for {silence:.0f} s"
        busy, inside, now = self._busy_since, self._inside, time.monotonic()
        if inside is not None:
            since, what, limit = inside
            if now - since > limit:
                return f"{what} has hung for {now - since:.0f} s"
        if busy is not None and now - busy > self.stall_seconds:
            return f"nothing was applied for {now - busy:.0f} s though there was something to apply"
        return None

    def unready(self) -> str | None:
        """Why nothing may be expected of the worker at the moment, or None."""
        sickness, inside = self.sickness(), self._inside
        if not self.ready:
            why = sickness or self.away() or (inside[1] if inside is not None else None)
            return f"not ready: {why}" if why is not None else "not ready"
        if self.role == "learner" and not self.held():
            return "not ready: the partitions are not this worker's at the moment"
        return None if sickness is None else f"not ready: {sickness}"
