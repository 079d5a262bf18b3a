"""One learner of the demo, what it is asked, and its curves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from streamlearn.continual import Continual, ContinualFigures, Shift
from streamlearn.durable import Learner
from streamlearn.events import Array, Event
from streamlearn.exam import Exam
from streamlearn.observe import observe
from streamlearn.report import curve_figures, figures, knowledge

QUICK = 100
"""Test examples of a class that are asked along the way; all of them at the end."""


@dataclass
class Contender:
    """A learner with its name. accuracy, worst: over time, 0..1; by_class: the latest, by label."""

    name: str
    learner: Learner
    continual: Continual
    accuracy: list[float] = field(default_factory=list)
    worst: list[float] = field(default_factory=list)
    by_class: dict[str, float] = field(default_factory=dict)
    now: ContinualFigures | None = None
    seconds: float = 0.0

    def learn(self, events: Sequence[Event], begin: int, fresh: Sequence[str], last: bool) -> None:
        """Learn the events from number `begin` on, the first of the classes `fresh` among them."""
        if fresh:
            self.continual.shift(self.learner.counts.steps, begin, fresh)
        before = time.perf_counter()
        self.learner.learn(events)
        if last:
            self.learner.flush()
        self.seconds += time.perf_counter() - before

    def evaluate(self, exam: Exam, events: int) -> None:
        """Ask about the test examples of all classes seen, `events` into the stream."""
        right = self.ask(exam)
        self.by_class = {label: float(hits.mean()) for label, hits in right.items()}
        everything = np.concatenate(list(right.values())) if right else np.zeros(1)
        self.accuracy.append(float(everything.mean()))
        by_set = [self.by_class.get(name, np.nan) for name in self.continual.names]
        self.continual.record(self.learner.counts.steps, events, by_set, None)
        self.now = self.continual.figures()
        self.worst.append(self.now.worst_case_accuracy or 0.0)

    def ask(self, exam: Exam) -> dict[str, Array]:
        """Whether the answer was right, bool [n], for the examples of every class seen so far."""
        seen = [label for label in self.continual.names if label in exam]
        if not seen:
            return {}
        answers = self.learner.numbers(np.concatenate([exam[label] for label in seen]))
        parts = np.split(answers, np.cumsum([len(exam[label]) for label in seen])[:-1])
        number = {label: i for i, label in enumerate(self.learner.classes.labels)}
        return {
            label: part == number[label] if label in number else np.zeros(len(part), np.bool_)
            for label, part in zip(seen, parts, strict=True)
        }

    @property
    def shifts(self) -> list[Shift]:
        """Arrivals of new classes that have a stability gap."""
        return [shift for shift in self.continual.shifts if shift.gap is not None]

    @property
    def mean_gap(self) -> float | None:
        """Of the stability gaps."""
        return _mean([shift.gap or 0.0 for shift in self.shifts])

    def mean_of(self, labels: Sequence[str]) -> float | None:
        """Accuracy of the classes, as of the latest evaluation."""
        return _mean([self.by_class[label] for label in labels if label in self.by_class])

    def row(self, events: int) -> dict[str, Any]:
        """A row of the curves."""
        prequential = self.learner.prequential
        followed = curve_figures(self.now) if self.now is not None else {}
        return {
            "learner": self.name,
            "events": events,
            "classes": len(self.continual.names),
            "accuracy_seen_classes": round(self.accuracy[-1], 4),
            **{name: None if value is None else round(value, 4) for name, value in followed.items()},
            "prequential_cumulative": prequential.figures("cumulative").accuracy,
            "prequential_window": prequential.figures("window").accuracy,
            "sets": {label: round(value, 4) for label, value in self.by_class.items()},
        }

    def summary(self, exam: Exam) -> dict[str, Any]:
        """All final figures, over all of the exam."""
        right, counts = self.ask(exam), self.learner.counts
        asked = sum(len(hits) for hits in right.values())
        return (
            figures(observe(self.learner))
            | knowledge(self.learner, self.continual)
            | {
                "test_accuracy": sum(float(hits.sum()) for hits in right.values()) / max(1, asked),
                "test_accuracy_by_class": {label: float(hits.mean()) for label, hits in right.items()},
                "test_examples": asked,
                "forward_images_per_event": counts.forwards / max(1, counts.learned),
                "seconds": round(self.seconds, 3),
            }
        )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
