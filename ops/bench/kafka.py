"""From Kafka to predictions on Kafka: throughput beside the same learner fed from memory, and latency.

Loops that take turns of a second (see `ops.bench.turns`): the learner on events in memory, `streamlearn run`
from a topic of msgpack with raw bytes, and from one of JSON (exactly_once: transactions on). Then the learner
on events in memory, in turn with itself beside a process that moves as many events through the broker as the
worker did: so much of the difference is the machine's, whose cores and caches the broker shares. All of it
with the default learner and with the lightest one that replays. Then, with the first of them, events at half
of the worker's rate, and the time from producing each to seeing its prediction as a read_committed reader.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import IO, Any
from urllib.request import urlopen

import kafka
import numpy as np
import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from ops.bench.common import ROOT, arguments, environment, made_with, say, table, work_dir, write
from ops.bench.million import MATCHED
from ops.bench.stream import records
from ops.bench.turns import Contestant, FromMemory, Turns, contest, quartiles
from ops.kafka.broker import Broker

DIM, CLASSES = 64, 10
DISTINCT = 80_000
"""Events that differ; what is more of them comes again."""
TICK_SECONDS = 0.004
BATCH_BYTES = 512 * 1024
AT_ONCE = 8
"""Batches that are under way while a topic is filled."""
DEADLINE = 600.0


def topics(broker: Broker, name: str, partitions: int = 1) -> None:
    admin = kafka.KafkaAdminClient(bootstrap_servers=broker.address)
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


class FromKafka:
    """A worker on a topic that others have filled; it takes turns. A context manager: it is killed."""

    def __init__(self, broker: Broker, topic: str, folder: Path, flags: list[str]) -> None:
        self._admin, self._group = kafka.KafkaAdminClient(bootstrap_servers=broker.address), topic
        self.worker = Worker(broker, topic, folder, flags)
        self.pids = [self.worker.process.pid]

    def __enter__(self) -> FromKafka:
        return self

    def __exit__(self, *given: object) -> None:
        self._admin.close()
        self.worker.__exit__(*given)

    def done(self) -> int:
        """Events whose predictions have been committed."""
        if self.worker.process.poll() is not None:
            raise SystemExit(f"a worker ended with status {self.worker.process.returncode}")
        offsets = self._admin.list_group_offsets(self._group)[self._group]
        return sum(at.offset for place, at in offsets.items() if place.topic == self._group)


def together(starts: Sequence[Callable[[], FromKafka]]) -> list[FromKafka]:
    """Start workers at the same time, so that none uses up its topic while it waits for the others."""
    with ThreadPoolExecutor(len(starts)) as pool:
        started = [pool.submit(start) for start in starts]
    failed = [each for each in started if each.exception() is not None]
    for each in started if failed else ():
        if each not in failed:
            each.result().__exit__()
    return [each.result() for each in started]


def not_used_up(workers: Iterable[FromKafka], events: int) -> None:
    """Raises SystemExit if one of them has learned all events of its topic: its last turns were none."""
    if any(worker.done() >= events for worker in workers):
        raise SystemExit(f"{events} events (--events) are too few for so many turns")


@contextmanager
def traffic(broker: Broker, topic: str, rate: float) -> Iterator[int]:
    """Other people's events go through the broker, so many a second. The process that moves them."""
    topics(broker, topic)
    command = [sys.executable, "-m", "ops.bench.traffic", broker.address, topic, "--rate", str(rate)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(), cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            if not process.stdout.readline():
                raise SystemExit("no traffic came about")
            yield process.pid
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


LEARNERS: dict[str, Sequence[str]] = {"default": (), "lightest": MATCHED}
"""Settings of the learners: what a worker has unless told otherwise, and `er` without held-out sets."""

PATIENT = ("--source.client.session_timeout_ms", "60000")
"""Of workers that stand still while others have their turns."""

FORMATS = {"kafka, msgpack": "msgpack", "kafka, json": "jsonl"}
BASE, BESIDE = "memory", "memory, beside as much traffic"


def rounds(broker: Broker, folder: Path, learner: str, options: Namespace) -> dict[str, tuple[Turns, Turns]]:
    """What the loops did, each with what the learner fed from memory did in the same rounds."""
    assert broker.pid is not None
    flags = [*LEARNERS[learner], "--seed", str(options.seed)]
    own = ["--events", str(DISTINCT), "--dim", str(DIM), "--data-seed", str(options.seed), *flags]
    with ExitStack() as stack:
        formats = list(FORMATS.values())
        for format in formats:
            topic = f"{learner}.{format}"
            topics(broker, topic)
            some = list(records(format, DISTINCT, DIM, CLASSES, options.seed))
            asyncio.run(fill(broker, topic, islice(cycle(some), options.events)))
            say(f"{learner}: {topic} is filled")
        contestants: dict[str, Contestant] = {BASE: stack.enter_context(FromMemory(folder / BASE, own))}
        patient = [*flags, *PATIENT]
        starts = [partial(FromKafka, broker, f"{learner}.{each}", folder, patient) for each in formats]
        workers = together(starts)
        contestants |= zip(FORMATS, map(stack.enter_context, workers), strict=True)
        turns = options.rounds, options.seconds, options.warm, broker.pid
        first = contest(contestants, *turns)
        not_used_up(workers, options.events)
    say(f"{learner}: {statistics.median(first['kafka, msgpack'].to(first[BASE])):.2f} of memory")
    rate = statistics.median(first["kafka, msgpack"].rates)
    with (
        FromMemory(folder / BASE, own) as alone,
        traffic(broker, f"{learner}.others", rate) as others,
        FromMemory(folder / BESIDE, own, [others]) as beside,
    ):
        second = contest({BASE: alone, BESIDE: beside}, *turns)
    found = {name: (first[name], first[BASE]) for name in first}
    return found | {BESIDE: (second[BESIDE], second[BASE])}


def row(learner: str, name: str, of: Turns, base: Turns) -> dict[str, Any]:
    """A line of the table: medians over the rounds, and of the ratios within a round."""
    return {
        "learner": learner,
        "loop": name,
        "events_per_second": statistics.median(of.rates),
        "to_memory": statistics.median(of.to(base)),
        "quartiles": quartiles(of.to(base)),
        "cpu_us_per_event": statistics.median(of.cpu),
        "broker_cpu_us_per_event": statistics.median(of.beside),
        "rates": [round(rate) for rate in of.rates],
        "rates_of_memory": [round(rate) for rate in base.rates],
    }


def main(options: Namespace) -> None:
    about = made_with()
    rows = []
    with work_dir(options.work_dir) as folder:
        broker = Broker(folder / "broker")
        broker.start()
        try:
            for learner in options.learners:
                found = rounds(broker, folder, learner, options)
                rows += [row(learner, name, *pair) for name, pair in found.items()]
            first, of = options.learners[0], "kafka, msgpack"
            rate = next(r["events_per_second"] for r in rows if (r["learner"], r["loop"]) == (first, of)) / 2
            topics(broker, "half")
            flags = [*LEARNERS[first], "--seed", str(options.seed)]
            with Worker(broker, "half", folder, flags) as worker:
                count = int(rate * options.latency_seconds)
                some = list(records("msgpack", count, DIM, CLASSES, options.seed))
                took = asyncio.run(latency(broker, "half", some, rate))[len(some) // 5 :]
                worker.stop()
        finally:
            broker.wipe()
    p50, p99 = (float(np.quantile(took, q)) for q in (0.5, 0.99))
    table([{name: value for name, value in each.items() if not name.startswith("rates")} for each in rows])
    delay = {"events_per_second": rate, "p50_seconds": p50, "p99_seconds": p99, "events": len(took)}
    table([delay])
    write(options.out, about, options, {"rows": rows, "latency": delay})


if __name__ == "__main__":
    parser = arguments("kafka", __doc__)
    parser.add_argument("--learners", nargs="+", choices=list(LEARNERS), default=list(LEARNERS))
    parser.add_argument("--events", type=int, default=1_200_000, help="in a topic")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn")
    parser.add_argument("--warm", type=int, default=20_000, help="events that each loop does first")
    parser.add_argument("--latency-seconds", type=float, default=10.0, help="of the measuring of latency")
    main(parser.parse_args())
