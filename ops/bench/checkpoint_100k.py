"""Checkpoints of a memory of 100,000 images of 3,072 bytes while learning goes on.

A `Worker` with the real store, keeper, codec and file sink learns an endless stream of random images. The
memory is filled first, without checkpoints; then comes the first whole one; then phases without and with
checkpoints every --seconds take turns. What was written (sizes of new files), how long the learner stood
still for it, and how long steps took are measured from outside.
"""

from __future__ import annotations

import logging
import os
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ops.bench.common import arguments, made_with, say, table, work_dir, write
from streamlearn.bookkeeping import Counts
from streamlearn.checkpoint import CheckpointStore, Manifest
from streamlearn.events import Position, Record, Resume
from streamlearn.flags import load_settings
from streamlearn.histograms import Stopwatch
from streamlearn.keeper import Keeper
from streamlearn.settings import Settings
from streamlearn.state import SegmentedPart, Snapshot
from streamlearn.wiring import make_codec, make_sink
from streamlearn.worker import Worker

SHAPE = (3, 32, 32)
CLASSES = 100


class ImageSource:
    """Random images without an end: noise is what compresses and repeats least."""

    topic = "images"
    ended = False

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._next = 0

    def open(self, resume: Resume) -> None: ...

    def poll(self, max_records: int, timeout: float) -> list[Record]:
        pixels = self._rng.integers(256, size=(max_records, *SHAPE), dtype=np.uint8)
        labels = self._rng.integers(CLASSES, size=max_records).tolist()
        first, self._next = self._next, self._next + max_records
        return [
            Record(b"", Position(self.topic, 0, n), n + 1, fields={"id": f"i{n}", "x": x, "y": y})
            for n, x, y in zip(range(first, self._next), pixels, labels, strict=True)
        ]

    def fingerprint(self, cursors: Mapping[int, int]) -> dict[str, Any]:
        return {}

    def close(self) -> None: ...


class Phases:
    """fill -> first -> (off -> catch_up -> on) x rounds -> end; `turn` is called once a turn of the worker.

    catch_up: the checkpoint that holds all that changed while they were off; it belongs to neither side.
    """

    def __init__(self, options: Namespace) -> None:
        self.name = "fill"
        self.rounds = options.phases
        self.seconds = options.phase_seconds
        self.capacity = options.images
        self.since = time.perf_counter()
        self.records = 0
        self.done: list[dict[str, Any]] = []

    def turn(self, records: int, writing: bool, begun: int) -> None:
        """records: taken so far; writing: a checkpoint is under way; begun: checkpoints in this phase."""
        now = time.perf_counter()
        over = now - self.since >= self.seconds
        if self.name == "fill" and records >= self.capacity:
            self._go("first", now, records)
        elif self.name in ("first", "catch_up") and begun and not writing:
            self._go("off" if self.name == "first" else "on", now, records)
        elif self.name == "off" and over:
            self._go("catch_up", now, records)
        elif self.name == "on" and over and not writing:
            self.rounds -= 1
            self._go("off" if self.rounds else "end", now, records)

    def _go(self, name: str, now: float, records: int) -> None:
        seconds, events = now - self.since, records - self.records
        self.done.append(
            {"phase": self.name, "seconds": seconds, "events": events, "events_per_second": events / seconds}
        )
        say(f"{self.name}: {events:,} events in {seconds:.1f} s")
        self.name, self.since, self.records = name, now, records


class MeasuredStore(CheckpointStore):
    """Notes for every checkpoint how much new there is on disk afterwards and how long writing took."""

    def __init__(self, folder: Path, keep: int) -> None:
        super().__init__(folder, keep)
        self.written: list[dict[str, Any]] = []

    def write(
        self, snapshot: Snapshot, about: Mapping[str, Any], before_manifest: Callable[[], None] | None = None
    ) -> Manifest:
        before = {path.stat().st_ino for path in self._files()}
        begun = time.perf_counter()
        manifest = super().write(snapshot, about, before_manifest)
        seconds = time.perf_counter() - begun
        new = [path.stat() for path in self._files() if path.stat().st_ino not in before]
        memory = snapshot.get("memory")
        segmented = isinstance(memory, SegmentedPart)
        self.written.append(
            {
                "bytes": sum(file.st_size for file in new),
                "disk_bytes": sum(file.st_blocks * 512 for file in new),
                "write_seconds": seconds,
                "segments": memory.count if isinstance(memory, SegmentedPart) else 0,
                "changed_segments": len(memory.changed) if isinstance(memory, SegmentedPart) else 0,
                "whole_bytes": self.size(manifest) if segmented else 0,
            }
        )
        return manifest

    def _files(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file() and path.name != "lock"]


