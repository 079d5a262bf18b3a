"""Loops that take turns: each is a process, with its children, that stands still while another one works.

Where others share a machine, it is a fifth faster or slower from one second to the next, and loops that run
one after another differ by that. With turns of about a second, one right behind the other, all get the same.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ops.bench.common import ROOT, cpu_seconds, environment, family

POLL_SECONDS = 0.02
DEADLINE = 600.0
_COUNT = struct.Struct("<q")


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
    """So many rounds, in each a turn of so many seconds for everyone; the order moves on by one each round.

    warm: events that each does first. beside: a process that serves them all, and never stands still.
    """
    deadline = time.monotonic() + DEADLINE
    for name, each in contestants.items():
        while each.done() < warm:
            if time.monotonic() > deadline:
                raise SystemExit(f"{name}: {each.done()} of {warm} events within {DEADLINE:g} s")
            time.sleep(POLL_SECONDS)
    found = {name: Turns() for name in contestants}
    names = list(contestants)
    try:
        for each in contestants.values():
            _stand(each)
        for number in range(rounds):
            shift = number % len(names)
            for name in names[shift:] + names[:shift]:
                _turn(name, contestants[name], seconds, beside, found[name])
    finally:
        # Whose parent is killed could not end by itself while it stands still.
        for each in contestants.values():
            _go(each)
    return found


def _turn(name: str, one: Contestant, seconds: float, beside: int, found: Turns) -> None:
    before, cpu, others = one.done(), cpu_seconds(one.pids[0]), cpu_seconds(beside)
    begun = time.perf_counter()
    _go(one)
    time.sleep(seconds)
    _stand(one)
    took, events = time.perf_counter() - begun, one.done() - before
    if not events:
        raise SystemExit(f"{name} did nothing in a turn of {seconds:g} s: are there events left for it?")
    found.rates.append(events / took)
    found.cpu.append((cpu_seconds(one.pids[0]) - cpu) / events * 1e6)
    found.beside.append((cpu_seconds(beside) - others) / events * 1e6)


def _go(one: Contestant) -> None:
    for pid in _all(one):
        os.kill(pid, signal.SIGCONT)


def _stand(one: Contestant) -> None:
    """Make it stand still."""
    pids = _all(one)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    while not all(_stands(pid) for pid in pids):
        time.sleep(POLL_SECONDS / 10)


def _all(one: Contestant) -> list[int]:
    return [each for pid in one.pids for each in family(pid)]


def _stands(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


class FromMemory:
    """`python -m ops.bench.learner_loop`, round and round its events. A context manager: it is killed."""

    def __init__(self, counter: Path, flags: Sequence[str], beside: Sequence[int] = ()) -> None:
        """counter: a file to make. beside: processes that work in its turns."""
        with counter.open("w+b") as file:
            file.write(_COUNT.pack(0))
            file.flush()
            self._count = mmap.mmap(file.fileno(), _COUNT.size)
        command = [sys.executable, "-m", "ops.bench.learner_loop", "--counter", str(counter), *flags]
        self._process = subprocess.Popen(command, env=environment(), cwd=ROOT)
        self.pids = [self._process.pid, *beside]

    def __enter__(self) -> FromMemory:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def done(self) -> int:
        if self._process.poll() is not None:
            raise SystemExit(f"ended with status {self._process.returncode}")
        return int(_COUNT.unpack(self._count[:])[0])
