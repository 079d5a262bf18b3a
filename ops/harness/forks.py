"""`streamlearn` as a process: forked from one that has imported everything, or an interpreter of its own."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from ops.harness.place import ROOT

FRESH = 0.1
"""Share of the starts with an interpreter of their own; the others are forked, which takes less long."""
PRELOAD = ["streamlearn.run", "streamlearn.page", "connectors.kafka", "ops.harness.forks"]


@cache
def _forks() -> Any:
    """A server that forks processes in which everything is imported already: they start in no time."""
    os.environ["PYTHONPATH"] = str(ROOT)  # or it can't import them
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def _become(words: Sequence[str], log: str, fresh: bool, env: Mapping[str, str]) -> None:
    """What a started process does: it is `streamlearn` with these words and this environment, in an
    interpreter of its own if `fresh`. It ends with the harness, however that ends."""
    os.environ.clear()  # the fork server's, which is as old as the first start
    os.environ.update(env)
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


class Forked:
    """A started `streamlearn`, with the methods of `subprocess.Popen` that are used. log: is appended to."""

    def __init__(self, words: Sequence[str], log: Path, fresh: bool) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        self._process = _forks().Process(target=_become, args=(list(words), str(log), fresh, env))
        self._process.start()
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; -9 after a kill."""
        found: int | None = self._process.exitcode
        return found

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("streamlearn", timeout or 0.0)
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        if self.returncode is None:
            with suppress(ProcessLookupError):  # it has ended this moment
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
