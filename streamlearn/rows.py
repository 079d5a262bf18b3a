"""What a step learns from: the views of the stream batch and of the examples drawn from memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from streamlearn.buffers import Memory
from streamlearn.events import Array
from streamlearn.model import Model
from streamlearn.views import RAW, Views


@dataclass(frozen=True)
class Draw:
    """Which examples of the memory a step replays.

    slots: int64 [n]. partner, share: with both, example i is the mixture share[i] * slots[i] +
    (1 - share[i]) * partner[i] (Zhang et al., mixup, ICLR 2018); share 1 leaves it as it is. float32 [n].
    """

    slots: Array
    partner: Array | None = None
    share: Array | None = None


@dataclass(slots=True)
class Rows:
    """The rows of one step: all views of the stream batch first, then all views of the memory's examples.

    x: normalised inputs [rows, *shape]; y: class numbers [rows]. stream: how many rows are the stream's.
    Views lie one after another: the first `stream / stream_views` rows are the first view of the batch.
    other, share: where memory examples are mixed, the second class of each row and the share of the first;
    None where no row is.
    stream_raw, memory_raw: the inputs as stored [B, *shape] and [n, *shape], for further views.
    """

    x: Tensor
    y: Tensor
    stream: int
    stream_views: int
    memory_views: int
    views: Views
    stream_raw: Tensor
    memory_raw: Tensor
    other: Tensor | None = None
    share: Tensor | None = None
    _features: list[Tensor] = field(default_factory=list)
    _logits: list[Tensor] = field(default_factory=list)

    def features(self, model: Model) -> Tensor:
        """model.encode(x) [rows, d]: one forward, shared by the method, its modifiers and the class means."""
        if not self._features:
            self._features.append(model.encode(self.x))
        return self._features[0]

    def logits(self, model: Model) -> Tensor:
        """model(x) [rows, classes], of the same forward."""
        if not self._logits:
            self._logits.append(model.classify(self.features(model)))
        return self._logits[0]

    def of_stream(self, view: int) -> slice:
        """Where the stream batch's view number `view` lies."""
        size = self.stream // self.stream_views
        return slice(view * size, (view + 1) * size)

    def of_memory(self, view: int) -> slice:
        """Where the memory examples' view number `view` lies; empty if nothing was drawn."""
        size = (len(self.y) - self.stream) // self.memory_views
        return slice(self.stream + view * size, self.stream + (view + 1) * size)

    @property
    def pure(self) -> Tensor:
        """Rows [rows] that are one example, not a mixture of two."""
        if self.share is None:
            return torch.ones_like(self.y, dtype=torch.bool)
        return self.share == 1


def make_rows(
    stream: Tensor,
    y: Array,
    memory: Memory,
    draw: Draw,
    views: Views,
    stream_views: tuple[str, ...],
    memory_views: tuple[str, ...],
) -> Rows:
    """The rows of a step. stream: stored inputs [B, *shape]; class numbers y [B]; the views by strength."""
    counts, device = (len(stream_views), len(memory_views)), stream.device
    streams = len(stream) * counts[0]
    if not len(draw.slots):
        x = _views(views, stream, stream_views)
        labels = _labels([(y, counts[0])], device)
        return Rows(x, labels, streams, *counts, views, stream, stream[:0])
    drawn_x, drawn_y = memory.rows(draw.slots)
    other = share = None
    if draw.partner is not None and draw.share is not None:
        partner_x, partner_y = memory.rows(draw.partner)
        part = torch.from_numpy(draw.share).to(device)
        wide = part.view(-1, *[1] * (drawn_x.dim() - 1))
        drawn_x = drawn_x * wide + partner_x * (1 - wide)
        other = _labels([(y, counts[0]), (partner_y, counts[1])], device)
        share = torch.cat([torch.ones(streams, device=device), part.repeat(counts[1])])
    if stream_views == memory_views == (RAW,) and stream.dtype == drawn_x.dtype:
        x = views(torch.cat([stream, drawn_x]), RAW)
    else:
        x = torch.cat([_views(views, stream, stream_views), _views(views, drawn_x, memory_views)])
    labels = _labels([(y, counts[0]), (drawn_y, counts[1])], device)
    return Rows(x, labels, streams, *counts, views, stream, drawn_x, other, share)


def _labels(parts: Sequence[tuple[Array, int]], device: torch.device) -> Tensor:
    """Class numbers, each part so many times over, on the device."""
    repeated = [y for y, times in parts for _ in range(times)]
    return torch.from_numpy(np.concatenate(repeated)).to(device)


def _views(views: Views, raw: Tensor, strengths: tuple[str, ...]) -> Tensor:
    made = [views(raw, strength) for strength in strengths]
    return torch.cat(made) if len(made) > 1 else made[0]
