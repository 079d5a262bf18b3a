"""What the newest events of the stream say of the predictors, beside the held-out examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from streamlearn.events import Array
from streamlearn.state import Part

RECENT = 128
"""Steps for which an answer counts: after more of them it is another model that would give it."""
ENOUGH = 5
"""From so many recent answers on, a class is judged by them and not by its held-out examples."""


class Arrivals:
    """Who was right about events that have just arrived, before they were learned.

    A held-out example may be old. Where the stream drifts, predictors that live in the past are right about
    it and wrong about what comes: a concept's end shows first, and only, in the events that arrive. Where
    classes come and go, it is the other way round: who follows the newest classes is right about what
    arrives and has forgotten the others. So each class is judged by the newest that is known of it: one
    that arrives now by its arrivals, one that is away by what was held out of it.
    """

    def __init__(self, predictors: int) -> None:
        # One row an answer, oldest first.
        self._step = np.zeros(0, np.int64)
        self._y = np.zeros(0, np.int64)
        self._right = np.zeros((0, predictors), np.bool_)

    def __len__(self) -> int:
        return len(self._step)

    def note(self, step: int, y: Array, right: Array) -> None:
        """The answers to a batch that step `step` learns: class numbers [n], bool [n, predictors]."""
        recent = self._step > step - RECENT
        self._step = np.concatenate([self._step[recent], np.full(len(y), step)])
        self._y = np.concatenate([self._y[recent], y])
        self._right = np.concatenate([self._right[recent], right])

    def beside(self, step: int, y: Array, right: Array) -> tuple[Array, Array]:
        """The evidence at `step`: y [n], right [n, predictors] of held-out examples, with ours.

        Those of the classes of which ENOUGH recent answers are known give way to these.
        """
        recent = self._step > step - RECENT
        arrived, hits = self._y[recent], self._right[recent]
        numbers, counts = np.unique(arrived, return_counts=True)
        known = numbers[counts >= ENOUGH]
        ours, theirs = np.isin(arrived, known), ~np.isin(y, known)
        return np.concatenate([y[theirs], arrived[ours]]), np.concatenate([right[theirs], hits[ours]])

    def part(self) -> Part:
        columns = {"step": self._step, "y": self._y, "right": self._right}
        return Part({name: torch.from_numpy(column.copy()) for name, column in columns.items()})

    def load(self, part: Part) -> None:
        self._step, self._y, self._right = (
            part.tensors[name].numpy().copy() for name in ("step", "y", "right")
        )


def in_columns(right: Mapping[str, Array], names: Sequence[str]) -> Array:
    """Whether each predictor was right, bool [n] by name, as columns in the order of `names`."""
    return np.stack([right[name] for name in names], axis=1)
