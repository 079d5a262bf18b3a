"""Kafka's messages as records, and outputs as batches of messages."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any

from aiokafka import AIOKafkaProducer, ConsumerRecord, TopicPartition

from connectors.kafka.boxes import Message, Place
from streamlearn.events import Position, Record, Unreachable

BATCH_BYTES = 512 * 1024
"""Bytes that are sent together, at most; a larger message goes alone."""
HEADER = 100
"""Bytes of a batch beside its messages, at most (61)."""
PREFIXES = 40
"""Bytes of the lengths, time and offset of a message, and of the lengths of one header, at most."""


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
    """Batches by place, in order within each, none larger than its topic takes (`limits`, in bytes).

    Raises Unreachable for a message that fits into none.
    """
    open_ones: dict[Place, Any] = {}
    now = int(time.time() * 1000)
    for message in messages:
        batch = open_ones.get(message.place)
        if batch is not None:
            limit = min(BATCH_BYTES, limits.get(message.place[0], BATCH_BYTES))
            if batch.size() + bytes_of(message) <= limit and _add(batch, message, now):
                continue
            yield message.place, batch
        batch = open_ones[message.place] = producer.create_batch()
        if not _add(batch, message, now):
            raise Unreachable(f"an output of {bytes_of(message)} bytes doesn't fit into a batch of messages")
    yield from open_ones.items()


def bytes_of(message: Message) -> int:
    """What a message needs in a batch, at most; the first of a batch needs HEADER more."""
    size = len(message.value or b"") + len(message.key or b"") + PREFIXES
    return size + sum(3 * len(name) + len(value) + PREFIXES for name, value in message.headers)


def _add(batch: Any, message: Message, now: int) -> bool:
    added = batch.append(timestamp=now, key=message.key, value=message.value, headers=list(message.headers))
    return added is not None
