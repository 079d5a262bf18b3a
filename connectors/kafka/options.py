"""What the data plane is told: the settings of source and sink, with what follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from connectors.kafka.client import aiokafka_options
from streamlearn.events import UsageError

MIB = 1 << 20
NO_ID = "00000000-0000-0000-0000-000000000000"
"""What a broker says that knows no ids of topics."""
OURS = {"bootstrap_servers", "security_protocol", "ssl_context", "sasl_mechanism", "sasl_plain_username"}
OURS |= {"sasl_plain_password", "loop", "key_serializer", "value_serializer"}
OURS_CONSUMER = {
    "group_id",
    "group_instance_id",
    "enable_auto_commit",
    "auto_offset_reset",
    "isolation_level",
}
OURS_CONSUMER |= {"partition_assignment_strategy", "key_deserializer", "value_deserializer"}
OURS_PRODUCER = {"transactional_id", "enable_idempotence", "acks", "partitioner"}
"""Parameters on which the exactness stands, or that have settings of their own."""


@dataclass
class Options:
    """Options of one data plane.

    connection: parameters that every client gets. group: the consumer group; None reads without one.
    instance: the name of this member of it, by which it is known again after a restart; None: no name.
    limits: bytes that a batch of messages may have, by topic. ids: by topic that is read; a topic made anew
    has another one. consumer, producer: what is passed on.
    reach: what `connectors.kafka.reach` wants to know. topic: of the events.
    reads: the topics that are read; others are written to.
    merge_idle: seconds after which a partition without records is left out of the merging by time; None: no
    merging.
    """

    connection: dict[str, Any] = field(repr=False)
    where: str
    group: str | None = None
    instance: str | None = None
    exactly_once: bool = True
    commit_interval: float = 0.1
    deadline: float = 60.0
    patience: float = 300.0
    learner_patience: float = 600.0
    limits: dict[str, int] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    inbox_bytes: int = 16 * MIB
    outbox_bytes: int = 16 * MIB
    consumer: Mapping[str, Any] = field(default_factory=dict, repr=False)
    producer: Mapping[str, Any] = field(default_factory=dict, repr=False)
    topic: str = ""
    reads: frozenset[str] = frozenset()
    merge_idle: float | None = None
    reach: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def largest(self) -> int:
        """Bytes of the largest batch that any topic takes."""
        return max(self.limits.values(), default=MIB)

    def id_beside(self, topic: str) -> str:
        """The id of a topic that stands beside its committed offset: of one made anew that one says nothing.

        Of the events a checkpoint knows it, and is refused as a whole.
        """
        id = self.ids.get(topic, "") if topic != self.topic else ""
        return id if id != NO_ID else ""

    @property
    def transactional_id(self) -> str:
        return f"streamlearn.{self.group}"

    @property
    def principal(self) -> str:
        """As whom the broker knows us, in the words of its ACLs."""
        name = self.connection.get("sasl_plain_username")
        if name is None and (self.reach.get("security") or {}).get("certificate_file"):
            return "the user of source.security.certificate_file"
        return f"User:{name or 'ANONYMOUS'}"

    @property
    def more_of_consumer(self) -> dict[str, Any]:
        """Raises UsageError."""
        return _passed("source.client", self.consumer, OURS | OURS_CONSUMER)

    @property
    def more_of_producer(self) -> dict[str, Any]:
        """Raises UsageError."""
        return _passed("sink.client", self.producer, OURS | OURS_PRODUCER)

    @staticmethod
    def mistaken(setting: str, error: Exception) -> UsageError:
        """A parameter that the client doesn't take; values may be secrets and aren't shown."""
        return UsageError(f"{setting} holds a parameter that the Kafka client doesn't take: {error}")


def options_of(source: Mapping[str, Any]) -> Options:
    """The part that the source's options say. Raises UsageError."""
    connection = aiokafka_options(source)
    return Options(
        connection=connection,
        where=f"Kafka at {', '.join(connection['bootstrap_servers'])}",
        reach={name: source.get(name) for name in ("bootstrap_servers", "security")},
        deadline=float(source.get("deadline") or 60),
        patience=float(source.get("patience") or 300),
        consumer=dict(source.get("client") or {}),
        merge_idle=float(source.get("merge_idle") or 5) if source.get("merge") == "timestamp" else None,
    )


def _passed(setting: str, given: Mapping[str, Any], ours: set[str]) -> dict[str, Any]:
    taken = sorted(ours & set(given))
    if taken:
        raise UsageError(
            f"{setting}.{taken[0]} can't be set: it is decided by other settings, or by exactness"
        )
    return dict(given)
