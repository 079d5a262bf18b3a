"""What it costs to be watched: a scrape at few and at many classes, and events per second with and without.

A scrape: a learner that knows so many classes, asked over HTTP again and again: milliseconds, bytes, series.
The whole: `streamlearn run` over a file, with exporter and continual evaluation off and on, in turns; while
the exporter is on, /metrics is fetched every --every seconds, as Prometheus would.
"""

from __future__ import annotations

import statistics
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np

from ops.bench.common import arguments, made_with, say, streamlearn, table, work_dir, write
from ops.bench.million import MATCHED
from ops.bench.stream import write_file
from streamlearn import Learner
from streamlearn.checkpoint import CheckpointStore
from streamlearn.events import Event
from streamlearn.exporter import Exporter
from streamlearn.group import Alone
from streamlearn.instruments import Instruments
from streamlearn.keeper import Keeper
from streamlearn.observe import Vitals
from streamlearn.settings import CheckpointSettings, Settings

DIM, CLASSES = 64, 10
KINDS = {
    "text": {},
    "text, gzip": {"Accept-Encoding": "gzip"},
    "OpenMetrics": {"Accept": "application/openmetrics-text; version=1.0.0"},
}
ASKED = 50
EVALUATION = ("--evaluation.held_out", "0.02", "--memory.capacity", "2000")
LOOPS = {
    "neither": ("--exporter.enabled", "false", "--evaluation.held_out", "0"),
    "exporter": ("--evaluation.held_out", "0"),
    "evaluation": ("--exporter.enabled", "false", *EVALUATION),
    "both": EVALUATION,
}


def learner_of(classes: int, seed: int) -> Learner:
    """One that knows so many classes, and has seen the newest hundred often."""
    settings = Settings.model_validate(
        {
            "seed": seed,
            "codec": {"max_classes": 2 * classes},
            "learning": {"stream_batch": 500 if classes > 1000 else 10},
            "memory": {"capacity": 5000},
            "evaluation": {"held_out": 0.1},
        }
    )
    labels = [*range(classes), *(c for _ in range(30) for c in range(max(0, classes - 100), classes))]
    x = np.random.default_rng(seed).normal(size=(len(labels), 16)).astype(np.float32)
    learner = Learner(settings)
    learner.learn([Event(f"e{i}", x[i], f"class {label}") for i, label in enumerate(labels)])
    return learner


def scrapes(learner: Learner, folder: Path) -> list[dict[str, Any]]:
    vitals = Vitals(60)
    keeper = Keeper(CheckpointSettings(), CheckpointStore(folder), learner)
    instruments = Instruments(learner, Alone(), keeper, vitals, curve=False)
    instruments.observe("topic", {0: 7}, epoch=1, paused=False)
    begun = time.perf_counter()
    for _ in range(ASKED):
        instruments.observe("topic", {0: 7}, epoch=1, paused=False)
    observing = (time.perf_counter() - begun) / ASKED
    exporter = Exporter(vitals, "127.0.0.1", 0)
    url = exporter.start()
    rows = []
    try:
        for kind, headers in KINDS.items():
            took, body = [], b""
            for _ in range(ASKED):
                begun = time.perf_counter()
                with urlopen(Request(f"{url}/metrics", headers=headers), timeout=30) as answer:
                    body = answer.read()
                took.append((time.perf_counter() - begun) * 1e3)
            lines = body.splitlines() if "gzip" not in kind else []
            rows.append(
                {
                    "classes": learner.model.classes,
                    "format": kind,
                    "series": sum(not line.startswith(b"#") for line in lines) or "",
                    "bytes": len(body),
                    "median_ms": statistics.median(took),
                    "longest_ms": max(took),
                    "observation_ms": observing * 1e3,
                }
            )
    finally:
        exporter.close()
    return rows


def rounds(path: Path, folder: Path, options: Namespace) -> list[dict[str, Any]]:
    rates: dict[str, list[float]] = {name: [] for name in LOOPS}
    cpu: dict[str, list[float]] = {name: [] for name in LOOPS}
    method: Sequence[str] = () if options.default else MATCHED
    for number in range(options.rounds):
        for name, flags in LOOPS.items():
            run = streamlearn(
                folder / f"{name}{number}",
                ["--source.path", str(path), "--seed", str(options.seed), *method, *flags],
                sample="exporter.enabled" not in " ".join(flags),
                page="/metrics",
                every=options.every,
            )
            rates[name].append(options.events / run.seconds)
            cpu[name].append(run.cpu_seconds / options.events * 1e6)
            say(f"round {number + 1}: {name}: {rates[name][-1]:,.0f} events/s, {cpu[name][-1]:.1f} us each")
    return [
        {
            "watched_by": name,
            "events_per_second": statistics.median(rates[name]),
            "to_neither": statistics.median(
                a / b for a, b in zip(rates[name], rates["neither"], strict=True)
            ),
            "cpu_us_per_event": statistics.median(cpu[name]),
            "cpu_to_neither": statistics.median(
                a / b for a, b in zip(cpu[name], cpu["neither"], strict=True)
            ),
        }
        for name in LOOPS
    ]


def main(options: Namespace) -> None:
    about = made_with()
    asked: list[dict[str, Any]] = []
    with work_dir(options.work_dir) as folder:
        for classes in options.classes:
            say(f"a learner of {classes:,} classes")
            asked += scrapes(learner_of(classes, options.seed), folder / f"state{classes}")
        table(asked)
        rows = []
        if options.rounds:
            path = folder / "events.msgpack"
            write_file(path, "msgpack", options.events, DIM, CLASSES, options.seed)
            rows = rounds(path, folder, options)
            table(rows)
    write(options.out, about, options, {"scrapes": asked, "rounds": rows})


if __name__ == "__main__":
    parser = arguments("observing", __doc__)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 10_000])
    parser.add_argument("--events", type=int, default=50_000, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two scrapes")
    parser.add_argument("--default", action="store_true", help="with the default settings, which cost more")
    main(parser.parse_args())
