"""Experience replay (Chaudhry et al., "On tiny episodic memories in continual learning", 2019).

One mean cross-entropy over the rows of the stream batch and of the memory batch together. (The sum of two
means, one a batch, looks alike and is another method: the stream's share is then always one half.)
"""

from __future__ import annotations

from streamlearn.losses import cross_entropy
from streamlearn.method import Losses, Method
from streamlearn.model import Model
from streamlearn.rows import Rows


class ExperienceReplay(Method):
    summary = "cross-entropy on the stream batch and a uniformly drawn memory batch"
    paper = "Chaudhry et al., On tiny episodic memories in continual learning, 2019"

    def loss(self, model: Model, rows: Rows) -> Losses:
        return {"all": cross_entropy(rows.classified(model), rows)}
