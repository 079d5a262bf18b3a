"""The default: replay against prototypes, in the form that pays at a small budget of images.

The rows of the cosine head are the classes' prototypes, learned over all of stream and memory in place of
means over the one to three rows a class that a small step holds (Wei et al., "Online prototype learning for
online continual learning", ICCV 2023, takes those means). The loss is that of proxy-based contrastive replay
(Lin et al., CVPR 2023) over an untouched and an augmented view of what is replayed. Changed from there:

- A memory that is small beside its stream is replayed hundreds of times over, and is then learned by heart.
  So once its examples have been replayed WORN times, in the mean, half of the images of a step are views of
  the stream's events; before, there are two views of each, and all else replays.
- A class that has just come in the stream and of which the step holds no row competes as though there were
  one; PCR's classes without a row never do. Where hundreds of classes keep coming, most are missing from a
  small step, and to be told apart they must meet. A class that has left the stream isn't pushed away.
- Part of the replay can be drawn by prototypes (OnPro's adaptive prototypical feedback without its
  mixtures): classes that lie near others are replayed more, at no image's cost. It gained on some validation
  streams and not on those of the tables, so it is off: see ops/decisions/0008-default-learner.md.
- Below four images an event there is one view of more examples; vectors have two images, and no noise.

Mixtures of examples and draws from a shuffled queue brought nothing and are not here (same file).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from streamlearn.arithmetic import Numbers, full, host, join, tensor, unit
from streamlearn.buffers import Memory
from streamlearn.events import Array
from streamlearn.losses import proxy_contrastive
from streamlearn.method import Losses, Method
from streamlearn.methods.pcr import TWO_VIEWS_FROM
from streamlearn.model import Model
from streamlearn.rows import Draw, Rows
from streamlearn.section import Section
from streamlearn.state import Part, copy
from streamlearn.views import RAW, STANDARD, WEAK

TWO_VIEWS: tuple[str, ...] = (RAW, WEAK)

WORN = 20
"""Times that an example of the memory has been replayed, in the mean, from which on more is too much."""

MOST_VIEWS = 8
"""Of an event, however large the budget."""

RECENT = 10
"""Steps after the last one that learned an event of a class in which it still competes, of whatever size."""

MOST_CLASSES = 512
"""Classes up to which prototypes steer the draw; beyond, comparing all pairs would cost as much as a step."""


class PrototypeReplay(Method):
    summary = "replay against class prototypes over several views, served by averaged weights (the default)"
    paper = "after Wei et al., OnPro, ICCV 2023, and Lin et al., PCR, CVPR 2023"
    budget = 8.0
    predictor = "auto"
    mirrors = True

    class Params(Section):
        """Parameters of prototype_replay."""

        feedback: float = Field(
            0.0, ge=0, le=1, description="share of the replay drawn by how near a class is to others; 0: none"
        )
        sharpness: float = Field(
            0.1, gt=0, description="temperature of the softmax over the cosines of all pairs of prototypes"
        )

    def __init__(self, params: Any) -> None:
        super().__init__(params)
        self.stream_views = self.memory_views = TWO_VIEWS
        self.nearness: Array | None = None
        self._young: tuple[tuple[str, ...], int] = (self.stream_views, 0)
        """Views of the stream and examples to replay while the memory is young."""
        self._old = self._young
        """The same once it is worn."""
        self._batch = 1
        self._left: Numbers | None = None
        """Steps in which a class still competes without a row, float32 [classes], where the model lies."""

    def plan(self, batch: int, images: float) -> int:
        """As many examples as there are while the memory is young."""
        self._batch = batch
        several = images >= TWO_VIEWS_FROM * batch
        self.stream_views = self.memory_views = TWO_VIEWS if several else (STANDARD,)
        count = super().plan(batch, images)
        self._young, self._old = (self.stream_views, count), (self.stream_views, count)
        if several:
            views = min(MOST_VIEWS, int(images / (2 * batch)))
            self.stream_views = (RAW, *(WEAK,) * (views - 1))
            self._old = self.stream_views, super().plan(batch, images)
            self.stream_views = self._young[0]
        return self._young[1]

    def _settle(self, memory: Memory, count: int) -> int:
        """Choose the views of a step, and how many of `count` examples it replays, unless that is given.

        A function of what the memory has been offered and holds: nothing of it has to be part of the state.
        """
        (views, most), (later_views, fewer) = self._young, self._old
        worn = memory.size and memory.age / self._batch * most >= WORN * memory.size
        if not worn or self.given is not None:
            self.stream_views = views
            return count
        self.stream_views = later_views
        return round(count * fewer / most)

    def draw(self, memory: Memory, count: int, rng: np.random.Generator) -> Draw:
        """Most examples uniformly, the rest by the nearness of their class's prototype to others."""
        count = self._settle(memory, count)
        near = round(self.params.feedback * min(count, memory.size))
        if self.nearness is None or not near:
            return super().draw(memory, count, rng)
        labels = memory.labels[: memory.size]
        weights = (self.nearness / np.bincount(labels, minlength=len(self.nearness)).clip(1))[labels]
        # Of too few with any weight there is nothing to choose.
        if np.count_nonzero(weights) < min(count, memory.size):
            return super().draw(memory, count, rng)
        slots = memory.draw(min(count, memory.size) - near, rng)
        weights[slots] = 0
        more = rng.choice(memory.size, near, replace=False, p=weights / weights.sum())
        return Draw(np.concatenate([slots, more]))

    def _compare(self, model: Model) -> None:
        """Share of every class [classes] in the pairs of prototypes, a pair by softmax(cosine / sharpness).

        Always that of the head as it is: nothing of it has to be part of the state.
        """
        self.nearness = None
        if self.params.feedback and 2 <= model.classes <= MOST_CLASSES:
            prototypes = unit(model.used[:, : model.features])
            cosines = (prototypes @ prototypes.T).cpu().numpy().astype(np.float64)
            if not np.isfinite(cosines).all():
                return
            np.fill_diagonal(cosines, -np.inf)
            pairs = np.exp((cosines - cosines.max()) / self.params.sharpness)
            self.nearness = pairs.sum(axis=1) / pairs.sum()

    def grow(self, model: Model) -> None:
        known = [] if self._left is None else [self._left]
        more = full(model.classes - sum(map(len, known)), 0.0, host(model.used))
        self._left = join([*known, more])
        self._compare(model)

    def after_step(self, model: Model, rows: Rows) -> None:
        if self._left is not None:
            self._left -= 1
            self._left[rows.labels[rows.of_stream(0)]] = RECENT
        self._compare(model)

    def part(self) -> Part:
        # How long ago a class has left is nobody's business.
        return Part() if self._left is None else Part({"left": copy(tensor(self._left).clamp(min=0))})

    def load(self, part: Part, model: Model) -> None:
        if part.tensors:
            self._left = host(part.tensors["left"].to(model.device, copy=True))
        self._compare(model)

    def loss(self, model: Model, rows: Rows) -> Losses:
        besides = None if self._left is None else self._left > 0
        return {"prototypes": proxy_contrastive(rows.classified(model), rows, besides)}
