"""From logits to predictions: many batches written out at once cost little more than one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamlearn.arithmetic import exp_, log_softmax
from streamlearn.events import Array, Event, Prediction
from streamlearn.prequential import UNKNOWN

SORTED = 64
"""Classes up to which it takes less time to sort all probabilities than to find the largest first."""

DIGITS = 6
"""Of a probability, as predictions have it: more than anybody reads."""

MOST = 1 << 16
"""Logits that wait to be written out."""

Waiting = tuple[int, int, Event, int]
"""An event that is to be answered: its place among the outputs, its row, itself, its class or UNKNOWN."""

Scored = tuple[int, int, float]
"""The class that was predicted, that which it was, and its probability."""


@dataclass(frozen=True, slots=True)
class Answers:
    """One forward: events in their rows, the logits of all rows [B, classes], the model's step."""

    waiting: Sequence[Waiting]
    logits: Array
    step: int

    @property
    def classes(self) -> int:
        """How many the model knew."""
        return int(self.logits.shape[1])


def write_out(
    answers: Sequence[Answers], labels: Sequence[str], top: int, outputs: list[Any]
) -> list[Scored]:
    """Put a Prediction of the `top` likeliest classes into the place of every event; what is to be scored."""
    scored: list[Scored] = []
    for known, some in itertools.groupby(answers, lambda batch: batch.classes):
        group = list(some)
        probabilities = exp_(log_softmax(np.concatenate([batch.logits for batch in group])))
        best, scores = largest(probabilities, min(top, known))
        start = 0
        for batch in group:
            step = batch.step
            for place, row, event, number in batch.waiting:
                at = start + row
                outputs[place] = prediction(event, labels, best[at], scores[at], known, step)
                if number != UNKNOWN:
                    probability = probabilities.item(at, number) if number < known else 0.0
                    scored.append((best[at][0] if known else UNKNOWN, number, probability))
            start += len(batch.logits)
    return scored


def prediction(
    event: Event, labels: Sequence[str], best: list[int], scores: list[float], known: int, step: int
) -> Prediction:
    names = [labels[i] for i in best]
    label = names[0] if names else None
    shares = dict(zip(names, scores))  # noqa: B905 (as many: to say so costs a tenth of an answer)
    return Prediction(event.id, label, shares, known, step, event.position, event.y, event.record)


def largest(rows: Array, k: int) -> tuple[list[list[int]], list[list[float]]]:
    """Places and values, rounded, of the k largest of each row [n, m]; of equal ones the first."""
    if rows.shape[1] <= SORTED:
        order = np.argsort(-rows, axis=1, kind="stable")[:, :k]
    else:
        some = np.sort(np.argpartition(-rows, k - 1, axis=1)[:, :k], axis=1)
        order = np.take_along_axis(
            some, np.argsort(-np.take_along_axis(rows, some, 1), axis=1, kind="stable"), 1
        )
    return order.tolist(), _rounded(np.take_along_axis(rows, order, 1))


def _rounded(probabilities: Array) -> list[list[float]]:
    """Of float32 [n, m], to DIGITS: the product is exact, so each is what `round` makes of it."""
    scaled = np.rint(probabilities.astype(np.float64) * 10.0**DIGITS)
    rounded: list[list[float]] = (scaled / 10.0**DIGITS).tolist()
    return rounded
