"""Kafka: events from a topic, predictions and dead letters to topics, and what is done about topics."""

from connectors.kafka.sink import KafkaSink
from connectors.kafka.source import KafkaSource

__all__ = ["KafkaSink", "KafkaSource"]
