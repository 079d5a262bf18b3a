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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch

from streamlearn.continual import Continual
from streamlearn.events import Array, ConnectorError, Event
from streamlearn.exam import make_exam
from streamlearn.histograms import Stopwatch
from streamlearn.learner import OnlineLearner
from streamlearn.observe import observe
from streamlearn.report import continual_figures, nearest_pairs, versions
from streamlearn.run import ALLOCATION, OF_SETTINGS
from streamlearn.settings import Settings, SettingsError
from streamlearn.transfer import Transfer, transfer
from streamlearn.wiring import read_events, read_tests

LABELS_IN_NAME = 4
"""Labels that the name of an evaluation set spells out."""
CURVE = (
    "step events classes accuracy_seen_classes worst_case_accuracy average_accuracy forgetting min_accuracy "
    "prequential_cumulative prequential_window"
).split()
"""Columns of a curve, before those of the sets."""

OF_PREDICTORS = ("worst_case_accuracy", "forgetting", "stability_gap")
"""Of the continual figures, those that each predictor has beside its final accuracy."""

Tell = Callable[[int, int], None]


class Examination:
    """The groups of classes, their test examples, and what the learner knew of them at every evaluation.

    events: the whole stream; its classes are taken `groups` at a time, by first appearance. tests: the
    examples to predict; `per_class` of each class, drawn by `seed`, make the subset for the curves.
    """

    def __init__(
        self, events: Sequence[Event], tests: Sequence[Event], groups: int, per_class: int, seed: int
    ) -> None:
        self.order = list(dict.fromkeys(str(event.y) for event in events))
        self.group = {label: place // groups for place, label in enumerate(self.order)}
        self.names = [
            _name(self.order[start : start + groups]) for start in range(0, len(self.order), groups)
        ]
        exam = make_exam(tests, seed)
        if without := [label for label in self.order if label not in exam]:
            raise SettingsError(f"class {without[0]!r} of the stream has no test examples")
        self.tests = {label: exam[label] for label in self.order}
        self.per_class = per_class
        self.seen: set[str] = set()
        self.continual = Continual()
        self.curve: list[list[float | None]] = []
        self.seconds = 0.0
        self._told: list[Callable[[str, Continual], None]] = []
        groups_of = (self.group[str(event.y)] for event in events)
        self._in_turn = all(a <= b for a, b in pairwise(groups_of))
        self._arrived: list[int] = []
        self._asked: list[tuple[int, list[float]]] = []
        self._at = -1

    def new_groups(self, events: Sequence[Event]) -> list[int]:
        """The groups of which `events` hold the first event."""
        before = {self.group[label] for label in self.seen}
        return sorted({self.group[str(event.y)] for event in events} - before)

    def shift(self, step: int, events: int, groups: Sequence[int]) -> None:
        """New groups come in the next step."""
        names = [self.names[i] for i in groups]
        self.continual.shift(step, events, names)
        self._arrived += [events] * len(groups)
        self._told.append(lambda _, continual: continual.shift(step, events, names))

    def evaluate(self, learner: OnlineLearner, events: int) -> None:
        """Ask about the subset, of the classes seen so far; nothing if no step came since the last time."""
        step = learner.counts.steps
        if step == self._at or not self.seen:
            return
        self._at = step
        begun = time.perf_counter()
        labels = [label for label in self.order if label in self.seen]
        found = self.accuracies(learner, labels, self.per_class)
        fixed = {name: self._of_groups(by_class) for name, by_class in found.items()}
        served = learner.serving.name
        self.continual.record(step, events, fixed[served], None)
        self._asked.append((events, fixed[served]))
        self._told.append(lambda name, continual: continual.record(step, events, fixed[name], None))
        figures, prequential = self.continual.figures(), learner.prequential
        point = [
            step,
            events,
            len(labels),
            _mean(list(found[served].values())),
            figures.worst_case_accuracy,
            figures.average_accuracy,
            figures.forgetting,
            figures.min_accuracy,
            prequential.figures("cumulative").accuracy,
            prequential.figures("window").accuracy,
            *fixed[served],
        ]
        self.curve.append(
            [None if value is None or math.isnan(value) else round(value, 5) for value in point]
        )
        self.seconds += time.perf_counter() - begun

    def accuracies(
        self, learner: OnlineLearner, labels: Sequence[str], most: int | None = None
    ) -> dict[str, dict[str, float]]:
        """By predictor and class: share of right answers on `most` test examples of the class, or on all."""
        asked = {label: self.tests[label][:most] for label in labels}
        number = {label: i for i, label in enumerate(learner.classes.labels)}
        cuts = np.cumsum([len(x) for x in asked.values()])[:-1]
        found = learner.candidates(np.concatenate(list(asked.values())))
        return {
            name: {
                label: float((part == number[label]).mean())
                for label, part in zip(labels, np.split(answers, cuts), strict=True)
            }
            for name, answers in found.items()
        }

    def _transfer(self) -> Transfer:
        """Nothing where the groups don't come one after another: what is said of a group's block is false."""
        at, asked = zip(*self._asked, strict=True)
        return transfer(self._arrived, at, asked) if self._in_turn else Transfer(None, None, None)

    def _of_groups(self, by_class: Mapping[str, float]) -> list[float]:
        """Mean accuracy over the classes of each group; NaN for a group without."""
        values: list[list[float]] = [[] for _ in range(1 + max(self.group[label] for label in by_class))]
        for label, value in by_class.items():
            values[self.group[label]].append(value)
        return [_mean(each) for each in values]

    def of_predictor(self, name: str) -> Continual:
        """The continual evaluation as if `name` had served all along."""
        continual = Continual()
        for told in self._told:
            told(name, continual)
        return continual

    def final(self, learner: OnlineLearner) -> dict[str, Any]:
        """Accuracy on all test examples of the stream's classes, and what continual evaluation found."""
        found = self.accuracies(learner, self.order)
        sizes = {label: len(x) for label, x in self.tests.items()}

        def over_all(by_class: Mapping[str, float]) -> float:
            return sum(by_class[label] * size for label, size in sizes.items()) / sum(sizes.values())

        served = found[learner.serving.name]
        return {
            "final_accuracy": over_all(served),
            "final_accuracy_by_class": served,
            **continual_figures(self.continual),
            **asdict(self._transfer()),
            "by_predictor": {
                name: {"final_accuracy": over_all(by_class)}
                | {n: v for n, v in continual_figures(self.of_predictor(name)).items() if n in OF_PREDICTORS}
                for name, by_class in found.items()
            },
            "sets": self.names,
            "tests": sum(sizes.values()),
        }


def _name(labels: Sequence[str]) -> str:
    more = len(labels) - LABELS_IN_NAME
    return " + ".join(labels[:LABELS_IN_NAME]) + (f" + {more} more" if more > 0 else "")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def bench_run(settings: Settings, evaluation: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Learn the stream once and return figures, what was measured, and the curve."""
    events = read_events(settings)
    tests = read_tests(settings, evaluation["split"])
    exam = Examination(events, tests, settings.source.groups, evaluation["test_per_class"], settings.seed)
    learner, watch = OnlineLearner(settings), Stopwatch()
    learner.mark = watch.mark
    seconds, processor = _learn(learner, events, exam, watch, evaluation["interval"], tell)
    return {
        "figures": {**exam.final(learner), **learner_figures(learner), "events": len(events)},
        "stream_sha256": _digest(events),
        "curve": {"columns": [*CURVE, *(f"accuracy_{name}" for name in exam.names)], "rows": exam.curve},
        "measured": {
            "seconds": round(seconds, 3),
            "cpu_seconds": round(processor, 3),
            "evaluation_seconds": round(exam.seconds, 3),
            "stages": {name: round(stage.sum, 3) for name, stage in watch.stages.items()},
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        },
    }


def _learn(
    learner: OnlineLearner,
    events: Sequence[Event],
    exam: Examination,
    watch: Stopwatch,
    interval: int,
    tell: Tell,
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
            exam.shift(learner.counts.steps, start, new)
        wall, own = time.perf_counter(), time.process_time()
        watch.start()
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


def learner_figures(learner: OnlineLearner) -> dict[str, Any]:
    """Counts, prequential figures, and the examples that the learner was allowed and took."""
    counts, memory, held = learner.counts, learner.memory, learner.trainer.evaluator.held
    example = memory.x[0].numel() * memory.x.element_size() + memory.labels.itemsize
    return {
        "prequential_accuracy": learner.prequential.figures("cumulative").accuracy,
        "prequential_window": learner.prequential.figures("window").accuracy,
        "images_per_event": counts.images / max(1, counts.learned),
        "forward_images_per_event": counts.forwards / max(1, counts.learned),
        "steps": counts.steps,
        "skipped_steps": counts.skipped_steps,
        "learned": counts.learned,
        "held_out": counts.held_out,
        "rejected": sum(counts.rejected.values()),
        "classes": learner.model.classes,
        "parameters": learner.model.parameters,
        "serving": learner.serving.name,
        "prototype_pairs": nearest_pairs(learner),
        "recall_interval": observe(learner).recall_interval,
        "images_evaluated": learner.trainer.evaluator.images,
        "memory_capacity": memory.capacity + held.capacity,
        "memory_examples": memory.size + held.size,
        "memory_bytes": (memory.capacity + held.capacity) * example,
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
    task = orjson.loads(sys.stdin.buffer.readline())

    def say(what: dict[str, Any]) -> None:
        sys.stdout.buffer.write(orjson.dumps(what) + b"\n")
        sys.stdout.buffer.flush()

    def tell(done: int, of: int) -> None:
        if os.getppid() != task["parent"]:
            os._exit(1)  # whoever wanted the result has been killed
        say({"done": done, "of": of})

    tell(0, 1)
    try:
        settings = Settings.model_validate(task["settings"])
        if settings.model.device == "cpu" or not torch.cuda.is_available():
            # use_deterministic_algorithms would load torch's compiler: 1.5 s of every start.
            torch.set_deterministic_debug_mode("error")
        result = bench_run(settings, task["evaluation"], tell)
        result["measured"]["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
        say({"result": {**result, "versions": versions() | {"code": code()}}})
    except (*OF_SETTINGS, ConnectorError) as error:
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
