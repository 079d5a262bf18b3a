"""Loops that take turns: each is a process, with its children, that stands still while another one works.

Where others share a machine, it is a fifth faster or slower from one second to the next, and loops that run
one after another differ by that. With turns of about a second, one right behind the other, all meet the same.
"""

from __future__ import annotations

import mmap
import os
import signal
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ops.bench.common import ROOT, cpu_seconds, environment, family

POLL_SECONDS = 0.02
DEADLINE = 600.0
COUNT = struct.Struct("<q")
"""What a loop in memory writes into its counter."""


class Contestant(Protocol):
    """One that takes turns."""

    @property
    def pids(self) -> Sequence[int]:
        """Of its processes, without their children; the first one is the one that learns."""

    def done(self) -> int:
        """Events that it has done so far. Asked while it stands still."""


@dataclass
class Turns:
    """What one did, turn by turn: events a second; microseconds an event of its own processor time, and of
    that of the process beside it."""

    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)

    def to(self, other: Turns) -> list[float]:
        """Its rates by those of another, of the same round each."""
        return [own / its for own, its in zip(self.rates, other.rates, strict=True)]


def quartiles(values: Sequence[float]) -> list[float]:
    return [round(value, 3) for value in statistics.quantiles(values, n=4)]


def contest(
    contestants: Mapping[str, Contestant], rounds: int, seconds: float, warm: int, beside: int
) -> dict[str, Turns]:
    """So many rounds (2 at least), in each a turn of so many seconds for everyone, always in the same order.

    Workers of a group must not stand still as long as their session lasts, so nor may all others' turns.
    warm: events that each does first. beside: a process that serves them all, and never stands still.
    """
    if rounds < 2:
        raise SystemExit("--rounds must be at least 2")
    deadline = time.monotonic() + DEADLINE
    for name, each in contestants.items():
        while each.done() < warm:
            if time.monotonic() > deadline:
                raise SystemExit(f"{name}: {each.done()} of {warm} events within {DEADLINE:g} s")
            time.sleep(POLL_SECONDS)
    found = {name: Turns() for name in contestants}
    stand: dict[str, list[int]] = {}
    try:
        for name, each in contestants.items():
            stand[name] = _stand(each)
        done = {name: each.done() for name, each in contestants.items()}
        for _ in range(rounds):
            for name, each in contestants.items():
                cpu, others = cpu_seconds(each.pids[0]), cpu_seconds(beside)
                begun = time.perf_counter()
                _go(stand.pop(name))
                time.sleep(seconds)
                stand[name] = _stand(each)
                # What was on its way when it stopped counts in its next turn.
                took, before, done[name] = time.perf_counter() - begun, done[name], each.done()
                events = done[name] - before
                if not events:
                    raise SystemExit(f"{name} did nothing in a turn: are there events left for it?")
                found[name].rates.append(events / took)
                found[name].cpu.append((cpu_seconds(each.pids[0]) - cpu) / events * 1e6)
                found[name].beside.append((cpu_seconds(beside) - others) / events * 1e6)
    finally:
        # Whose parent is killed next could not end by itself while it stands still.
        for pids in stand.values():
            _go(pids)
    return found


def _go(pids: Sequence[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _stand(one: Contestant) -> list[int]:
    """Make it stand still: its processes. One that has ended stands still too, and `done` will say so."""
    with suppress(FileNotFoundError):
        pids = [each for pid in one.pids for each in family(pid)]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        while not all(map(_stands, pids)):
            time.sleep(POLL_SECONDS / 10)
        return pids
    return []


def _stands(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "TZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


class FromMemory:
    """`python -m ops.bench.learner_loop`, round and round its events. A context manager: it is killed."""

    def __init__(self, counter: Path, flags: Sequence[str], beside: Sequence[int] = ()) -> None:
        """counter: a file to make. beside: processes that work in its turns."""
        with counter.open("w+b") as file:
            file.write(COUNT.pack(0))
            file.flush()
            self._count = mmap.mmap(file.fileno(), COUNT.size)
        command = [sys.executable, "-m", "ops.bench.learner_loop", "--counter", str(counter), *flags]
        self._process = subprocess.Popen(command, env=environment(), cwd=ROOT)
        self.pids = [self._process.pid, *beside]

    def __enter__(self) -> FromMemory:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._count.close()

    def done(self) -> int:
        if self._process.poll() is not None:
            raise SystemExit(f"ended with status {self._process.returncode}")
        return int(COUNT.unpack(self._count[:])[0])
