"""Kafka's own command-line tools, by the names of its scripts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NoReturn

from ops.kafka.jars import TOOLS as ARTIFACTS
from ops.kafka.jars import BrokerError, fetch
from ops.kafka.place import java_command

TOOLS = {
    "acls": "org.apache.kafka.tools.AclCommand",
    "broker-api-versions": "org.apache.kafka.tools.BrokerApiVersionsCommand",
    "configs": "kafka.admin.ConfigCommand",
    "console-consumer": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "console-producer": "org.apache.kafka.tools.ConsoleProducer",
    "consumer-groups": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "consumer-perf-test": "org.apache.kafka.tools.ConsumerPerformance",
    "delete-records": "org.apache.kafka.tools.DeleteRecordsCommand",
    "dump-log": "org.apache.kafka.tools.DumpLogSegments",
    "get-offsets": "org.apache.kafka.tools.GetOffsetShell",
    "groups": "org.apache.kafka.tools.GroupsCommand",
    "metadata-quorum": "org.apache.kafka.tools.MetadataQuorumCommand",
    "producer-perf-test": "org.apache.kafka.tools.ProducerPerformance",
    "topics": "org.apache.kafka.tools.TopicCommand",
    "transactions": "org.apache.kafka.tools.TransactionsCommand",
}


def run(name: str, words: Sequence[str]) -> NoReturn:
    """Become the tool: its output, its exit status. Raises BrokerError for a name that isn't one of TOOLS."""
    found = TOOLS.get(name.removeprefix("kafka-").removesuffix(".sh"))
    if found is None:
        raise BrokerError(f"no tool {name!r}: there are {', '.join(TOOLS)}")
    command = [*java_command(fetch(ARTIFACTS)), found, *words]
    os.execv(command[0], command)
