"""A real Kafka's topics, groups and records for tests. See also the fixture `broker` in conftest.

Records go and come by aiokafka, everything else by kafka-python's admin client. The functions block: in a
coroutine, `await asyncio.to_thread(produce, ...)`.
"""

from __future__ import annotations

import asyncio
import selectors
import time
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import NodeNotReadyError, NoError, for_code
from aiokafka.helpers import create_ssl_context
from kafka import KafkaAdminClient

from ops.kafka.broker import Broker

T = TypeVar("T")
DEADLINE = 60.0
BATCH_BYTES = 512 * 1024
REQUEST_BYTES = 16 << 20
"""Of the largest message; the client's own limit is 1 MiB, as that of topics."""
QUIET_MS = 200
"""How long a reader waits for records before it looks at its positions again."""


@dataclass(frozen=True)
class Message:
    """A record, to be written or as it was read."""

    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    partition: int | None = None
    """None: chosen by the key, or any where there is no key. As it was read: never None."""
    timestamp: int | None = None
    """Milliseconds since 1970; None: now."""
    offset: int | None = None
    """None until it was read."""


@contextmanager
def running(
    folder: Path, *, port: int = 0, secure: bool = False, settings: Mapping[str, str] | None = None
) -> Iterator[Broker]:
    """A broker of the test's own, to stop, kill and freeze; all others must find the shared one serving."""
    broker = Broker(folder, port, secure, settings)
    try:
        broker.start()
        yield broker
    finally:
        broker.wipe()


def connection(broker: Broker, password: str | None = None) -> dict[str, Any]:
    """What aiokafka's clients need to connect: to the secure listener if the broker has one.

    Args:
        password: Another one than the right one.
    """
    if not broker.secure:
        return {"bootstrap_servers": broker.address}
    return {
        "bootstrap_servers": broker.secure_address,
        "security_protocol": "SASL_SSL",
        "ssl_context": create_ssl_context(cafile=str(broker.ca_file)),
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": broker.username,
        "sasl_plain_password": password or broker.password_file.read_text("utf-8"),
    }


@contextmanager
def administrator(broker: Broker) -> Iterator[KafkaAdminClient]:
    client = KafkaAdminClient(bootstrap_servers=broker.address)
    try:
        yield client
    finally:
        client.close()


def fresh_topic(broker: Broker, partitions: int = 1, **config: object) -> str:
    """The name of a new empty topic that can be written to; `retention_ms=1000` sets its retention.ms."""
    name = f"topic-{uuid.uuid4().hex[:12]}"
    configs = {key.replace("_", "."): str(value) for key, value in config.items()}
    options = {"num_partitions": partitions, "replication_factor": 1, "configs": configs}
    with administrator(broker) as client:
        client.create_topics({name: options}, wait_for_metadata=True)
    return name


def fresh_group() -> str:
    """A name that no other group has."""
    return f"group-{uuid.uuid4().hex[:12]}"


def produce(
    broker: Broker, topic: str, records: Iterable[Message | bytes], password: str | None = None
) -> list[tuple[int, int]]:
    """Write `records` in their order; partition and offset of each. Returns once all are acknowledged.

    Raises aiokafka's errors; TimeoutError when it takes more than DEADLINE.
    """
    messages = [each if isinstance(each, Message) else Message(each) for each in records]
    return _run(_produce(connection(broker, password), topic, messages))


def _run(work: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run, within DEADLINE, and only ends when all connections are closed.

    aiokafka doesn't wait for that where a password was refused, and the loop's end would leave a socket open.
    """
    selector = selectors.DefaultSelector()

    async def whole() -> T:
        own = len(selector.get_map())
        try:
            return await asyncio.wait_for(work, DEADLINE)
        finally:
            async with asyncio.timeout(DEADLINE):
                while len(selector.get_map()) > own:
                    await asyncio.sleep(0.005)

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        return runner.run(whole())


@asynccontextmanager
async def _started(client: Any) -> AsyncIterator[Any]:
    try:
        await client.start()
        yield client
    finally:
        await client.stop()  # also one that couldn't start, which its own `async with` doesn't


async def _produce(
    connected: Mapping[str, Any], topic: str, messages: Iterable[Message]
) -> list[tuple[int, int]]:
    settings = {
        "enable_idempotence": True,
        "max_batch_size": BATCH_BYTES,
        "max_request_size": REQUEST_BYTES,
        "linger_ms": 2,
    }
    messages = list(messages)
    last = max((each.partition for each in messages if each.partition is not None), default=0)
    async with _started(AIOKafkaProducer(**connected, **settings)) as producer:
        # Of a partition that was just made the broker may not tell yet.
        while messages and last not in await producer.partitions_for(topic):
            await producer.client.force_metadata_update()
        sent = [
            await producer.send(
                topic,
                each.value,
                key=each.key,
                partition=each.partition,
                timestamp_ms=each.timestamp,
                headers=list(each.headers),
            )
            for each in messages
        ]
        return [(done.partition, done.offset) for done in await asyncio.gather(*sent)]


def read_all(
    broker: Broker, topic: str, isolation: str = "read_committed", password: str | None = None
) -> list[Message]:
    """All records that are there at the call, by partition and offset.

    With `read_committed` that ends where a transaction is open. A transaction counts as open for a moment
    after its producer was told of its commit: wait for what you expect.

    A broker that has just come back may know of none, itself neither: then it is asked again.

    Raises aiokafka's errors (UnknownTopicOrPartitionError); TimeoutError when it takes more than DEADLINE.
    """
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            return _run(_read_all(connection(broker, password), topic, isolation))
        except NodeNotReadyError:
            if time.monotonic() > deadline:
                raise


async def _read_all(connected: Mapping[str, Any], topic: str, isolation: str) -> list[Message]:
    found: list[Message] = []
    partitions = await _partitions(connected, topic)
    settings = {"isolation_level": isolation, "enable_auto_commit": False, "auto_offset_reset": "none"}
    async with _started(AIOKafkaConsumer(**connected, **settings)) as consumer:
        consumer.assign(partitions)
        begin, end = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
        for each in partitions:
            consumer.seek(each, begin[each])
        while True:
            # A position passes the markers of transactions, which are no records.
            left = [each for each in partitions if await consumer.position(each) < end[each]]
            if not left:
                break
            for each, records in (await consumer.getmany(*left, timeout_ms=QUIET_MS)).items():
                found += [_message(record) for record in records if record.offset < end[each]]
    return sorted(found, key=lambda each: (each.partition, each.offset))


async def _partitions(connected: Mapping[str, Any], topic: str) -> list[TopicPartition]:
    client = AIOKafkaAdminClient(**connected)
    try:
        await client.start()
        (found,) = await client.describe_topics([topic])
    finally:
        await client.close()
    error = for_code(found["error_code"])
    if error is not NoError:
        raise error(topic)
    return [TopicPartition(topic, each["partition"]) for each in found["partitions"]]


def _message(record: Any) -> Message:
    return Message(
        value=record.value,
        key=record.key,
        headers=tuple(record.headers),
        partition=record.partition,
        timestamp=record.timestamp,
        offset=record.offset,
    )
