"""What the worker measures of itself, and the observation that is made of it for others to see."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np

from streamlearn.checkpoint import Manifest
from streamlearn.events import Event, Item, Record
from streamlearn.group import Alone
from streamlearn.histograms import DELAYS, Histogram, Stopwatch
from streamlearn.keeper import Keeper
from streamlearn.learner import OnlineLearner
from streamlearn.live import device_figures, memory_figures
from streamlearn.observe import MOST_RECALLS, Observation, Vitals, observe
from streamlearn.report import Curve

log = logging.getLogger(__name__)

EVERY_SECONDS, RARELY_SECONDS = 0.25, 1.0
"""Between two observations, at least and at most: one may be the last before the learner hangs."""
MOST_SHARE = 0.005
"""Of the learner's time, that observing it may take: with ten thousand classes it takes milliseconds."""


class Instruments:
    """Belongs to the learner's thread, except for what `vitals` is asked for."""

    def __init__(
        self, learner: OnlineLearner, group: Alone, keeper: Keeper, vitals: Vitals, curve: bool
    ) -> None:
        """curve: keep the figures over time, for the report."""
        self.keeper = keeper
        self._learner, self._group, self._vitals = learner, group, vitals
        self.stopwatch = Stopwatch()
        self.curve = Curve()
        self._with_curve = curve
        self._drawn = 0
        self._latency = Histogram()
        self._label_delay, self._to_prediction = Histogram(DELAYS), Histogram(DELAYS)
        self._read_bytes = 0
        self._resumed: Manifest | None = None
        self._due_at = 0.0
        self._skipped = 0
        vitals.checkpoint_problem = keeper.sickness
        vitals.source_silence = group.silence
        vitals.threads_beside = group.threads
        vitals.away = group.away
        vitals.held = self._held
        vitals.live = self._live

    def resume(self, manifest: Manifest) -> None:
        """It goes on from a checkpoint, which is the newest one for now."""
        self._resumed = manifest
        self._skipped = self._learner.counts.skipped_steps
        figures = self.keeper.figures
        figures.last_id, figures.bytes = manifest.id, self.keeper.store.size(manifest)
        figures.last_timestamp = datetime.fromisoformat(manifest.body["created"]).timestamp()

    def read(self, records: Sequence[Record], items: Sequence[Item]) -> None:
        """Records that have come, and what they were decoded to."""
        self._read_bytes += sum([len(record.value) or record.size for record in records])
        times = [
            item.ts
            for item in items
            if isinstance(item, Event) and item.ts is not None and item.y is not None
        ]
        if times:
            self._label_delay.observe_all(np.maximum(0.0, time.time() - np.array(times)))

    def answered(self, records: int, seconds: float) -> None:
        """So many records were answered, so long after they had been read."""
        self.stopwatch.mark("flush")
        self._latency.observe(seconds, records)

    def due(self) -> bool:
        """Is it time for an observation? A report shows every evaluation, and a short stream's whole way."""
        if self._with_curve and (
            self._evaluations != self._drawn or self.curve.wants(self._learner.counts.learned)
        ):
            return True
        return time.monotonic() >= self._due_at

    @property
    def _evaluations(self) -> int:
        learner = self._learner
        return learner.trainer.evaluator.continual.evaluations if learner.settled else 0

    def observe(self, topic: str, offsets: Mapping[int, int], epoch: int, paused: bool) -> None:
        """Let others see how it stands."""
        begun = time.thread_time()
        self._say_skipped(topic, offsets)
        for seconds, count in self._group.ages():
            self._to_prediction.observe(seconds, count)
        newest = self.keeper.newest or self._resumed
        kept = newest.body["position"]["offsets"].get(topic, {}) if newest is not None else {}
        self._vitals.observation = observe(
            self._learner,
            epoch=epoch,
            resumed=self._resumed is not None,
            read_bytes=self._read_bytes,
            offsets={topic: {str(p): o for p, o in sorted(offsets.items())}},
            checkpointed={topic: dict(kept)},
            stages={stage: found.copy() for stage, found in self.stopwatch.stages.items()},
            latency=self._latency.copy(),
            label_delay=self._label_delay.copy(),
            to_prediction=self._to_prediction.copy(),
            checkpoint=self.keeper.figures.copy(),
            paused=paused,
        )
        if self._with_curve:
            self.curve.add(self._vitals.observation)
            self._drawn = self._evaluations
        wanted = (time.thread_time() - begun) / MOST_SHARE
        self._due_at = time.monotonic() + min(max(EVERY_SECONDS, wanted), RARELY_SECONDS)

    def _say_skipped(self, topic: str, offsets: Mapping[int, int]) -> None:
        """What the learner, which has no log, left out since the last time."""
        before, self._skipped = self._skipped, self._learner.counts.skipped_steps
        skipped = self._skipped - before
        if not skipped:
            return
        places = [{"topic": topic, "partition": p, "offset": o} for p, o in sorted(offsets.items())]
        log.warning(
            "%d updates were left out, the loss or its gradient was not a finite number: is "
            "learning.learning_rate too high, or x too large?",
            skipped,
            extra={"fields": places[0] if len(places) == 1 else {"topic": topic, "offsets": places}},
        )

    def _held(self) -> bool:
        traffic = self._group.traffic({})
        return traffic is None or traffic.held

    def _live(self, seen: Observation) -> dict[str, Any]:
        """What is looked up at the moment, on the thread of whoever asks."""
        (offsets,) = seen.offsets.values() or ({},)
        traffic = self._group.traffic({int(p): o for p, o in offsets.items()})
        return {
            "traffic": traffic,
            "answered_at": self._group.answered_at(),
            "checkpoint": replace(
                seen.checkpoint,
                free_bytes=self.keeper.figures.free_bytes,
                writing_seconds=self.keeper.writing_seconds,
            ),
            "queues": traffic.queues if traffic is not None else self._group.queues(),
            "memory": memory_figures(self._learner, MOST_RECALLS),
            "device": device_figures(self._learner.device),
        }
