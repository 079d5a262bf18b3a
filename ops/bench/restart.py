"""How long nothing is learned after kill -9: of a worker that is started again, and with one that stands by.

A producer sends events at a steady rate, a read_committed reader waits for the first prediction of the
new epoch: outputs that were visible before are left out, so its event is the first new one. The way there,
by what the worker says of itself: its page answers (interpreter and imports; the session of the dead one,
for a standby), it is ready (group, fence, checkpoint loaded), its first new prediction is seen (what lies
between checkpoint and kill is learned again).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import threading
import time
from argparse import Namespace
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from ops.bench.common import arguments, made_with, say, table, work_dir, write
from ops.bench.kafka import CLASSES, DIM, started, topics
from ops.bench.stream import records
from ops.kafka.broker import Broker

DEADLINE = 120.0
LOOK_SECONDS = 0.02


class Member:
    """A worker of the group."""

    def __init__(self, broker: Broker, topic: str, folder: Path, flags: list[str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = (folder / f"{self.port}.log").open("w+")
        self.process = started(broker, topic, folder, flags, self.port, self.log)

    def status(self) -> dict[str, Any] | None:
        """None: it doesn't answer yet."""
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/status", timeout=10) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except (URLError, ConnectionError):
            return None

    def until(self, *roles: str, ready: bool = False) -> float:
        """When it answers, has one of the roles (of none: any), and is ready (perf_counter)."""
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            found = self.status()
            if found is not None and (not roles or found["role"] in roles) and found["ready"] >= ready:
                return time.perf_counter()
            if self.process.poll() is not None:
                break
            time.sleep(LOOK_SECONDS)
        self.log.seek(0)
        raise SystemExit(f"the worker didn't get there:\n{self.log.read()}")

    def kill(self) -> None:
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.log.close()


class Traffic:
    """Sends events for as long as it is there, and looks at the predictions."""

    def __init__(self, broker: Broker, topic: str, values: list[bytes], rate: float) -> None:
        self._producer = KafkaProducer(bootstrap_servers=broker.address)
        self._consumer = KafkaConsumer(
            bootstrap_servers=broker.address, isolation_level="read_committed", auto_offset_reset="earliest"
        )
        self._place = TopicPartition(f"{topic}.predictions", 0)
        self._consumer.assign([self._place])
        self._topic, self._values, self._rate = topic, values, rate
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def _send(self) -> None:
        begun = time.monotonic()
        for i, value in enumerate(self._values):
            if self._done.wait(max(0.0, begun + i / self._rate - time.monotonic())):
                return
            self._producer.send(self._topic, value, partition=0)

    def first_of(self, epoch: int) -> float:
        """When the first prediction of that epoch, or of a later one, is seen (perf_counter)."""
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            for messages in self._consumer.poll(timeout_ms=int(LOOK_SECONDS * 1000)).values():
                if json.loads(messages[-1].value)["epoch"] >= epoch:
                    return time.perf_counter()
        raise SystemExit(f"no prediction of epoch {epoch} within {DEADLINE:g} s")

    def close(self) -> None:
        self._done.set()
        self._thread.join()
        self._producer.close()
        self._consumer.close()


def stop(
    broker: Broker, folder: Path, number: int, options: Namespace, standing_by: bool
) -> dict[str, float]:
    """One kill; seconds from there on."""
    topic = f"{'standby' if standing_by else 'again'}-{number}"
    topics(broker, topic)
    flags = ["--seed", str(options.seed), "--checkpoint.seconds", str(options.checkpoint_seconds)]
    values = list(records("msgpack", int(options.rate * DEADLINE), DIM, CLASSES, options.seed))
    traffic, members = Traffic(broker, topic, values, options.rate), [Member(broker, topic, folder, flags)]
    try:
        members[0].until("learner", ready=True)
        traffic.first_of(1)
        if standing_by:
            members.append(Member(broker, topic, folder, flags))
            members[1].until("standby", ready=True)
        # Killed just before a checkpoint, at worst: as much as one holds must be learned again.
        time.sleep(options.checkpoint_seconds * 1.9)
        begun = time.perf_counter()
        members[0].kill()
        if not standing_by:
            members.append(Member(broker, topic, folder, flags))
        # A standby that was chosen stands by no more: it starts.
        answers = members[1].until(*(("starting", "learner") if standing_by else ()))
        ready = members[1].until("learner", ready=True)
        seen = traffic.first_of(2)
    finally:
        traffic.close()
        for member in members:
            member.kill()
    return {
        "answers_or_is_chosen": answers - begun,
        "ready": ready - answers,
        "first_prediction_seen": seen - ready,
        "in_all": seen - begun,
    }


def main(options: Namespace) -> None:
    about = made_with()
    found: dict[str, list[dict[str, float]]] = {"started again": [], "standby takes over": []}
    with work_dir(options.work_dir) as folder:
        broker = Broker(folder / "broker")
        broker.start()
        try:
            for number in range(options.rounds):
                for name, of in found.items():
                    of.append(stop(broker, folder, number, options, name == "standby takes over"))
                    say(f"round {number + 1}: {name}: {of[-1]['in_all']:.2f} s")
        finally:
            broker.wipe()
    rows = [
        {"after kill -9": name, **{part: statistics.median(one[part] for one in of) for part in of[0]}}
        for name, of in found.items()
    ]
    table(rows)
    write(options.out, about, options, {"rows": rows, "rounds": found})


if __name__ == "__main__":
    parser = arguments("restart", __doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rate", type=float, default=200.0, help="events a second")
    parser.add_argument("--checkpoint-seconds", type=float, default=5.0)
    main(parser.parse_args())
