"""Which predictor answers: the weights as trained, their exponential average, or the nearest class mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from streamlearn.arithmetic import Numbers, fetched, host, index, join, tensor, unit
from streamlearn.arrivals import Arrivals, in_columns
from streamlearn.average import Average
from streamlearn.config import ServingSettings
from streamlearn.events import Array
from streamlearn.model import Model
from streamlearn.rows import Rows
from streamlearn.state import Part, copy

WEIGHTS, AVERAGE, MEANS = "weights", "average", "means"
SURE = 2.0
"""Standard errors by which another predictor must be better to take over."""
MEAN_RATE = 0.05
"""Share of a row in its class's running mean."""
LATE = 1024
"""Rows of steps that wait for the class means, at most."""


class ClassMeans:
    """Running means of the features of every class, of length 1 each, over the rows that steps see.

    mean_c <- mean_c + (1 - .95^k) (mean of the k rows of class c in the step - mean_c). No forward of
    their own: the features are those that the step computed.

    A question that the means answer comes once in many steps. So steps wait, LATE rows of them at most, and
    are taken in when somebody asks, in their order and to the same bits: together they need a fraction of
    the time, and no state tells how many have waited.
    """

    def __init__(self, model: Model) -> None:
        self._rows = torch.zeros(model.rows.shape[0], model.features, device=model.device)
        self._late: list[tuple[Numbers, Numbers]] = []
        self._waiting = 0
        # 1 - .95^k by k and class, of so many classes as there were when the last step was taken in.
        self._shares: Array = np.zeros((0, 0), np.float32)

    @property
    def rows(self) -> Tensor:
        """The means [capacity, d]; zeros for a class without one."""
        self._take_late()
        return self._rows

    @rows.setter
    def rows(self, rows: Tensor) -> None:
        self._rows, self._late, self._waiting = rows, [], 0

    def update(self, features: Numbers, y: Numbers, classes: int) -> None:
        """features [rows, d], y [rows]: they are kept, and must not change any more."""
        if self._waiting >= LATE or classes != self._shares.shape[1]:
            self._take_late()
            if classes != self._shares.shape[1]:
                self._shares = np.zeros((0, classes), np.float32)
        self._late.append((features, y))
        self._waiting += len(y)

    def _take_late(self) -> None:
        if not self._late:
            return
        late, self._late, self._waiting = self._late, [], 0
        device, classes = self._rows.device, self._shares.shape[1]
        units = unit(tensor(join([features for features, _ in late])))
        y = fetched(join([y for _, y in late]))
        starts = classes * np.arange(len(late) + 1)
        # A pile is what a step has of a class.
        keys = y + np.repeat(starts[:-1], [len(y) for _, y in late])
        counts = np.bincount(keys)
        there = counts > 0
        pile_of, piles, counts = (np.cumsum(there) - 1)[keys], np.flatnonzero(there), counts[there]
        sums = torch.zeros(len(piles), self._rows.shape[1], device=device)
        sums.index_add_(0, torch.from_numpy(pile_of).to(device), units)
        means = host(sums)
        means /= index(counts.astype(np.float32)[:, None], means)
        numbers = piles % classes
        share = self._share(int(counts.max()))[counts, numbers][:, None]
        rows = host(self._rows)
        shares = index(share, rows)
        ends = np.searchsorted(piles, starts).tolist()
        for start, end in pairwise(ends):
            here, some = numbers[start:end], shares[start:end]
            old = rows[here]
            some[~old.any(1)] = 1  # a class's first rows, or all that it had were zeros
            rows[here] = old + (means[start:end] - old) * some

    def _share(self, most: int) -> Array:
        """The table of shares, float32 [most + 1 or more, classes]."""
        there, classes = self._shares.shape
        if there <= most:
            # Of all classes at once: how a power is rounded depends on its place in the vector.
            more = [
                1 - torch.pow(1 - MEAN_RATE, torch.full((classes,), float(k))) for k in range(there, most + 1)
            ]
            self._shares = np.concatenate([self._shares, torch.stack(more).numpy()])
        return self._shares

    def grow(self, model: Model) -> None:
        if len(self._rows) < model.rows.shape[0]:
            rows = torch.zeros(model.rows.shape[0], self._rows.shape[1], device=model.device)
            rows[: len(self._rows)] = self.rows
            self.rows = rows

    def logits(self, model: Model, features: Numbers) -> Numbers:
        """Cosines over the model's temperature [rows, classes]; a class without a mean has cosine 0."""
        return unit(features) @ unit(host(self.rows)[: model.classes]).T / model.settings.temperature


