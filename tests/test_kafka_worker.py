"""A worker on a real Kafka when all goes well, and over one stop and one kill: what its readers see."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from ops.kafka.broker import Broker
from streamlearn.events import Event
from tests.kafka import Message
from tests.kafka_worker import Place, new_place
from tests.processes import DEADLINE, ROOT, line
from tests.streams import vectors

EVENTS = vectors(400)
ERRORS = "__connect.errors."


def keyed(index: int, event: Event) -> Message:
    """An event as users have them: with a key, headers, on one of two partitions."""
    headers = (("trace", f"t{index}".encode()), ("secret", b"s"), ("trace", b"again"))
    return Message(line(event).strip(), f"k{index}".encode(), headers, partition=index % 2)


def by_source(place: Place, of: str) -> dict[tuple[int, int], Message]:
    """Outputs by partition and offset of the record that they answer."""
    found: dict[tuple[int, int], Message] = {}
    for message in place.read(of):
        if of == ".predictions":
            topic, partition, offset = json.loads(message.value or b"")["source"]
        else:
            headers = [(name, value or b"") for name, value in message.headers]
            said = {name: value.decode() for name, value in headers if name.startswith(ERRORS)}
            topic, partition, offset = (said[f"{ERRORS}{name}"] for name in ("topic", "partition", "offset"))
        assert topic == place.topic
        assert (int(partition), int(offset)) not in found, "answered twice"
        found[int(partition), int(offset)] = message
    return found


def test_every_record_has_one_output_where_its_reader_looks_for_it(broker: Broker, tmp_path: Path) -> None:
    place = new_place(broker, tmp_path, partitions=2)
    sent: list[Message] = [keyed(i, event) for i, event in enumerate(EVENTS[:200])]
    sent[20:20] = [
        Message(b"{garbage", b"bad", (("trace", b"t"), ("odd", b"\xff")), partition=1),
        Message(None, b"gone", partition=0),
        Message(b'{"id": "wide", "x": [1.0], "y": "a"}', b"", partition=1),
        Message(b'{"id": "none", "x": [1.0, NaN, 2.0, 3.0, 4.0], "y": "a"}', None, partition=0),
    ]
    place.send(sent)
    flags = ("--evaluation.held_out", "0.3", "--sink.headers", "trace")
    with place.run(*flags) as run:
        run.until(lambda: place.answered(200) and place.answered(4, ".dead_letters"), "all are answered")
        assert run.stops() == 0
    predictions, dead = by_source(place, ".predictions"), by_source(place, ".dead_letters")
    at = Counter[int]()
    reasons = []
    for message in sent:
        assert message.partition is not None
        source = message.partition, at[message.partition]
        at[message.partition] += 1
        answer = predictions.get(source) or dead[source]
        assert (answer.key, answer.partition) == (message.key, message.partition)
        if source in predictions:
            assert source not in dead
            assert answer.headers == tuple(each for each in message.headers if each[0] == "trace")
            body = json.loads(answer.value or b"")
            assert body["id"] == json.loads(message.value or b"")["id"]
            assert set(body) == {"id", "label", "scores", "known_classes", "model_step", "epoch", "source"}
            assert body["epoch"] == 1
            assert (body["label"] is None) == (body["known_classes"] == 0)
        else:
            assert answer.value == message.value
            assert answer.headers[: len(message.headers)] == message.headers
            reasons.append((dict(answer.headers)[f"{ERRORS}exception.class.name"] or b"").decode())
            assert dict(answer.headers)[f"{ERRORS}exception.message"]
    assert len(predictions) + len(dead) == len(sent)
    assert sorted(reasons) == ["empty", "not_finite", "undecodable", "wrong_shape"]
    # Held out and unlabeled: predicted too.
    body = place.newest
    assert body["events_held_out"] > 10
    assert body["records"] == 200
    assert any(event.y is None for event in EVENTS[:200])
    assert place.committed()["", 0] == (at[0], {"checkpoint": body["id"], "epoch": 1, "records": 0})
    assert place.committed()["", 1] == (at[1], {"checkpoint": body["id"], "epoch": 1, "records": 0})


def test_a_dead_letter_of_a_dead_letter_says_last_why_it_is_one(broker: Broker, tmp_path: Path) -> None:
    """The original's headers stay as they were, ours are behind them: whoever asks for the last one of a
    name, as Kafka Connect's readers do, gets ours."""
    place = new_place(broker, tmp_path)
    place.send([*EVENTS[:20], Message(b"{garbage", b"k", (("trace", b"t"),))])
    with place.run() as run:
        run.until(lambda: place.answered(1, ".dead_letters"), "it is one")
        (first,) = place.read(".dead_letters")
        place.send([Message(first.value, first.key, first.headers)])
        run.until(lambda: place.answered(2, ".dead_letters"), "and again")
        assert run.stops() == 0
    _, second = place.read(".dead_letters")
    assert (second.key, second.value) == (b"k", b"{garbage")
    ours = first.headers[1:]
    assert second.headers[: len(first.headers)] == first.headers
    again = second.headers[len(first.headers) :]
    assert [name for name, _ in again] == [name for name, _ in ours]
    assert dict(ours)[f"{ERRORS}offset"] == b"20"
    assert dict(second.headers)[f"{ERRORS}offset"] == dict(again)[f"{ERRORS}offset"] == b"21"


