"""One worker of a group as a process: started, watched by its log, killed, frozen."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ops.harness.forks import Forked
from ops.harness.place import evidence, scan

BANNER = re.compile(r"^  state .*, epoch (\d+)$", re.MULTILINE)
READY = "\n  metrics "
STANDING_BY = "standing by with checkpoint"
END_SECONDS = 180.0


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
        self._process = Forked(words, log, fresh)

    @property
    def name(self) -> str:
        return self.log.stem

    @property
    def status(self) -> int | None:
        """None while it runs; -9 after a kill."""
        return self._process.returncode

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
        self._process.send_signal(signal.SIGKILL)
        self.join(END_SECONDS)

    def terminate(self) -> None:
        self.asked_to_end = True
        self._process.send_signal(signal.SIGTERM)

    def freeze(self) -> None:
        self.frozen = True
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.frozen = False
        self._process.send_signal(signal.SIGCONT)

    def join(self, seconds: float) -> bool:
        """Wait for its end for at most so long."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self.status is not None

    def _all_packs(self) -> set[str]:
        return {path.name for path in self.state.glob("[0-9]*/*.memory")}