class MeasuredKeeper(Keeper):
    """Lets checkpoints be due only in the phases that have them, and notes every pause."""

    def __init__(self, settings: Settings, store: CheckpointStore, worker: Worker, phases: Phases) -> None:
        super().__init__(settings.checkpoint, store, worker.learner)
        self._worker, self._phases = worker, phases
        self._begun_in_phase = 0
        self.begun: list[dict[str, Any]] = []

    def due(self, counts: Counts) -> bool:
        before = self._phases.name
        self._phases.turn(counts.records, self._writing is not None, self._begun_in_phase)
        if self._phases.name != before:
            self._begun_in_phase = 0
        if self._phases.name == "end":
            self._worker.stop()
        allowed = self._phases.name == "on" or (
            self._phases.name in ("first", "catch_up") and not self._begun_in_phase
        )
        return allowed and super().due(counts)

    def begin(self, about: Mapping[str, Any], sync: Callable[[], None]) -> None:
        paused = self.figures.pause.sum
        super().begin(about, sync)
        self._begun_in_phase += 1
        self.begun.append(
            {
                "phase": self._phases.name,
                "records": self.learner.counts.records,
                "pause_seconds": self.figures.pause.sum - paused,
            }
        )

    @property
    def writing(self) -> bool:
        return self._writing is not None


class StepWatch(Stopwatch):
    """Beside the stages' histograms: every step's duration, and every gap between the ends of two steps."""

    def __init__(self, phases: Phases) -> None:
        super().__init__()
        self.phases = phases
        self.keeper: MeasuredKeeper | None = None
        self.steps: dict[str, list[float]] = {}
        self.gaps: dict[str, list[float]] = {}
        self._predicted = self._ended = time.perf_counter()

    def mark(self, stage: str) -> None:
        super().mark(stage)
        now = self._times[-1]
        if stage == "predict":
            self._predicted = now
        elif stage == "store":
            name = self.phases.name
            if name == "on" and self.keeper is not None:
                name = "on, writing" if self.keeper.writing else "on, idle"
            self.steps.setdefault(name, []).append(now - self._predicted)
            self.gaps.setdefault(name, []).append(now - self._ended)
            self._ended = now


class MeasuredWorker(Worker):
    """Notes how long the loop stood still for a checkpoint in all, the description of the position too."""

    pauses: list[float]

    def _checkpoint(self) -> None:
        begun = time.perf_counter()
        super()._checkpoint()
        self.pauses = [*getattr(self, "pauses", []), time.perf_counter() - begun]


def measure(folder: Path, options: Namespace, flags: list[str]) -> dict[str, Any]:
    words = [
        *("--memory.capacity", str(options.images), "--model.net", options.net),
        *("--checkpoint.seconds", str(options.seconds), "--checkpoint.folder", str(folder / "state")),
        *("--sink.predictions", str(folder / "predictions.jsonl"), "--seed", str(options.seed), *flags),
    ]
    settings = load_settings(words, {})
    phases = Phases(options)
    store = MeasuredStore(folder / "state", settings.checkpoint.keep)
    source = ImageSource(options.seed)
    worker = MeasuredWorker(settings, source, make_sink(settings, source), make_codec(settings), store)
    keeper = MeasuredKeeper(settings, store, worker, phases)
    watch = StepWatch(phases)
    watch.keeper = keeper
    worker.keeper.close()
    worker.keeper = worker.instruments.keeper = keeper
    worker.instruments.stopwatch = watch
    store.lock()
    try:
        status = worker.run()
    finally:
        store.unlock()
    if status or keeper.problem is not None:
        raise SystemExit(f"the worker ended with status {status}: {keeper.problem}")
    checkpoints = [
        {**begun, "whole_pause_seconds": pause, **written}
        for begun, pause, written in zip(keeper.begun, worker.pauses, store.written, strict=True)
    ]
    for before, one in zip([None, *checkpoints], checkpoints, strict=False):
        one["events_since"] = one["records"] - (before["records"] if before else 0)
    return {
        "settings": words[:6] + flags,
        "phases": phases.done,
        "checkpoints": checkpoints,
        "steps": [_quantiles(name, watch.steps[name], watch.gaps[name]) for name in watch.steps],
    }


