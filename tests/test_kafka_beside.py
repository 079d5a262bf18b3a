"""A worker and its Kafka process: what is asked and answered between the two."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from connectors.kafka import host, hosted
from connectors.kafka.reach import Refused
from streamlearn.events import (
    Claim,
    Fenced,
    Position,
    Record,
    Resume,
    Stalled,
    Standing,
    Stopped,
    Traffic,
    Unreachable,
    UsageError,
)
from tests.kafka_told import Made, Taken, Told, prediction, record, told
from tests.processes import DEADLINE, wait_for


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    with told(monkeypatch) as made:
        yield made


def test_whoever_is_asked_back_may_ask_again(make: Made) -> None:
    source, _ = make()
    seen: list[Standing] = []
    claim = source.claim("me", lambda: seen.append(source.standing()), lambda: len(seen) == 3)
    assert claim == Claim("me", 3, {0: 1}, {0: 2}, 4, 5, "id")
    assert seen == 3 * [Standing("checkpoint", {0: 7}, True, True)]


def test_what_a_function_raises_that_is_asked_back_goes_through(make: Made) -> None:
    source, _ = make()
    failure = KeyboardInterrupt()

    def standby() -> None:
        raise failure

    with pytest.raises(KeyboardInterrupt) as raised:
        source.claim("me", standby, lambda: False)
    assert raised.value is failure
    assert source.claim("me", standby, lambda: True).epoch == 3


def test_where_it_goes_on(make: Made) -> None:
    source, _ = make()
    resume = Resume({0: 5, 1: 6}, {0: 5}, {"topic_id": "x"}, "t", 4, lambda: False)
    source.open(resume)
    assert Told.one.resume == resume
    with pytest.raises(Stopped, match="stopped"):
        source.open(Resume(stopped=lambda: True))
    with pytest.raises(Stopped, match="standing by"):
        source.claim(None, lambda: None, lambda: True)


@pytest.mark.parametrize(
    ("error", "kind"),
    [(Fenced("who"), Fenced), (Refused("no"), Unreachable), (Unreachable("away"), Unreachable)],
)
def test_errors_are_of_the_same_kind(make: Made, error: Exception, kind: type[Exception]) -> None:
    source, _ = make()
    Told.one.failure = error
    for most in (0, 10):
        with pytest.raises(kind, match=str(error)):
            source.poll(most, 0.0)


def test_an_error_of_nobody_s_kind_says_where_it_came_from(make: Made) -> None:
    source, _ = make()
    Told.one.failure = ZeroDivisionError("division")
    with pytest.raises(RuntimeError, match="ZeroDivisionError: division") as raised:
        source.poll(10, 0.0)
    assert "raise self.failure" in raised.value.__notes__[0]


def test_settings_that_are_refused(make: Made) -> None:
    with pytest.raises(UsageError, match=r"source\.topic is not set"):
        make(refused=True)
    with pytest.raises(UsageError, match="can't be told to another process"):
        make(client={"since": object()})


def test_records_are_asked_for_ahead(make: Made) -> None:
    source, _ = make(records=10)
    assert [each.position.offset for each in source.poll(4, 0.0)] == [0, 1, 2, 3]
    wait_for(lambda: len(Told.one.asked) == 2, "the next are asked for")
    wait_for(lambda: Told.one.inbox.ahead == 4, "they are known to wait for the learner")
    assert source.poll(0, 0.0) == []
    assert [each.position.offset for each in source.poll(3, 0.0)] == [4, 5, 6]
    assert [each.position.offset for each in source.poll(5, 0.0)] == [7]
    Told.one.failure = Fenced("who")
    assert [each.position.offset for each in source.poll(5, 0.0)] == [8, 9]
    with pytest.raises(Fenced):
        source.poll(0, 0.0)
    with pytest.raises(Fenced):
        source.poll(5, 0.0)


def test_merged_records_wait_for_the_decision(make: Made) -> None:
    source, _ = make(records=10, merge="timestamp")
    source.poll(4, 0.0)
    source.poll(0, 0.0)
    assert Told.one.asked == [4]


def test_nothing_is_decided_before_what_is_on_its_way(make: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the host has handed out comes before a decision, also where it comes late."""
    monkeypatch.setattr(hosted, "ANSWER_SECONDS", 0.02)
    decided: list[int] = []
    come, poll = threading.Event(), Told.poll

    def decide(self: Told) -> bool:
        decided.append(len(self.records))
        return True

    monkeypatch.setattr(Told, "decide", decide, raising=False)

    def late(self: Told, most: int, timeout: float) -> Any:
        found = poll(self, most, timeout)
        assert come.wait(DEADLINE)
        return found

    monkeypatch.setattr(Told, "poll", late)
    source, _ = make(records=10, merge="timestamp")
    assert source.poll(4, 0.0) == []
    assert not source.decide()
    come.set()
    found: list[Record] = []

    def comes() -> bool:
        found.extend(source.poll(3, 0.0))
        return bool(found)

    wait_for(comes, "they come")
    assert [each.position.offset for each in found] == [0, 1, 2]
    assert not source.decide()
    assert [each.position.offset for each in source.poll(3, 0.0)] == [3]
    assert not decided
    assert source.decide()
    assert decided == [6]


