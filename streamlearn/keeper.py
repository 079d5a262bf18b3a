"""When a checkpoint is due, the thread that writes it, and what happens when it can't be written."""

from __future__ import annotations

import errno
import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent import futures
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from streamlearn.bookkeeping import Counts
from streamlearn.checkpoint import CheckpointStore, Manifest
from streamlearn.learner import OnlineLearner
from streamlearn.observe import CheckpointFigures
from streamlearn.parts import Damaged
from streamlearn.settings import CheckpointSettings
from streamlearn.state import SegmentedPart, Snapshot

log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
"""Between two attempts while checkpoints can't be written."""
WAITS_SECONDS = 1.0
HANGING_SECONDS = 5.0
"""A write never counts as one that hangs before, however short checkpoint.patience is."""


class Keeper:
    """Takes checkpoints of one learner. All methods belong to the learner's thread.

    Taking one stops the learner for as long as copying what changed takes; hashing, writing and fsync
    happen on a thread of their own, one checkpoint at a time. A write that hangs for longer than
    `checkpoint.patience` (a file server that is gone) counts as one that failed all that time.
    """

    def __init__(
        self,
        settings: CheckpointSettings,
        store: CheckpointStore,
        learner: OnlineLearner,
        confirmed: bool = True,
        waits: Callable[[], None] = lambda: None,
    ) -> None:
        """confirmed: a checkpoint is the one to start from as soon as it is durable; else see `confirm`.

        waits: called now and then by a learner that waits for the disk: it doesn't hang.
        """
        self.settings, self.store, self.learner = settings, store, learner
        self.waits = waits
        self.figures = CheckpointFigures()
        self.problem: OSError | Damaged | None = None
        """Why the last attempt failed; None once one has succeeded."""
        self.newest: Manifest | None = None
        """The newest checkpoint that this worker has written."""
        self._writing: Future[tuple[Manifest, int]] | None = None
        self._snapshot: Snapshot = {}
        self._begun = self._pause = 0.0
        self._failing_since = 0.0
        self._due_at = time.monotonic() + settings.seconds
        self._records = -1
        self._labeled = learner.counts.labeled
        self._confirmed = confirmed
        self._forgotten = False
        self._truth: Manifest | None = None

    def forget(self) -> None:
        """To be called after `learner.forget`: what the next checkpoint is written to holds no older bytes.

        Until it is the one to start from, the older ones stay: one that is being written now is older, too.
        """
        self._forgotten = True
        self._records = -1  # something to keep, though no record has come

    def confirm(self, manifest: Manifest) -> None:
        """`manifest` is the one to start from now, for good: what it has forgotten goes from the disk.

        To be called with the one that was loaded, after the store's `begin`, and with each that a commit
        names. While a checkpoint is being written it waits for that.
        """
        self._truth = manifest
        self._erase()

    def _erase(self) -> None:
        if self._truth is not None and self._writing is None and self._try_to_erase(self._truth):
            self._truth = None

    def _try_to_erase(self, manifest: Manifest) -> bool:
        try:
            pinned = self.store.erase(manifest)
        except OSError as error:
            log.error("what was forgotten is still in %s (%s): tried again later", self.store.folder, error)
            return False
        if pinned:
            log.warning("what was forgotten is still in %s, which are pinned", ", ".join(pinned))
        return True

    def moved(self) -> None:
        """C has, though no record has come: worth a checkpoint too."""
        self._records = -1

    def due(self, counts: Counts) -> bool:
        """Is it time for a checkpoint, is there anything new to keep, and is none being written?"""
        if self._writing is not None or self._total(counts) == self._records:
            return False
        by_clock = time.monotonic() >= self._due_at
        if self.problem is not None:
            return by_clock
        by_count = 0 < self.settings.events <= counts.labeled - self._labeled
        return by_count or (by_clock and self.settings.seconds > 0)

    def impatient(self) -> bool:
        """Have checkpoints failed for longer than checkpoint.patience?"""
        sickness = self.sickness()
        if sickness is not None:
            log.error("%s: giving up", sickness)
        return sickness is not None

    def sickness(self) -> str | None:
        """What is wrong if checkpoints have failed for longer than checkpoint.patience. From any thread."""
        hanging, problem = self._hanging(), self.problem
        if hanging is not None:
            return f"{hanging.filename}: {hanging.strerror}"
        failing = time.monotonic() - self._failing_since
        if problem is None or failing <= self.settings.patience:
            return None
        return f"no checkpoint could be written to {self.store.folder} for {failing:.0f} s ({problem})"

    @property
    def under_way(self) -> bool:
        """Is a checkpoint being written, or has it been and was not settled?"""
        return self._writing is not None

    @property
    def hangs(self) -> bool:
        """Has the write under way taken longer than checkpoint.patience?"""
        return self._hanging() is not None

    @property
    def writing_seconds(self) -> float:
        """For so long the write under way has taken, 0 when none is. From any thread."""
        writing, begun = self._writing, self._begun
        return max(0.0, time.monotonic() - begun) if writing is not None and not writing.done() else 0.0

    def look(self) -> None:
        """How much is free on the disk is a figure from now on, once that answers: nobody waits for it."""
        threading.Thread(target=self._look, name="disk", daemon=True).start()

    def _look(self) -> None:
        with suppress(OSError):  # whoever writes there next is told why
            self.figures.free_bytes = shutil.disk_usage(self.store.folder).free

    def begin(self, about: Mapping[str, Any], sync: Callable[[], None]) -> None:
        """Copy what changed and let it be written. None may be under way (see `settle`)."""
        assert self._writing is None
        self._begun = time.monotonic()
        if self._forgotten:
            if self.learner.settled:
                self.learner.memory.mark_all_changed()
            self.store.forget()
            self._forgotten = False
        self._snapshot = self.learner.snapshot()
        self._pause = time.monotonic() - self._begun
        self.figures.pause.observe(self._pause)
        self._records = self._total(self.learner.counts)
        self._labeled = self.learner.counts.labeled
        self._due_at = time.monotonic() + self.settings.seconds
        self._writing = Future()
        # A daemon: Python waits for other threads when it ends, and this one may never return.
        threading.Thread(
            target=self._write,
            args=(self._writing, self._snapshot, about, sync),
            name="checkpoint-writer",
            daemon=True,
        ).start()

    def settle(self, wait: bool) -> None:
        """Take note of how the write under way has ended, if it has (`wait`: once it has, or hangs).

        One that hangs is a `problem` and stays `under_way`: no other can begin.
        """
        writing = self._writing
        if writing is None:
            return
        if wait:
            self._await(writing)
        if not writing.done():
            hanging = self._hanging()
            if hanging is not None:
                self._failing_since = self._begun if self.problem is None else self._failing_since
                self.problem = hanging
            return
        self._writing = None
        try:
            self._written(*writing.result())
        except (OSError, Damaged) as error:
            self._not_written(error)
        self._snapshot = {}
        self._erase()

    def close(self) -> None:
        """Wait for a write under way, unless it hangs."""
        if self._writing is not None:
            self._await(self._writing)

    def _await(self, writing: Future[tuple[Manifest, int]]) -> None:
        """Until it is done, or hangs."""
        self.waits()
        while not writing.done() and self._hanging() is None:
            left = self._begun + self._patience() - time.monotonic()
            futures.wait([writing], max(0.0, min(left, WAITS_SECONDS)))
            self.waits()

    def _patience(self) -> float:
        """Seconds that a write may take. Who wants to stop at the first failure doesn't mean a slow disk."""
        return max(self.settings.patience, HANGING_SECONDS)

    def _hanging(self) -> OSError | None:
        """The write under way as an error, if it has taken longer than it may."""
        writing, taken = self._writing, time.monotonic() - self._begun
        if writing is None or writing.done() or taken < self._patience():
            return None
        what = f"the writing of a checkpoint has been hanging for {taken:.0f} s"
        return OSError(errno.ETIMEDOUT, what, str(self.store.folder))

    def _write(
        self,
        writing: Future[tuple[Manifest, int]],
        snapshot: Snapshot,
        about: Mapping[str, Any],
        sync: Callable[[], None],
    ) -> None:
        """What the writer's thread does; everything that touches the disk."""
        try:
            manifest = self.store.write(snapshot, about, sync)
            if self._confirmed:
                self._try_to_erase(manifest)
            written = manifest, self.store.size(manifest)
        except BaseException as error:
            self._look()  # a disk that fills up shows above all when nothing can be written
            writing.set_exception(error)
        else:
            self._look()
            writing.set_result(written)

    def _written(self, manifest: Manifest, size: int) -> None:
        self.newest = manifest
        self.figures.written += 1
        self.figures.last_id = manifest.id
        self.figures.last_timestamp = time.time()
        self.figures.bytes = size
        self.figures.last_duration, self.figures.last_pause = time.monotonic() - self._begun, self._pause
        self.figures.duration.observe(self.figures.last_duration)
        if self.problem is not None:
            log.info("checkpoints can be written again: %s", manifest.id)
        self.problem = None

    def _not_written(self, error: OSError | Damaged) -> None:
        memory = self._snapshot.get("memory")
        if isinstance(memory, SegmentedPart):
            # Where an older pack is gone or not whole any more, its segments are still here: all anew.
            lost = isinstance(error, Damaged) or error.errno == errno.ENOENT
            self.learner.memory.mark_changed(range(memory.count) if lost else list(memory.changed))
        self._records = -1
        self.figures.failures += 1
        if self.problem is None:
            self._failing_since = time.monotonic()
            log.error(
                "checkpoint not written to %s (%s): learning goes on and it is tried again; "
                "the worker gives up after %.0f s without one",
                self.store.folder,
                error,
                self.settings.patience,
            )
        self.problem = error
        self._due_at = time.monotonic() + min(RETRY_SECONDS, self.settings.patience / 4)

    @staticmethod
    def _total(counts: Counts) -> int:
        return counts.records + sum(counts.rejected.values())