@pytest.fixture(scope="module")
def never_stopped(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """All EVENTS, and some garbage, in one go."""
    place = new_place(broker, tmp_path_factory.mktemp("whole"))
    place.send(EVENTS[:150])
    place.send([b"garbage", *EVENTS[150:]])
    with place.run() as run:
        place.until_answered(run, len(EVENTS))
        assert run.stops() == 0
    return place


def same_but_topic(predictions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**each, "source": each["source"][1:]} for each in predictions]


def test_a_stop_and_a_kill_change_no_bit(never_stopped: Place, broker: Broker, tmp_path: Path) -> None:
    place = new_place(broker, tmp_path)
    place.send(EVENTS[:150])
    with place.run() as run:
        place.until_answered(run, 150)
        assert run.stops() == 0
    assert place.newest["position"]["offsets"][place.topic] == {"0": 150}
    place.send([b"garbage", *EVENTS[150:300]])
    with place.run() as run:
        run.says(f"goes on from {place.named()}")
        place.until_answered(run, 260)
        run.kill()
    place.send(EVENTS[300:])
    with place.run() as run:
        place.until_answered(run, len(EVENTS))
        assert run.stops() == 0
    assert place.hashes == never_stopped.hashes
    assert same_but_topic(place.predictions()) == same_but_topic(never_stopped.predictions())
    assert len(by_source(place, ".predictions")) == len(EVENTS)
    assert len(by_source(place, ".dead_letters")) == 1
    epochs = [json.loads(message.value or b"")["epoch"] for message in place.read()]
    assert epochs == sorted(epochs)
    assert set(epochs) == {1, 2, 3}


def test_at_least_once_learns_once_and_says_where_an_output_is_from(
    never_stopped: Place, broker: Broker, tmp_path: Path
) -> None:
    """The kill may repeat outputs, which are the same but for the epoch; never an update."""
    place = new_place(broker, tmp_path)
    place.send([*EVENTS[:150], b"garbage", *EVENTS[150:300]])
    mode = ("--delivery.mode", "at_least_once")
    with place.run(*mode) as run:
        place.until_answered(run, 200)
        run.kill()
    place.send(EVENTS[300:])
    with place.run(*mode) as run:
        run.until(lambda: {e["id"] for e in place.predictions()} == {e.id for e in EVENTS}, "all")
        assert run.stops() == 0
    assert place.hashes == never_stopped.hashes
    found = {tuple(each["source"]): each for each in place.predictions()}
    expected = same_but_topic(never_stopped.predictions())
    assert same_but_topic(list(found.values())) == expected
    assert all(found[tuple(each["source"])] == each for each in place.predictions())


def kcat(broker: Broker, *words: str) -> str:
    done = subprocess.run(
        ["kcat", "-b", broker.address, *words], capture_output=True, timeout=DEADLINE, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_kcat_and_kafkas_own_tool(broker: Broker, tmp_path: Path) -> None:
    """What a user without streamlearn at hand sees and sends."""
    place = new_place(broker, tmp_path)
    place.send(EVENTS[:30])
    lines = tmp_path / "lines"
    lines.write_bytes(
        b"mine\tk|" + orjson.dumps({"id": "typed", "x": [0.5] * 5, "y": "new"}) + b"\nx\tk2|nonsense\n"
    )
    for headers, text in zip(
        ("trace=7", "trace=8"), lines.read_bytes().splitlines(keepends=True), strict=True
    ):
        lines.write_bytes(text.partition(b"\t")[2])
        kcat(broker, "-P", "-t", place.topic, "-K", "|", "-H", headers, "-l", str(lines))
    with place.run("--sink.headers", "*") as run:
        run.until(lambda: place.answered(31) and place.answered(1, ".dead_letters"), "all are answered")
        read = (
            "-C",
            "-o",
            "beginning",
            "-e",
            "-q",
            "-f",
            "%k %h %s\n",
            "-X",
            "isolation.level=read_committed",
        )
        *_, last = kcat(broker, *read, "-t", f"{place.topic}.predictions").splitlines()
        key, headers, body = last.split(" ", 2)
        assert (key, headers, json.loads(body)["id"]) == ("k", "trace=7", "typed")
        (dead,) = kcat(broker, *read, "-t", f"{place.topic}.dead_letters").splitlines()
        assert dead.startswith("k2 trace=8,__connect.errors.topic=" + place.topic)
        assert dead.endswith(" nonsense")
        place.send(EVENTS[30:40])
        place.until_answered(run, 41)
        run.until(lambda: place.committed()["", 0][0] == 42, "the commit is there")
        assert run.stops() == 0
    place.send(EVENTS[40:47])
    command = (
        "tool",
        "consumer-groups",
        "--bootstrap-server",
        broker.address,
        "--describe",
        "--group",
        place.group,
    )
    said = subprocess.run(
        [sys.executable, "-m", "ops.kafka", *command],
        cwd=ROOT,
        capture_output=True,
        timeout=DEADLINE,
        text=True,
        check=True,
    ).stdout
    row = next(words for text in said.splitlines() if place.topic in (words := text.split()))
    assert row[:6] == [place.group, place.topic, "0", "42", "49", "7"]
    assert "new" in place.newest["classes"]
    # Faust would make folders for its tables where the worker was started, which may be read-only.
    assert not list(Path.cwd().glob("*-data"))
