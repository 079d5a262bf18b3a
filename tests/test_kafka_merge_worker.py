"""`source.merge = "timestamp"` on a real Kafka: three partitions are learned as one in their order is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from ops.kafka.broker import Broker
from streamlearn.events import Event
from tests.kafka import Message, administrator
from tests.kafka_worker import Place, new_place
from tests.processes import line
from tests.streams import vectors

EVENTS = vectors(300)
MANY = vectors(1500)
MERGE = ("--source.merge", "timestamp", "--source.merge_idle", "1", "--evaluation.held_out", "0")
SLOW = ("--learning.images_per_event", "40")
START = int(time.time() - 3600) * 1000
"""An hour ago, in ms: what is older than its retention a broker deletes."""

Answers = dict[str, tuple[object, ...]]


def timed(events: Sequence[Event], partitions: Sequence[int], first: int = 0) -> list[Message]:
    """One a second, partition by partition: what a producer has sent late comes late."""
    sent = [
        Message(line(event).strip(), partition=partition, timestamp=START + 1000 * (first + i))
        for i, (event, partition) in enumerate(zip(events, partitions, strict=True))
    ]
    return sorted(sent, key=lambda message: -(message.partition or 0))


def answers(place: Place) -> Answers:
    found: Answers = {}
    for each in place.predictions():
        assert each["id"] not in found, "answered twice"
        found[each["id"]] = (each["label"], each["scores"], each["known_classes"], each["model_step"])
    return found


def in_order(broker: Broker, folder: Path, events: Sequence[Event], *flags: str) -> Place:
    """The events in order of their times, learned from one partition."""
    folder.mkdir()
    place = new_place(broker, folder)
    place.send(events)
    with place.run("--evaluation.held_out", "0", *flags) as run:
        place.until_answered(run, len(events))
        assert run.stops() == 0
    return place


def test_partitions_are_learned_in_the_order_of_time_over_kills(broker: Broker, tmp_path: Path) -> None:
    expected = in_order(broker, tmp_path / "one", MANY, *SLOW)
    place = new_place(broker, tmp_path, partitions=3)
    # Partition 2 ends early, 1 goes on alone: each holds up the others until it is idle.
    spread = [0, 1, 2, 1, 0, 2] * 150 + [0, 1, 1] * 150 + [1] * 150
    place.send(timed(MANY, spread))
    behind = []
    for reached in (1, 400, 800, 1200, 1400):
        with place.run(*MERGE, *SLOW) as run:
            place.until_answered(run, reached)
            run.kill()
        behind.append(len(place.read()))
    assert sum(count < len(MANY) for count in behind) >= 3, f"kills that hit work: {behind}"
    with place.run(*MERGE, *SLOW) as run:
        run.until(lambda: place.newest["records"] == len(MANY), "all is learned again")
        assert run.stops() == 0
    assert answers(place) == answers(expected)
    assert place.hashes == expected.hashes
    assert place.newest["position"]["fingerprint"]["merged"] == [1]


def test_a_quiet_partition_holds_nobody_up_for_long_and_comes_back(broker: Broker, tmp_path: Path) -> None:
    expected = answers(in_order(broker, tmp_path / "one", EVENTS))
    place = new_place(broker, tmp_path, partitions=2)
    place.send(timed(EVENTS[:100], [0] * 100))  # nothing was ever sent to 1
    with place.run(*MERGE) as run:
        place.until_answered(run, 100)
        # What comes from 1 now is older than what is to come from 0, which is idle in its turn.
        place.send(timed(EVENTS[100:150], [1] * 50, 100))
        place.until_answered(run, 150)
        place.send(timed(EVENTS[150:], [0, 1] * 75, 150))
        place.until_answered(run, len(EVENTS))
        assert run.stops() == 0
    found = answers(place)
    assert found.keys() == expected.keys()
    early = [event.id for event in EVENTS[:150]]
    assert [found[id] for id in early] == [expected[id] for id in early]


def test_a_partition_that_is_added_joins(broker: Broker, tmp_path: Path) -> None:
    place = new_place(broker, tmp_path)
    place.send(timed(EVENTS[:50], [0] * 50))
    more = ("--source.client.metadata_max_age_ms", "500")
    with place.run(*MERGE, *more) as run:
        place.until_answered(run, 50)
        with administrator(broker) as admin:
            for of in ("", ".predictions", ".dead_letters"):
                admin.create_partitions({place.name(of): 2})
        run.says("has a new partition, 1")
        place.send(timed(EVENTS[50:90], [1] * 40, 50))
        place.until_answered(run, 90)
        run.kill()
    place.send(timed(EVENTS[90:], [0, 1] * 105, 90))
    with place.run(*MERGE) as run:
        run.until(lambda: place.newest["records"] == len(EVENTS), "all is learned")
        assert run.stops() == 0
    assert len(answers(place)) == len(EVENTS)
    assert place.newest["events_learned"] == sum(event.y is not None for event in EVENTS) // 10 * 10
