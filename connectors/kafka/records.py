"""Kafka's messages as records, and outputs as batches of messages."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any

from aiokafka import AIOKafkaProducer, ConsumerRecord, TopicPartition

from connectors.kafka.boxes import Message, Place
from streamlearn.events import Position, Record, Unreachable

AT_ONCE = 1 << 20
"""A batch is closed at so many bytes, where its topic takes more."""
FRAME, FRAME_OF_HEADER = 64, 16
"""Bytes beside key and value of a message, and beside name and value of a header, at most."""


def records_of(tp: TopicPartition, messages: Sequence[ConsumerRecord]) -> list[Record]:
    """The same as records; a message without a value (a tombstone) has an empty one and `tombstone`."""
    offsets = [message.offset for message in messages]
    # What Position(...) does, without a Python frame for every record.
    positions: Any = map(
        tuple.__new__, repeat(Position), zip(repeat(tp.topic), repeat(tp.partition), offsets)
    )
    return [
        Record(
            message.value if message.value is not None else b"",
            position,
            position.offset + 1,
            message.key,
            tuple((name, value if value is not None else b"") for name, value in message.headers)
            if message.headers
            else (),
            None,
            message.value is None,
        )
        for message, position in zip(messages, positions, strict=True)
    ]


def batches(
    producer: AIOKafkaProducer, messages: Sequence[Message], limits: Mapping[str, int]
) -> Iterator[tuple[Place, Any]]:
    """Batches by place, in order within each. Raises Unreachable for a message that fits into none.

    limits: bytes that a batch may have, by topic.
    """
    open_ones: dict[Place, Any] = {}
    now = int(time.time() * 1000)
    for message in messages:
        batch = open_ones.get(message.place)
        if batch is None:
            batch = open_ones[message.place] = producer.create_batch()
        limit = limits.get(message.place[0], 0)
        small = (
            not limit or not batch.record_count() or batch.size() + size_of(message) <= min(limit, AT_ONCE)
        )
        if small and _add(batch, message, now):
            continue
        yield message.place, batch
        batch = open_ones[message.place] = producer.create_batch()
        if not _add(batch, message, now):
            raise Unreachable(f"an output of {size_of(message)} bytes doesn't fit into a batch of messages")
    yield from open_ones.items()


def size_of(message: Message) -> int:
    """Bytes that a message takes in a batch, at most."""
    size = FRAME + len(message.value or b"") + len(message.key or b"")
    return size + sum(len(name) + len(value) + FRAME_OF_HEADER for name, value in message.headers)


def _add(batch: Any, message: Message, now: int) -> bool:
    added = batch.append(timestamp=now, key=message.key, value=message.value, headers=list(message.headers))
    return added is not None
