"""ER with asymmetric cross-entropy (Caccia et al., "New insights on reducing abrupt representation change
in online continual learning", ICLR 2022, equation 3).

The stream batch is scored among the classes in it alone, so that new classes don't push the old ones
away; the memory batch among all classes. The paper's "classes not seen before" need no place here: the
head is open and has no column for them.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from streamlearn.losses import MASKED
from streamlearn.method import Losses, Method
from streamlearn.model import Model
from streamlearn.rows import Rows


class AsymmetricReplay(Method):
    summary = "ER whose stream batch competes only among the classes in it"
    paper = "Caccia et al., New insights on reducing abrupt representation change, ICLR 2022"

    def loss(self, model: Model, rows: Rows) -> Losses:
        logits = rows.logits(model)
        stream, y = logits[: rows.stream], rows.y[: rows.stream]
        present = torch.zeros(model.classes, dtype=torch.bool, device=logits.device)
        present[y] = True
        losses = {"stream": functional.cross_entropy(stream.masked_fill(~present, MASKED), y)}
        if len(rows.y) > rows.stream:
            losses["memory"] = functional.cross_entropy(logits[rows.stream :], rows.y[rows.stream :])
        return losses