def test_a_flush_does_not_wait(make: Made) -> None:
    """What the next one says is how the last one ended."""
    _, sink = make()
    Taken.one.going_on.clear()
    sink.write([prediction(0), prediction(1)])
    sink.flush()
    assert Taken.one.outputs == []
    Taken.one.going_on.set()
    sink.write([prediction(2)])
    sink.flush()
    assert sink.settle(0.0)
    sink.name("id", {"t": {0: 3}}, Position("c", 0, 1), b"done")
    assert [output.position.offset for output in Taken.one.outputs] == [0, 1, 2]
    assert Taken.one.named == [(3, "id", {"t": {0: 3}}, Position("c", 0, 1), b"done")]
    assert sink.named == "id"


def test_not_many_flushes_go_on_at_once(make: Made) -> None:
    _, sink = make()
    Taken.one.going_on.clear()
    for offset in range(hosted.AT_ONCE):
        sink.write([prediction(offset)])
        sink.flush()
    done = threading.Event()

    def one_more() -> None:
        sink.flush()
        done.set()

    thread = threading.Thread(target=one_more)
    thread.start()
    assert not done.wait(0.05), "it waits for the first of them"
    Taken.one.going_on.set()
    thread.join(DEADLINE)
    assert sink.settle(0.0)
    assert (len(Taken.one.outputs), Taken.one.flushes) == (hosted.AT_ONCE, hosted.AT_ONCE + 1)


def test_what_was_written_goes_before_what_is_said_of_it(make: Made) -> None:
    _, sink = make()
    sink.write([prediction(0)])
    sink.passed(("t", 0), 5)
    assert Taken.one.named == [(1, ("t", 0), 5)]
    Taken.one.failure = Fenced("who")
    sink.write([prediction(1)])
    sink.flush()
    with pytest.raises(Fenced):
        sink.settle(0.0)


@pytest.mark.parametrize("failure", [Fenced("who"), MemoryError("no room"), OSError("disk")])
def test_behind_a_failure_nothing_is_handed_over(make: Made, failure: Exception) -> None:
    """What comes next would raise P over outputs that never came."""
    _, sink = make()
    Taken.one.failure = failure
    Taken.one.going_on.clear()
    for offset in range(3):
        sink.write([prediction(offset)])
        sink.flush()
    Taken.one.going_on.set()
    for ask in (
        partial(sink.settle, 0.0),
        partial(sink.name, "id", {}),
        partial(sink.passed, ("t", 0), 5),
        sink.flush,
        partial(sink.settle, 0.0),
    ):
        with suppress(type(failure)):
            ask()
    with pytest.raises(type(failure), match=str(failure)):
        sink.settle(0.0)
    assert (Taken.one.outputs, Taken.one.flushes, Taken.one.named) == ([], 0, [])


