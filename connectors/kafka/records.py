"""Kafka's messages as records, and outputs as batches of messages."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from operator import attrgetter, itemgetter
from typing import Any, Protocol

from aiokafka import AIOKafkaProducer, TopicPartition

from connectors.kafka.boxes import Message, Place
from streamlearn.events import Position, Record, Unreachable


class Fetched(Protocol):
    """What we look at of a message that has come, whichever of the client's classes it is of."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


Records = Mapping[TopicPartition, Sequence[Fetched]]

_parts = attrgetter("offset", "key", "value", "headers")
_headers = itemgetter(Message._fields.index("headers"))

BATCH_BYTES = 512 * 1024
"""Bytes that are sent together, at most; a larger message goes alone."""
HEADER = 100
"""Bytes of a batch beside its messages, at most (61)."""
PREFIXES = 40
"""Bytes of the lengths, time and offset of a message, and of the lengths of one header, at most."""


def records_of(tp: TopicPartition, messages: Sequence[Fetched]) -> list[Record]:
    """The same as records; a message without a value (a tombstone) has an empty one and `tombstone`."""
    new: Any = tuple.__new__  # what Position(...) calls, without its Python frame
    topic, partition = tp
    return [
        Record(
            b"" if value is None else value,
            new(Position, (topic, partition, offset)),
            offset + 1,
            key,
            tuple(headers),
            None,
            value is None,
        )
        for offset, key, value, headers in map(_parts, messages)
    ]


def batches(
    producer: AIOKafkaProducer, messages: Sequence[Message], limits: Mapping[str, int]
) -> Iterator[tuple[Place, Any]]:
    """Batches by place, in order within each, none larger than its topic takes (`limits`, in bytes).

    Raises Unreachable for a message that fits into none.
    """
    by_place: dict[Place, list[Message]] = {}
    for message in messages:
        group = by_place.get(message.place)
        if group is None:
            group = by_place[message.place] = []
        group.append(message)
    now = int(time.time() * 1000)
    for place, group in by_place.items():
        limit = min(BATCH_BYTES, limits.get(place[0], BATCH_BYTES))
        batch: Any = None
        size = 0
        for (_, key, value, headers), need in zip(group, needs_of(group), strict=True):
            size += need
            if batch is not None:
                if size > limit:
                    # A message counts for what it needs at most: what the batch really has may leave room.
                    size = batch.size() + need
                if size <= limit and batch.append(timestamp=now, key=key, value=value, headers=[*headers]):
                    continue
                yield place, batch
            batch = producer.create_batch()
            if not batch.append(timestamp=now, key=key, value=value, headers=[*headers]):
                raise Unreachable(f"an output of {need} bytes doesn't fit into a batch of messages")
            size = batch.size()
        yield place, batch


def messages_of(
    places: Iterable[Place],
    keys: Iterable[bytes | None],
    values: Iterable[bytes | None],
    headers: Iterable[Sequence[tuple[str, bytes | None]]],
) -> list[Message]:
    """What Message(...) makes of each, without a Python frame for every one."""
    made: Any = map(tuple.__new__, repeat(Message), zip(places, keys, values, headers, strict=False))
    return list(made)


def needs_of(messages: Sequence[Message]) -> list[int]:
    """What each message needs in a batch, at most; the first of a batch needs HEADER more."""
    needs = [PREFIXES + len(value or b"") + len(key or b"") for _, key, value, _ in messages]
    if any(map(_headers, messages)):
        for at, message in enumerate(messages):
            needs[at] += sum(3 * len(name) + len(value or b"") + PREFIXES for name, value in message.headers)
    return needs


def bytes_of(message: Message) -> int:
    """The same of one."""
    return needs_of([message])[0]
