"""What a worker does, and says, when topics, messages or the disk are not as they should be."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from kafka.admin import ConfigResource

from connectors.kafka.murmur import partition_of
from ops.kafka.broker import Broker
from streamlearn.events import Event
from tests.kafka import Message, administrator
from tests.kafka_worker import Place, new_place
from tests.processes import line, wait_for
from tests.streams import vectors
from tests.test_disk import Mount, fill, mount  # noqa: F401  # a fixture

EVENTS = vectors(300)
SOON = ("--source.client.metadata_max_age_ms", "500")
"""A client looks for new partitions every five minutes."""


NARROW = ("--source.client.max_partition_fetch_bytes", "1000", "--source.client.fetch_max_bytes", "1000")


def last_line(said: str) -> str:
    assert "Traceback" not in said
    return re.sub(r" \[step \d+\]", "", said.splitlines()[-1]).partition(" ERROR ")[2]


def limit(place: Place, of: str, size: int) -> None:
    with administrator(place.broker) as admin:
        admin.alter_configs([ConfigResource("TOPIC", place.name(of), {"max.message.bytes": str(size)})])


@pytest.mark.parametrize("of", ["", ".predictions", ".dead_letters"])
def test_a_topic_that_is_missing(of: str, broker: Broker, tmp_path: Path) -> None:
    place = new_place(broker, tmp_path, without=(of,))
    for command in ("run", "check"):
        with place.command(command) as run:
            assert run.ends() == 4
        assert last_line(run.said) == (
            f"run: Kafka at {broker.address}: there is no topic {place.name(of)}: `streamlearn topics` with "
            "these settings makes what is missing"
        )


@pytest.mark.parametrize("of", ["", ".predictions", ".commands"])
def test_a_topic_that_is_deleted_while_the_worker_runs(of: str, broker: Broker, tmp_path: Path) -> None:
    place = new_place(broker, tmp_path)
    place.send(EVENTS[:50])
    with place.run(*SOON) as run:
        place.until_answered(run, 50)
        with administrator(broker) as admin:
            admin.delete_topics([place.name(of)])
        if of:
            place.send(EVENTS[50:60])
        assert run.ends() == 4
    assert last_line(run.said) == (
        f"run: Kafka at {broker.address}: topic {place.name(of)} is gone: was it deleted? The state is kept"
    )
    if of == ".commands":
        with place.run() as run:
            place.until_answered(run, 60)
            assert f"there is no topic {place.name(of)}: commands (`streamlearn tell`) are off" in run.said
            assert run.stops() == 0


@pytest.mark.parametrize("more", [(), SOON])
def test_a_topic_that_is_made_anew_while_the_worker_runs(
    more: tuple[str, ...], broker: Broker, tmp_path: Path
) -> None:
    """To the client it is the same topic; with SOON it may see it vanish, and the group is rebalanced."""
    place = new_place(broker, tmp_path)
    place.send(EVENTS[:50])
    with place.run(*more) as run:
        place.until_answered(run, 50)
        with administrator(broker) as admin:
            admin.delete_topics([place.topic])
            wait_for(lambda: place.topic not in admin.list_topics(), "it is gone")
            admin.create_topics({place.topic: {"num_partitions": 1, "replication_factor": 1}})
        place.send(EVENTS[100:])
        assert run.ends() == 3
    assert f"run: topic {place.topic} was deleted and made anew while it was read" in last_line(run.said)


def test_a_topic_that_grows(broker: Broker, tmp_path: Path) -> None:
    """What comes in the new partition is learned too, from its first record, and a start finds it."""
    place = new_place(broker, tmp_path)
    place.send(EVENTS[:50])
    with place.run(*SOON) as run:
        place.until_answered(run, 50)
        with administrator(broker) as admin:
            admin.create_partitions({place.topic: 2})
        place.send([Message(line(event).strip(), partition=1) for event in EVENTS[50:100]])
        run.says(
            f"{place.topic} has a new partition, 1: it is read from its beginning; keys may have moved to it"
        )
        place.until_answered(run, 100)
        assert run.stops() == 0
    assert {at[1]: offset for at, (offset, _) in place.committed().items() if not at[0]} == {0: 50, 1: 50}
    with administrator(broker) as admin:
        admin.create_partitions({place.topic: 3})
    place.send([Message(line(event).strip(), partition=2) for event in EVENTS[100:150]])
    with place.run() as run:
        place.until_answered(run, 150)
        assert run.stops() == 0
    assert [each["id"] for each in place.predictions()] == [event.id for event in EVENTS[:150]]
    assert place.newest["records"] == 150


def test_outputs_go_by_the_counts_that_there_are(broker: Broker, tmp_path: Path) -> None:
    """More partitions of the events than of the predictions: by the key. As many again: by the number."""
    place = new_place(broker, tmp_path, partitions=2)
    soon = (*SOON, "--sink.client.metadata_max_age_ms", "500")

    def sent(events: list[Event], partition: int) -> dict[str, bytes]:
        place.send([Message(line(each).strip(), each.id.encode(), (), partition) for each in events])
        return {each.id: each.id.encode() for each in events}

    def places() -> dict[str, int | None]:
        return {json.loads(each.value or b"")["id"]: each.partition for each in place.read()}

    with place.run(*soon) as run:
        sent(EVENTS[:25], 0)
        sent(EVENTS[25:50], 1)
        place.until_answered(run, 50)
        assert [places()[event.id] for event in EVENTS[:50]] == [0] * 25 + [1] * 25
        with administrator(broker) as admin:
            admin.create_partitions({place.topic: 4})
        run.says("has a new partition, 3")
        keys = sent(EVENTS[50:75], 2) | sent(EVENTS[75:100], 0)
        place.until_answered(run, 100)
        found = places()
        assert {id: found[id] for id in keys} == {id: partition_of(key, 2) for id, key in keys.items()}
        with administrator(broker) as admin:
            admin.create_partitions({place.name(".predictions"): 4})
        rest = iter(EVENTS[100:])
        run.until(lambda: sent([next(rest)], 3) and 3 in places().values(), "they go by the number")
        assert run.stops() == 0


def test_one_that_takes_over_sees_what_has_grown(broker: Broker, tmp_path: Path) -> None:
    """Though it has looked at the topics before: it waits until it is handed all of them."""
    place = new_place(broker, tmp_path)
    place.send(EVENTS[:50])
    with place.run(*SOON) as run:
        place.until_answered(run, 50)
        with place.run("--source.client.metadata_max_age_ms", "9000") as other:
            other.says("standing by with checkpoint ")
            with administrator(broker) as admin:
                admin.create_partitions({place.topic: 2})
            place.send([Message(line(event).strip(), partition=1) for event in EVENTS[50:100]])
            place.until_answered(run, 100)
            run.kill()
            place.send([Message(line(event).strip(), partition=1) for event in EVENTS[100:150]])
            place.until_answered(other, 150)
            assert other.stops() == 0
    assert [each["id"] for each in place.predictions()] == [event.id for event in EVENTS[:150]]
    assert place.newest["records"] == 150


def test_messages_larger_than_what_is_fetched_at_once(broker: Broker, tmp_path: Path) -> None:
    """They are read all the same, also those beyond what clients and topics take by default (1 MiB).

    So is a dead letter of that size written where its topic takes it; each of them is learned or kept.
    """
    place = new_place(broker, tmp_path)
    for of in ("", ".dead_letters"):
        limit(place, of, 4 << 20)
    wide = [{"id": f"w{n}", "x": [float(n)] * 5, "y": "a", "note": "n" * (2 << 20)} for n in range(3)]
    large = [json.dumps(event).encode() for event in wide]
    place.send([line(event).strip() for event in EVENTS[:20]])
    place.send([large[0], b"{" + large[1], large[2]])
    with place.run(*NARROW) as run:
        run.until(lambda: place.answered(22) and place.answered(1, ".dead_letters"), "all are answered")
        place.send(large[:2])
        place.until_answered(run, 24)
        assert run.stops() == 0
    (dead,) = place.read(".dead_letters")
    assert dead.value == b"{" + large[1]
    assert [each["id"] for each in place.predictions()][20:] == ["w0", "w2", "w0", "w1"]
    assert place.newest["records"] == 24


def test_outputs_that_are_too_large_for_their_topics(broker: Broker, tmp_path: Path) -> None:
    """In place of one: where it would be from, and how large it was. What fits comes whole, however many."""
    place = new_place(broker, tmp_path)
    limit(place, ".predictions", 3000)
    limit(place, ".dead_letters", 5000)
    large = (("trace", b"x" * 4000),)
    sent = [Message(line(event).strip(), b"k") for event in EVENTS[:200]]
    sent[50] = Message(sent[50].value, b"k", large)
    sent[60:60] = [Message(b"{" + b"g" * size, b"k") for size in (100, 4000, 6000)]
    place.send(sent)
    with place.run("--sink.headers", "*") as run:
        run.until(lambda: place.answered(200) and place.answered(3, ".dead_letters"), "all are answered")
        assert run.stops() == 0
    assert "an output of 4" in run.said
    found = place.read()
    body: dict[str, Any] = json.loads(found[50].value or b"")
    assert body["reason"] == "output_too_large"
    assert body["source"] == [place.topic, 0, 50]
    assert body["detail"].endswith(" bytes, the topic takes 3000")
    assert (found[50].key, found[50].headers) == (None, ())
    assert [json.loads(each.value or b"").get("id") for each in found if each is not found[50]] == [
        event.id for n, event in enumerate(EVENTS[:200]) if n != 50
    ]
    whole, also, cut = place.read(".dead_letters")
    assert (whole.value, also.value) == (sent[60].value, sent[61].value)
    assert json.loads(cut.value or b"")["reason"] == "output_too_large"
    assert dict(cut.headers)["__connect.errors.exception.class.name"] == b"undecodable"
    assert dict(cut.headers)["__connect.errors.offset"] == b"62"


def test_poison_one_by_one_and_a_thousand_in_a_row(broker: Broker, tmp_path: Path) -> None:
    place = new_place(broker, tmp_path)
    good = [line(event).strip() for event in EVENTS[:60]]
    place.send([each for pair in zip(good[:50], [b"poison"] * 50, strict=True) for each in pair])
    with place.run() as run:
        run.until(lambda: place.answered(50, ".dead_letters"), "all are answered")
        assert run.running()
        place.send([b"poison"] * 1000)
        assert run.ends() == 5
    said = last_line(run.said)
    assert said.startswith("poison: 1000 or more dead letters in a row, the last at ")
    assert "stopping, something is wrong with what produces them. They are in the dead letters" in said
    assert len(place.read(".dead_letters")) == 1050
    # A new start goes on behind them, and counts anew.
    place.send([b"poison"] * 10 + good[50:])
    with place.run() as run:
        place.until_answered(run, 60)
        assert run.stops() == 0
    assert len(place.read(".dead_letters")) == 1060
    assert place.newest["records"] == 60


def test_a_full_disk(broker: Broker, tmp_path: Path, mount: Mount) -> None:  # noqa: F811
    """Learning and answering go on, so do commits, naming the last checkpoint: until patience ends."""
    place = new_place(broker, tmp_path)
    disk = mount("state", "3m")
    place.send(EVENTS[:50])
    with place.run("--checkpoint.patience", "100") as run:
        place.until_kept(run, 50)
        named = place.named()
        filler = fill(disk)
        place.send(EVENTS[50:100])
        run.says(f"checkpoint not written to {disk} (")
        assert (
            "learning goes on and it is tried again; the worker gives up after 100 s without one" in run.said
        )
        place.send(EVENTS[100:150])
        place.until_answered(run, 150)
        said = {"checkpoint": named, "epoch": 1, "records": 100}
        run.until(lambda: place.committed()["", 0] == (150, said), "a commit")
        filler.unlink()
        run.says("checkpoints can be written again: ")
        run.until(lambda: place.named() == place.checkpoints()[-1] != named, "it is named")
        filler = fill(disk)
        place.send(EVENTS[150:200])
        place.until_answered(run, 200)
        run.kill()
    filler.unlink()
    with place.run("--checkpoint.patience", "1") as run:
        run.says("goes on from ")
        filler = fill(disk)
        place.send(EVENTS[200:])
        assert run.ends() == 6
        assert "giving up" in run.said
    filler.unlink()
    with place.run() as run:
        # What was answered but not kept is read and learned again, without a second answer.
        place.until_kept(run, 300)
        assert run.stops() == 0
    assert [each["id"] for each in place.predictions()] == [event.id for event in EVENTS]
    assert place.newest["records"] == 300
