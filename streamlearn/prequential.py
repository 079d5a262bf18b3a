"""Prequential figures: every labeled event is predicted before it is learned, and scored.

Accuracy and the two kappas come in three kinds: cumulative, over a sliding window, and with a fading
factor (Gama, Sebastiao, Rodrigues, "On evaluating stream learning algorithms", Machine Learning 2013).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from streamlearn.state import Part

KINDS = ("cumulative", "window", "fading")
UNKNOWN = -1
"""The prediction of a learner that knows no class yet; it is counted as wrong."""

LEAST = 1e-15
"""Probabilities are clipped here before the logarithm, as River and scikit-learn (1.x before 1.3) do."""

_BITS = tuple(tuple(i for i in range(3) if flags >> i & 1) for flags in range(8))
"""Which bits are set, for each value of the flags: 0 the model was right, 1 the majority, 2 no change."""


@dataclass(frozen=True)
class Figures:
    """One kind of each figure. Accuracies in 0..1; kappas at most 1; None while there is no event.

    kappa_majority = (a - m) / (1 - m) with the accuracy m of predicting the most frequent label so far;
    kappa_no_change the same with the accuracy of predicting the previous label (Bifet et al., "Efficient
    online evaluation of big data stream classifiers", KDD 2015: kappa M and kappa temporal). A kappa is 0
    where its baseline makes no error.
    """

    accuracy: float | None
    majority: float | None
    no_change: float | None

    @property
    def kappa_majority(self) -> float | None:
        return _kappa(self.accuracy, self.majority)

    @property
    def kappa_no_change(self) -> float | None:
        return _kappa(self.accuracy, self.no_change)


def _kappa(observed: float | None, baseline: float | None) -> float | None:
    if observed is None or baseline is None:
        return None
    return (observed - baseline) / (1 - baseline) if baseline < 1 else 0.0


class Prequential:
    """Scores predictions: O(1) an event, whatever the number of classes."""

    def __init__(self, window: int, fading: float) -> None:
        self.window = window
        self.fading = fading
        self.events = 0
        self.correct = [0, 0, 0]
        self.recent = bytearray(window)
        self.recent_correct = [0, 0, 0]
        self.faded = [0.0, 0.0, 0.0]
        self.faded_weight = 0.0
        self.loss_sum = 0.0
        self.faded_loss = 0.0
        self.actual: list[int] = []
        self.predicted: list[int] = []
        self.hits: list[int] = []
        self.agreement = 0
        self.majority = UNKNOWN
        self.previous = UNKNOWN

    def update(self, scored: Sequence[tuple[int, int, float]]) -> None:
        """Score predictions in order: class numbers (predicted, actual), and the probability of `actual`.

        The one predicted may be UNKNOWN.
        """
        fading, window, recent, log = self.fading, self.window, self.recent, math.log
        correct, recent_correct, (first, second, third) = self.correct, self.recent_correct, self.faded
        actuals, predicteds, hits = self.actual, self.predicted, self.hits
        weight, loss_sum, faded_loss = self.faded_weight, self.loss_sum, self.faded_loss
        majority, previous, events, agreement = self.majority, self.previous, self.events, self.agreement
        for predicted, actual, probability in scored:
            while len(actuals) <= actual or len(actuals) <= predicted:
                actuals.append(0)
                predicteds.append(0)
                hits.append(0)
            right, common, same = predicted == actual, majority == actual, previous == actual
            flags = right | common << 1 | same << 2
            slot = events % window
            gone = recent[slot]
            recent[slot] = flags
            for i in _BITS[flags ^ gone]:
                recent_correct[i] += 1 if flags >> i & 1 else -1
            for i in _BITS[flags]:
                correct[i] += 1
            first = first * fading + right
            second = second * fading + common
            third = third * fading + same
            weight = weight * fading + 1
            if not LEAST <= probability <= 1.0:
                # LEAST comes first so that NaN becomes LEAST: one NaN would stay in the sums for ever
                probability = min(max(LEAST, probability), 1.0)
            loss = -log(probability)
            loss_sum += loss
            faded_loss = faded_loss * fading + loss
            # sum over classes of (times actual) x (times predicted), kept up to date for Cohen's kappa
            agreement += predicteds[actual]
            actuals[actual] += 1
            if predicted != UNKNOWN:
                agreement += actuals[predicted]
                predicteds[predicted] += 1
                hits[actual] += right
            if majority == UNKNOWN or actuals[actual] > actuals[majority]:
                majority = actual
            previous = actual
            events += 1
        self.faded = [first, second, third]
        self.faded_weight, self.loss_sum, self.faded_loss = weight, loss_sum, faded_loss
        self.majority, self.previous, self.events, self.agreement = majority, previous, events, agreement

    def figures(self, kind: str) -> Figures:
        """The figures of one of KINDS."""
        if not self.events:
            return Figures(None, None, None)
        if kind == "cumulative":
            return Figures(*(c / self.events for c in self.correct))
        if kind == "window":
            return Figures(*(c / min(self.events, self.window) for c in self.recent_correct))
        if kind == "fading":
            return Figures(*(c / self.faded_weight for c in self.faded))
        raise ValueError(f"kind must be one of {KINDS}, not {kind!r}")

    def kappa(self) -> float | None:
        """Cohen's kappa of all predictions so far: agreement beyond that of independent labels."""
        if not self.events:
            return None
        return _kappa(self.correct[0] / self.events, self.agreement / self.events**2)

    def loss(self) -> float | None:
        """Mean negative log-likelihood of the labels, nats."""
        return self.loss_sum / self.events if self.events else None

    def fading_loss(self) -> float | None:
        """The same with the fading factor."""
        return self.faded_loss / self.faded_weight if self.events else None

    def part(self) -> Part:
        tensors = {
            "correct": torch.tensor(self.correct),
            "recent": torch.frombuffer(bytearray(self.recent), dtype=torch.uint8),
            "recent_correct": torch.tensor(self.recent_correct),
            "faded": torch.tensor(self.faded, dtype=torch.float64),
            "actual": torch.tensor(self.actual, dtype=torch.int64),
            "predicted": torch.tensor(self.predicted, dtype=torch.int64),
            "hits": torch.tensor(self.hits, dtype=torch.int64),
        }
        return Part(tensors, {name: getattr(self, name) for name in _VALUES})

    def load(self, part: Part) -> None:
        if len(part.tensors["recent"]) != self.window:
            raise ValueError(
                f"the state's window holds {len(part.tensors['recent'])} events, not {self.window}"
            )
        self.recent = bytearray(part.tensors["recent"].numpy().tobytes())
        for name in ("correct", "recent_correct", "faded", "actual", "predicted", "hits"):
            setattr(self, name, part.tensors[name].tolist())
        for name in _VALUES:
            setattr(self, name, part.values[name])
        # not kept in the part: grows with the square of the events, past the 64 bits of msgpack
        self.agreement = sum(a * p for a, p in zip(self.actual, self.predicted, strict=True))


_VALUES = (
    "events",
    "faded_weight",
    "loss_sum",
    "faded_loss",
    "majority",
    "previous",
)
