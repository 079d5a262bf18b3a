"""Proxy-based contrastive replay (Lin et al., "PCR: proxy-based contrastive replay for online
class-incremental continual learning", CVPR 2023): the rows of the head are proxies of the classes, and a
row competes only with the classes that are in the step, weighted by how often they are.

With empty memory the paper takes no loss at all; here the stream batch alone is learned until then.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from streamlearn.losses import proxy_contrastive
from streamlearn.method import Losses, Method
from streamlearn.model import Model
from streamlearn.rows import Rows
from streamlearn.section import Section
from streamlearn.views import RAW, WEAK

TWO_VIEWS_FROM = 4.0
"""Images per event below which one view of more examples beats two views of fewer."""


class ProxyContrastiveReplay(Method):
    summary = "proxy-based contrast over an untouched and an augmented view of stream and memory"
    paper = "Lin et al., PCR: proxy-based contrastive replay, CVPR 2023"
    budget = 8.0

    class Params(Section):
        """Parameters of PCR."""

        views: int | None = Field(
            None, ge=1, le=2, description="of each example; unset: 2 where images_per_event is 4 or more"
        )

    def __init__(self, params: Any) -> None:
        super().__init__(params)
        self._set_views(params.views or 2)

    def _set_views(self, count: int) -> None:
        self.stream_views = self.memory_views = (RAW, WEAK) if count == 2 else (WEAK,)

    def plan(self, batch: int, images: float) -> int:
        if self.params.views is None:
            self._set_views(2 if images >= TWO_VIEWS_FROM * batch else 1)
        return super().plan(batch, images)

    def loss(self, model: Model, rows: Rows) -> Losses:
        return {"proxies": proxy_contrastive(rows.classified(model), rows)}
