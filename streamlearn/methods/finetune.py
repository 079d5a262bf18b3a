"""No replay: what a training loop behind a consumer does. The lower bound that shows what is forgotten."""

from __future__ import annotations

import numpy as np

from streamlearn.buffers import Memory
from streamlearn.losses import cross_entropy
from streamlearn.method import Losses, Method
from streamlearn.model import Model
from streamlearn.rows import Draw, Rows


class Finetune(Method):
    summary = "cross-entropy on the stream batch alone, no replay: forgets"
    paper = "the usual lower bound of continual learning"
    budget = 1.0

    def draw(self, memory: Memory, count: int, rng: np.random.Generator) -> Draw:
        return Draw(np.empty(0, dtype=np.int64))

    def loss(self, model: Model, rows: Rows) -> Losses:
        return {"stream": cross_entropy(rows.classified(model), rows)}
