"""One run of a benchmark, in a process of its own: `python -m streamlearn.bench_runs`.

It reads its task from standard input, one line of JSON, and writes lines of JSON to standard output: how
far it is, and at last the result or what went wrong. The learner is the worker's; from time to time it is
asked about examples that it never learns.
"""

from __future__ import annotations

import hashlib
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch

from streamlearn.continual import Continual
from streamlearn.events import Array, ConnectorError, Event, Resume
from streamlearn.learner import OnlineLearner
from streamlearn.nets import NetError
from streamlearn.report import versions
from streamlearn.run import ALLOCATION, make_codec, make_source
from streamlearn.settings import Settings, SettingsError

LABELS_IN_NAME = 4
"""Labels that the name of an evaluation set spells out."""
CURVE = (
    "step events classes accuracy_seen_classes worst_case_accuracy average_accuracy forgetting min_accuracy "
    "prequential_cumulative prequential_window"
).split()
"""Columns of a curve, before those of the sets."""

Tell = Callable[[int, int], None]


class Examination:
    """The groups of classes, their test examples, and what the learner knew of them at every evaluation.

    events: the whole stream; its classes are taken `groups` at a time, by first appearance. tests: the
    examples to predict; the first `per_class` of each class make the subset for the curves.
    """

    def __init__(self, events: Sequence[Event], tests: Sequence[Event], groups: int, per_class: int) -> None:
        self.order = list(dict.fromkeys(str(event.y) for event in events))
        self.group = {label: place // groups for place, label in enumerate(self.order)}
        self.names = [
            _name(self.order[start : start + groups]) for start in range(0, len(self.order), groups)
        ]
        self.tests = [event for event in tests if str(event.y) in self.group]
        if missing := set(self.order) - {str(event.y) for event in self.tests}:
            raise SettingsError(f"class {min(missing)!r} of the stream has no test examples")
        taken = dict.fromkeys(self.order, 0)
        self.subset: list[Event] = []
        for event in self.tests:
            if taken[str(event.y)] < per_class:
                taken[str(event.y)] += 1
                self.subset.append(event)
        self.seen: set[str] = set()
        self.continual = Continual()
        self.curve: list[list[float | None]] = []
        self.seconds = 0.0
        self._at = -1

    def new_groups(self, events: Sequence[Event]) -> list[int]:
        """The groups of which `events` hold the first event."""
        before = {self.group[label] for label in self.seen}
        return sorted({self.group[str(event.y)] for event in events} - before)

    def evaluate(self, learner: OnlineLearner, events: int) -> None:
        """Ask about the subset, of the classes seen so far; nothing if no step came since the last time."""
        if learner.counts.steps == self._at or not self.seen:
            return
        self._at = learner.counts.steps
        begun = time.perf_counter()
        asked = [event for event in self.subset if str(event.y) in self.seen]
        by_class = accuracy_by_class(learner, asked)
        fixed = [math.nan] * (1 + max(self.group[label] for label in self.seen))
        for number in range(len(fixed)):
            values = [value for label, value in by_class.items() if self.group[label] == number]
            fixed[number] = _mean(values)
        self.continual.record(self._at, events, fixed, None)
        found = self.continual.figures()
        prequential = learner.prequential
        point = [
            self._at,
            events,
            len(self.seen),
            _mean(list(by_class.values())),
            found.worst_case_accuracy,
            found.average_accuracy,
            found.forgetting,
            found.min_accuracy,
            prequential.figures("cumulative").accuracy,
            prequential.figures("window").accuracy,
            *fixed,
        ]
        self.curve.append(
            [None if value is None or math.isnan(value) else round(value, 5) for value in point]
        )
        self.seconds += time.perf_counter() - begun


def _name(labels: Sequence[str]) -> str:
    more = len(labels) - LABELS_IN_NAME
    return " + ".join(labels[:LABELS_IN_NAME]) + (f" + {more} more" if more > 0 else "")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def accuracy_by_class(learner: OnlineLearner, events: Sequence[Event]) -> dict[str, float]:
    """Share of right answers among the events of each class, by what the learner serves."""
    right: dict[str, list[bool]] = {}
    for event, answer in zip(events, learner.predict(events), strict=True):
        right.setdefault(str(event.y), []).append(answer.label == event.y)
    return {label: _mean(hits) for label, hits in right.items()}


def read_events(settings: Settings, **source: Any) -> list[Event]:
    """All events of the settings' source, without their records. `source`: what differs in its settings."""
    differing = settings.source.model_copy(update=source)
    reader, codec = make_source(settings.model_copy(update={"source": differing})), make_codec(settings)
    reader.open(Resume())
    found: list[Event] = []
    while not reader.ended:
        for item in codec.decode(reader.poll(1024, 0.0)):
            if not isinstance(item, Event):
                raise SettingsError(f"{reader.topic}: {item.reason}: {item.detail}")
            item.record = None
            found.append(item)
    reader.close()
    return found


def bench_run(settings: Settings, evaluation: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Learn the stream once and return figures, what was measured, and the curve."""
    events = read_events(settings)
    options = {name: n for name, n in settings.source.options.items() if name == "validation"}
    tests = read_events(settings, split=evaluation["split"], order="as_is", options=options)
    exam = Examination(events, tests, settings.source.groups, evaluation["test_per_class"])
    learner = OnlineLearner(settings)
    seconds, processor = _learn(learner, events, exam, evaluation["interval"], tell)
    by_class = accuracy_by_class(learner, exam.tests)
    tests_of = {label: sum(event.y == label for event in exam.tests) for label in exam.order}
    final = sum(by_class[label] * tests_of[label] for label in exam.order) / len(exam.tests)
    return {
        "figures": {
            "final_accuracy": final,
            "final_accuracy_by_class": {label: by_class[label] for label in exam.order},
            **continual_figures(exam.continual),
            **learner_figures(learner),
            "events": len(events),
            "sets": exam.names,
            "tests": len(exam.tests),
        },
        "stream_sha256": _digest(events),
        "curve": {"columns": [*CURVE, *(f"accuracy_{name}" for name in exam.names)], "rows": exam.curve},
        "measured": {
            "seconds": round(seconds, 3),
            "cpu_seconds": round(processor, 3),
            "evaluation_seconds": round(exam.seconds, 3),
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        },
    }


def _learn(
    learner: OnlineLearner, events: Sequence[Event], exam: Examination, interval: int, tell: Tell
) -> tuple[float, float]:
    """Give all events to the learner, with evaluations between; seconds and CPU seconds of the learning.

    Evaluations: every `interval` steps, before the first event of a new group is learned, and after the
    step that learns it. How the events are cut into calls of `learn` changes no bit of the learner.
    """
    seconds = processor = 0.0

    def feed(start: int, end: int) -> int:
        nonlocal seconds, processor
        part = events[start:end]
        if new := exam.new_groups(part):
            exam.continual.shift(learner.counts.steps, start, [exam.names[i] for i in new])
        wall, own = time.perf_counter(), time.process_time()
        learner.learn(part)
        if end == len(events):
            learner.flush()
        seconds += time.perf_counter() - wall
        processor += time.process_time() - own
        exam.seen.update(str(event.y) for event in part)
        return end

    def missing() -> int:
        """Events that complete the next step, if none of them is held out."""
        waiting = learner.pending if learner.settled else at
        return learner.batch - waiting

    at, due, counts = 0, interval, learner.counts
    while at < len(events):
        steps = counts.steps
        if exam.new_groups(events[at : at + 1]):
            exam.evaluate(learner, at)
            while at < len(events) and counts.steps == steps:
                at = feed(at, min(at + missing(), len(events)))
            exam.evaluate(learner, at)
        else:
            # Up to the step after which an evaluation is due, or a new group.
            end = min(at + missing() + (due - steps - 1) * learner.batch, len(events))
            at = feed(at, next((i for i in range(at, end) if exam.new_groups(events[i : i + 1])), end))
        if counts.steps >= due or at == len(events):
            exam.evaluate(learner, at)
            due = counts.steps + interval
        tell(at, len(events))
    return seconds, processor


def continual_figures(continual: Continual) -> dict[str, Any]:
    """The figures of continual evaluation at the end of the stream, and every shift."""
    found = continual.figures()
    gaps = [shift.gap for shift in continual.shifts if shift.gap is not None]
    return {
        "average_accuracy": found.average_accuracy,
        "forgetting": found.forgetting,
        "min_accuracy": found.min_accuracy,
        "worst_case_accuracy": found.worst_case_accuracy,
        "windowed_forgetting": {str(w): value for w, value in found.windowed_forgetting.items()},
        "windowed_plasticity": {str(w): value for w, value in found.windowed_plasticity.items()},
        "stability_gap": sum(gaps) / len(gaps) if gaps else None,
        "stability_gap_last": found.stability_gap,
        "shifts": [asdict(shift) | {"gap": shift.gap} for shift in continual.shifts],
        "evaluations": found.evaluations,
    }


def learner_figures(learner: OnlineLearner) -> dict[str, Any]:
    """Counts, prequential figures, and the memory that the learner was allowed and took."""
    counts, memory = learner.counts, learner.memory
    row = memory.x[0].numel() * memory.x.element_size() + 8
    return {
        "prequential_accuracy": learner.prequential.figures("cumulative").accuracy,
        "prequential_window": learner.prequential.figures("window").accuracy,
        "images_per_event": counts.images / max(1, counts.learned),
        "steps": counts.steps,
        "skipped_steps": counts.skipped_steps,
        "learned": counts.learned,
        "rejected": sum(counts.rejected.values()),
        "classes": learner.model.classes,
        "parameters": learner.model.parameters,
        "memory_capacity": memory.capacity,
        "memory_examples": memory.size,
        "memory_bytes": memory.capacity * row,
    }


def _digest(events: Sequence[Event]) -> str:
    """SHA-256 of the stream's ids and labels in order, and of the features of its first 64 events."""
    digest = hashlib.sha256("\n".join(f"{event.id}\t{event.y}" for event in events).encode())
    for event in events[:64]:
        x: Array = np.ascontiguousarray(event.x)
        digest.update(x.tobytes())
    return digest.hexdigest()[:16]


def code() -> str:
    """SHA-256 of the modules of ours that this process has loaded: 12 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, module in sorted(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if path and name.partition(".")[0] in ("streamlearn", "connectors") and name != "streamlearn.cli":
            digest.update(name.encode() + b"\0" + Path(path).read_bytes())
    return digest.hexdigest()[:12]


def main() -> int:
    """Do the task that standard input holds. Returns the exit status."""
    parent = os.getppid()
    task = orjson.loads(sys.stdin.buffer.readline())

    def say(what: dict[str, Any]) -> None:
        sys.stdout.buffer.write(orjson.dumps(what) + b"\n")
        sys.stdout.buffer.flush()

    def tell(done: int, of: int) -> None:
        if os.getppid() != parent:
            os._exit(1)  # whoever wanted the result has been killed
        say({"done": done, "of": of})

    try:
        settings = Settings.model_validate(task["settings"])
        if settings.model.device == "cpu" or not torch.cuda.is_available():
            torch.use_deterministic_algorithms(True)
        result = bench_run(settings, task["evaluation"], tell)
        result["measured"]["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
        say({"result": {**result, "versions": versions() | {"code": code()}}})
    except (SettingsError, ConnectorError, NetError) as error:
        say({"failed": str(error), "every_run": True})
    except Exception as error:
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in ALLOCATION):
            raise
        say(
            {"failed": f"there is not enough memory ({str(error).partition(chr(10))[0]})", "every_run": False}
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
