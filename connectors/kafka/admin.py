"""Creates the topics that a worker needs, or checks them, and says what doesn't fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from connectors.kafka.cluster import Cluster, Topic, check_name
from streamlearn.events import UsageError

SETTING = {
    "events": "source.topic",
    "commands": "source.commands",
    "predictions": "sink.predictions",
    "dead letters": "sink.dead_letters",
    "answers": "sink.answers",
}
OUTPUTS = ("predictions", "dead letters")
ALONE = ("commands", "answers")
"""Read and written in one order: one partition."""
HEADERS = 64 * 1024
"""Bytes that a dead letter is larger than its event, at most: the reason and the place, in headers."""


@dataclass
class Line:
    """One topic: what it is for, whether it is there, and what is to be said of it.

    partitions: 0 if it is missing. notes: what works, but differs from what one would expect. problems: what
    must be changed before a worker can run.
    """

    purpose: str
    name: str
    partitions: int = 0
    created: bool = False
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def ensure_topics(
    options: Mapping[str, Any],
    wanted: Mapping[str, str],
    partitions: int | None,
    replication: int | None,
    check: bool,
    events_partitions: int | None = None,
) -> list[Line]:
    """A line for every wanted topic, in order; what is missing is created, with `check` it isn't.

    wanted: {"events": name, "predictions": name, ...}, keys of SETTING. partitions: of new events topics (and
    of the outputs, where the events are no topic or, by `events_partitions`, lie in another cluster).
    replication: of new ones; None: the broker's default. options: as of `Cluster`.
    Raises Unreachable, and UsageError for what can't be created.
    """
    for purpose, name in wanted.items():
        check_name(SETTING[purpose], name)
    _refuse_shared(wanted)
    with Cluster(options) as cluster:
        there = cluster.topics(wanted.values())
        created = set()
        if not check:
            for purpose, name in wanted.items():
                if name in there:
                    continue
                events = there.get(wanted.get("events", ""))
                count = events.partitions if events else events_partitions
                if cluster.create(name, *shape(purpose, count, partitions, replication, events)):
                    created.add(name)
                cluster.wait([name])
                there |= cluster.topics([name])
            cluster.wait(there)
    events = there.get(wanted.get("events", ""))
    lines = []
    for purpose, name in wanted.items():
        found = there.get(name)
        line = Line(purpose, name, found.partitions if found else 0, name in created)
        if found:
            count = events.partitions if events else events_partitions
            compare(line, found, events, count, partitions if name not in created else None)
        lines.append(line)
    return lines


def shape(
    purpose: str, count: int | None, partitions: int | None, replication: int | None, events: Topic | None
) -> tuple[int, int | None, dict[str, str]]:
    """Partitions, replication and settings of a new topic; count: partitions of the events."""
    if purpose == "events":
        return partitions or 1, replication, {}
    if purpose in ALONE:
        return 1, replication, {"cleanup.policy": "delete"}
    configs = {"cleanup.policy": "delete"}
    largest = events.number("max.message.bytes") if events else None
    if purpose == "dead letters" and largest is not None:
        configs["max.message.bytes"] = str(largest + HEADERS)
    return count or partitions or 1, replication, configs


def _refuse_shared(wanted: Mapping[str, str]) -> None:
    first: dict[str, str] = {}
    for purpose, name in wanted.items():
        other = first.setdefault(name, purpose)
        if other != purpose and not {other, purpose} <= set(OUTPUTS):
            raise UsageError(
                f"{SETTING[other]} and {SETTING[purpose]} both name topic {name}: {other} and {purpose} need "
                "topics of their own"
            )


def compare(line: Line, topic: Topic, events: Topic | None, count: int | None, asked: int | None) -> None:
    """count: partitions of the events, where they are a topic; asked: by the user, of one that was there."""
    purpose, policy = line.purpose, topic.configs.get("cleanup.policy", "")
    if purpose == "events" and asked is not None and asked != topic.partitions:
        line.notes.append(f"it keeps its {_many(topic.partitions)}, whatever --partitions says ({asked})")
    if purpose in OUTPUTS and count is not None and count != topic.partitions:
        line.notes.append(
            f"the events have {_many(count)}: the partition number of an event is not kept, and what had one "
            "order may lose it"
        )
    if purpose in ALONE and topic.partitions != 1:
        line.problems.append(
            f"{purpose} need one order, so one partition: set {SETTING[purpose]} to another topic, or delete "
            "this one and run the command again"
        )
    if "compact" in policy and purpose == "events":
        line.notes.append(
            "cleanup.policy is compact: of events with one key only the last is sure to be read"
        )
    elif "compact" in policy:
        line.notes.append(
            f"cleanup.policy is compact: of {purpose} with one key only the last is kept, and those "
            "without a key are refused: set it to delete"
        )
    insync = topic.number("min.insync.replicas")
    if insync is not None and insync > topic.replicas:
        line.problems.append(
            f"min.insync.replicas is {insync}, but it has {topic.replicas}: nothing can be written there; "
            "set that lower, or make more replicas"
        )
    largest, own = (one.number("max.message.bytes") if one else None for one in (events, topic))
    if purpose == "dead letters" and largest is not None and own is not None and own < largest:
        line.notes.append(
            f"max.message.bytes is {own}, of the events {largest}: a dead letter of a larger event is "
            "written without its bytes"
        )


def _many(partitions: int) -> str:
    return f"{partitions} partition" + ("s" if partitions != 1 else "")
