"""A worker and its Kafka process: how the one ends, and what if it hangs, or never begins."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from connectors.kafka import beside, host, hosted
from streamlearn.events import (
    Stopped,
    Unreachable,
)
from tests.kafka_told import Here, Made, Taken, Told, prediction, told
from tests.processes import DEADLINE


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    with told(monkeypatch) as made:
        yield made


class Idle:
    """A process that loads its modules, or does nothing."""

    def __init__(self, ends: Sequence[socket.socket]) -> None:
        self.ends = [end.dup() for end in ends]
        self.killed = threading.Event()

    def wait(self, timeout: float | None = None) -> int:
        if not self.killed.wait(timeout):
            raise subprocess.TimeoutExpired("host", timeout or 0.0)
        return -9

    def kill(self) -> None:
        self.killed.set()
        for end in self.ends:
            end.close()


@pytest.mark.parametrize(("stopped", "kind"), [(True, Stopped), (False, Unreachable)])
def test_one_that_does_not_begin(stopped: bool, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is asked to stop doesn't wait for it, and nobody does for ever."""
    started: list[Idle] = []

    def start(ends: Sequence[socket.socket]) -> Idle:
        started.append(Idle(ends))
        return started[-1]

    monkeypatch.setattr(hosted, "start", start)
    monkeypatch.setattr(hosted, "_prepared", [])
    for name in ("ANSWER_SECONDS", "BEGIN_SECONDS", "END_SECONDS"):
        monkeypatch.setattr(hosted, name, 0.05)
    with pytest.raises(kind, match="load"):
        beside.beside("a:b", {}, "c:d", {}, lambda: stopped)
    assert started[0].killed.is_set()


def test_one_that_nobody_comes_for(make: Made) -> None:
    end = hosted.prepare()
    (host,) = hosted._prepared
    end()
    end()
    assert hosted._prepared == []
    taken_too_late = hosted.prepare()
    source, _ = make()
    assert source._host is not host
    taken_too_late()
    assert not Told.one.closed, "who doesn't close it gets no goodbye"
    source.close()


def test_the_end(make: Made) -> None:
    source, sink = make()
    Taken.one.full = True
    sink.write([prediction(0)])
    sink.flush()
    sink.write([prediction(1)])
    source.close()
    source.close()
    assert Told.one.closed
    assert [output.position.offset for output in Taken.one.outputs] == [0], "the others were not flushed"


def test_a_host_that_has_failed(make: Made) -> None:
    source, _ = make()
    process = source._host._process
    assert isinstance(process, Here)
    process.shut(1)
    with pytest.raises(RuntimeError, match="has failed: what it said stands above"):
        source.fingerprint({})


def test_a_host_that_does_nothing(make: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads has other things to do; whoever waits for an answer kills it."""
    source, sink = make()
    assert source.traffic({0: 4}) is not None
    for name in ("ANSWER_SECONDS", "HUNG_SECONDS"):
        monkeypatch.setattr(hosted, name, 0.05)
    go_on = threading.Event()
    monkeypatch.setattr(Told, "traffic", lambda self, offsets: go_on.wait(DEADLINE) and None)
    monkeypatch.setattr(Told, "poll", lambda self, most, timeout: go_on.wait(DEADLINE) and [])
    source.traffic({0: 4})
    assert source.poll(5, 0.0) == source.poll(5, 0.0) == []
    Taken.one.going_on.clear()
    sink.write([prediction(0)])
    sink.flush()
    with pytest.raises(Unreachable, match="was killed by signal 9"):
        sink.settle(0.0)
    go_on.set()
    Taken.one.going_on.set()


def test_a_worker_that_was_stopped_takes_nobody_for_dead(make: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosted, "LOOK_SECONDS", DEADLINE)
    monkeypatch.setattr(host, "HELD_SECONDS", DEADLINE)
    _, sink = make()
    sink._host.look()
    monkeypatch.setattr(hosted, "ANSWER_SECONDS", 0.02)
    monkeypatch.setattr(hosted, "HUNG_SECONDS", 0.02)
    Taken.one.going_on.clear()
    sink.write([prediction(0)])
    sink.flush()
    threading.Timer(0.2, Taken.one.going_on.set).start()
    assert sink.settle(0.0)


def test_a_host_that_has_ended(make: Made) -> None:
    source, sink = make()
    process = source._host._process
    assert isinstance(process, Here)
    process.shut(-9)
    for ask in (sink.flush, lambda: source.poll(1, 0.0), lambda: source.fingerprint({})):
        with pytest.raises(Unreachable, match="the process that talks to Kafka was killed by signal 9"):
            ask()
