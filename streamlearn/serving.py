"""Which predictor answers: the weights as trained, their exponential average, or the nearest class mean."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from streamlearn.average import Average
from streamlearn.config import ServingSettings
from streamlearn.model import Model, unit
from streamlearn.rows import Rows
from streamlearn.state import Part, copy

WEIGHTS, AVERAGE, MEANS = "weights", "average", "means"
MEAN_RATE = 0.05
"""Share of a row in its class's running mean."""


class ClassMeans:
    """Running means of the features of every class, of length 1 each, over the rows that steps see.

    mean_c <- mean_c + (1 - .95^k) (mean of the k rows of class c in the step - mean_c). No forward of
    their own: the features are those that the step computed.
    """

    def __init__(self, model: Model) -> None:
        self.rows = torch.zeros(model.rows.shape[0], model.features, device=model.device)

    @torch.no_grad()
    def update(self, features: Tensor, y: Tensor, classes: int) -> None:
        """features [rows, d], y [rows]."""
        sums = torch.zeros(classes, features.shape[1], device=features.device)
        sums.index_add_(0, y, unit(features))
        counts = torch.zeros(classes, 1, device=features.device)
        counts.index_add_(0, y, torch.ones(len(y), 1, device=features.device))
        rows = self.rows[:classes]
        young = (rows == 0).all(dim=1, keepdim=True)
        share = torch.where(young, (counts > 0).float(), 1 - torch.pow(1 - MEAN_RATE, counts))
        rows.add_((sums / counts.clamp_min(1) - rows) * share)

    def grow(self, model: Model) -> None:
        if len(self.rows) < model.rows.shape[0]:
            rows = torch.zeros(model.rows.shape[0], self.rows.shape[1], device=model.device)
            rows[: len(self.rows)] = self.rows
            self.rows = rows

    def logits(self, model: Model, features: Tensor) -> Tensor:
        """Cosines over the model's temperature [rows, classes]; a class without a mean has cosine 0."""
        return unit(features) @ unit(self.rows[: model.classes]).T / model.settings.temperature


class Serving:
    """Keeps what the predictors need and answers with the one that is chosen.

    name: the predictor that answers now. Everything here changes only at a step. Where nothing has been
    measured it is the average for images and the weights for vectors, whose small net gains less by it
    than it loses when the stream drifts. mirrors: answer by the mean over an image and its mirror image.
    """

    def __init__(self, settings: ServingSettings, predictor: str, model: Model, mirrors: bool) -> None:
        self.model = model
        self.mirrors = mirrors if settings.mirror is None else settings.mirror
        self.mirrors = self.mirrors and len(model.shape) == 3
        self.auto = predictor == "auto"
        prior = AVERAGE if len(model.shape) == 3 else WEIGHTS
        self.name = prior if self.auto else predictor
        self.average = Average(settings, model) if self.auto or predictor == AVERAGE else None
        self.means = ClassMeans(model) if self.auto or predictor == MEANS else None

    def after_step(self, rows: Rows) -> None:
        """Follow the weights after a step on `rows`."""
        if self.average is not None:
            self.average.update(self.model)
        if self.means is not None:
            pure = rows.pure
            self.means.update(rows.features(self.model)[pure], rows.y[pure], self.model.classes)

    def grow(self) -> None:
        """New classes in the head."""
        if self.average is not None:
            self.average.grow(self.model)
        if self.means is not None:
            self.means.grow(self.model)

    def logits(self, x: Tensor) -> Tensor:
        """Of normalised inputs [rows, *shape] by the predictor that answers now: [rows, classes]."""
        return self._mean(self._logits(self._sides(x)))

    def _sides(self, x: Tensor) -> Tensor:
        """The inputs, and behind them their mirror images where these have a say."""
        return torch.cat([x, x.flip(-1)]) if self.mirrors else x

    def _mean(self, logits: Tensor) -> Tensor:
        """Of each input and its mirror image, as `_sides` laid them."""
        if not self.mirrors:
            return logits
        straight, mirrored = logits.chunk(2)
        return (straight + mirrored) / 2

    def _logits(self, x: Tensor) -> Tensor:
        if self.name == AVERAGE and self.average is not None:
            return self.average.logits(self.model, x)
        features = self.model.encode(x)
        if self.name == MEANS and self.means is not None:
            return self.means.logits(self.model, features)
        return self.model.classify(features)

    def candidates(self, x: Tensor) -> Mapping[str, Tensor]:
        """Logits [rows, classes] of every predictor that is kept, by name."""
        sides = self._sides(x)
        features = self.model.encode(sides)
        found = {WEIGHTS: self.model.classify(features)}
        if self.average is not None:
            found[AVERAGE] = self.average.logits(self.model, sides)
        if self.means is not None:
            found[MEANS] = self.means.logits(self.model, features)
        return {name: self._mean(logits) for name, logits in found.items()}

    def part(self) -> Part:
        tensors: dict[str, Tensor] = {}
        values: dict[str, object] = {"name": self.name}
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
        if self.average is not None:
            own = {n.partition(".")[2]: t for n, t in part.tensors.items() if n.startswith("average.")}
            self.average.load(Part(own, part.values["average"]))
        if self.means is not None:
            self.means.rows = part.tensors["means"].to(self.model.device, copy=True)
