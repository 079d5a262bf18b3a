"""What a step learns from: the views of the stream batch and of the examples drawn from memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from streamlearn.arithmetic import Numbers, full, index, join, tensor
from streamlearn.buffers import Memory
from streamlearn.events import Array
from streamlearn.model import Model
from streamlearn.tape import Node
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

    inputs: normalised [rows, *shape]; labels: class numbers [rows]; `x` and `y` are the same as tensors.
    stream: how many rows are the stream's. Views lie one after another: the first `stream / stream_views`
    rows are the first view of the batch.
    other, share: where memory examples are mixed, the second class of each row and the share of the first;
    None where no row is.
    """

    inputs: Numbers
    labels: Numbers
    stream: int
    stream_views: int
    memory_views: int
    views: Views
    other: Numbers | None = None
    share: Numbers | None = None
    _encoded: Node | None = None
    _classified: Node | None = None

    @property
    def x(self) -> Tensor:
        return tensor(self.inputs)

    @property
    def y(self) -> Tensor:
        return tensor(self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def replayed(self) -> int:
        """How many examples of the memory there are."""
        return (len(self) - self.stream) // self.memory_views

    def encoded(self, model: Model) -> Node:
        """The features of x [rows, d]: one forward, shared by the method, its modifiers, the class means."""
        if self._encoded is None:
            self._encoded = model.encoded(self.inputs)
        return self._encoded

    def classified(self, model: Model) -> Node:
        """The logits of x [rows, classes], of the same forward."""
        if self._classified is None:
            self._classified = model.classified(self.encoded(model))
        return self._classified

    def features(self, model: Model) -> Tensor:
        """The features with a graph."""
        return self.encoded(model).leaf

    def logits(self, model: Model) -> Tensor:
        """The logits with a graph."""
        return self.classified(model).leaf

    def of_stream(self, view: int) -> slice:
        """Where the stream batch's view number `view` lies."""
        size = self.stream // self.stream_views
        return slice(view * size, (view + 1) * size)

    def of_memory(self, view: int) -> slice:
        """Where the memory examples' view number `view` lies; empty if nothing was drawn."""
        size = self.replayed
        return slice(self.stream + view * size, self.stream + (view + 1) * size)

    @property
    def pure(self) -> Numbers:
        """Rows [rows] that are one example, not a mixture of two."""
        return self.labels >= 0 if self.share is None else self.share == 1


def make_rows(
    stream: Numbers,
    y: Array,
    memory: Memory,
    draw: Draw,
    views: Views,
    stream_views: tuple[str, ...],
    memory_views: tuple[str, ...],
) -> Rows:
    """The rows of a step. stream: stored inputs [B, *shape]; class numbers y [B]; the views by strength."""
    counts = len(stream_views), len(memory_views)
    streams = len(stream) * counts[0]
    if not len(draw.slots):
        x = _views(views, stream, stream_views)
        return Rows(x, _labels([(y, counts[0])], stream), streams, *counts, views)
    drawn_x, drawn_y = memory.rows(draw.slots)
    other = share = None
    if draw.partner is not None and draw.share is not None:
        partner_x, partner_y = memory.rows(draw.partner)
        part = index(draw.share, stream)
        wide = part.reshape(-1, *[1] * (drawn_x.ndim - 1))
        drawn_x = drawn_x * wide + partner_x * (1 - wide)
        other = _labels([(y, counts[0]), (partner_y, counts[1])], stream)
        share = join([full(streams, 1.0, stream)] + [part] * counts[1])
    alike = counts == (1, 1) and views.untouched(stream_views[0]) and views.untouched(memory_views[0])
    if alike and stream.dtype == drawn_x.dtype:
        x = views(join([stream, drawn_x]), RAW)
    else:
        x = join([_views(views, stream, stream_views), _views(views, drawn_x, memory_views)])
    labels = _labels([(y, counts[0]), (drawn_y, counts[1])], stream)
    return Rows(x, labels, streams, *counts, views, other, share)


def _labels(parts: Sequence[tuple[Array, int]], like: Numbers) -> Numbers:
    """Class numbers, each part so many times over, where `like` lies."""
    return index(np.concatenate([y for y, times in parts for _ in range(times)]), like)


def _views(views: Views, raw: Numbers, strengths: tuple[str, ...]) -> Numbers:
    made = [views(raw, strength) for strength in strengths]
    return join(made) if len(made) > 1 else made[0]