def _quantiles(name: str, steps: list[float], gaps: list[float]) -> dict[str, Any]:
    """Durations of steps and gaps of one phase, seconds."""
    return {
        "phase": name,
        "steps": len(steps),
        "step_p50": float(np.quantile(steps, 0.5)),
        "step_p99": float(np.quantile(steps, 0.99)),
        "step_max": max(steps),
        "gap_p50": float(np.quantile(gaps, 0.5)),
        "gap_p99": float(np.quantile(gaps, 0.99)),
        "gap_max": max(gaps),
    }


def summary(found: Mapping[str, Any]) -> dict[str, Any]:
    """The figures to quote."""
    first = [one for one in found["checkpoints"] if one["phase"] == "first"]
    later = [one for one in found["checkpoints"] if one["phase"] in ("catch_up", "on")]
    rate = {}
    for name in ("off", "on"):
        phases = [one for one in found["phases"] if one["phase"] == name]
        rate[name] = sum(one["events"] for one in phases) / sum(one["seconds"] for one in phases)
    regular = [one for one in later if one["phase"] == "on"]
    return {
        "first_bytes": first[0]["bytes"],
        "first_pause_seconds": first[0]["whole_pause_seconds"],
        "first_write_seconds": first[0]["write_seconds"],
        "later_checkpoints": len(regular),
        "later_bytes_median": float(np.median([one["bytes"] for one in regular])) if regular else None,
        "later_bytes_most": max((one["bytes"] for one in regular), default=None),
        "later_events_since_median": (
            float(np.median([one["events_since"] for one in regular])) if regular else None
        ),
        "longest_pause_seconds": max(one["whole_pause_seconds"] for one in first + later),
        "longest_regular_pause_seconds": max((one["whole_pause_seconds"] for one in regular), default=None),
        "longest_write_seconds": max(one["write_seconds"] for one in first + later),
        "events_per_second_without": rate["off"],
        "events_per_second_with": rate["on"],
        "throughput_ratio": rate["on"] / rate["off"],
    }


def main() -> None:
    parser = arguments("checkpoint_100k", __doc__)
    parser.add_argument("--images", type=int, default=100_000, help="in memory")
    parser.add_argument("--net", default="mlp", help="model.net")
    parser.add_argument("--seconds", type=float, default=10.0, help="between checkpoints")
    parser.add_argument("--phase-seconds", type=float, default=40.0, help="of a phase")
    parser.add_argument("--phases", type=int, default=2, help="pairs of phases")
    options, flags = parser.parse_known_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    logging.basicConfig(level=logging.WARNING)
    about = made_with()
    with work_dir(options.work_dir) as folder:
        found = measure(folder, options, flags)
    shown = [
        {
            "checkpoint": one["phase"],
            "events since": one["events_since"],
            "segments": f"{one['changed_segments']}/{one['segments']}",
            "MB written": round(one["bytes"] / 1e6, 2),
            "pause ms": round(one["whole_pause_seconds"] * 1e3, 2),
            "write s": round(one["write_seconds"], 3),
        }
        for one in found["checkpoints"]
    ]
    table(shown)
    print("durations of steps, and gaps between the ends of two of them, in milliseconds")
    table(
        [
            {name: round(v * 1e3, 2) if isinstance(v, float) else v for name, v in row.items()}
            for row in found["steps"]
        ]
    )
    table([{"figure": name, "value": value} for name, value in summary(found).items()])
    write(options.out, about, options, {"summary": summary(found), **found})


if __name__ == "__main__":
    main()
