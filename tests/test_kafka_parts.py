"""Parts of publishing and of the topics' check that need no broker."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from connectors.datasets import DatasetSource
from connectors.kafka.admin import HEADERS, Line, compare, shape
from connectors.kafka.cluster import Topic, check_name, within
from connectors.kafka.gaps import Gaps
from connectors.kafka.marker import Marker, Marking
from connectors.kafka.messages import Message
from connectors.kafka.pace import Pace, Times
from connectors.kafka.publish import publish
from connectors.kafka.source import KafkaSource
from connectors.kafka.transactions import METADATA, Progress, packed, unpacked
from streamlearn.events import Unreachable, UsageError

NOW = 1_800_000_000.0
DAY = 86_400.0


def topic(partitions: int = 1, replicas: int = 1, **configs: object) -> Topic:
    return Topic(
        "t", "id", partitions, replicas, {name.replace("_", "."): str(v) for name, v in configs.items()}
    )


# ---- the marker


def test_a_marker_is_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "p.json"
    marker, marking = Marker(str(path)), Marking("n", "t", "i", "a.jsonl", 7, "now")
    assert marker.read() is None
    marker.write(marking)
    marker.write(marking)
    assert marker.read() == marking
    assert [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": 1}', "\x00"])
def test_a_file_that_is_no_marker(text: str, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="is not the progress of a publication"):
        Marker(str(path)).read()


def test_a_marker_that_need_not_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path, marking = str(tmp_path / "file" / "p.json"), Marking("n", "t", "i", "a", 7, "now")
    Marker(path, must=False).write(marking)
    assert Marker(path, must=False).read() is None
    with pytest.raises(OSError, match="File exists"):
        Marker(path).write(marking)
    Marker(None).write(marking)
    assert Marker(None).read() is None


# ---- pace and time


def test_pace_is_even() -> None:
    pace, sent, at = Pace(100), 0, 0.0
    while at < 10:
        room = pace.room(at, 1000)
        pace.spend(room)
        sent += room
        at += 0.013
    assert sent == pytest.approx(1000, abs=2)


def test_what_was_missed_is_caught_up_for_a_second_at_most() -> None:
    pace = Pace(100)
    pace.spend(pace.room(0, 1000))
    assert pace.room(60, 1000) == 100
    slow = Pace(0.5)
    slow.spend(slow.room(0, 10))
    assert [slow.room(at, 10) for at in (1.0, 2.0, 100.0)] == [0, 1, 1]
    assert Pace(0).room(0, 1000) == 1000


@pytest.mark.parametrize(
    ("configs", "seconds", "kept"),
    [
        ({}, NOW - 3 * DAY, True),
        ({}, NOW - 7 * DAY, False),
        ({}, NOW + 1800, True),
        ({}, NOW + 4000, False),
        ({}, -1.0, False),
        ({"retention_ms": -1}, 1.5, True),
        ({"retention_ms": 1000}, NOW - 2, False),
        ({"retention_ms": 1000, "cleanup_policy": "compact"}, NOW - 2, True),
        ({"retention_ms": -1, "message_timestamp_before_max_ms": 5000}, NOW - 6, False),
        ({"message_timestamp_after_max_ms": 2**63 - 1}, NOW + 10 * DAY, True),
    ],
)
def test_times(configs: dict[str, object], seconds: float, kept: bool) -> None:
    times = Times(topic(**configs))  # type: ignore[arg-type]
    stamp = times.stamp(Message(b"", None, seconds), NOW)
    assert stamp == (int(seconds * 1000) if kept else None)
    assert times.clocked == (not kept)
    assert times.stamp(Message(b"", None, None), NOW) is None
    assert times.clocked == (not kept)


def test_a_topic_with_times_of_its_own() -> None:
    times = Times(topic(message_timestamp_type="LogAppendTime"))
    assert times.stamp(Message(b"", None, 5.0), NOW) is None
    assert times.clocked == 0


# ---- progress


def test_progress_is_kept() -> None:
    progress = Progress(12, "run", 345, {"head_bytes": 12, "tail_sha256": None}, "id")
    assert unpacked(12, packed(progress)) == progress
    large = progress._replace(fingerprint={"arrays": {f"a{i}": ["<f4", [10, 10]] for i in range(500)}})
    assert len(packed(large)) <= METADATA
    assert unpacked(12, packed(large)) == progress._replace(fingerprint={})
    for text in ("", "x", "[]", json.dumps({"run": "a"})):
        with pytest.raises(Unreachable, match="never wrote"):
            unpacked(1, text)


def test_a_call_with_a_deadline() -> None:
    assert within(10, lambda: 3) == 3
    with pytest.raises(KeyError):
        within(10, lambda: dict[str, int]()["x"])
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        within(0.05, lambda: __import__("threading").Event().wait(2))
    assert time.monotonic() - start < 1


def test_stopped_while_it_waits_for_a_broker(tmp_path: Path) -> None:
    options = {"bootstrap_servers": "127.0.0.1:1", "deadline": 60.0, "topic": "t"}
    start = time.monotonic()
    outcome = publish(DatasetSource({}), options, lambda count, cursor: None, lambda: True)
    assert (outcome.sent, outcome.ended) == (0, False)
    assert time.monotonic() - start < 10


# ---- topics


@pytest.mark.parametrize("name", ["", "a b", "a/b", "ä", ".", "..", "a" * 250])
def test_names(name: str) -> None:
    with pytest.raises(UsageError, match=r"source\.topic is"):
        check_name("source.topic", name)
    check_name("source.topic", "aZ0._-")


def test_shapes_of_new_topics() -> None:
    events = topic(3, max_message_bytes=2_000_000)
    assert shape("events", None, 5, 2, None) == (5, 2, {})
    assert shape("events", None, None, None, None) == (1, None, {})
    assert shape("predictions", 3, 5, None, events) == (3, None, {"cleanup.policy": "delete"})
    configs = {"cleanup.policy": "delete", "max.message.bytes": str(2_000_000 + HEADERS)}
    assert shape("dead letters", 3, None, 2, events) == (3, 2, configs)
    assert shape("predictions", None, 5, None, None)[0] == 5
    assert shape("commands", 3, 5, None, events)[0] == 1


def said(purpose: str, found: Topic, events: Topic | None = None, asked: int | None = None) -> Line:
    line = Line(purpose, found.name, found.partitions)
    compare(line, found, events, events.partitions if events else None, asked)
    return line


def test_what_does_not_fit_is_said() -> None:
    events = topic(3, max_message_bytes=100)
    assert not said("predictions", topic(3), events).notes
    assert "3 partitions: the partition number" in said("predictions", topic(2), events).notes[0]
    assert (
        "without a key are refused"
        in said("dead letters", topic(3, cleanup_policy="compact"), events).notes[0]
    )
    assert "only the last" in said("events", topic(3, cleanup_policy="compact,delete")).notes[0]
    assert "keeps its 3 partitions" in said("events", topic(3), asked=4).notes[0]
    assert "without its bytes" in said("dead letters", topic(3, max_message_bytes=99), events).notes[0]
    assert not said("dead letters", topic(3, max_message_bytes=100), events).notes
    assert "one partition" in said("commands", topic(2), events).problems[0]
    assert "min.insync.replicas is 2" in said("events", topic(1, 1, min_insync_replicas=2)).problems[0]
    assert not said("answers", topic(1), events).problems


# ---- the source's figures


@pytest.mark.parametrize(
    ("looked_up", "read", "applied", "drained", "end", "lag"),
    [
        (242, 249, 249, True, 249, 0),  # looked up before the newest came
        (242, 249, 245, True, 249, 4),  # read, and not applied yet
        (260, 249, 245, False, 260, 15),
        (250, 249, 249, True, 250, 0),  # the mark of a transaction is no record
    ],
)
def test_the_end_is_never_below_what_was_read(
    looked_up: int, read: int, applied: int, drained: bool, end: int, lag: int
) -> None:
    place = ("t", 0)
    watch = SimpleNamespace(
        ends={place: looked_up, ("commands", 0): 9},
        drained={place: NOW} if drained else {},
        answered_at=NOW,
        behind=lambda reads: False,
    )
    box = SimpleNamespace(depth=0)
    reads = {"next": {place: read}, "gaps": Gaps()}
    committer = SimpleNamespace(tally=SimpleNamespace(lost=0))
    beside = {"committer": committer, "counts": {}, "held": lambda: True}
    plane = SimpleNamespace(watch=watch, inbox=box, outbox=box, **beside, **reads)
    source: Any = SimpleNamespace(topic="t", plane=plane)
    traffic = KafkaSource.traffic(source, {0: applied})
    assert traffic is not None
    assert (traffic.ends, traffic.lag) == ({0: end}, {0: lag})
