"""View-batch recall (Kang et al., "Do your best and get enough rest for continual learning", CVPR 2025):
fewer distinct examples in a memory batch, several views of each, so that an example is recalled less often
and more is learned from it.

    L = L_method + weight / (n (V - 1)) sum_i sum_{j > 1} KL(p_i1 || p_ij)

over the n examples of the memory batch, p_ij the softmax over the known classes for view j of example i,
p_i1 (the teacher) detached. View 1 is weak, the others strong.

The paper's V views go with V times fewer epochs. One pass over a stream has no epochs: what has a recall
interval is the memory, so this changes its side alone, and keeps the number of rows: 1 / V of the examples.
They come without replacement from a shuffled queue of the memory's slots: every slot once a pass, so that
an example is recalled about every size / n steps, and at once only where one pass ends and the next begins.
(Independent draws have the same mean interval, but a tenth of it or ten times as much is nothing rare.)
What a method draws by prototypes (feedback) doesn't come out of the queue.

The authors' code divides the divergence by the number of classes too, leaves it out for the first epochs,
and finds the views of an image by their equal labels; here it is as the paper writes it, from the start.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from streamlearn.buffers import Memory
from streamlearn.events import Array
from streamlearn.method import Losses, Method, Modifier, chain
from streamlearn.model import Model
from streamlearn.rows import Draw, Rows
from streamlearn.section import Section
from streamlearn.state import Part


class Queue:
    """Slots of a memory in shuffled passes: each slot that the memory had at a pass's start comes once in it.

    ahead: what is left of the pass. size: slots in the pass. A slot whose example has been replaced stays
    one; slots that the memory has gained come with the next pass. An example that was forgotten is not
    drawn, and one that has moved keeps its turn.
    """

    def __init__(self) -> None:
        self.ahead: Array = np.empty(0, dtype=np.int64)
        self.size = 0
        self.passes = 0

    def take(self, count: int, size: int, rng: np.random.Generator) -> Array:
        """The next min(count, size) slots, all different, of a memory that holds `size` examples."""
        if size < self.size:
            self.ahead, self.size = self.ahead[:0], size  # slots have gone: they must not be drawn
        count = min(count, size)
        taken, self.ahead = self.ahead[:count], self.ahead[count:]
        missing = count - len(taken)
        if not missing:
            return taken
        order = rng.permutation(size)
        fresh = np.ones(size, dtype=bool)
        fresh[taken] = False  # the draw that ends one pass and begins the next holds no slot twice
        first = np.flatnonzero(fresh[order])[:missing]
        self.ahead, self.size, self.passes = np.delete(order, first), size, self.passes + 1
        return np.concatenate([taken, order[first]])

    def forget(self, moved: Array) -> None:
        """Follow examples to where they lie now (see `Method.forget`)."""
        ahead = moved[self.ahead]
        self.ahead = ahead[ahead >= 0]
        self.size = min(self.size, int(np.count_nonzero(moved >= 0)))


class _Queued(Memory):
    """A memory whose `draw` takes from a queue. Its columns are those of the memory that it is made of."""

    def __init__(self, memory: Memory, queue: Queue) -> None:
        vars(self).update(vars(memory))
        self._queue = queue

    def draw(self, count: int, rng: np.random.Generator) -> Array:
        return self._queue.take(count, self.size, rng)


class ViewBatch(Modifier):
    summary = "replays several views of fewer examples, each less often, and keeps their answers consistent"
    paper = "Kang et al., Do your best and get enough rest for continual learning, CVPR 2025"

    class Params(Section):
        """Parameters of view-batch recall."""

        views: int = Field(
            4, ge=2, description="of every example of the memory batch (the budget may allow fewer)"
        )
        first: Literal["raw", "standard", "weak", "strong"] = Field(
            "weak", description="strength of the first view, the teacher"
        )
        others: Literal["standard", "weak", "strong"] = Field(
            "strong", description="strength of the other views"
        )
        weight: float = Field(1.0, ge=0, description="of the consistency term")

    def __init__(self, params: Any, inner: Method) -> None:
        super().__init__(params, inner)
        self.queue = Queue()
        self.recall_interval: float | None = None
        """Steps between two recalls of the same example, mean over the recalls of the last whole pass."""
        self.expected_recall_interval: float | None = None
        """Examples in memory / examples drawn, at the last step."""
        self._batch = 1
        self._recalled: Array = np.empty(0, dtype=np.int64)
        """How many events the memory had been offered when a slot was last recalled [capacity]; 0: never."""
        self._gaps = [0, 0]
        """In this pass, recalls of examples recalled before: how many, and after how many events in all."""
        self._set_views(self.params.views)

    def _set_views(self, views: int) -> None:
        self.memory_views = (self.params.first, *[self.params.others] * (views - 1))

    def plan(self, batch: int, images: float) -> int:
        """As many rows of the memory as the method would have, at most: of one example, with fewer views,
        where they are fewer than its views. Where the settings give the examples, the rows follow.
        """
        count = super().plan(batch, images)
        rows = count * len(self.inner.memory_views)
        self._batch = batch
        given = chain(self)[-1].given is not None
        views = self.params.views if given else min(self.params.views, max(1, rows))
        self._set_views(views)
        return int(rows // views)

    def draw(self, memory: Memory, count: int, rng: np.random.Generator) -> Draw:
        passes = self.queue.passes
        drawn = super().draw(_Queued(memory, self.queue), count, rng)
        if self.queue.passes > passes and self._gaps[0]:
            recalls, events = self._gaps
            self.recall_interval = events / recalls / self._batch
            self._gaps = [0, 0]
        if len(drawn.slots):
            self._note(memory, drawn)
        return drawn

    def _note(self, memory: Memory, drawn: Draw) -> None:
        """Measure the intervals of a draw. An example is the one recalled before if it is older than that."""
        slots = drawn.slots
        if drawn.partner is not None and drawn.share is not None:
            slots = np.concatenate([slots, drawn.partner[drawn.share < 1]])
        if not len(self._recalled):
            self._recalled = np.zeros(memory.capacity, dtype=np.int64)
        before = self._recalled[slots]
        again = memory.born[slots] < before
        self._gaps[0] += int(np.count_nonzero(again))
        self._gaps[1] += int((memory.seen - before[again]).sum())
        self._recalled[slots] = memory.seen
        self.expected_recall_interval = memory.size / len(slots)

    def forget(self, moved: Array) -> None:
        super().forget(moved)
        self.queue.forget(moved)
        if len(self._recalled):
            before, stays = self._recalled[: len(moved)].copy(), moved >= 0
            self._recalled[: len(moved)] = 0
            self._recalled[moved[stays]] = before[stays]

    def loss(self, model: Model, rows: Rows) -> Losses:
        losses = self.inner.loss(model, rows)
        if self.params.weight and len(rows) > rows.stream and rows.memory_views > 1:
            log_p = torch.log_softmax(rows.logits(model)[rows.stream :], dim=1)
            losses["consistency"] = self.params.weight * consistency(
                log_p.view(rows.memory_views, -1, log_p.shape[1])
            )
        return losses

    def part(self) -> Part:
        return Part(
            {
                "ahead": torch.from_numpy(self.queue.ahead.copy()),
                "recalled": torch.from_numpy(self._recalled.copy()),
            },
            {
                "size": self.queue.size,
                "passes": self.queue.passes,
                "gaps": list(self._gaps),
                "interval": self.recall_interval,
            },
        )

    def load(self, part: Part, model: Model) -> None:
        self.queue.ahead = part.tensors["ahead"].numpy().copy()
        self._recalled = part.tensors["recalled"].numpy().copy()
        values = part.values
        self.queue.size, self.queue.passes = int(values["size"]), int(values["passes"])
        self._gaps, self.recall_interval = list(values["gaps"]), values["interval"]


def consistency(log_p: Tensor) -> Tensor:
    """One-to-many divergence of log probabilities [V, n, classes]: mean of KL(p_i1 || p_ij), j > 1."""
    teacher, others = log_p[0].detach(), log_p[1:]
    divergence = functional.kl_div(others, teacher.expand_as(others), reduction="sum", log_target=True)
    return divergence / (others.shape[0] * others.shape[1])
