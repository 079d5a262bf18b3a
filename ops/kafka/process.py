"""A background process known by a file, so that another command can find, signal and await it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

TETHERED = Path(__file__).with_name("tethered.py")


def _stat(pid: int) -> tuple[str, int] | None:
    """State letter and start time (clock ticks since boot) of a process; None if there is none."""
    try:
        # Behind the name, which may hold anything, blanks and parentheses too.
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[0], int(fields[19])


class Background:
    """At most one process, whose pid and start time lie in `file`: a pid alone may be another's by now."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._keeper: threading.Thread | None = None

    @property
    def pid(self) -> int | None:
        """None when it isn't running."""
        try:
            pid, start = map(int, self.file.read_text("utf-8").split())
        except (FileNotFoundError, ValueError):
            return None
        stat = _stat(pid)
        return pid if stat is not None and stat[0] not in "ZX" and stat[1] == start else None

    @property
    def frozen(self) -> bool:
        pid = self.pid
        stat = None if pid is None else _stat(pid)
        return stat is not None and stat[0] == "T"

    def start(self, command: Sequence[str], log: Path, tether: bool) -> None:
        """Start `command` with an absolute path; both outputs are appended to `log`.

        Args:
            tether: It is killed when this process ends, however that ends; otherwise it goes on.
        """
        started: Future[None] = Future()
        # The kernel's death signal follows the thread that started a process, so that is one which stays
        # until the process ends. It also takes the exit status: else the dead would stay in the table.
        keeper = threading.Thread(target=self._keep, args=(command, log, tether, started), daemon=True)
        keeper.start()
        started.result()
        self._keeper = keeper

    def _keep(self, command: Sequence[str], log: Path, tether: bool, started: Future[None]) -> None:
        try:
            prefix = [sys.executable, "-I", str(TETHERED), str(os.getpid())] if tether else []
            with log.open("ab") as output:
                process = subprocess.Popen(
                    [*prefix, *command],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,  # ctrl-C in our terminal is not for it
                )
            stat = _stat(process.pid)
            aside = self.file.with_suffix(".new")
            aside.write_text(f"{process.pid} {stat[1] if stat else 0}\n", "utf-8")
            aside.replace(self.file)
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(None)
        process.wait()

    @contextmanager
    def _handle(self) -> Iterator[int | None]:
        """A handle of the running process that can't come to mean another one, or None."""
        pid = self.pid
        try:
            handle = None if pid is None else os.pidfd_open(pid)
        except ProcessLookupError:
            handle = None
        try:
            yield handle if self.pid == pid else None
        finally:
            if handle is not None:
                os.close(handle)

    def send(self, number: signal.Signals) -> None:
        """Nothing happens if it isn't running."""
        with self._handle() as handle:
            if handle is not None:
                signal.pidfd_send_signal(handle, number)

    def end(self, number: signal.Signals, deadline: float) -> bool:
        """Send a signal that ends it; whether it ended within `deadline` seconds (or had before)."""
        with self._handle() as handle:
            if handle is not None:
                signal.pidfd_send_signal(handle, number)
                poll = select.poll()
                poll.register(handle, select.POLLIN)
                if not poll.poll(deadline * 1000):
                    return False
        if self._keeper is not None:
            self._keeper.join()
            self._keeper = None
        self.file.unlink(missing_ok=True)
        return True
