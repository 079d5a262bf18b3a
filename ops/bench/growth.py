"""Does the cost of an event grow: with classes, the size of the memory, the length of the stream, partitions?

The learner on events in memory, of W1's shape and settings or with the default's; partitions: `streamlearn
run` from a topic of msgpack. Processor time for an event, medians over the rounds, which take turns, and its
ratio to the smallest of its kind.
"""

from __future__ import annotations

import asyncio
import statistics
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from ops.bench.common import arguments, loop, made_with, say, table, work_dir, write
from ops.bench.kafka import CLASSES, DIM, LEARNERS, PATIENT, FromKafka, fill, not_used_up, together, topics
from ops.bench.stream import records
from ops.bench.turns import Contestant, contest
from ops.kafka.broker import Broker

KINDS = ("classes", "memory", "length", "partitions")
WARM = 3
"""Events a class before the measuring: 95 in a hundred of the classes are then known."""


def alone(kind: str, size: int, options: Namespace, flags: Sequence[str]) -> float:
    """Microseconds an event of the learner fed from memory."""
    # What is measured comes once the classes are known, or the memory is full.
    marks = {"classes": WARM * size + 2 * options.window, "memory": size + 2 * options.window, "length": size}
    sizes = {"classes": ["--classes", str(size)], "memory": ["--memory.capacity", str(size)], "length": []}
    mark = str(marks[kind])
    common = ["--window", str(options.window), "--seed", str(options.seed), *flags]
    found = loop("growth_loop", *common, "--marks", mark, *sizes[kind])
    return float(found["us_per_event"][mark])


def over_kafka(broker: Broker, folder: Path, options: Namespace) -> dict[int, list[float]]:
    """Microseconds an event of `streamlearn run` from so many partitions: workers that take turns."""
    assert broker.pid is not None
    values = list(records("msgpack", options.events, DIM, CLASSES, options.seed))
    contestants: dict[str, Contestant] = {}
    with ExitStack() as stack:
        for size in options.partitions:
            topics(broker, f"parts{size}", size)
            for partition in range(size):
                asyncio.run(fill(broker, f"parts{size}", values[partition::size], partition))
        flags = ["--seed", str(options.seed), *PATIENT]
        starts = [partial(FromKafka, broker, f"parts{n}", folder, flags) for n in options.partitions]
        workers = together(starts)
        for size, one in zip(options.partitions, workers, strict=True):
            contestants[str(size)] = stack.enter_context(one)
        found = contest(contestants, options.turns, 1.0, options.events // 20, broker.pid)
        not_used_up(workers, options.events)
    return {int(size): turns.cpu for size, turns in found.items()}


def main() -> None:
    parser = arguments("growth", __doc__)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100, 1_000, 10_000])
    parser.add_argument("--memory", type=int, nargs="+", default=[200, 2_000, 20_000, 100_000])
    parser.add_argument("--length", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--partitions", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--events", type=int, default=600_000, help="in a topic")
    parser.add_argument("--turns", type=int, default=15, help="of a second, of each worker on Kafka")
    parser.add_argument("--window", type=int, default=5_000, help="events that are timed; a multiple of 500")
    parser.add_argument("--rounds", type=int, default=3, help="of all but the partitions")
    options = parser.parse_args()
    about = made_with()
    found: dict[tuple[str, str, int], list[float]] = {}

    def note(learner: str, kind: str, size: int, us: float) -> None:
        found.setdefault((learner, kind, size), []).append(us)
        say(f"{learner}: {kind} {size:,}: {us:.1f} us an event")

    with work_dir(options.work_dir) as folder:
        for _ in range(options.rounds):
            for kind in (kind for kind in KINDS[:3] if kind in options.kinds):
                for size in getattr(options, kind):
                    for learner, flags in LEARNERS.items():
                        note(learner, kind, size, alone(kind, size, options, flags))
        if "partitions" in options.kinds:
            broker = Broker(folder / "broker")
            broker.start()
            try:
                for size, took in over_kafka(broker, folder, options).items():
                    for us in took:
                        note("default", "partitions", size, us)
            finally:
                broker.wipe()
    rows: list[dict[str, Any]] = []
    for (learner, kind, size), took in found.items():
        us = statistics.median(took)
        least = statistics.median(found[learner, kind, getattr(options, kind)[0]])
        rows.append(
            {"learner": learner, "kind": kind, "size": size, "us_per_event": us, "to_smallest": us / least}
        )
    rows.sort(key=lambda row: (row["learner"], KINDS.index(row["kind"]), row["size"]))
    table(rows)
    write(options.out, about, options, {"rows": rows})


if __name__ == "__main__":
    main()
