"""The harness's own clients of the broker: topics, events in, outputs out, and what a group has committed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from kafka import KafkaAdminClient, errors

ASK_SECONDS, READ_SECONDS = 60.0, 300.0
"""Deadlines: of a question while the broker is up, and of reading a topic to its end."""
OPEN = ("Ongoing", "PrepareCommit", "PrepareAbort")
"""States of a transaction that has begun and is not settled."""


@dataclass(frozen=True)
class Message:
    """A record of a topic, to be written (`offset` -1) or as it was read."""

    partition: int
    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    offset: int = -1


@dataclass(frozen=True)
class Commit:
    """What a group has committed of a topic: P by partition, and the checkpoint that is named."""

    offsets: dict[int, int]
    checkpoint: str | None = None

    @property
    def total(self) -> int:
        """Records whose outputs are visible."""
        return sum(self.offsets.values())


class Asker:
    """Asks a broker that may have been killed since the last question."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._admin: KafkaAdminClient | None = None

    def make(self, partitions: dict[str, int]) -> None:
        """Make topics, by partition count."""
        wanted = {n: {"num_partitions": p, "replication_factor": 1} for n, p in partitions.items()}
        self._ask(lambda admin: admin.create_topics(wanted, wait_for_metadata=True))

    def committed(self, group: str, topic: str) -> Commit:
        found = self._ask(lambda admin: admin.list_group_offsets(group))[group]
        mine = {tp.partition: at for tp, at in found.items() if tp.topic == topic and at.offset >= 0}
        names = {json.loads(at.metadata)["checkpoint"] for at in mine.values()}
        if len(names) > 1:
            raise AssertionError(f"one commit of {group} names several checkpoints: {names}")
        return Commit({p: at.offset for p, at in mine.items()}, names.pop() if names else None)

    def in_transaction(self, group: str) -> bool:
        """Has the group's producer begun a transaction that is not settled yet?"""
        name = f"streamlearn.{group}"
        try:
            found = self._ask(lambda admin: admin.describe_transactions([name]))[name]
        except errors.TransactionalIdNotFoundError:
            return False
        return found.state.value in OPEN

    def forget(self) -> None:
        """The broker went: the next question is asked on a new connection."""
        if self._admin is not None:
            with suppress(Exception):
                self._admin.close()
        self._admin = None

    def _ask(self, question: Any) -> Any:
        deadline = time.monotonic() + ASK_SECONDS
        while True:
            try:
                if self._admin is None:
                    self._admin = KafkaAdminClient(bootstrap_servers=self.address)
                return question(self._admin)
            except errors.TransactionalIdNotFoundError:
                raise
            except (errors.KafkaError, OSError):
                self.forget()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)


def publish(address: str, topic: str, messages: Sequence[Message]) -> None:
    """Write messages, in order within each partition; all are there when it returns."""
    asyncio.run(_publish(address, topic, messages))


async def _publish(address: str, topic: str, messages: Sequence[Message]) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=address, enable_idempotence=True, max_batch_size=512 * 1024, linger_ms=2
    )
    await producer.start()
    try:
        sent = [
            await producer.send(topic, m.value, m.key, m.partition, headers=list(m.headers)) for m in messages
        ]
        await asyncio.gather(*sent)
    finally:
        await producer.stop()


def read(address: str, topic: str, partitions: int) -> list[Message]:
    """All that a read_committed reader sees, by partition and offset."""
    return asyncio.run(asyncio.wait_for(_read(address, topic, partitions), READ_SECONDS))


async def _read(address: str, topic: str, partitions: int) -> list[Message]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=address,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="none",
    )
    await consumer.start()
    try:
        places = [TopicPartition(topic, p) for p in range(partitions)]
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        for place in places:
            consumer.seek(place, 0)
        found: list[Message] = []
        # A position passes the markers of transactions, which are no records.
        while left := [place for place in places if await consumer.position(place) < ends[place]]:
            for place, records in (await consumer.getmany(*left, timeout_ms=200)).items():
                found += [
                    Message(place.partition, r.value, r.key, tuple(r.headers), r.offset) for r in records
                ]
        return sorted(found, key=lambda m: (m.partition, m.offset))
    finally:
        await consumer.stop()
