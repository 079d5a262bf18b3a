"""When a checkpoint is due, the thread that writes it, and what happens when it can't be written."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
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


class Keeper:
    """Takes checkpoints of one learner. All methods belong to the learner's thread.

    Taking one stops the learner for as long as copying what changed takes; hashing, writing and fsync
    happen on a thread of their own, one checkpoint at a time.
    """

    def __init__(self, settings: CheckpointSettings, store: CheckpointStore, learner: OnlineLearner) -> None:
        self.settings, self.store, self.learner = settings, store, learner
        self.figures = CheckpointFigures()
        self.problem: OSError | Damaged | None = None
        """Why the last attempt failed; None once one has succeeded."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint-writer")
        self._writing: Future[Manifest] | None = None
        self._snapshot: Snapshot = {}
        self._begun = 0.0
        self._failing_since = 0.0
        self._due_at = time.monotonic() + settings.seconds
        self._records = -1
        self._labeled = learner.counts.labeled

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
        if self.problem is None:
            return False
        failing = time.monotonic() - self._failing_since
        if failing > self.settings.patience:
            log.error("no checkpoint could be written for %.0f s (%s): giving up", failing, self.problem)
            return True
        return False

    def begin(self, about: Mapping[str, Any], sync: Callable[[], None]) -> None:
        """Copy what changed and let it be written. None may be under way (see `settle`)."""
        self._begun = time.perf_counter()
        self._snapshot = self.learner.snapshot()
        self.figures.pause.observe(time.perf_counter() - self._begun)
        self._records = self._total(self.learner.counts)
        self._labeled = self.learner.counts.labeled
        self._due_at = time.monotonic() + self.settings.seconds
        self._writing = self._thread.submit(self.store.write, self._snapshot, about, sync)

    def settle(self, wait: bool) -> None:
        """Take note of how the write under way has ended, if it has (`wait`: once it has)."""
        writing = self._writing
        if writing is None or not (wait or writing.done()):
            return
        self._writing = None
        try:
            self._written(writing.result())
        except (OSError, Damaged) as error:
            self._not_written(error)
        self._snapshot = {}

    def close(self) -> None:
        """Wait for a write under way and end the thread."""
        self._thread.shutdown(wait=True)

    def _written(self, manifest: Manifest) -> None:
        self.figures.written += 1
        self.figures.last_id = manifest.id
        self.figures.last_timestamp = time.time()
        self.figures.bytes = self.store.size(manifest)
        self.figures.duration.observe(time.perf_counter() - self._begun)
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
