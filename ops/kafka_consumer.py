"""Prints what a read_committed consumer sees of a topic of predictions: the last of every hundred."""

from __future__ import annotations

import json
import sys
import time

from kafka import KafkaConsumer, TopicPartition

PATIENCE = 120.0
EVERY = 100


def main(broker: str, topic: str, count: int) -> int:
    consumer = KafkaConsumer(
        bootstrap_servers=broker,
        group_id=None,
        enable_auto_commit=False,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
    )
    consumer.assign([TopicPartition(topic, 0)])
    seen, deadline = 0, time.monotonic() + PATIENCE
    while seen < count and time.monotonic() < deadline:
        for messages in consumer.poll(timeout_ms=500).values():
            for message in messages:
                seen += 1
                if seen % EVERY == 0:
                    answer = json.loads(message.value)
                    print(
                        f"{seen:>6}  {answer['id']:<12} -> {answer['label']}  "
                        f"(of {answer['known_classes']} classes, after {answer['model_step']} steps)"
                    )
    consumer.close()
    print(f"{seen} predictions, each visible once")
    return 0 if seen == count else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
