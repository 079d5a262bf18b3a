"""Says in the log what /healthz says, when that changes: a worker that hangs can't say it itself."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Iterable, Sequence
from types import TracebackType

from streamlearn.logs import sweep
from streamlearn.observe import Vitals

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
THREADS = ("MainThread", "kafka", "checkpoint-writer")
"""Whose place is told: the learner's, the Kafka loop's, the one that writes checkpoints."""
FRAMES = 5
"""Innermost calls of each that are told."""

Place = tuple[str, Sequence[tuple[str, str, int | None]]]
"""A thread's name, and its calls: function, file, line."""


class Watchdog:
    """A thread of its own. A context manager."""

    def __init__(self, vitals: Vitals) -> None:
        self._vitals = vitals
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: TracebackType | BaseException | None) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        sick = False
        while not self._end.wait(LOOK_SECONDS):
            sweep()
            # What ends a worker is said by whoever ends it.
            if self._vitals.failure is not None:
                return
            sickness = self._vitals.sickness()
            if sickness is not None and not sick:
                log.error("not healthy: %s (%s)", sickness, "; ".join(places(self._vitals.threads_beside())))
            elif sickness is None and sick:
                log.warning("healthy again")
            sick = sickness is not None


def places(beside: Iterable[Place] = ()) -> list[str]:
    """Where each of THREADS is at the moment, innermost call first; and those of a process `beside`."""
    frames, found = sys._current_frames(), []
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        if thread.name in THREADS and frame is not None:
            calls = traceback.extract_stack(frame)[-FRAMES:]
            found.append((thread.name, [(call.name, call.filename, call.lineno) for call in reversed(calls)]))
    return [
        f"{name} in " + " < ".join(f"{of} {_short(path)}:{line}" for of, path, line in calls)
        for name, calls in (*found, *((f"the Kafka process's {name}", calls) for name, calls in beside))
    ]


def _short(path: str) -> str:
    return "/".join(path.rsplit("/", 2)[-2:])
