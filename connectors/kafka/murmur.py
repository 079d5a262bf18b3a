"""Kafka's default partitioner."""

from __future__ import annotations

from aiokafka.partitioner import murmur2


def partition_of(key: bytes, count: int) -> int:
    """The partition that Java's clients choose for a key."""
    return int(murmur2(key) & 0x7FFFFFFF) % count
