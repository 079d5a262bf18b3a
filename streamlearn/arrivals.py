"""What the newest events of the stream say of the predictors, beside the held-out examples."""

from __future__ import annotations

from collections import deque
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
        # (step, class numbers [n], right [n, predictors]) of every batch that was asked about, oldest first.
        self._batches: deque[tuple[int, Array, Array]] = deque()
        self._none = np.zeros(0, np.int64), np.zeros((0, predictors), np.bool_)

    def __len__(self) -> int:
        return sum(len(y) for _, y, _ in self._batches)

    def note(self, step: int, y: Array, right: Array) -> None:
        """The answers to a batch that step `step` learns: class numbers [n], bool [n, predictors].

        Both are kept, and must not change any more.
        """
        self._age(step)
        self._batches.append((step, y, right))

    def _age(self, step: int) -> None:
        while self._batches and self._batches[0][0] <= step - RECENT:
            self._batches.popleft()

    def beside(self, step: int, y: Array, right: Array) -> tuple[Array, Array]:
        """The evidence at `step`: y [n], right [n, predictors] of held-out examples, with ours.

        Those of the classes of which ENOUGH recent answers are known give way to these.
        """
        self._age(step)
        arrived, hits = self._columns()
        numbers, counts = np.unique(arrived, return_counts=True)
        known = numbers[counts >= ENOUGH]
        ours, theirs = np.isin(arrived, known), ~np.isin(y, known)
        return np.concatenate([y[theirs], arrived[ours]]), np.concatenate([right[theirs], hits[ours]])

    def _columns(self) -> tuple[Array, Array]:
        y, right = self._none
        return (
            np.concatenate([y, *(batch[1] for batch in self._batches)]),
            np.concatenate([right, *(batch[2] for batch in self._batches)]),
        )

    def part(self) -> Part:
        y, right = (torch.from_numpy(column) for column in self._columns())
        return Part({"y": y, "right": right}, {"batches": [(at, len(y)) for at, y, _ in self._batches]})

    def load(self, part: Part) -> None:
        batches = part.values["batches"]
        cuts = np.cumsum([n for _, n in batches])[:-1]
        y, right = (np.split(part.tensors[name].numpy().copy(), cuts) for name in ("y", "right"))
        self._batches = deque((at, y[i], right[i]) for i, (at, _) in enumerate(batches))


def in_columns(right: Mapping[str, Array], names: Sequence[str]) -> Array:
    """Whether each predictor was right, bool [n] by name, as columns in the order of `names`."""
    return np.stack([right[name] for name in names], axis=1)
