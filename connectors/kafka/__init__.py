"""Kafka: events from a topic, predictions and dead letters to topics, and what is done about topics.

`KafkaSource` and `KafkaSink` are imported at first use: who asks about topics, publishes, or sends a command
needs no Faust.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from connectors.kafka.sink import KafkaSink
    from connectors.kafka.source import KafkaSource

__all__ = ["KafkaSink", "KafkaSource"]


def __getattr__(name: str) -> Any:
    if name == "KafkaSink":
        from connectors.kafka.sink import KafkaSink

        return KafkaSink
    if name == "KafkaSource":
        from connectors.kafka.source import KafkaSource

        return KafkaSource
    raise AttributeError(f"module 'connectors.kafka' has no attribute {name!r}")
