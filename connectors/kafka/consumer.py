"""The consumer of a data plane, a member of the group if there is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer.fetcher import PartitionRecords

from connectors.kafka.assignor import digest, one_learner
from connectors.kafka.options import Options

CONSUMER: dict[str, Any] = {
    "enable_auto_commit": False,
    "auto_offset_reset": "none",
    "isolation_level": "read_committed",
    "session_timeout_ms": 6000,
    "heartbeat_interval_ms": 1500,
    "rebalance_timeout_ms": 60_000,
    # So soon new partitions are found.
    "metadata_max_age_ms": 30_000,
    # A learner that takes long must not lose its partitions for it; the watch sees one that hangs.
    "max_poll_interval_ms": 24 * 3_600_000,
}
"""Parameters, which the settings may change but for those that are options.OURS_CONSUMER."""


def session_of(options: Options) -> float:
    """Seconds after which a member that the broker doesn't hear of has lost its partitions to others."""
    given = options.consumer.get("session_timeout_ms", CONSUMER["session_timeout_ms"])
    return float(given) / 1000


_usual = PartitionRecords._consumer_record


def as_it_is(key: bytes | None) -> bytes | None:
    """The key deserializer of our consumers: nobody else's have it."""
    return key


def _read(self: PartitionRecords, tp: TopicPartition, record: Any) -> Any:
    """Of our consumers, the record as the client's C code has read it, with all that we look at.

    The client makes another object of it, with eleven fields, in Python: as much work as all else that it
    does for a record. Where a later client never calls this, its objects do as well.
    """
    return record if self._key_deserializer is as_it_is else _usual(self, tp, record)


PartitionRecords._consumer_record = _read


def consumer_of(options: Options, topics: Mapping[str, int], learns: Callable[[], int]) -> AIOKafkaConsumer:
    """Not started yet. topics: what it will read. learns: the epoch of whoever learns here, 0 for nobody.

    Raises UsageError for parameters of the settings that the client doesn't take.
    """
    grouped: dict[str, Any] = {}
    if options.group is not None:
        grouped = {
            "group_id": options.group,
            # Of a member that is known the broker believes the old topics: other ones, another member.
            "group_instance_id": options.instance and f"{options.instance}-{digest(topics)}",
            "partition_assignment_strategy": (one_learner(learns),),
        }
    try:
        settings = grouped | CONSUMER | {"key_deserializer": as_it_is} | options.more_of_consumer
        return AIOKafkaConsumer(**options.connection, **settings)
    except (TypeError, ValueError, AssertionError) as error:
        raise options.mistaken("source.client", error) from error
