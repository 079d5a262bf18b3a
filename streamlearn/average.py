"""An exponential average of a model's weights, as a net of its own."""

from __future__ import annotations

import copy as deep
from typing import Any

import torch

from streamlearn.arithmetic import Numbers, host, tensor
from streamlearn.model import Model, lay
from streamlearn.state import Part, copy, fill


class Average:
    """e <- e + a (theta - e) after each step, over all weights, with

        a = max(rate, (power + 1) / (age + power + 1)).

    With power 0 that is the plain mean over `age` steps, with more of it recent steps weigh more
    (polynomial-decay averaging: Shamir and Zhang, ICML 2013), until the rate makes it exponential.
    The age is the number of steps, but falls to `restart` when a class arrives (0: never): the average
    then follows fast, and more and more slowly as the stream settles. So a slow rate doesn't lag where
    classes come fast, and no task has to be known. Every row of the head has an age of its own, so that
    the row of a class that came late follows as fast as the first rows did. Running statistics of
    normalisation layers are averaged alike: with those of the weights an average is no better than chance.
    """

    def __init__(self, model: Model, rate: float, power: float = 0.0, restart: int = 0) -> None:
        self.rate, self.restart = rate, restart
        self.weight = power + 1
        self.steps = 0
        self.flat = model.flat.clone()
        self.rows = model.rows.clone()
        self.ages = torch.zeros(model.rows.shape[0], 1, device=model.device)
        self.classes = model.classes
        self._cut: tuple[int, tuple[Any, ...], tuple[Any, ...]] = (-1, (None, None, None), ())
        self.encoder = deep.deepcopy(model.encoder)
        lay(self.encoder, self.flat)
        self.encoder.requires_grad_(False)
        # Found once: to walk a small net's modules costs as much as to average its weights.
        self._buffers = list(self.encoder.buffers())

    def update(self, model: Model) -> None:
        """Take the weights of `model` after a step."""
        share = max(self.rate, self.weight / (self.steps + self.weight))
        self.flat.lerp_(model.flat, share)
        for mine, theirs in zip(self._buffers, model.encoder.buffers(), strict=True) if self._buffers else ():
            if mine.is_floating_point():
                mine.lerp_(theirs, share)
            else:
                mine.copy_(theirs)
        rows, ages, new = self._in_use(model)
        shares = 1 / (ages + self.weight) * self.weight
        shares[shares < self.rate] = self.rate
        # Of thousands of classes: in one pass, without rows between.
        tensor(rows).lerp_(tensor(new), tensor(shares))
        ages += 1
        self.steps += 1

    def _in_use(self, model: Model) -> Any:
        """The rows in use of the average, their ages, and the model's, as `host` gives them.

        Kept from step to step: to cut them anew takes longer than to average them.
        """
        storage = (self.rows, self.ages, model.rows)
        if model.classes != self._cut[0] or any(
            a is not b for a, b in zip(storage, self._cut[1], strict=True)
        ):
            cuts = tuple(host(tensor[: model.classes]) for tensor in storage)
            self._cut = (model.classes, storage, cuts)
        return self._cut[2]

    def grow(self, model: Model) -> None:
        """New classes: take the model's new rows as they are; changes no row that was there."""
        if self.restart and model.classes > self.classes:
            self.steps = min(self.steps, self.restart)
            self.ages.clamp_(max=self.restart)
        if self.rows.shape != model.rows.shape:
            rows, ages = model.rows.clone(), torch.zeros(model.rows.shape[0], 1, device=model.device)
            rows[: self.classes] = self.rows[: self.classes]
            ages[: self.classes] = self.ages[: self.classes]
            self.rows, self.ages = rows, ages
        else:
            self.rows[self.classes : model.classes] = model.rows[self.classes : model.classes]
        self.classes = model.classes

    def logits(self, model: Model, x: Numbers) -> Numbers:
        """[rows, classes] of normalised inputs [rows, *shape] by the averaged weights."""
        return model.score(model.represent(x, self.encoder), self._in_use(model)[0])

    def part(self) -> Part:
        buffers = {f"buffer.{name}": copy(b) for name, b in self.encoder.named_buffers()}
        tensors = {"flat": copy(self.flat), "rows": copy(self.rows), "ages": copy(self.ages), **buffers}
        return Part(tensors, {"steps": self.steps, "classes": self.classes})

    def load(self, part: Part) -> None:
        """Take the state in `part`; ValueError if it is of another net."""
        self.rows = part.tensors["rows"].to(self.flat.device, copy=True)
        self.ages = part.tensors["ages"].to(self.flat.device, copy=True)
        fill(self.flat, part.tensors["flat"], "average")
        for name, buffer in self.encoder.named_buffers():
            fill(buffer, part.tensors[f"buffer.{name}"], name)
        self.steps, self.classes = int(part.values["steps"]), int(part.values["classes"])
