"""What a broker forgets by its own settings: who is silent, and records that newer ones replace."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka.admin import ConfigResource

from connectors.kafka import committer
from ops.kafka.broker import Broker
from tests.kafka import Message, administrator, read_all, running
from tests.kafka_worker import Place, new_place
from tests.processes import line, wait_for
from tests.streams import vectors
from tests.test_kafka_topic_faults import last_line

pytestmark = pytest.mark.slow

EVENTS = vectors(300)
EXPIRES = 5.0
"""Seconds; a broker's least."""


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that soon forgets ids, and whose cleaner comes at once."""
    settings = {
        "transactional.id.expiration.ms": str(int(EXPIRES * 1000)),
        "transaction.remove.expired.transaction.cleanup.interval.ms": "300",
        "producer.id.expiration.ms": "2000",
        "producer.id.expiration.check.interval.ms": "300",
        "log.cleaner.backoff.ms": "200",
    }
    with running(tmp_path_factory.mktemp("forgetful") / "kafka", settings=settings) as broker:
        yield broker


def known(place: Place) -> bool:
    """Does the broker know the group's transactional id?"""
    with administrator(place.broker) as admin:
        found = [one.transactional_id for of in admin.list_transactions().values() for one in of]
    return f"streamlearn.{place.group}" in found


def commits(broker: Broker) -> int:
    """How far its log of committed offsets goes."""
    return max(message.offset or 0 for message in read_all(broker, "__consumer_offsets"))


def often() -> None:
    """In the worker's process: one that is idle commits after a second, not after an hour."""
    committer.IDLE_SECONDS = 1.0


@pytest.mark.parametrize("mode", ["exactly_once", "at_least_once"])
def test_one_that_is_idle_is_not_forgotten(mode: str, forgetful: Broker, tmp_path: Path) -> None:
    """It commits now and then, though there is nothing to say, and answers what comes after a long time."""
    place = new_place(forgetful, tmp_path)
    place.send(EVENTS[:50])
    with place.run("--delivery.mode", mode, before=often) as run:
        place.until_kept(run, 50)
        before, written = place.committed(), commits(forgetful)
        begun = time.monotonic()

        def passed() -> bool:
            assert mode == "at_least_once" or known(place)
            return time.monotonic() > begun + 2 * EXPIRES

        run.until(passed, "a time has passed after which the broker forgets")
        assert place.committed() == before
        assert commits(forgetful) >= written + 5
        place.send(EVENTS[50:100])
        place.until_answered(run, 100)
        assert run.stops() == 0
    assert [each["id"] for each in place.predictions()] == [event.id for event in EVENTS[:100]]


def test_one_that_was_forgotten_says_so(forgetful: Broker, tmp_path: Path) -> None:
    """A broker that forgets sooner than an idle one commits: the next start goes on."""
    place = new_place(forgetful, tmp_path)
    place.send(EVENTS[:50])
    with place.run() as run:
        place.until_kept(run, 50)
        run.until(lambda: not known(place), "the broker has forgotten it")
        place.send(EVENTS[50:60])
        assert run.ends() == 7
    assert "the broker has forgotten our transactional id" in last_line(run.said)
    assert "nothing is lost, a new start goes on from the last commit" in last_line(run.said)
    with place.run() as run:
        place.send(EVENTS[60:100])
        place.until_answered(run, 100)
        assert run.stops() == 0
    assert [each["id"] for each in place.predictions()] == [event.id for event in EVENTS[:100]]


def test_records_that_a_cleaner_took_behind_a_checkpoint(forgetful: Broker, tmp_path: Path) -> None:
    """Answered, killed before a checkpoint, compacted away: their number is said, and the worker goes on."""
    place = new_place(forgetful, tmp_path)
    configs = {"cleanup.policy": "compact", "segment.ms": "10", "min.cleanable.dirty.ratio": "0.001"}
    with administrator(forgetful) as admin:
        admin.alter_configs([ConfigResource("TOPIC", place.topic, configs)])
    rarely = ("--checkpoint.seconds", "600")

    def send(begin: int, end: int, key: int) -> None:
        """Events, with keys from `key` on, in segments of their own: the newest one is not cleaned."""
        numbers = range(begin, end)
        place.send([Message(line(EVENTS[n]).strip(), b"%d" % (n - begin + key)) for n in numbers])

    def left() -> int:
        return sum((message.offset or 0) < 200 for message in place.read(""))

    send(0, 200, key=0)
    with place.run(*rarely, before=often) as run:
        place.until_answered(run, 200)
        run.until(lambda: place.committed()["", 0][1].get("records") == 200, "that is committed")
        assert "min.compaction.lag.ms 0 (0 s)" in run.said
        run.kill()
    send(200, 280, key=100)
    send(280, 281, key=1000)
    wait_for(lambda: left() == 120, "the cleaner has come")
    said = f"{place.topic}:0: 80 records that were answered are no longer in the log, below offset 200: "
    with place.run(*rarely, before=often) as run:
        place.until_answered(run, 281)
        assert run.said.count(said) == 1
        # From now on those that can be read again are what is counted.
        run.until(lambda: place.committed()["", 0][0] == 281, "that is committed")
        assert place.committed()["", 0][1]["records"] == 201
        run.kill()
    send(281, 290, key=1001)
    with place.run(*rarely, before=often) as run:
        place.until_answered(run, 290)
        assert "no longer in the log" not in run.said, "it was said"
        assert run.stops() == 0
    assert [each["id"] for each in place.predictions()] == [event.id for event in EVENTS[:290]]
