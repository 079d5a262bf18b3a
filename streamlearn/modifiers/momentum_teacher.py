"""Momentum knowledge distillation (Michel et al., "Rethinking momentum knowledge distillation in online
continual learning", ICML 2024): an exponential average of the weights teaches the weights.

    L = L_method + weight * T^2 * KL(softmax(teacher / T) || softmax(student / T)), mean over all rows
    teacher <- teacher + a (student - teacher) after each step, a = max(rate, 1 / (step + 1))

The paper distils between two views of a row; here both see the same rows, which the prototype found to be
enough. It starts from near zero weights with a bias correction; a plain running mean at first is clearer.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch.nn import functional

from streamlearn.arithmetic import tensor
from streamlearn.average import Average
from streamlearn.method import Losses, Method, Modifier
from streamlearn.model import Model
from streamlearn.rows import Rows
from streamlearn.section import Section
from streamlearn.state import Part


class MomentumTeacher(Modifier):
    summary = "distils from an exponential average of the weights"
    paper = "Michel et al., Rethinking momentum knowledge distillation, ICML 2024"

    class Params(Section):
        """Parameters of the teacher."""

        weight: float = Field(1.0, ge=0, description="of the distillation term")
        rate: float = Field(
            0.01, gt=0, le=1, description="share of the student taken into the teacher a step"
        )
        temperature: float = Field(4.0, gt=0, le=1000, description="T, of both distributions")

    def __init__(self, params: Any, inner: Method) -> None:
        super().__init__(params, inner)
        self.teacher: Average | None = None

    def loss(self, model: Model, rows: Rows) -> Losses:
        losses = self.inner.loss(model, rows)
        if self.teacher is None or not self.params.weight:
            return losses  # (`forwards` says the same)
        hot = self.params.temperature
        teacher = functional.softmax(tensor(self.teacher.logits(model, rows.inputs)) / hot, dim=1)
        student = functional.log_softmax(rows.logits(model) / hot, dim=1)
        divergence = functional.kl_div(student, teacher, reduction="batchmean")
        return {**losses, "teacher": self.params.weight * hot**2 * divergence}

    def after_step(self, model: Model, rows: Rows) -> None:
        self.inner.after_step(model, rows)
        if self.teacher is None:
            self.teacher = Average(model, self.params.rate)
        self.teacher.update(model)

    def forwards(self, rows: int) -> int:
        asked = self.teacher is not None and self.params.weight
        return self.inner.forwards(rows) + (rows if asked else 0)

    def grow(self, model: Model) -> None:
        self.inner.grow(model)
        if self.teacher is not None:
            self.teacher.grow(model)

    def part(self) -> Part:
        return Part() if self.teacher is None else self.teacher.part()

    def load(self, part: Part, model: Model) -> None:
        if part.tensors:
            self.teacher = Average(model, self.params.rate)
            self.teacher.load(part)