def test_it_says_goodbye_whatever_has_failed(make: Made) -> None:
    source, sink = make()
    Taken.one.failure = Fenced("who")
    Taken.one.going_on.clear()
    for offset in range(3):
        sink.write([prediction(offset)])
        sink.flush()
    Taken.one.going_on.set()
    source.waits()
    assert Told.one.waited, "nothing is raised to whoever only says that it waits"
    source.close()
    assert Told.one.closed


def test_while_nothing_is_taken_nothing_more_is_handed_over(make: Made) -> None:
    _, sink = make()
    Taken.one.full = True
    sink.write([prediction(0)])
    sink.flush()
    assert sink.settle(0.0) is False
    for _ in range(2):
        with pytest.raises(Stalled, match="takes no outputs"):
            sink.flush()
    Taken.one.full = False
    sink.flush()
    sink.write([prediction(1)])
    sink.flush()
    assert sink.settle(0.0)
    assert [output.position.offset for output in Taken.one.outputs] == [0, 1]


def test_commands_are_asked_for_when_there_are_some(make: Made) -> None:
    source, sink = make()
    Told.one.waiting = [record(0)]
    assert source.commands() == []
    Told.one.plane.commands.depth = 1
    sink.settle(0.0)
    assert source.commands() == [record(0)]
    assert source.commands() == []
    assert [source.commands_passed(at) for at in (3, 4, 5, 6)] == [3, 6, 6, 6]


def test_how_it_stands(make: Made) -> None:
    source, _ = make()
    traffic = source.traffic({0: 4})
    assert traffic == Traffic({0: 9}, {0: 5}, {"records": 1}, {"commits": 2}, 5.0, True, True)
    assert (source.answered_at, source.away, source.silence) == (5.0, "no broker answers yet", 0.0)
    Told.one.silence = 7.0
    wait_for(lambda: source.silence == 7.0, "it is looked at now and then")


def test_a_host_that_answers_nothing(make: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks how it stands gets what was seen last, and how long that is ago."""
    source, _ = make()
    monkeypatch.setattr(hosted, "ANSWER_SECONDS", 0.02)
    before, go_on = source.traffic({0: 4}), threading.Event()
    monkeypatch.setattr(Told, "traffic", lambda self, offsets: go_on.wait(DEADLINE) and None)
    assert source.traffic({0: 5}) == before
    wait_for(lambda: source.silence > 0.2, "nothing moves")
    go_on.set()
    wait_for(lambda: source.silence == 0.0, "it moves again")


def test_with_the_worker_stopped_the_loop_stands_still(make: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosted, "LOOK_SECONDS", DEADLINE)
    monkeypatch.setattr(host, "HELD_SECONDS", 0.05)
    source, _ = make()
    assert Told.one.held.wait(DEADLINE)
    assert not Told.one.released.is_set()
    source.traffic({0: 4})
    assert Told.one.released.wait(DEADLINE)


def test_lines_for_the_log(make: Made, caplog: pytest.LogCaptureFixture) -> None:
    _, sink = make()
    with caplog.at_level(logging.INFO):
        Taken.one.source.close()
        lines = host.Lines()
        made = logging.LogRecord(
            "connectors.told", logging.WARNING, "", 0, "%s: %d of %s", ("t", 3, Fenced("x")), None
        )
        made.fields = {"topic": "t", "offset": 1 << 70}
        lines.emit(made)
        hosted._say(lines.take(5))
    (found,) = [each for each in caplog.records if each.name == "connectors.told"]
    assert (found.getMessage(), found.levelno) == ("t: 3 of x", logging.WARNING)
    assert found.__dict__["fields"] == {"topic": "t", "offset": str(1 << 70)}
    assert found.msg == "%s: %d of %s", "by which repetitions are told"
    assert sink.settle(0.0)
