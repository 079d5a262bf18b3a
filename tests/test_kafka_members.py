"""Who else is in a worker's group: of another topic's workers the second must not wait for ever."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import pytest
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import GroupAuthorizationFailedError, KafkaConnectionError

from connectors.kafka.committed import Asker
from connectors.kafka.members import Members
from connectors.kafka.options import Options
from ops.kafka.broker import Broker
from streamlearn.events import UsageError
from tests.kafka_worker import Place, new_place
from tests.streams import vectors

EVENTS = vectors(60)


def in_group_of(place: Place, folder: Path) -> Place:
    """Another topic, its worker in the same group, as by default."""
    other = new_place(place.broker, folder)
    return Place(place.broker, folder, other.topic, place.group, other.stem)


def refusal(place: Place, other: Place) -> str:
    return (
        f"a worker of another topic is in group {place.group}: it is at 127.0.0.1 and reads {place.topic}, "
        f"{place.name('.commands')}, not {other.topic}. One worker of a group learns, so this one would wait "
        "for ever: set another source.group_id and checkpoint.folder for this topic"
    )


def test_two_workers_of_two_topics_in_one_group(broker: Broker, tmp_path: Path) -> None:
    """The second says so and ends; so does `check`. The first, and its standby, are as they were."""
    place = new_place(broker, tmp_path)
    place.send(EVENTS[:20])
    other = in_group_of(place, tmp_path / "other")
    other.folder.mkdir()
    with place.run() as run:
        place.until_answered(run, 20)
        with place.run() as standby:
            standby.says("standing by with checkpoint ")
            for command in ("run", "check"):
                with other.command(command) as refused:
                    assert refused.ends() == 2, refused.said
                assert refused.said.splitlines()[-1].endswith(refusal(place, other))
                assert f"has a member at 127.0.0.1 that reads {place.topic}, " in refused.said
                assert ": standby, metrics" not in refused.said
            with place.command("check") as check:
                assert check.ends() == 0, check.said
            place.send(EVENTS[20:])
            place.until_answered(run, 60)
            assert standby.stops() == 0
        assert run.stops() == 0
    with other.run() as run:
        run.says("a first start")
        assert run.stops() == 0


def test_one_of_another_topic_that_was_killed_is_outlasted(broker: Broker, tmp_path: Path) -> None:
    """A worker that is started again for another topic meets its own predecessor, for a session."""
    place = new_place(broker, tmp_path)
    other = in_group_of(place, tmp_path / "other")
    other.folder.mkdir()
    place.send(EVENTS[:20])
    other.send(EVENTS)
    with place.run() as run:
        place.until_answered(run, 20)
        run.kill()
    with other.command("check") as check:
        assert check.ends() == 0, check.said
    with place.run() as run:
        run.says("goes on from")
        run.kill()
    with other.run() as run:
        other.until_answered(run, 60)
        assert run.stops() == 0


class Told(Asker):
    """An asker that is told what the broker says."""

    def __init__(self, answer: dict[str, Any] | Exception) -> None:
        self.answer = answer

    async def members(self) -> dict[str, Any]:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def group_of(*topics: str, state: str = "Stable") -> dict[str, Any]:
    given = [(topic, [0]) for topic in topics]
    assignment = ConsumerProtocolMemberAssignment(0, given, b"").encode() if state == "Stable" else b""
    standby = ConsumerProtocolMemberAssignment(0, [], b"").encode() if state == "Stable" else b""
    return {
        "state": state,
        "protocol_type": "consumer",
        "protocol": "streamlearn-one-learner" if state == "Stable" else "",
        "members": [
            {"client_host": "/10.0.0.2", "member_assignment": standby},
            {"client_host": "/10.0.0.1", "member_assignment": assignment},
        ],
    }


def test_only_one_that_stays_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Amid a rebalance nobody knows what members read; a learner of ours ends the count."""
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    options = Options({}, "Kafka at a:1", group="g", consumer={"session_timeout_ms": 20_000})
    found = Members(options, "ours")

    def look(answer: dict[str, Any] | Exception, later: float) -> bool:
        nonlocal now
        now += later
        coroutine = found.look(Told(answer))
        with pytest.raises(StopIteration) as done:
            coroutine.send(None)
        return bool(done.value.value)

    amid, theirs = group_of(state="PreparingRebalance"), group_of("theirs")
    assert not look(amid, 0.0)
    assert not look(group_of("ours", "ours.commands"), 0.0)
    assert look(theirs, 0.0)
    assert look(amid, 20.0)
    assert not look(group_of("ours"), 5.0)
    assert look(theirs, 1.0)
    assert not look(KafkaConnectionError(), 19.0)
    assert look(theirs, 1.0)
    now += 2.0
    with pytest.raises(UsageError, match=r"it is at 10\.0\.0\.1 and reads theirs, not ours"):
        asyncio.run(found.look(Told(theirs)))


def test_a_learner_of_ours_lives_once_it_has_outlasted_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one go: who is gone in a rebalance may have been dead before."""
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    found = Members(Options({}, "Kafka at a:1", group="g"), "ours")
    ours, amid = group_of("ours", "commands"), group_of(state="CompletingRebalance")
    steps = [(ours, 0.0), (ours, 6.5), (amid, 1.0), (ours, 1.0), (ours, 6.5), (ours, 1.0), (amid, 0.0)]
    led = []
    for answer, later in steps:
        now += later
        assert not asyncio.run(found.look(Told(answer)))
        led.append(found.led)
    assert led == [False, False, False, False, False, True, False]


def test_a_broker_that_does_not_say_who_is_there(caplog: pytest.LogCaptureFixture) -> None:
    """One line, and on it goes."""
    found = Members(Options({}, "Kafka at a:1", group="g"), "ours")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert not asyncio.run(found.look(Told(GroupAuthorizationFailedError())))
    assert [record.getMessage() for record in caplog.records] == [
        "the broker doesn't say who is in group g: whether a worker of another topic is there isn't seen "
        "(its ACLs must allow DESCRIBE on the group)"
    ]
