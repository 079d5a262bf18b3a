"""One worker of a group as a process: started, watched by its log, killed, frozen."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ops.harness.place import ROOT, evidence, scan

BANNER = re.compile(r"^  state .*, epoch (\d+)$", re.MULTILINE)
READY = "\n  metrics "
STANDING_BY = "standing by with checkpoint"
END_SECONDS = 180.0
PRELOAD = ["streamlearn.run", "streamlearn.page", "connectors.kafka", "ops.harness.member"]


@cache
def _forks() -> Any:
    """A server that forks processes in which everything is imported already: they start in no time."""
    os.environ["PYTHONPATH"] = str(ROOT)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def _become(words: Sequence[str], log: str, fresh: bool) -> None:
    """What a started process does: it is `streamlearn` with these words, in an interpreter of its own if
    `fresh`. It ends with the harness, however that ends."""
    ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)  # PR_SET_PDEATHSIG
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(ROOT)
    if fresh:
        os.execv(sys.executable, [sys.executable, "-m", "streamlearn", *words])
    from streamlearn.cli import main

    status = main(words)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


class Member:
    """A worker. `state`: the folder that it shares with the others of its group."""

    def __init__(self, words: Sequence[str], state: Path, log: Path, fresh: bool = False) -> None:
        self.state, self.log, self.fresh = state, log, fresh
        self.begun = time.monotonic()
        self.start_seconds = 0.0
        self.frozen = False
        self.asked_to_end = False
        self.killed = False
        self._packs = self._all_packs()
        self._epoch = 0
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
        self._process = _forks().Process(target=_become, args=(list(words), str(log), fresh))
        self._process.start()

    @property
    def name(self) -> str:
        return self.log.stem

    @property
    def status(self) -> int | None:
        """None while it runs; -9 after a kill."""
        found: int | None = self._process.exitcode
        return found

    def text(self) -> str:
        return self.log.read_text("utf-8", errors="replace")

    @property
    def epoch(self) -> int:
        """Of which it is the learner; 0 as long as it isn't ready."""
        if not self._epoch:
            text = self.text()
            found = BANNER.search(text)
            if found is not None and READY in text:
                self._epoch = int(found[1])
                self.start_seconds = time.monotonic() - self.begun
                # What it has taken over from older epochs, before it writes any of its own.
                self._packs |= {entry.name for entry in scan(self.folder) if entry.name.endswith(".memory")}
        return self._epoch

    @property
    def standing_by(self) -> bool:
        return not self.epoch and STANDING_BY in self.text()

    @property
    def folder(self) -> Path:
        """Of its epoch."""
        return self.state / f"{self._epoch:06d}"

    def files(self) -> frozenset[str]:
        return frozenset(entry.name for entry in scan(self.folder))

    def was_in(self) -> str:
        """What the files say it was killed in: "memory.tmp", ..., "pruning", or "" for other work."""
        return evidence(self.folder, self._packs)[0]

    def kill(self) -> None:
        self.killed = True
        self._send(signal.SIGKILL)
        self.join(END_SECONDS)

    def terminate(self) -> None:
        self.asked_to_end = True
        self._send(signal.SIGTERM)

    def freeze(self) -> None:
        self.frozen = True
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        self.frozen = False
        self._send(signal.SIGCONT)

    def join(self, seconds: float) -> bool:
        """Wait for its end for at most so long."""
        self._process.join(seconds)
        return self.status is not None

    def _send(self, number: signal.Signals) -> None:
        # Its status is only taken when it is asked for: the id can't mean another process yet.
        if self.status is None:
            os.kill(self._process.pid, number)

    def _all_packs(self) -> set[str]:
        return {path.name for path in self.state.glob("[0-9]*/*.memory")}
