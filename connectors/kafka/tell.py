"""A command to a running worker, and its answer."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError
from kafka import errors

from connectors.kafka.client import aiokafka_options
from connectors.kafka.errors import explain
from connectors.kafka.names import read_any
from connectors.kafka.options import options_of
from connectors.kafka.reach import reach
from connectors.kafka.topics import describe_once, refuse_denied
from streamlearn.events import Unreachable


def tell(
    options: Mapping[str, Any], command: Callable[[str], bytes], timeout: float, stopped: Callable[[], bool]
) -> dict[str, Any] | None:
    """Send a command, wait for its answer; None after `timeout` seconds: it stands in the topic.

    There the group's next worker finds it; but a first start begins at the end, behind what may have been
    meant for a group before it.

    options: those of the source, with `commands` and `answers`, the topics. command: the record, given what
    the answer is to be known by. Raises Unreachable.
    """
    commands, answers = str(options["commands"]), str(options["answers"])
    given = options_of(options)
    where, given.reads = given.where, frozenset((answers,))
    reach(options, min(timeout, float(options.get("deadline") or timeout)))
    connection = aiokafka_options(options)
    read_any()
    try:
        found = describe_once(connection, [commands, answers], timeout)
        refuse_denied(given, found.denied)
        if len(found.there) < 2:
            raise Unreachable(
                f"{where}: there is no topic {commands}, or no topic {answers}: `streamlearn topics` with "
                "these settings makes what is missing (a running worker sees them at its next start)"
            )
        return asyncio.run(_ask(connection, commands, answers, command, timeout, stopped))
    except errors.KafkaError as error:
        raise Unreachable(
            f"{where}: no broker answers ({type(error).__name__}): is it running, and is "
            "source.bootstrap_servers right?"
        ) from error
    except TimeoutError as error:
        raise Unreachable(
            f"{where}: the broker has not taken the command within {timeout:g} s (it may yet have): try again"
        ) from error
    except KafkaError as error:
        raise explain(error, where) from error


async def _ask(
    connection: dict[str, Any],
    commands: str,
    answers: str,
    command: Callable[[str], bytes],
    timeout: float,
    stopped: Callable[[], bool],
) -> dict[str, Any] | None:
    """With aiokafka: it reads what brokers may compress answers with, which kafka-python alone doesn't."""
    request, place = uuid.uuid4().hex, TopicPartition(answers, 0)
    # Answers of a transaction that was given up are none.
    consumer = AIOKafkaConsumer(**connection, enable_auto_commit=False, isolation_level="read_committed")
    producer = AIOKafkaProducer(**connection, acks="all", enable_idempotence=True)
    try:
        async with asyncio.timeout(timeout):
            await consumer.start()
            consumer.assign([place])
            consumer.seek(place, (await consumer.end_offsets([place]))[place])
            await producer.start()
            await producer.send_and_wait(commands, command(request), partition=0)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and not stopped():
            for messages in (await consumer.getmany(timeout_ms=200)).values():
                for message in messages:
                    answer = _object(message.value)
                    if answer.get("request") == request:
                        return answer
        return None
    finally:
        await asyncio.gather(producer.stop(), consumer.stop())


def _object(value: bytes | None) -> dict[str, Any]:
    """A JSON object; an empty one where there is something else, which no worker has written."""
    try:
        found = json.loads(value or b"")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
