"""What the broker says of topics. Asked with kafka-python: aiokafka knows no topic ids."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kafka import KafkaAdminClient, errors
from kafka.admin import ConfigResource, ConfigResourceType

from connectors.kafka.options import Options
from connectors.kafka.reach import reach_soon
from streamlearn.events import Unreachable

RETRY_SECONDS = 0.5
TRY_SECONDS = 10.0
LARGEST = "max.message.bytes"
DEFAULT_LARGEST = 1048588
"""Kafka's own default, for topics whose configuration this user may not see."""


@dataclass(frozen=True)
class Topic:
    """id: changes when a topic is deleted and made anew. largest: bytes that a batch of messages may have."""

    id: str
    partitions: int
    largest: int = DEFAULT_LARGEST


async def describe(options: Options, names: Sequence[str]) -> dict[str, Topic]:
    """Those of the topics that there are. Waits for a broker for at most `options.deadline`.

    Raises Unreachable: at once where a broker is there and doesn't take us.
    """
    deadline = time.monotonic() + options.deadline
    await reach_soon(options.reach, options.deadline)
    while True:
        try:
            patience = max(1.0, min(TRY_SECONDS, deadline - time.monotonic()))
            return await asyncio.to_thread(_describe, options.connection, names, patience)
        except errors.KafkaError as error:
            if time.monotonic() + RETRY_SECONDS > deadline:
                raise Unreachable(
                    f"{options.where}: no broker answers within {options.deadline:g} s "
                    f"({type(error).__name__}): is it running, and is source.bootstrap_servers right?"
                ) from error
        await asyncio.sleep(RETRY_SECONDS)


def _describe(connection: dict[str, Any], names: Sequence[str], patience: float) -> dict[str, Topic]:
    admin = KafkaAdminClient(**connection, bootstrap_timeout_ms=int(patience * 1000))
    try:
        found = {
            topic["name"]: topic
            for topic in admin.describe_topics(list(names))
            if not topic["error_code"] and topic["partitions"]
        }
        sizes: dict[str, int] = {}
        with suppress(errors.KafkaError, KeyError):
            asked = [
                ConfigResource(ConfigResourceType.TOPIC, name, configs={LARGEST: None}) for name in found
            ]
            answers = admin.describe_configs(asked, config_filter="all")["topic"] if asked else {}
            sizes = {name: int(entry[LARGEST]["value"]) for name, entry in answers.items()}
        return {
            name: Topic(str(topic["topic_id"]), len(topic["partitions"]), sizes.get(name, DEFAULT_LARGEST))
            for name, topic in found.items()
        }
    finally:
        admin.close()
