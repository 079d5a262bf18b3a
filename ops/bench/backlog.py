"""A worker that starts millions of events behind: does the lag fall steadily, and does memory stay flat?

Fills a topic with events of 64 numbers as msgpack (the first hundred thousand of the stream, again and
again), starts `streamlearn run` on it with transactions on, and watches lag, queues and resident memory
until it has worked off as many events as asked for. It is stopped there.
"""

from __future__ import annotations

import asyncio
import time
from argparse import Namespace
from itertools import cycle, islice, pairwise
from pathlib import Path
from typing import Any

from ops.bench.common import (
    arguments,
    cpu_seconds,
    family,
    made_with,
    resident_bytes,
    say,
    table,
    work_dir,
    write,
)
from ops.bench.kafka import CLASSES, DIM, Worker, fill, topics
from ops.bench.million import MATCHED, MOST_GROWTH
from ops.bench.stream import records
from ops.kafka.broker import Broker

DISTINCT = 100_000
SAMPLE_SECONDS = 1.0
LONGEST_PAUSE = 30.0
"""Seconds without an event after which the worker counts as stuck."""
WARM_EVENTS = 100_000
TOPIC = "backlog"


def watch(worker: Worker, fall: int) -> list[dict[str, Any]]:
    """Samples until `fall` events have been worked off. SystemExit if nothing moves for LONGEST_PAUSE."""
    samples: list[dict[str, Any]] = []
    begun = moved = time.monotonic()
    pid = worker.process.pid
    while True:
        status, now = worker.status(), time.monotonic()
        lag = sum(sum(partitions.values()) for topic, partitions in status["lag"].items() if topic == TOPIC)
        samples.append(
            {
                "seconds": round(now - begun, 2),
                "records": status["records"],
                "lag": lag,
                "resident_bytes": sum(map(resident_bytes, family(pid))),
                "cpu_seconds": cpu_seconds(pid),
                "queued_records": status["queues"]["records"],
                "queued_outputs": status["queues"]["outputs"],
            }
        )
        if len(samples) == 1 or samples[-1]["records"] > samples[-2]["records"]:
            moved = now
        if now - moved > LONGEST_PAUSE:
            raise SystemExit(f"nothing was learned for {now - moved:.0f} s, at {samples[-1]}")
        if samples[-1]["records"] >= fall:
            return samples
        if len(samples) % 30 == 0:
            say(f"{samples[-1]['records']:,} records, lag {lag:,}")
        time.sleep(SAMPLE_SECONDS)


def summary(samples: list[dict[str, Any]], events: int) -> dict[str, Any]:
    """What the samples say, from `WARM_EVENTS` (or a tenth of all) on."""
    warm_at = min(WARM_EVENTS, samples[-1]["records"] // 10)
    warm = [sample for sample in samples if sample["records"] >= warm_at]
    first, last = warm[0], warm[-1]
    seconds, learned = last["seconds"] - first["seconds"], last["records"] - first["records"]
    known = [sample["lag"] for sample in samples if sample["lag"]]
    still = longest = 0.0
    for before, after in pairwise(samples):
        still = 0.0 if after["records"] > before["records"] else still + after["seconds"] - before["seconds"]
        longest = max(longest, still)
    return {
        "backlog": events,
        "worked_off": last["records"],
        "lag_fell_by": known[0] - known[-1] if known else 0,
        "lag_ever_rose": any(b > a for a, b in pairwise(known)),
        "events_per_second": learned / seconds,
        "cpu_us_per_event": (last["cpu_seconds"] - first["cpu_seconds"]) / learned * 1e6,
        "longest_pause_seconds": longest,
        "warm_bytes": first["resident_bytes"],
        "most_bytes": max(sample["resident_bytes"] for sample in warm),
        "last_bytes": last["resident_bytes"],
        "growth_bytes": max(sample["resident_bytes"] for sample in warm) - first["resident_bytes"],
        "most_queued_records": max(sample["queued_records"] for sample in samples),
    }


def main(options: Namespace) -> None:
    about = made_with()
    flags = [*([] if options.default else MATCHED), "--seed", str(options.seed)]
    with work_dir(options.work_dir) as folder:
        broker = Broker(Path(folder) / "broker")
        broker.start()
        try:
            topics(broker, TOPIC)
            say(f"filling a topic with {options.events:,} events")
            begun = time.monotonic()
            distinct = list(records("msgpack", min(options.events, DISTINCT), DIM, CLASSES, options.seed))
            asyncio.run(fill(broker, TOPIC, islice(cycle(distinct), options.events)))
            say(f"filled in {time.monotonic() - begun:.0f} s")
            with Worker(broker, TOPIC, folder, flags) as worker:
                samples = watch(worker, options.fall)
                worker.stop()
        finally:
            broker.wipe()
    found = summary(samples, options.events)
    table([{"figure": name, "value": value} for name, value in found.items()])
    print(f"memory grew by less than {MOST_GROWTH >> 20} MiB: {found['growth_bytes'] < MOST_GROWTH}\n")
    names = list(samples[0])
    rows = [[sample[name] for name in names] for sample in samples[:: max(1, len(samples) // 200)]]
    write(options.out, about, options, {"summary": found, "sampled": names, "samples": rows})


if __name__ == "__main__":
    parser = arguments("backlog", __doc__)
    parser.add_argument("--events", type=int, default=5_000_000, help="that wait in the topic")
    parser.add_argument("--fall", type=int, default=1_000_000, help="that are worked off")
    parser.add_argument("--default", action="store_true", help="with the default settings, which cost more")
    main(parser.parse_args())
