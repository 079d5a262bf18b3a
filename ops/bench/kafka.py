"""From Kafka to predictions on Kafka: throughput beside the same learner fed from memory, and latency.

Rounds in turn, each loop in a process of its own: the learner on events in memory, `streamlearn run` from a
topic of msgpack with raw bytes, and from one of JSON (exactly_once: transactions on); and the learner on
events in memory once more, beside a process that moves as many events through the broker as the worker did:
so much of the difference is the machine's, whose cores and caches the broker shares. All of it with the
default learner and with the lightest one that replays. Then, with the default, events at half of the worker's
rate, and the time from producing each to seeing its prediction as a read_committed reader.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import IO, Any
from urllib.request import urlopen

import numpy as np
import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from kafka import KafkaAdminClient

from ops.bench.common import (
    ROOT,
    arguments,
    cpu_seconds,
    environment,
    loop,
    made_with,
    say,
    table,
    work_dir,
    write,
)
from ops.bench.million import MATCHED
from ops.bench.stream import records
from ops.kafka.broker import Broker

DIM, CLASSES = 64, 10
WARM_SHARE = 0.2
"""Of the events; all rates are taken over the others."""
LOOK_SECONDS = 0.5
TICK_SECONDS = 0.004
BATCH_BYTES = 512 * 1024
AT_ONCE = 8
"""Batches that are under way while a topic is filled."""
DEADLINE = 600.0


def topics(broker: Broker, name: str, partitions: int = 1) -> None:
    admin = KafkaAdminClient(bootstrap_servers=broker.address)
    every = [name, f"{name}.predictions", f"{name}.dead_letters"]
    admin.create_topics({topic: {"num_partitions": partitions} for topic in every})
    admin.wait_for_topics(every)
    admin.close()


async def fill(broker: Broker, topic: str, values: Iterable[bytes], partition: int = 0) -> None:
    """All of it into one partition, as fast as it goes."""
    producer = AIOKafkaProducer(bootstrap_servers=broker.address, max_batch_size=BATCH_BYTES)
    await producer.start()
    sends: list[asyncio.Future[Any]] = []
    batch = producer.create_batch()
    for value in values:
        if batch.append(key=None, value=value, timestamp=None) is None:
            sends.append(await producer.send_batch(batch, topic, partition=partition))
            if len(sends) == AT_ONCE:
                await asyncio.gather(*sends)
                sends.clear()
            batch = producer.create_batch()
            batch.append(key=None, value=value, timestamp=None)
    sends.append(await producer.send_batch(batch, topic, partition=partition))
    await asyncio.gather(*sends)
    await producer.stop()


def started(
    broker: Broker, topic: str, folder: Path, flags: list[str], port: int, log: IO[str] | int
) -> subprocess.Popen[str]:
    """`streamlearn run` on a topic, in a group of that name. port: of its page (0: any). log: its stderr."""
    command = [sys.executable, "-m", "streamlearn", "run", "--checkpoint.folder", str(folder / topic)]
    command += ["--source.bootstrap_servers", broker.address, "--source.topic", topic]
    command += ["--source.group_id", topic, "--exporter.port", str(port), *flags]
    return subprocess.Popen(
        command, stderr=log, stdin=subprocess.DEVNULL, text=True, env=environment(), cwd=ROOT
    )


class Worker:
    """`streamlearn run` on a topic."""

    def __init__(self, broker: Broker, topic: str, folder: Path, flags: list[str]) -> None:
        self.process = started(broker, topic, folder, flags, 0, subprocess.PIPE)
        assert self.process.stderr is not None
        said = []
        for line in self.process.stderr:
            said.append(line)
            if line.startswith("  metrics"):
                self.url = line.split()[1].removesuffix("/metrics")
                return
        raise SystemExit("".join(said))

    def status(self) -> dict[str, Any]:
        with urlopen(f"{self.url}/status", timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.stderr is not None
        rest = self.process.stderr.read()
        if self.process.wait():
            raise SystemExit(rest)


def throughput(
    broker: Broker, topic: str, count: int, folder: Path, flags: list[str]
) -> tuple[float, float, float]:
    """Of the worker between its first events and its last: events a second, its microseconds of processor
    time for each, and the broker's.

    The last look before all are learned ends it: what comes then, an idle worker that is seen late, is none
    of the throughput. Looks are rare, since each is work for the worker.
    """
    samples: list[tuple[int, float, float, float]] = []
    assert broker.pid is not None
    with Worker(broker, topic, folder, flags) as worker:
        deadline = time.monotonic() + DEADLINE
        while True:
            records, now = worker.status()["records"], time.perf_counter()
            if records >= count:
                break
            if records >= count * WARM_SHARE:
                samples.append((records, now, cpu_seconds(worker.process.pid), cpu_seconds(broker.pid)))
            if time.monotonic() > deadline:
                raise SystemExit(f"{records} of {count} events within {DEADLINE:g} s")
            time.sleep(LOOK_SECONDS)
        worker.stop()
    if len(samples) < 2:
        raise SystemExit(f"{count} events are too few to measure: they were learned before they were seen")
    (first, begun, cpu, others), (last, ended, cpu_then, others_then) = samples[0], samples[-1]
    learned = last - first
    spent, by_others = (cpu_then - cpu) / learned * 1e6, (others_then - others) / learned * 1e6
    return learned / (ended - begun), spent, by_others


def from_memory(count: int, flags: list[str]) -> tuple[float, float]:
    """The learner alone: events a second, and microseconds of processor time for each."""
    warm = ["--warm", str(int(count * WARM_SHARE)), *flags]
    done = loop("learner_loop", "--events", str(count), "--dim", str(DIM), *warm)
    return done["events"] / done["seconds"], done["cpu_seconds"] / done["events"] * 1e6


@contextmanager
def traffic(broker: Broker, topic: str, rate: float) -> Iterator[None]:
    """Other people's events go through the broker, so many a second."""
    topics(broker, topic)
    command = [sys.executable, "-m", "ops.bench.traffic", broker.address, topic, "--rate", str(rate)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(), cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            if not process.stdout.readline():
                raise SystemExit("no traffic came about")
            yield
        finally:
            process.kill()


async def latency(broker: Broker, topic: str, values: list[bytes], rate: float) -> list[float]:
    """Seconds from handing each event to the client until its prediction is seen, in order of arrival."""
    producer = AIOKafkaProducer(bootstrap_servers=broker.address, max_batch_size=BATCH_BYTES)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=broker.address, isolation_level="read_committed", auto_offset_reset="latest"
    )
    await producer.start()
    await consumer.start()
    place = TopicPartition(f"{topic}.predictions", 0)
    consumer.assign([place])
    await consumer.seek_to_end(place)
    sent: dict[int, float] = {}
    took: list[float] = []
    seen = 0

    def note(done: asyncio.Future[Any], count: int, now: float) -> None:
        sent.update((done.result().offset + i, now) for i in range(count))

    async def produce() -> None:
        """What is due every few milliseconds, as one batch: the producer needs little of the machine."""
        begun, done = time.perf_counter(), 0
        while done < len(values):
            now = time.perf_counter()
            due = min(len(values), int((now - begun) * rate), done + 1000)
            if due > done:
                batch = producer.create_batch()
                for value in values[done:due]:
                    batch.append(key=None, value=value, timestamp=None)
                future = await producer.send_batch(batch, topic, partition=0)
                future.add_done_callback(partial(note, count=due - done, now=now))
                done = due
            await asyncio.sleep(TICK_SECONDS)

    task = asyncio.create_task(produce())
    deadline = time.monotonic() + DEADLINE
    while seen < len(values) and time.monotonic() < deadline:
        for messages in (await consumer.getmany(timeout_ms=100)).values():
            now = time.perf_counter()
            seen += len(messages)
            for message in messages:
                at = sent.get(orjson.loads(message.value)["source"][2])
                if at is not None:
                    took.append(now - at)
    await task
    await producer.stop()
    await consumer.stop()
    return took


