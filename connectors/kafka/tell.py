"""A command to a running worker, and its answer. With kafka-python: nothing here is on the data plane."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition, errors

from connectors.kafka.client import kafka_python_options
from connectors.kafka.options import options_of
from connectors.kafka.reach import reach
from streamlearn.events import Unreachable


def tell(
    options: Mapping[str, Any], command: Callable[[str], bytes], timeout: float, stopped: Callable[[], bool]
) -> dict[str, Any] | None:
    """Send a command, wait for its answer; None after `timeout` seconds: it stands in the topic.

    options: those of the source, with `commands` and `answers`, the topics. command: the record, given what
    the answer is to be known by. Raises Unreachable.
    """
    where = options_of(options).where
    commands, answers = str(options["commands"]), str(options["answers"])
    reach(options, min(timeout, float(options.get("deadline") or timeout)))
    try:
        return _ask(kafka_python_options(options), commands, answers, command, timeout, stopped)
    except errors.UnknownTopicOrPartitionError:
        raise Unreachable(
            f"{where}: there is no topic {commands}, or no topic {answers}: `streamlearn topics` with these "
            "settings makes what is missing (a running worker sees them at its next start)"
        ) from None
    except errors.KafkaError as error:
        raise Unreachable(
            f"{where}: no broker answers ({type(error).__name__}): is it running, and is "
            "source.bootstrap_servers right?"
        ) from error


def _ask(
    connection: dict[str, Any],
    commands: str,
    answers: str,
    command: Callable[[str], bytes],
    timeout: float,
    stopped: Callable[[], bool],
) -> dict[str, Any] | None:
    request = uuid.uuid4().hex
    # Answers of a transaction that was given up are none.
    consumer = KafkaConsumer(
        **connection, group_id=None, enable_auto_commit=False, isolation_level="read_committed"
    )
    try:
        for topic in (commands, answers):
            if not consumer.partitions_for_topic(topic):
                raise errors.UnknownTopicOrPartitionError(topic)
        place = TopicPartition(answers, 0)
        consumer.assign([place])
        consumer.seek_to_end(place)
        consumer.position(place)
        producer = KafkaProducer(**connection)
        try:
            producer.send(commands, command(request), partition=0).get(timeout=timeout)
        finally:
            producer.close()
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and not stopped():
            for messages in consumer.poll(timeout_ms=200).values():
                for message in messages:
                    answer = _object(message.value)
                    if answer.get("request") == request:
                        return answer
        return None
    finally:
        consumer.close()


def _object(value: bytes | None) -> dict[str, Any]:
    """A JSON object; an empty one where there is something else, which no worker has written."""
    try:
        found = json.loads(value or b"")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
