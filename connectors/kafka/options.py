"""What the data plane is told: the settings of source and sink, with what follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from connectors.kafka.client import aiokafka_options
from streamlearn.events import UsageError

MIB = 1 << 20


@dataclass
class Options:
    """Options of one data plane.

    connection: parameters that every client gets. group: the consumer group; None reads without one.
    instance: the name of this member of it, by which it is known again after a restart; None: no name.
    largest: bytes of the largest output. consumer, producer: parameters that are passed on as they are.
    """

    connection: dict[str, Any]
    where: str
    group: str | None = None
    instance: str | None = None
    exactly_once: bool = True
    commit_interval: float = 0.1
    deadline: float = 60.0
    patience: float = 300.0
    learner_patience: float = 600.0
    largest: int = MIB
    inbox_bytes: int = 16 * MIB
    outbox_bytes: int = 16 * MIB
    consumer: Mapping[str, Any] = field(default_factory=dict)
    producer: Mapping[str, Any] = field(default_factory=dict)

    @property
    def transactional_id(self) -> str:
        return f"streamlearn.{self.group}"

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
        deadline=float(source.get("deadline") or 60),
        patience=float(source.get("patience") or 300),
        consumer=dict(source.get("client") or {}),
    )