LOOPS = ("memory", "memory, beside as much traffic", "kafka, msgpack", "kafka, json")
LEARNERS: dict[str, Sequence[str]] = {"default": (), "lightest": MATCHED}
"""Settings of the learners: what a worker has unless told otherwise, and `er` without held-out sets."""


class Rounds:
    """What the loops of one learner did, round by round."""

    def __init__(self) -> None:
        self.rates: dict[str, list[float]] = {name: [] for name in LOOPS}
        self.cpu: dict[str, list[float]] = {name: [] for name in self.rates}
        self.brokers: dict[str, list[float]] = {name: [] for name in self.rates}

    def add(self, name: str, rate: float, cpu: float, broker: float = 0.0) -> None:
        self.rates[name].append(rate)
        self.cpu[name].append(cpu)
        self.brokers[name].append(broker)

    def rows(self, learner: str) -> list[dict[str, Any]]:
        """A table: medians over the rounds; ratios are of loops of the same round."""
        rates, cpu = self.rates, self.cpu
        return [
            {
                "learner": learner,
                "loop": name,
                "events_per_second": statistics.median(of),
                "to_memory": statistics.median(a / b for a, b in zip(of, rates[LOOPS[0]], strict=True)),
                "to_beside": statistics.median(a / b for a, b in zip(of, rates[LOOPS[1]], strict=True)),
                "cpu_us_per_event": statistics.median(cpu[name]),
                "cpu_to_memory": statistics.median(
                    b / a for a, b in zip(cpu[name], cpu["memory"], strict=True)
                ),
                "broker_cpu_us_per_event": statistics.median(self.brokers[name]),
            }
            for name, of in rates.items()
        ]


