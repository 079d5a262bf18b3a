"""ER with asymmetric cross-entropy (Caccia et al., "New insights on reducing abrupt representation change
in online continual learning", ICLR 2022, equation 3).

The stream batch is scored among the classes in it alone, so that new classes don't push the old ones
away; the memory batch among all classes. The paper's "classes not seen before" need no place here: the
head is open and has no column for them.
"""

from __future__ import annotations

from streamlearn.arithmetic import full
from streamlearn.losses import MASKED, competition, cross_entropy
from streamlearn.method import Losses, Method
from streamlearn.model import Model
from streamlearn.rows import Rows


class AsymmetricReplay(Method):
    summary = "ER whose stream batch competes only among the classes in it"
    paper = "Caccia et al., New insights on reducing abrupt representation change, ICLR 2022"

    def loss(self, model: Model, rows: Rows) -> Losses:
        logits, stream = rows.classified(model), slice(0, rows.stream)
        absent = full(model.classes, MASKED, logits.value)
        absent[rows.labels[stream]] = 0
        losses: Losses = {"stream": competition(logits, rows, stream, absent)}
        if len(rows) > rows.stream:
            losses["memory"] = cross_entropy(logits, rows, rows.stream)
        return losses
