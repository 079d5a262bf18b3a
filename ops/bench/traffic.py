"""As many events through a broker as a worker would move: sent, and read again, at a steady rate.

For what a learner does beside it that has nothing to do with Kafka: on a machine that they share, it is
slower all the same. Says a line once it has begun, and goes on until it is killed.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from itertools import cycle, islice

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from ops.bench.kafka import BATCH_BYTES, CLASSES, DIM
from ops.bench.stream import records

DISTINCT = 20_000
AT_ONCE = 1000


async def move(address: str, topic: str, rate: float) -> None:
    values = cycle(list(records("msgpack", DISTINCT, DIM, CLASSES, 0)))
    producer = AIOKafkaProducer(bootstrap_servers=address, max_batch_size=BATCH_BYTES)
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=address)
    await producer.start()
    await consumer.start()
    await consumer.seek_to_end()
    due = time.perf_counter()
    print("moving", flush=True)
    while True:
        batch = producer.create_batch()
        for value in islice(values, AT_ONCE):
            batch.append(key=None, value=value, timestamp=None)
        await producer.send_batch(batch, topic, partition=0)
        seen = 0
        while seen < AT_ONCE:
            seen += sum(map(len, (await consumer.getmany(timeout_ms=100)).values()))
        # Where it stood still, or is too slow, nothing is made up for.
        due = max(due + AT_ONCE / rate, time.perf_counter())
        await asyncio.sleep(due - time.perf_counter())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address", help="of the broker")
    parser.add_argument("topic")
    parser.add_argument("--rate", type=float, default=20_000.0, help="events a second")
    options = parser.parse_args()
    asyncio.run(move(options.address, options.topic, options.rate))