class Serving:
    """Keeps what the predictors need and answers with the one that is chosen.

    name: the predictor that answers now. Everything here changes only at a step. Where nothing has been
    measured it is the average for images and the weights for vectors, whose small net gains less by it
    than it loses when the stream drifts. mirrors: answer by the mean over an image and its mirror image.
    """

    def __init__(
        self, settings: ServingSettings, predictor: str, model: Model, mirrors: bool, judged: bool = True
    ) -> None:
        """judged: there are held-out examples to choose by; without them auto is what it begins with."""
        self.model = model
        self.mirrors = (mirrors if settings.mirror is None else settings.mirror) and len(model.shape) == 3
        prior = AVERAGE if len(model.shape) == 3 else WEIGHTS
        self.auto = predictor == "auto" and judged
        self.name = prior if predictor == "auto" else predictor
        self.average: Average | None = None
        if self.auto or self.name == AVERAGE:
            self.average = Average(model, settings.rate, settings.power, settings.restart)
        self.means = ClassMeans(model) if self.auto or self.name == MEANS else None
        self.arrivals = Arrivals(len(self.names))

    def after_step(self, rows: Rows) -> None:
        """Follow the weights after a step on `rows`."""
        if self.average is not None:
            self.average.update(self.model)
        if self.means is not None:
            features, y = rows.encoded(self.model).value, rows.labels
            if rows.share is not None:
                features, y = features[rows.pure], y[rows.pure]
            self.means.update(features, y, self.model.classes)

    def grow(self) -> None:
        """New classes in the head."""
        if self.average is not None:
            self.average.grow(self.model)
        if self.means is not None:
            self.means.grow(self.model)

    def logits(self, x: Numbers) -> Numbers:
        """Of normalised inputs [rows, *shape] by the predictor that answers now: [rows, classes]."""
        return self.candidates(x, (self.name,))[self.name]

    def _sides(self, x: Numbers) -> Numbers:
        """The inputs, and behind them their mirror images where these have a say."""
        return join([x, host(tensor(x).flip(-1))]) if self.mirrors else x

    def _mean(self, logits: Numbers) -> Numbers:
        """Of each input and its mirror image, as `_sides` laid them."""
        if not self.mirrors:
            return logits
        half = len(logits) // 2
        return (logits[:half] + logits[half:]) / 2

    @property
    def names(self) -> tuple[str, ...]:
        """The predictors that are kept."""
        kept = {AVERAGE: self.average is not None, MEANS: self.means is not None}
        return (WEIGHTS, *(name for name, there in kept.items() if there))

    @property
    def forwards(self) -> int:
        """Forwards of an input to ask every predictor that may serve."""
        return (2 if self.auto else 1) * (2 if self.mirrors else 1)

    def candidates(self, x: Numbers, names: Sequence[str]) -> Mapping[str, Numbers]:
        """Logits [rows, classes] of normalised inputs [rows, *shape] by each of the predictors `names`."""
        found: dict[str, Numbers] = {}
        sides = self._sides(x)
        if self.average is not None and AVERAGE in names:
            found[AVERAGE] = self.average.logits(self.model, sides)
        if set(names) - {AVERAGE}:
            features = self.model.represent(sides)
            if WEIGHTS in names:
                found[WEIGHTS] = self.model.score(features)
            if self.means is not None and MEANS in names:
                found[MEANS] = self.means.logits(self.model, features)
        return {name: self._mean(logits) for name, logits in found.items()}

    def prototypes(self) -> Tensor:
        """What stands for each class in the predictor that answers, of length 1 each: [classes, d].

        The class means, or the head's rows (of a linear head without the bias).
        """
        model = self.model
        if self.name == MEANS and self.means is not None:
            rows = self.means.rows
        elif self.name == AVERAGE and self.average is not None:
            rows = self.average.rows
        else:
            rows = model.rows
        prototypes: Tensor = unit(rows[: model.classes, : model.features])
        return prototypes

    def nearest(self, pairs: int, most: int = 500) -> list[tuple[int, int, float]]:
        """The pairs of classes whose prototypes are nearest: (a, b, cosine), nearest first.

        Among the newest `most` classes, so that the cost is bounded.
        """
        with torch.inference_mode():
            rows = self.prototypes()
            first = max(0, len(rows) - most)
            rows = rows[first:]
            if len(rows) < 2:
                return []
            above = torch.triu_indices(len(rows), len(rows), offset=1, device=rows.device)
            cosines = (rows @ rows.T)[above[0], above[1]]
            best = torch.topk(cosines, min(pairs, len(cosines)))
            ends = (above[:, best.indices] + first).T.tolist()
            return [(a, b, c) for (a, b), c in zip(ends, best.values.tolist(), strict=True)]

    def arrive(self, step: int, y: Array, right: Mapping[str, Array]) -> None:
        """Note who was right about events that step `step` is about to learn: bool [n] each, of classes y."""
        self.arrivals.note(step, y, in_columns(right, self.names))

    def choose(self, step: int, y: Array, right: Mapping[str, Array]) -> None:
        """Let another predictor answer if it is surely better.

        y: class numbers of held-out examples [n]; right: whether each predictor was right, bool [n] each.
        Classes that arrive at the time are judged by their arrivals instead. Compared is the class-balanced
        accuracy, example by example: what differs must exceed SURE standard errors of the paired
        difference, so that a handful of examples doesn't make the choice flicker.
        """
        if not self.auto:
            return
        y, hits = self.arrivals.beside(step, y, in_columns(right, self.names))
        if not len(y):
            return
        _, inverse, counts = np.unique(y, return_inverse=True, return_counts=True)
        weight = 1.0 / (counts[inverse] * len(counts))
        gains = weight[:, None] * (hits.astype(np.float64) - hits[:, [self.names.index(self.name)]])
        best = 0.0
        for name, gain, squares in zip(self.names, gains.sum(0), (gains**2).sum(0), strict=True):
            if gain > SURE * math.sqrt(squares) and gain > best:
                self.name, best = name, float(gain)

    def part(self) -> Part:
        tensors: dict[str, Tensor] = {}
        values: dict[str, object] = {"name": self.name}
        if self.auto:
            part = self.arrivals.part()
            tensors |= {f"arrivals.{name}": tensor for name, tensor in part.tensors.items()}
            values["arrivals"] = dict(part.values)
        if self.average is not None:
            part = self.average.part()
            tensors |= {f"average.{name}": tensor for name, tensor in part.tensors.items()}
            values["average"] = dict(part.values)
        if self.means is not None:
            tensors["means"] = copy(self.means.rows)
        return Part(tensors, values)

    def load(self, part: Part) -> None:
        """Take the state in `part`; ValueError if it is of another net."""
        self.name = part.values["name"]
        if self.auto:
            self.arrivals.load(Part(_own("arrivals.", part), part.values["arrivals"]))
        if self.average is not None:
            self.average.load(Part(_own("average.", part), part.values["average"]))
        if self.means is not None:
            self.means.rows = part.tensors["means"].to(self.model.device, copy=True)


def _own(prefix: str, part: Part) -> dict[str, Tensor]:
    """The tensors that somebody put into `part` under names of this prefix."""
    return {n.removeprefix(prefix): t for n, t in part.tensors.items() if n.startswith(prefix)}
