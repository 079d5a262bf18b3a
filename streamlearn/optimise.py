"""Optimisers over a model's flat parameters and over the rows of its head.

Every row of the head has a step count of its own: a class that appears late is corrected for bias as a
class that was there from the start was in its first steps.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from streamlearn.arithmetic import host
from streamlearn.config import LearningSettings
from streamlearn.model import Model
from streamlearn.nets import MLP
from streamlearn.state import Part, copy, fill

BETA1, BETA2, EPSILON = 0.9, 0.99, 1e-8
"""Adam's constants; .99 in place of .999 so that a young row's second moment fills in a hundred steps."""

DEFAULT_RATE = {"adamw": 1e-3, "sgd": 0.2}
"""Found on digits, Electricity, CLINC150 and Fashion-MNIST (ops/decisions/0004)."""


class Optimiser:
    """AdamW (Loshchilov and Hutter, ICLR 2019, algorithm 2) or SGD, both with decoupled weight decay."""

    def __init__(self, settings: LearningSettings, model: Model) -> None:
        self.name: str = settings.optimiser
        if self.name == "auto":
            self.name = "sgd" if isinstance(model.encoder, MLP) else "adamw"
        self.rate = settings.learning_rate or DEFAULT_RATE[self.name]
        self.decay = settings.weight_decay
        self.steps = 0
        self.row_steps = torch.zeros(model.rows.shape[0], 1, device=model.device)
        if self.name == "adamw":
            self.m, self.v = torch.zeros_like(model.flat), torch.zeros_like(model.flat)
            self.row_m, self.row_v = torch.zeros_like(model.rows), torch.zeros_like(model.rows)
        self._counted = host(self.row_steps)

    def grow(self, model: Model) -> None:
        """Follow the head's storage. No existing state changes by a bit; new rows start at zero."""
        before, after = self.row_steps.shape[0], model.rows.shape[0]
        if after == before:
            return
        for name in ("row_steps", "row_m", "row_v") if self.name == "adamw" else ("row_steps",):
            old: Tensor = getattr(self, name)
            new = torch.zeros(after, old.shape[1], device=old.device)
            new[:before] = old
            setattr(self, name, new)
        self._counted = host(self.row_steps)

    def step(self, model: Model) -> None:
        """Apply the gradients that `model.backward` left."""
        self.steps += 1
        self._counted[: model.classes] += 1
        if self.decay:
            for weights in model.weights:
                weights *= 1 - self.rate * self.decay
        if self.name == "adamw":
            self._adam(model)
            return
        model.flat.add_(model.flat_grad, alpha=-self.rate)
        model.used.add_(model.used_grad, alpha=-self.rate)

    def _adam(self, model: Model) -> None:
        # p -= rate * (m / c1) / (sqrt(v / c2) + eps), with the corrections c = 1 - beta^steps. Of the flat
        # parameters torch does so in one pass; the weights have decayed already, and it counts the step.
        counted = torch.full((), self.steps - 1.0, device=model.device)
        adamw(
            *([model.flat], [model.flat_grad], [self.m], [self.v], [], [counted]),
            fused=True,
            amsgrad=False,
            beta1=BETA1,
            beta2=BETA2,
            lr=self.rate,
            weight_decay=0,
            eps=EPSILON,
            maximize=False,
        )
        k = model.classes
        rows, rows_grad, steps = model.used, model.used_grad, self.row_steps[:k]
        m, v = self.row_m[:k], self.row_v[:k]
        m.lerp_(rows_grad, 1 - BETA1)
        v.mul_(BETA2).addcmul_(rows_grad, rows_grad, value=1 - BETA2)
        row_c1, row_c2 = 1 - torch.pow(BETA1, steps), 1 - torch.pow(BETA2, steps)
        row_scale = (v / row_c2).sqrt_().add_(EPSILON).mul_(row_c1)
        rows.addcdiv_(m, row_scale, value=-self.rate)

    def part(self) -> Part:
        return Part({name: copy(tensor) for name, tensor in self._tensors().items()}, {"steps": self.steps})

    def load(self, part: Part, model: Model) -> None:
        self.grow(model)
        self.steps = int(part.values["steps"])
        for name, tensor in self._tensors().items():
            fill(tensor, part.tensors[name], name)

    def _tensors(self) -> dict[str, Tensor]:
        names = ["row_steps"] + (["m", "v", "row_m", "row_v"] if self.name == "adamw" else [])
        return {name: getattr(self, name) for name in names}
