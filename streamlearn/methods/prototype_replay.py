"""The default: replay against prototypes, in the form that pays at a small budget of images.

The rows of the cosine head are the classes' prototypes, learned over all of stream and memory in place of
means over the one to three rows a class that a small step holds (Wei et al., "Online prototype learning for
online continual learning", ICCV 2023, takes those means). The loss is that of proxy-based contrastive replay
(Lin et al., CVPR 2023) over an untouched and an augmented view of everything. Changed from there:

- Where a step replays fewer examples than there are known classes, those that it misses compete as well,
  as though they had a share of a row: a step then says too little about which classes there are.
- Below four images an event there is one view of more examples; vectors have two images, and no noise.

What the feedback of prototypes on the draw brought (classes that are near others replayed more), mixtures,
and draws from a shuffled queue is in ops/decisions: nothing, so they are not here.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from streamlearn.config import Section
from streamlearn.losses import proxy_contrastive
from streamlearn.method import Losses, Method
from streamlearn.model import Model
from streamlearn.rows import Rows
from streamlearn.views import RAW, STANDARD, WEAK

TWO_VIEWS_FROM = 4.0
"""Images per event below which one view of more examples beats two views of fewer."""


class PrototypeReplay(Method):
    summary = "replay against class prototypes over two views, served by averaged weights (the default)"
    paper = "after Wei et al., OnPro, ICCV 2023, and Lin et al., PCR, CVPR 2023"
    budget = 8.0
    predictor = "auto"

    class Params(Section):
        """Parameters of prototype_replay."""

        absent: float = Field(
            0.5,
            ge=0,
            le=1,
            description="rows that a known class counts for in a step without it, "
            "where fewer examples are replayed than classes are known; 0: none",
        )

    def __init__(self, params: Any) -> None:
        super().__init__(params)
        self.stream_views = self.memory_views = (RAW, WEAK)

    def plan(self, batch: int, images: float) -> int:
        views = (RAW, WEAK) if images >= TWO_VIEWS_FROM * batch else (STANDARD,)
        self.stream_views = self.memory_views = views
        return super().plan(batch, images)

    def loss(self, model: Model, rows: Rows) -> Losses:
        sparse = len(rows.memory_raw) < model.classes
        absent = self.params.absent if sparse else 0.0
        return {"prototypes": proxy_contrastive(rows.logits(model), rows, absent)}
