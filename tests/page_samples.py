"""A made-up summary and curves, as `demo` and `run` write them, for tests of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np

LEARNERS = ("finetune", "er", "onpro")
KEPT = {"finetune": 0.02, "er": 0.72, "onpro": 0.93}
"""Accuracy on a class that is no longer new."""


def sample(
    labels: Sequence[str] = tuple("0123456789"),
    learners: Sequence[str] = LEARNERS,
    points: int = 60,
    each: int = 130,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(summary, rows of the curves): the labels come one after another, `each` events long."""
    rng, random = np.random.default_rng(0), Random(0)
    total = each * len(labels)
    rows: list[dict[str, Any]] = []
    summary: dict[str, Any] = {
        "learners": {},
        "seed": 0,
        "settings": {"method.name": "onpro", "memory.capacity": 200, "source.dataset": "digits"},
        "versions": {"streamlearn": "0.1.0", "torch": "2.15.0"},
    }
    for number, learner in enumerate(learners):
        kept = KEPT.get(learner, 0.5 + 0.4 * number / len(learners))
        lowest: dict[str, float] = {}
        shifts: list[dict[str, Any]] = []
        for i in range(points):
            events = round((i + 1) * total / points)
            at = min(len(labels) - 1, (events - 1) // each)
            age = (events - at * each) / each
            sets = {}
            for c, label in enumerate(labels[: at + 1]):
                value = 1 - math.exp(-4 * age) if c == at else kept - (1 - kept) * 0.5 * math.exp(-6 * age)
                sets[label] = min(1.0, max(0.0, value + random.gauss(0, 0.02)))
                if c < at:
                    lowest[label] = min(lowest.get(label, 1.0), sets[label])
            mean = float(np.mean(list(sets.values())))
            worst = (sum(lowest.values()) + sets[labels[at]]) / (at + 1)
            if at and i and (not shifts or shifts[-1]["groups"] != [labels[at]]):
                before = rows[-1]["average_accuracy"]
                low = max(0.0, before - (1 - kept) * 0.5)
                back = None if learner == "finetune" else 40 + 3 * at
                shifts.append(
                    {"events": at * each, "step": at * each // 10, "groups": [labels[at]], "before": before,
                     "lowest": low, "gap": before - low, "recovery_events": back}
                )  # fmt: skip
            rows.append(
                {"learner": learner, "events": events, "classes": at + 1,
                 "accuracy_seen_classes": round(mean, 4), "worst_case_accuracy": round(worst, 4),
                 "average_accuracy": round(mean, 4), "forgetting": 0.1, "min_accuracy": 0.1,
                 "prequential_cumulative": 0.9, "prequential_window": 0.95, "sets": sets}
            )  # fmt: skip
        vectors = rng.normal(size=(len(labels), 5)) + 0.8
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        cosines = vectors @ vectors.T
        one, other = np.triu_indices(len(labels), 1)
        nearest = np.argsort(-cosines[one, other], kind="stable")[:10]
        near = [[labels[one[i]], labels[other[i]], float(cosines[one[i], other[i]])] for i in nearest]
        summary["learners"][learner] = {
            "events_learned": total,
            "known_classes": len(labels),
            "images_per_event": 8.0 if number else 1.0,
            "prequential": {"cumulative": {"accuracy": 0.9}, "window": {"accuracy": 0.95}},
            "continual": {
                "average_accuracy": mean, "forgetting": 0.95 - kept, "min_accuracy": 0.1,
                "worst_case_accuracy": worst, "stability_gap": 0.2,
                "windowed_forgetting": {"10": 0.3, "100": 0.4},
                "windowed_plasticity": {"10": 0.5, "100": 0.6}, "shifts": shifts,
            },
            "prototypes": {"labels": list(labels), "similarity": cosines.tolist(),
                           "pairs": near},
            "serving": "average" if number else "weights",
            "test_accuracy": mean,
            "test_accuracy_by_class": sets,
            "test_examples": 450,
            "seconds": 1.5 + number,
            "memory_examples": 200 if number else 0,
        }  # fmt: skip
    return summary, rows


def long() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """As a bench writes it, of 60,000 events: the last tick is wide and stands at the very end."""
    summary, rows = sample([f"group {i + 1}" for i in range(5)], each=12_000)
    for learner, figures in summary["learners"].items():
        figures["seeds"] = [10, 11, 12]
        kept = [["t-shirt/top", "shirt", 0.71], ["ankle boot", "sneaker", 0.65]]
        figures["prototypes"] = {"seed": 10, "pairs": None if learner == "er" else kept}
        figures["forward_images_per_event"] = 2.0 if learner == "onpro" else 0.0
    about = {"test_per_class": 50, "seeds": [10, 11, 12], "settings_of": "onpro, seed 10"}
    moments = {"made": "2026-11-22T12:05:09Z", "runs_ended": ["2026-11-20T01:00:00+00:00"] * 2}
    return summary | about | moments, rows
