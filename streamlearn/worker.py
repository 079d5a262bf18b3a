"""The worker: read, predict, learn, answer, checkpoint; stop and start again without losing a thing.

C, the offsets in a checkpoint, only moves past records whose effect is in that checkpoint; outputs below C
are durable before its manifest is. After a crash everything from C on is read again, and the sink leaves
out what it already holds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from streamlearn.checkpoint import CheckpointStore, Manifest
from streamlearn.codec import Codec
from streamlearn.durable import Learner, check_settings, describe, restore, resume_of, untouched, warn_runtime
from streamlearn.events import (
    ConnectorError,
    Output,
    Position,
    Record,
    Rejection,
    Resume,
    Sink,
    Source,
    Stalled,
    Stopped,
    Unreachable,
)
from streamlearn.keeper import Keeper
from streamlearn.observe import Histogram, Stopwatch, Vitals, observe
from streamlearn.report import curve_figures, set_figures
from streamlearn.settings import Settings
from streamlearn.state import Snapshot

log = logging.getLogger(__name__)

DONE, POISONED, NOT_WRITABLE = 0, 5, 6

LOOP_SECONDS = 0.05
"""About how long one turn of the loop may take: outputs leave, and signals are seen, between turns."""
MOST_RECORDS = 2048
RETRY_SECONDS = 1.0
MOST_POINTS = 2000


class Worker:
    """Runs one learner between a source and a sink. `run` is called once, `stop` from anywhere."""

    def __init__(
        self,
        settings: Settings,
        source: Source,
        sink: Sink,
        codec: Codec,
        store: CheckpointStore,
        vitals: Vitals | None = None,
    ) -> None:
        self.settings = settings
        self.source, self.sink, self.codec, self.store = source, sink, codec, store
        self.vitals = vitals or Vitals(settings.exporter.stall_seconds)
        self.learner = Learner(settings)
        self.learner.most_held_dead = settings.delivery.max_dead_letters_in_row
        self.stopwatch = Stopwatch()
        self.latency = Histogram()
        self.keeper = Keeper(settings.checkpoint, store, self.learner)
        self.vitals.checkpoint_problem = self.keeper.sickness
        self.offsets: dict[int, int] = {}
        self.cursors: dict[int, int] = {}
        self.epoch = 0
        self.resumed: Manifest | None = None
        self._stop = threading.Event()
        self._dead_in_row = 0
        self._poison: Rejection | None = None
        self._unanswered: list[Record] = []
        self._marks: dict[str, int] = {}
        self._observed_at = 0.0
        self.curve: list[dict[str, Any]] = []
        self._stride = 1

    def stop(self) -> None:
        """Ask `run` to end after a checkpoint. Safe from a signal handler and from other threads."""
        self._stop.set()

    def start(self) -> None:
        """Load the newest whole checkpoint, or begin; open source and sink. The store must be locked.

        Raises ConnectorError, Disagreement, NothingWhole, WrongFormat, OSError; Stopped if `stop` was called
        while the source was read again.
        """
        found = self.store.newest(log.error)
        resume, marks = Resume(), None
        if found is not None:
            manifest, parts = found
            resume, marks = resume_of(manifest), manifest.body["outputs"]
            if untouched(manifest):
                # With nothing read there is nothing to disagree with: a first start again.
                resume = Resume()
            else:
                self._restore(manifest, parts)
                self.resumed = manifest
            self.offsets, self.cursors = dict(resume.offsets), dict(resume.cursors)
        # Both may refuse, and a refusal must leave the folder as it was: the epoch begins after them.
        self.source.open(replace(resume, stopped=self._stop.is_set))
        self.epoch = self.store.next_epoch()
        self.sink.open(marks, self.epoch)
        self.store.begin(self.resumed)
        if self.resumed is not None:
            self.keeper.confirm(self.resumed)
        self.learner.mark = self.stopwatch.mark
        if self.resumed is None:
            # The first checkpoint is there before the first record is read.
            self._marks = self.sink.flush()
            self._checkpoint_now()
            if self.keeper.problem is not None:
                raise self.keeper.problem
        # Counters count from the start of the process: after a crash the learner's own go back to C.
        self.vitals.base = observe(self.learner)
        self._observe(force=True)
        self.vitals.ready = True

    def _restore(self, manifest: Manifest, parts: Snapshot) -> None:
        """Load a checkpoint. Raises Disagreement."""
        for change in check_settings(self.settings, manifest):
            log.info("setting adopted: %s", change)
        differences = warn_runtime(self.settings, manifest)
        if differences:
            log.warning(
                "not what the checkpoint was made with, bits may differ from here on: %s",
                "; ".join(differences),
            )
        restore(self.learner, manifest, parts)

    def run(self, started: Callable[[], None] = lambda: None) -> int:
        """Work until the source ends or `stop` is called; returns the exit status. See `start` for errors.

        `started` is called once everything is loaded and open, before the first record is read.
        """
        try:
            self.start()
            started()
            status = self._loop()
            self._observe(force=True)
            return status
        except Stopped as stopped:
            log.info("%s: the last checkpoint stands, a new start goes on from it", stopped)
            self._observe(force=True)
            return DONE
        except BaseException as error:
            self.vitals.failure = f"the worker ended: {error}"
            raise
        finally:
            self.vitals.ready = False
            self.keeper.close()
            self.source.close()
            # A write that hangs may hang in the sink's `sync`, and closing would wait for that.
            if not self.keeper.hangs:
                self.sink.close()

    # -- the loop

    def _loop(self) -> int:
        most = 64
        waiting_since: float | None = None
        while not self._stop.is_set():
            self.vitals.idle()
            try:
                records = self.source.poll(most, 0.1)
            except ConnectorError:
                # The source is broken, the state is not: keep what was learned.
                self._finish()
                raise
            turn = time.perf_counter()
            if records:
                self.vitals.busy()
                self._apply(records)
                waiting_since = None
            elif self.source.ended:
                return self._end()
            elif self._waited(waiting_since := waiting_since or turn):
                if not self._learn_partial():
                    return NOT_WRITABLE
                waiting_since = None
            if not self._flush():
                return NOT_WRITABLE
            if records:
                self.latency.observe(time.perf_counter() - turn, len(records))
            if self._poison is not None:
                return self._poisoned(self._poison)
            self.keeper.settle(wait=False)
            if self.keeper.impatient():
                return NOT_WRITABLE
            if self.keeper.due(self.learner.counts):
                self._checkpoint()
            self._observe()
            # Long turns delay answers and signals, short ones cost calls. (No state depends on this.)
            took = time.perf_counter() - turn
            if took > LOOP_SECONDS:
                most = max(1, most // 2)
            elif len(records) == most and took < LOOP_SECONDS / 2:
                most = min(MOST_RECORDS, most * 2)
        log.info("stopping: a checkpoint first")
        return self._finish()

    def _waited(self, since: float) -> bool:
        """Has a partial batch waited for longer than learning.max_wait?"""
        limit = self.settings.learning.max_wait
        return 0 < limit < time.perf_counter() - since and self.learner.settled and self.learner.pending > 0

    def _learn_partial(self) -> bool:
        """Learn the partial batch by the clock's decision, which is kept: no later record is read before
        the checkpoint that holds it is durable."""
        self._answer(self.learner.flush())
        if not self._flush():
            return False
        self._checkpoint_now()
        while self.keeper.problem is not None:
            if self.keeper.impatient() or self._stop.wait(RETRY_SECONDS):
                return False
            self._checkpoint_now()
        return True

    def _apply(self, records: Sequence[Record]) -> None:
        """Decode, learn and answer; move C past what has been answered."""
        self.stopwatch.start()
        items = self.codec.decode(records)
        self.stopwatch.mark("decode")
        settled = self.learner.settled
        outputs = self.learner.learn(items)
        if self.learner.settled and not settled:
            log.info("%s", self._shape())
        self._unanswered += records
        self._answer(outputs)

    def _answer(self, outputs: Sequence[Output]) -> None:
        """Hand over outputs, which come in the order of the records, and move C past those."""
        self.sink.write(outputs)
        limit = self.settings.delivery.max_dead_letters_in_row
        for output in outputs:
            if not isinstance(output, Rejection):
                self._dead_in_row = 0
            elif output.reason != "too_many_classes":
                self._dead_in_row += 1
                # The reason is part of the text that repetitions are told by: each is seen at least once.
                log.warning(f"dead letter, {output.reason}: %s: %s", _where(output.position), output.detail)
                if self._dead_in_row >= limit:
                    self._poison = output
        answered, self._unanswered = self._unanswered[: len(outputs)], self._unanswered[len(outputs) :]
        for partition, record in {record.position.partition: record for record in answered}.items():
            self.offsets[partition] = record.position.offset + 1
            self.cursors[partition] = record.cursor
        self.stopwatch.mark("publish")

    def _shape(self) -> str:
        """What was found out from the first events."""
        schema, model = self.learner.schema, self.learner.model
        assert schema is not None
        net = type(model.encoder).__name__
        return f"x has shape {list(schema.shape)}, {schema.dtype}: {net} with {model.flat.numel()} parameters"

    # -- ends

    def _end(self) -> int:
        """A finite source has ended: learn what waits, and leave a checkpoint of it all."""
        self.vitals.busy()
        self._answer(self.learner.flush())
        counts = self.learner.counts
        log.info(
            "the source has ended: %d records, %d learned, %d dead letters",
            counts.records + sum(counts.rejected.values()),
            counts.learned,
            sum(counts.rejected.values()),
        )
        return self._finish() if self._poison is None else self._poisoned(self._poison)

    def _poisoned(self, last: Rejection) -> int:
        log.error(
            "%d or more dead letters in a row, the last at %s (%s: %s): stopping, something is wrong with "
            "what produces them. They are in the dead letters; a new start goes on behind them.",
            self.settings.delivery.max_dead_letters_in_row,
            _where(last.position),
            last.reason,
            last.detail,
        )
        return self._finish() or POISONED

    def _finish(self) -> int:
        """A last checkpoint; the exit status says whether it could be written."""
        if not self._flush():
            return NOT_WRITABLE
        self._checkpoint_now()
        if self.keeper.problem is not None:
            log.error(
                "the last checkpoint could not be written to %s: %s", self.store.folder, self.keeper.problem
            )
            return NOT_WRITABLE
        self.sink.close()
        return DONE

    # -- outputs

    def _flush(self) -> bool:
        """Hand outputs over, trying again while the disk is full; False when patience has run out."""
        since, patience = time.monotonic(), self.settings.checkpoint.patience
        said = False
        while True:
            try:
                self._marks = self.sink.flush()
            except Stalled as error:
                # Its own affair how long a reader takes; but a signal must not wait for it.
                self.vitals.output_problem = str(error)
                if self._stop.is_set():
                    raise Unreachable(
                        f"stopped while {error}: the last checkpoint stands, a new start goes on from it"
                    ) from error
                # (One that merely failed could not be tried again meanwhile: that counts later.)
                if self.keeper.hangs and self.keeper.impatient():
                    return False
            except OSError as error:
                if not said:
                    log.error("outputs can't be written (%s): nothing is read until they can", error)
                    said = True
                self.vitals.output_problem = str(error)
                if time.monotonic() - since > patience or self._stop.wait(RETRY_SECONDS):
                    log.error("outputs could not be written (%s): giving up; nothing is lost", error)
                    return False
            else:
                self.vitals.output_problem = None
                return True

    def _position(self) -> dict[str, Any]:
        """C, and how to find and recognise the source at C."""
        topic = self.source.topic
        return {
            "topic": topic,
            "offsets": {topic: {str(p): o for p, o in self.offsets.items()}},
            "cursors": {str(p): c for p, c in self.cursors.items()},
            "fingerprint": self.source.fingerprint(self.cursors),
        }

    def _checkpoint(self) -> None:
        """Begin a checkpoint of this very moment, in the background."""
        about = {**describe(self.learner), "position": self._position(), "outputs": self._marks}
        self.keeper.begin(about, self.sink.sync)

    def _checkpoint_now(self) -> None:
        """A checkpoint of this very moment, waited for; `keeper.problem` says what came of it."""
        self.keeper.settle(wait=True)
        if not self.keeper.under_way:
            self._checkpoint()
            self.keeper.settle(wait=True)

    # -- figures

    def _observe(self, force: bool = False) -> None:
        now = time.monotonic()
        if not force and now - self._observed_at < 0.25:
            return
        self._observed_at = now
        self.vitals.observation = observe(
            self.learner,
            epoch=self.epoch,
            offsets={self.source.topic: {str(p): o for p, o in self.offsets.items()}},
            stages={stage: histogram.copy() for stage, histogram in self.stopwatch.stages.items()},
            latency=self.latency.copy(),
            checkpoint=self.keeper.figures.copy(),
        )
        if self.settings.report is not None:
            self._plot()

    def _plot(self) -> None:
        """Add a point to the curve; when there are too many, every second one goes."""
        seen = self.vitals.observation
        if self.curve and seen.learned - self.curve[-1]["events"] < self._stride:
            return
        kinds = {f"prequential_{kind}": f.accuracy for kind, f in seen.prequential.items()}
        row: dict[str, Any] = {"events": seen.learned, "classes": seen.known_classes, **kinds}
        if seen.continual is not None and seen.continual.evaluations:
            row |= curve_figures(seen.continual) | {"sets": set_figures(seen.continual)}
        self.curve.append(row)
        if len(self.curve) > MOST_POINTS:
            self.curve = self.curve[::2]
            self._stride *= 2


def _where(position: Position) -> str:
    return f"{position.topic}:{position.partition}:{position.offset}"
