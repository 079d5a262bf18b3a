"""The worker: read, predict, learn, answer, checkpoint; stop and start again without losing a thing.

C, the offsets in a checkpoint, only moves past records whose effect is in that checkpoint; outputs below C
are durable before its manifest is. After a crash everything from C on is read again, and the sink leaves
out what it already holds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from streamlearn.checkpoint import CheckpointStore, Manifest
from streamlearn.codec import Codec
from streamlearn.commands import Command, encode_answer, forget
from streamlearn.cuts import Cut, Cuts
from streamlearn.durable import Learner, describe, place_of, resume_of, shape_of, sums_of, take, untouched
from streamlearn.events import ConnectorError, Output, Record, Resume, Sink, Source, Stopped, Tombstone
from streamlearn.group import group_of
from streamlearn.instruments import Instruments
from streamlearn.keeper import Keeper
from streamlearn.observe import Vitals, observe
from streamlearn.outlet import RETRY_SECONDS, Outlet
from streamlearn.poison import Poison
from streamlearn.settings import Settings, commands_topic
from streamlearn.stop import Stop

log = logging.getLogger(__name__)

DONE, POISONED, NOT_WRITABLE = 0, 5, 6

LOOP_SECONDS = 0.05
"""About how long one turn of the loop may take: outputs leave, and signals are seen, between turns."""
MOST_RECORDS = 2048
LAST_SECONDS = 10.0
"""For so long a worker that stops waits for its last commit."""


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
        self.group = group_of(source, sink, store, settings)
        waits = getattr(source, "waits", lambda: None)
        self.keeper = Keeper(settings.checkpoint, store, self.learner, not self.group, waits)
        curve = settings.report is not None
        self.instruments = Instruments(self.learner, self.group, self.keeper, self.vitals, curve)
        self.offsets: dict[int, int] = {}
        self.cursors: dict[int, int] = {}
        self.epoch = 0
        self.resumed: Manifest | None = None
        self.paused = False
        """By a command; nothing is read until another says so."""
        self._commands_at: int | None = None
        self._start: dict[int, int] = {}
        self._stop = Stop()
        self._decides: Callable[[], bool] = getattr(source, "decide", lambda: False)
        self.poison = Poison(settings.delivery.max_dead_letters_in_row)
        self._unanswered: list[Record] = []
        self.outlet = Outlet(settings, sink, self.vitals, self.keeper, self._stop, self._observe)
        self.cuts = Cuts(store, settings)

    def stop(self) -> None:
        """Ask `run` to end after a checkpoint. Safe from a signal handler and from other threads."""
        self._stop.set()

    def start(self) -> None:
        """Load the newest whole checkpoint, or begin; open source and sink. The store must be locked.

        Raises ConnectorError, Disagreement, NothingWhole, WrongFormat, OSError; Stopped if `stop` was called
        while the source was read again.
        """
        inside, stopped = self.vitals.inside, self.vitals.waits(self._stop.is_set)
        self.keeper.look()
        claim = self.group.claim(self.vitals, stopped)
        resume, marks = Resume(), None
        with inside("loading a checkpoint"):
            found = self.store.newest(log.error) if claim is None else self.group.found(claim)
            if found is not None:
                manifest, parts = found
                resume, marks = resume_of(manifest), manifest.body["outputs"]
                if not untouched(manifest, claim.published if claim is not None else None, self.sink):
                    take(self.settings, self.learner, manifest, parts)
                    self.resumed = manifest
                elif claim is None:
                    # With nothing read there is nothing to disagree with: a first start again.
                    resume = Resume()
                self._start = {int(p): o for p, o in manifest.body["position"].get("start", {}).items()}
                self.paused = bool(manifest.body["position"].get("paused"))
        if found is None and claim is not None:
            self._start = dict(claim.start)
            resume = Resume(self._start, self._start, topic=self.source.topic)
        if claim is not None:
            self._commands_at = self.group.commands_at(claim, found, commands_topic(self.settings))
            resume = replace(resume, commands=self._commands_at)
        self.offsets, self.cursors = dict(resume.offsets), dict(resume.cursors)
        # Both may refuse, which must leave the folder as it was: the epoch begins after them.
        with inside("opening the source"):
            self.source.open(replace(resume, stopped=stopped))
        with inside("opening the sink"):
            self.epoch = max(self.store.next_epoch(), claim.epoch + 1 if claim is not None else 0)
            self.sink.open(marks, self.epoch)
        if self.resumed is not None:
            # The epoch is valid with its first commit; before that nothing is written.
            self.group.name(self.resumed)
            self._settle()
        with inside("opening the state folder"):
            self.store.begin(self.resumed, self.epoch)
            self.cuts.begin(found[0] if found is not None else None, self.source.topic, self.offsets)
            if self.resumed is not None:
                self.keeper.confirm(self.resumed)
                self.instruments.resume(self.resumed)
        self.learner.mark = self.instruments.stopwatch.mark
        with inside("writing the first outputs"):
            self.outlet.flush_once()
        if self.resumed is None or self.outlet.marks.keys() - (marks or {}):
            # The first checkpoint is there before the first record is read, and so is the first mark of a
            # file: a start that knew none would append to what a killed worker has left.
            with inside("writing the first checkpoint", hangs=False):  # it has checkpoint.patience
                self._checkpoint_now()
            if self.keeper.problem is not None:
                raise self.keeper.problem
            self._settle()
        # Counters count from the start of the process: after a crash the learner's own go back to C.
        self.vitals.base = observe(self.learner)
        self._observe()
        self.vitals.play("learner")

    def _settle(self) -> None:
        """Wait for the commit, as long as it takes; but somebody should know."""
        with self.vitals.inside("waiting for the first commit"):
            self.group.settle(self._stop.is_set)

    def run(self, started: Callable[[], None] = lambda: None) -> int:
        """Work until the source ends or `stop` is called; returns the exit status. See `start` for errors.

        `started` is called once everything is loaded and open, before the first record is read.
        """
        try:
            self.start()
            started()
            status = self._loop()
            self._observe()
            return status
        except Stopped as stopped:
            log.info("%s: the last checkpoint stands, a new start goes on from it", stopped)
            self._observe()
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
            if not self._obey():
                return NOT_WRITABLE
            try:
                records = self._read(most)
            except ConnectorError:
                # The source is broken, the state is not: keep what was learned. (In a group it isn't ours
                # to keep: without a commit that names it, a checkpoint is not the truth.)
                if not self.group:
                    self._finish()
                raise
            turn = time.perf_counter()
            if records:
                self.vitals.busy()
                self._apply(records)
                waiting_since = None
            elif self.source.ended:
                return self._end()
            else:
                self.group.advance(self.offsets, self.cursors, self.keeper)
                self._waits()
                if self._waited(waiting_since := waiting_since or turn):
                    if not self._learn_partial():
                        return NOT_WRITABLE
                    waiting_since = None
            if not self.outlet.flush():
                return NOT_WRITABLE
            if records:
                self.vitals.idle()
                self.instruments.answered(len(records), time.perf_counter() - turn)
            if self.poison.found:
                return self._poisoned()
            self.keeper.settle(wait=False)
            self.group.name(self.keeper.newest)
            self.group.confirm(self.keeper)
            if self.keeper.impatient():
                return NOT_WRITABLE
            if self.keeper.due(self.learner.counts):
                self._checkpoint()
            if self.instruments.due():
                self._observe()
            # Long turns delay answers and signals, short ones cost calls. (No state depends on this.)
            took = time.perf_counter() - turn
            if took > LOOP_SECONDS:
                most = max(1, most // 2)
            elif len(records) == most and took < LOOP_SECONDS / 2:
                most = min(MOST_RECORDS, most * 2)
        log.info("stopping: a checkpoint first")
        return self._finish()

    def _read(self, most: int) -> list[Record]:
        if not self.paused:
            with self.vitals.inside("reading"):
                return self.source.poll(most, 0.1)
        self._stop.wait(0.1)
        return self.source.poll(0, 0.0)

    def _waits(self) -> None:
        """Nothing was there to be applied: because nothing is, or because it doesn't come?"""
        traffic = None if self.paused else self.group.traffic(self.offsets)
        if traffic is not None and traffic.behind:
            self.vitals.behind()
        else:
            self.vitals.idle()

    def _waited(self, since: float) -> bool:
        """Has a partial batch waited for longer than learning.max_wait?"""
        limit = self.settings.learning.max_wait
        due = 0 < limit < time.perf_counter() - since and self.learner.settled and self.learner.pending > 0
        # What others have seen came of no such cut, or of one that is kept.
        return due and not (self.group.repeats(self.offsets) or self.cuts.repeats(self.offsets))

    def _learn_partial(self) -> bool:
        """Learn the partial batch by the clock's decision, which is kept: no later record is read before
        the checkpoint that holds it is durable."""
        self._cut()
        return self._barrier()

    def _cut(self) -> None:
        """Learn the partial batch, and take note of where: the records don't say it."""
        does = self.learner.pending if self.learner.settled else len(self.learner.held)
        self._answer(self.learner.flush())
        if does and not self.group:
            self.cuts.add(self._position())

    def _barrier(self, command: Command | None = None, **answer: Any) -> bool:
        """A checkpoint that must be durable before a later record is read, since it holds a decision that
        the records don't; with it leaves the answer to `command`. False when patience has run out."""
        if not self.outlet.flush():
            return False
        while True:
            self._checkpoint_now(command, **answer)
            if self.keeper.problem is None:
                return True
            if self.keeper.impatient() or self._stop.wait(RETRY_SECONDS):
                return False

    def _obey(self) -> bool:
        """Carry out the commands that have come, keep what the source decides. False when patience with
        the disk has run out."""
        for command in self.group.commands():
            if self._stop.is_set():
                return True  # it is read again by whoever comes next
            log.info("command: %s %s", command.kind or "unknown", command.problem or command.id or "")
            said: dict[str, Any] = {}
            if command.problem is None and command.kind == "forget":
                said = forget(command, self.learner, self.group.unread(self.offsets))
                self.keeper.forget()
            elif command.problem is None and command.kind != "checkpoint":
                self.paused = command.kind == "pause"
            self._commands_at = command.position.offset + 1
            if not self._barrier(command, paused=self.paused, **said):
                return False
        self._commands_at = self.group.advance_commands(self._commands_at, self.keeper)
        return self.paused or not self._decides() or self._barrier()

    def _apply(self, records: Sequence[Record]) -> None:
        """Learn records, cut as they were if they are read again."""
        for piece, cut in self.cuts.pieces(records):
            if piece:
                self._learn(piece)
            if cut is not None:
                self._cut_again(cut)

    def _cut_again(self, cut: Cut) -> None:
        """Learn the partial batch where it was learned before; no barrier, as the place is durable."""
        if cut.fits(self.source.fingerprint(cut.cursors)):
            self._answer(self.learner.flush())
        else:
            log.warning("a partial batch was learned at %s, but of another input: passed over", cut.offsets)

    def _learn(self, records: Sequence[Record]) -> None:
        """Decode, learn and answer; move C past what has been answered."""
        stopwatch = self.instruments.stopwatch
        stopwatch.start()
        items = self.codec.decode(records)
        stopwatch.mark("decode")
        self.instruments.read(records, items)
        settled = self.learner.settled
        outputs = self.learner.learn(items)
        if self.learner.settled and not settled:
            log.info("%s", shape_of(self.learner))
        self._unanswered += records
        self._answer(outputs)

    def _answer(self, outputs: Sequence[Output]) -> None:
        """Hand over outputs, which come in the order of the records, and move C past those."""
        self.sink.write(outputs)
        if any(isinstance(output, Tombstone) for output in outputs):
            self.keeper.forget()
        self.poison.see(outputs)
        answered, self._unanswered = self._unanswered[: len(outputs)], self._unanswered[len(outputs) :]
        for partition, record in {record.position.partition: record for record in answered}.items():
            self.offsets[partition] = record.position.offset + 1
            self.cursors[partition] = record.cursor
        self.instruments.stopwatch.mark("publish")

    # -- ends

    def _end(self) -> int:
        """A finite source has ended: learn what waits, and leave a checkpoint of it all."""
        self.vitals.busy()
        self._cut()
        log.info("the source has ended: %s", sums_of(self.learner))
        return self._poisoned() if self.poison.found else self._finish()

    def _poisoned(self) -> int:
        self.poison.say()
        return self._finish() or POISONED

    def _finish(self) -> int:
        """A last checkpoint; the exit status says whether it could be written."""
        if not self.outlet.flush():
            return NOT_WRITABLE
        self._checkpoint_now()
        if (problem := self.keeper.problem) is not None:
            log.error("the last checkpoint could not be written to %s: %s", self.store.folder, problem)
            return NOT_WRITABLE
        self.group.settle(self._stop.is_set, LAST_SECONDS)
        self.group.confirm(self.keeper)
        self.sink.close()
        return DONE

    # -- checkpoints

    def _position(self) -> dict[str, Any]:
        """C, and how to find and recognise the source at C."""
        commands = None
        if self._commands_at is not None:
            commands = commands_topic(self.settings), self.group.commands_id, self._commands_at
        return place_of(self.source, self.offsets, self.cursors, self._start, commands, self.paused)

    def _checkpoint(self) -> None:
        """Begin a checkpoint of this very moment, in the background."""
        self.group.pin()
        about = {**describe(self.learner), "position": self._position(), "outputs": self.outlet.marks}
        self.keeper.begin(about, self._sync)

    def _sync(self) -> None:
        """On the writer's thread: make durable what must be before a manifest is."""
        self.cuts.keep()
        self.sink.sync()

    def _checkpoint_now(self, command: Command | None = None, **answer: Any) -> None:
        """A checkpoint of this very moment, waited for; `keeper.problem` says what came of it."""
        self.keeper.settle(wait=True)
        if not self.keeper.under_way:
            self._checkpoint()
            self.keeper.settle(wait=True)
        newest = self.keeper.newest
        if command is None or newest is None or self.keeper.problem is not None:
            self.group.name(newest)
        else:
            answer |= {"checkpoint": newest.id, "step": self.learner.counts.steps, "epoch": self.epoch}
            self.group.name(newest, command, encode_answer(command, **answer))

    def _observe(self) -> None:
        self.instruments.observe(self.source.topic, self.offsets, self.epoch, self.paused)