def main(options: Namespace) -> None:
    about = made_with()
    flags = {name: [*settings, "--seed", str(options.seed)] for name, settings in LEARNERS.items()}
    rounds = {name: Rounds() for name in LEARNERS}
    with work_dir(options.work_dir) as folder:
        values = {
            format: list(records(format, options.events, DIM, CLASSES, options.seed))
            for format in ("msgpack", "jsonl")
        }
        broker = Broker(folder / "broker")
        broker.start()
        try:
            for number, learner in product(range(options.rounds), LEARNERS):
                one = rounds[learner]
                said = f"round {number + 1}: {learner}"
                one.add(LOOPS[0], *from_memory(options.events, flags[learner]))
                say(f"{said}: memory: {one.rates['memory'][-1]:,.0f} events/s")
                for name, format in (("kafka, msgpack", "msgpack"), ("kafka, json", "jsonl")):
                    topic = f"{learner}.{format}{number}"
                    topics(broker, topic)
                    asyncio.run(fill(broker, topic, values[format]))
                    found = throughput(broker, topic, options.events, folder, flags[learner])
                    one.add(name, *found)
                    say(f"{said}: {name}: {found[0]:,.0f} events/s")
                with traffic(broker, f"{learner}.others{number}", one.rates["kafka, msgpack"][-1]):
                    one.add(LOOPS[1], *from_memory(options.events, flags[learner]))
                say(f"{said}: {LOOPS[1]}: {one.rates[LOOPS[1]][-1]:,.0f} events/s")
            rate = statistics.median(rounds["default"].rates["kafka, msgpack"]) / 2
            topics(broker, "half")
            with Worker(broker, "half", folder, flags["default"]) as worker:
                some = values["msgpack"][: int(rate * options.seconds)]
                took = asyncio.run(latency(broker, "half", some, rate))[len(some) // 5 :]
                worker.stop()
        finally:
            broker.wipe()
    rows = [row for learner, one in rounds.items() for row in one.rows(learner)]
    p50, p99 = (float(np.quantile(took, q)) for q in (0.5, 0.99))
    table(rows)
    delay = {"events_per_second": rate, "p50_seconds": p50, "p99_seconds": p99, "events": len(took)}
    table([delay])
    each = {learner: one.rates for learner, one in rounds.items()}
    write(options.out, about, options, {"rows": rows, "latency": delay, "rounds": each})


if __name__ == "__main__":
    parser = arguments("kafka", __doc__)
    parser.add_argument("--events", type=int, default=100_000, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="of the measuring of latency")
    main(parser.parse_args())
