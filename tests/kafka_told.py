"""In place of a Kafka process: its host in threads, with a source and a sink that do as they are told."""

from __future__ import annotations

import logging
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from connectors.kafka import beside, host, hosted
from connectors.kafka.channel import Channel
from streamlearn.events import (
    Claim,
    Output,
    Position,
    Prediction,
    Record,
    Resume,
    Stalled,
    Standing,
    Stopped,
    Traffic,
    UsageError,
)
from tests.processes import DEADLINE, wait_for


def record(offset: int) -> Record:
    return Record(b"%d" % offset, Position("t", 0, offset), offset + 1)


def prediction(offset: int) -> Prediction:
    return Prediction(f"e{offset}", "a", {"a": 1.0}, 1, 0, Position("t", 0, offset), None, record(offset))


class Told:
    """A source that does what a test has said, in place of `KafkaSource`."""

    one: ClassVar[Told]

    def __init__(self, options: Mapping[str, Any]) -> None:
        if options.get("refused"):
            raise UsageError("source.topic is not set")
        self.topic = "t"
        self.silence, self.answered_at, self.away = 0.0, 5.0, "no broker answers yet"
        self.records = [record(offset) for offset in range(options.get("records", 0))]
        self.failure: Exception | None = None
        self.asked: list[int] = []
        self.held = threading.Event()
        self.released = threading.Event()
        self.closed = self.waited = False
        self.inbox = SimpleNamespace(ahead=0)
        self.waiting: list[Record] = []
        commands = SimpleNamespace(depth=0)
        gaps = SimpleNamespace(last=lambda place: (4, 6) if place == ("c", 0) else None)
        self.plane = SimpleNamespace(
            committer=SimpleNamespace(named=None),
            commands=commands,
            gaps=gaps,
            commands_topic="c",
            inbox=self.inbox,
        )
        self.link = SimpleNamespace(plane=self.plane, hold=self._hold)
        Told.one = self

    def claim(self, instance: str | None, standby: Callable[[], None], stopped: Callable[[], bool]) -> Claim:
        while not stopped():
            standby()
        if instance is None:
            raise Stopped("stopped while standing by")
        return Claim(instance, 3, {0: 1}, {0: 2}, 4, 5, "id")

    def standing(self) -> Standing:
        return Standing("checkpoint", {0: 7}, True, True)

    def open(self, resume: Resume) -> None:
        self.resume = resume
        if resume.stopped():
            raise Stopped("stopped")

    def poll(self, most: int, timeout: float) -> list[Record]:
        if self.failure is not None and not (most and self.records):
            raise self.failure
        if most:
            self.asked.append(most)
        found, self.records = self.records[:most], self.records[most:]
        return found

    def commands(self) -> list[Record]:
        waiting, self.waiting = self.waiting, []
        self.plane.commands.depth = 0
        return waiting

    def traffic(self, offsets: Mapping[int, int]) -> Traffic:
        return Traffic({0: 9}, {0: 9 - offsets[0]}, {"records": 1}, {"commits": 2}, 5.0, True, True)

    def _hold(self, until: Callable[[], object]) -> None:
        def wait() -> None:
            self.held.set()
            until()
            self.released.set()

        threading.Thread(target=wait, daemon=True).start()

    def waits(self) -> None:
        self.waited = True

    def close(self) -> None:
        self.closed = True


class Taken:
    """A sink that keeps what it is given, in place of `KafkaSink`."""

    one: ClassVar[Taken]

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.source = options["source"]
        self.outputs: list[Output] = []
        self.flushes = 0
        self.full = False
        self.going_on = threading.Event()
        self.going_on.set()
        self.named: list[Any] = []
        self.failure: Exception | None = None
        Taken.one = self

    def write(self, outputs: Sequence[Output]) -> None:
        assert self.going_on.wait(DEADLINE)
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure
        self.outputs += outputs

    def flush(self) -> None:
        self.flushes += 1
        if self.full:
            raise Stalled("the broker takes no outputs at the moment")

    def name(self, *given: Any) -> None:
        self.named.append((len(self.outputs), *given))
        self.source.plane.committer.named = given[0]

    def passed(self, place: Any, offset: int) -> None:
        self.named.append((len(self.outputs), place, offset))

    def settle(self, timeout: float) -> bool:
        return not self.full


class Here:
    """The host in threads of this process."""

    def __init__(self, ends: Sequence[socket.socket]) -> None:
        work, records, looks = (Channel(end.dup()) for end in ends)
        self.channels = work, records, looks
        self.left: list[int] = []
        self.status: int | None = None
        self._done = threading.Event()
        one = host.Host(work, records, looks, self._leave)
        threading.Thread(target=one.serve, daemon=True).start()

    def _leave(self, status: int) -> None:
        """Each thread says it once; the first ends the others."""
        self.shut(status)
        self.left.append(status)

    def over(self) -> bool:
        return len(self.left) == 3

    def shut(self, status: int) -> None:
        self.status = status if self.status is None else self.status
        for channel in self.channels:
            channel._end.shutdown(socket.SHUT_RDWR)
        self._done.set()

    def wait(self, timeout: float | None = None) -> int:
        if not self._done.wait(timeout):
            raise subprocess.TimeoutExpired("host", timeout or 0.0)
        assert self.status is not None
        return self.status

    def kill(self) -> None:
        self.shut(-9)


Made = Callable[..., tuple[beside.BesideSource, beside.BesideSink]]


@contextmanager
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    """Makes sources and sinks beside a host in threads, of `Told` and `Taken`; at the end all have ended."""
    made: list[beside.BesideSource] = []
    started: list[Here] = []

    def start(ends: Sequence[socket.socket]) -> Here:
        started.append(Here(ends))
        return started[-1]

    monkeypatch.setattr(hosted, "start", start)
    monkeypatch.setattr(hosted, "_prepared", [])
    levels = {name: logging.getLogger(name).level for name in host.LOGGERS}
    handlers = {name: list(logging.getLogger(name).handlers) for name in host.LOGGERS}

    def both(**of: Any) -> tuple[beside.BesideSource, beside.BesideSink]:
        here = f"{Told.__module__}:"
        source, sink = beside.beside(f"{here}Told", of, f"{here}Taken", {})
        made.append(source)
        return source, sink

    yield both
    for source in made:
        source.close()
    for here in started:
        wait_for(here.over, "its threads have ended")
        for channel in here.channels:
            channel.close()
    for name in host.LOGGERS:
        logging.getLogger(name).setLevel(levels[name])
        logging.getLogger(name).handlers[:] = handlers[name]
