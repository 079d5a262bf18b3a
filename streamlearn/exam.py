"""Test examples that a benchmark or the demo asks a learner about, and never lets it learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from streamlearn.events import Array, Event

Exam = Mapping[str, Array]
"""Test examples [n, *shape] by label."""


def make_exam(tests: Sequence[Event], seed: int) -> Exam:
    """The examples of each class in an order drawn by the seed: any number of first ones is a fair sample.

    As data sets lie, the first examples of a class can be easier than the rest.
    """
    found: dict[str, list[Array]] = {}
    for event in tests:
        found.setdefault(str(event.y), []).append(event.x)
    rng = np.random.default_rng(seed)
    return {label: np.stack(found[label])[rng.permutation(len(found[label]))] for label in sorted(found)}


def quick(exam: Exam, per_class: int) -> Exam:
    """The first `per_class` examples of each class."""
    return {label: examples[:per_class] for label, examples in exam.items()}
