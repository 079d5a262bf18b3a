"""Momentum knowledge distillation (Michel et al., "Rethinking momentum knowledge distillation in online
continual learning", ICML 2024): an exponential average of the weights teaches the weights.

    L = L_method + weight * T^2 * KL(softmax(teacher / T) || softmax(student / T)), mean over all rows
    teacher <- teacher + a (student - teacher) after each step, a = max(rate, 1 / (step + 1))

The paper distils between two views of a row; here both see the same rows, which the prototype found to be
enough. It starts from near zero weights with a bias correction; a plain running mean at first is clearer.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from streamlearn.config import Section
from streamlearn.method import Losses, Method, Modifier, Rows
from streamlearn.model import Model
from streamlearn.state import Part, copy


class MomentumTeacher(Modifier):
    summary = "distils from an exponential average of the weights"
    paper = "Michel et al., Rethinking momentum knowledge distillation, ICML 2024"

    class Params(Section):
        """Parameters of the teacher."""

        weight: float = Field(1.0, ge=0, description="of the distillation term")
        rate: float = Field(
            0.01, gt=0, le=1, description="share of the student taken into the teacher a step"
        )
        temperature: float = Field(4.0, gt=0, description="T, of both distributions")

    def __init__(self, params: Any, inner: Method) -> None:
        super().__init__(params, inner)
        self.steps = 0
        self.known = 0
        self.flat: Tensor | None = None
        self.rows: Tensor | None = None

    def loss(self, model: Model, rows: Rows) -> Losses:
        losses = self.inner.loss(model, rows)
        if self.flat is None or self.rows is None:
            return losses
        hot = self.params.temperature
        teacher = functional.softmax(model.with_weights(self.flat, self.rows, rows.x) / hot, dim=1)
        student = functional.log_softmax(rows.logits(model) / hot, dim=1)
        divergence = functional.kl_div(student, teacher, reduction="batchmean")
        return {**losses, "teacher": self.params.weight * hot**2 * divergence}

    @torch.no_grad()
    def after_step(self, model: Model, rows: Rows) -> None:
        self.inner.after_step(model, rows)
        if self.flat is None or self.rows is None:
            self.flat, self.rows = model.flat.clone(), model.rows.clone()
        rate = max(self.params.rate, 1 / (self.steps + 1))
        self.flat.lerp_(model.flat, rate)
        self.rows.lerp_(model.rows, rate)
        self.steps += 1

    def grow(self, model: Model) -> None:
        """New classes: the teacher takes the student's new rows as they are."""
        self.inner.grow(model)
        if self.rows is not None:
            known = min(self.known, self.rows.shape[0])
            grown = model.rows.clone()
            grown[:known] = self.rows[:known]
            self.rows = grown
        self.known = model.classes

    def part(self) -> Part:
        tensors = {} if self.flat is None or self.rows is None else {"flat": self.flat, "rows": self.rows}
        return Part(
            {name: copy(tensor) for name, tensor in tensors.items()},
            {"steps": self.steps, "known": self.known},
        )

    def load(self, part: Part, model: Model) -> None:
        self.steps, self.known = int(part.values["steps"]), int(part.values["known"])
        if part.tensors:
            self.flat = part.tensors["flat"].to(model.device)
            self.rows = part.tensors["rows"].to(model.device)
