"""Online prototype learning (Wei et al., "Online prototype learning for online continual learning", ICCV
2023), made free of task boundaries.

    L = w_ce L_CE + w_i L_INS + w_s L_OPE(stream) + w_m L_OPE(memory)

A row's projection is z = g(h) / |g(h)|, g one linear layer. "New" classes are those in the stream batch,
"seen" ones those in the memory batch, current ones included.

* L_OPE, online prototype equilibrium: `prototypes.equilibrium` of the batch's class prototypes, from view 0
  (untouched) and view 1 (augmented).
* L_INS, instance-wise contrast (Guo et al., OCM, ICML 2022). With P the projections and F a random window,
  as wide as they are, of the features h / |h|, of all views in all rotations:

      S = P (P + F)^T / t,   p_ij = exp(S_ij) / sum_{k != i} exp(S_ik)
      L_INS = 2 L_class(stream) + L_twin(stream) + L_class(memory)

  L_class is the mean of -log p_ij over the other rows j of i's class *and rotation*, L_twin over the other
  views of the same image in the same rotation. With one rotation (vectors, text, small budgets) this is
  supervised contrast between the views. A mixed image is a class of its own, as in the authors' code.
* Adaptive prototypical feedback: a share `feedback` of the memory batch are pairs of classes, drawn by
  P(a, b) = softmax(1 / |q_a - q_b|), q_k the mean of the class's two prototypes in the memory batch of the
  step before. One example of each is drawn uniformly; with odds `mix` they are mixed by Beta(.4, .4),
  otherwise one of the two is replayed as it is.

The default weights are those of a small budget. With 8 images an event a prototype is one to three rows,
and the paper's weights (1 each, in ops/settings/onpro_gpu.toml) cost 7 to 14 points on Fashion-MNIST.

Changed against the paper and its code, and why:

* They ask whether it is the first task: then the cross-entropy takes the stream batch, later the memory
  alone. Here it takes the stream while the memory is empty, and then what `classify` says: "memory" as they
  do, or "all" rows, the default: at a small budget a class would wait long for its first gradient.
* They empty q at a task's start. Here it is whatever the step before saw; a class that has left the memory
  meanwhile is not drawn.
* They make the prototypes and the cross-entropy in forwards of their own (128 + 64 images, of 2,560). The
  rows of the step serve here: the prototypes of the memory come from its unmixed rows, the unturned rows are
  one of the 16 rotations. So 256 images an event replay 70 examples, not 64.
* The code rounds P to whole pairs and lets the lower class number be the one that isn't mixed; here pairs
  are drawn one by one and in either order. It also mixes the uniform part of the memory batch with odds
  `mix`; here that part stays as it is. (In the paper the distribution is said to be by exp(-distance^2).)
* The code counts a row among its own positives, which adds a constant, and bounds p by 1e-8; not here.
  Its factor on S (.5 for CIFAR-10, 1 otherwise) is `instance_temperature`: .14, or .07.
* It has the views of stream and memory in separate batches, which matters to batch norm alone.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from streamlearn.arithmetic import host, tensor, unit
from streamlearn.buffers import Memory
from streamlearn.events import Array
from streamlearn.losses import contrastive, cross_entropy, log_shares, positives
from streamlearn.method import Losses, Method
from streamlearn.methods.pcr import TWO_VIEWS_FROM
from streamlearn.model import Model
from streamlearn.prototypes import class_prototypes, equilibrium, pair_odds
from streamlearn.rows import Draw, Rows
from streamlearn.section import Section
from streamlearn.state import Part, copy
from streamlearn.views import RAW, WEAK, turned

WIDTH = 128
"""Of the projector, as in the paper."""

BETA = 0.4
"""Both parameters of the distribution that a mixture's share is drawn from."""

ROTATIONS_FROM = {16: 256.0, 4: 64.0}
"""Images per event from which so many rotations are the default; below, more examples are worth more."""


class OnlinePrototypes(Method):
    summary = "prototypes of the batch and of the memory kept apart, pairs of near classes mixed and replayed"
    paper = "Wei et al., Online prototype learning for online continual learning, ICCV 2023"
    budget = 8.0

    class Params(Section):
        """Weights of the terms (0: off, and costs nothing) and parameters of OnPro."""

        cross_entropy: float = Field(1.0, ge=0, description="weight of the cross-entropy")
        classify: Literal["all", "memory"] = Field(
            "all", description="rows of the cross-entropy; memory: as in the paper"
        )
        instance: float = Field(0.1, ge=0, description="weight of the instance-wise contrast")
        stream_prototypes: float = Field(0.03, ge=0, description="weight of the batch's equilibrium")
        memory_prototypes: float = Field(0.03, ge=0, description="weight of the memory's equilibrium")
        feedback: float = Field(
            0.25, ge=0, le=1, description="share of the memory batch: pairs of near classes"
        )
        mix: float = Field(0.6, ge=0, le=1, description="odds that a pair is mixed")
        rotations: Literal[1, 4, 16] | None = Field(
            None, description="of square images, in the contrast; unset: by images_per_event, 1 below 64"
        )
        prototype_temperature: float = Field(0.5, gt=0, description="of the equilibrium")
        instance_temperature: float = Field(0.07, gt=0, description="of the instance-wise contrast")

        @model_validator(mode="after")
        def _something_to_learn(self) -> OnlinePrototypes.Params:
            if not any((self.cross_entropy, self.instance, self.stream_prototypes, self.memory_prototypes)):
                raise ValueError("all weights are 0: there is nothing to learn")
            return self

    def __init__(self, params: Any) -> None:
        super().__init__(params)
        self.stream_views = self.memory_views = (RAW, WEAK)
        self.turns = 1
        """Rotations of every row that the contrast sees."""
        if params.instance or params.stream_prototypes or params.memory_prototypes:
            self.projector = WIDTH
        self.classes: Array = np.empty(0, dtype=np.int64)
        """Classes [K] of the memory batch of the step before, and the mean of their two prototypes [K, d]."""
        self.prototypes = torch.empty(0, 0)
        self._found: tuple[Tensor, Tensor] | None = None

    def plan(self, batch: int, images: float) -> int:
        per_event = images / batch
        if per_event < TWO_VIEWS_FROM:
            self.stream_views = self.memory_views = (WEAK,)
        if self.params.instance and len(self.shape) == 3 and self.shape[1] == self.shape[2]:
            default = next((turns for turns, least in ROTATIONS_FROM.items() if per_event >= least), 1)
            self.turns = self.params.rotations or default
        return super().plan(batch, images / self.turns)

    def images(self, rows: int) -> int:
        return rows * self.turns

    def draw(self, memory: Memory, count: int, rng: np.random.Generator) -> Draw:
        count = min(count, memory.size)
        wanted = round(self.params.feedback * count)
        if not wanted or len(self.classes) < 2:
            return super().draw(memory, count, rng)
        first, second = self._pairs(memory, wanted, rng)
        base = memory.draw(count - len(first), rng)
        share = np.ones(len(base) + len(first), dtype=np.float32)
        mixed = len(base) + np.flatnonzero(rng.random(len(first)) < self.params.mix)
        share[mixed] = rng.beta(BETA, BETA, len(mixed))
        return Draw(np.concatenate([base, first]), np.concatenate([base, second]), share)

    def _pairs(self, memory: Memory, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """Slots [at most count] twice: of examples of two classes that are easily confused."""
        ends = np.cumsum(pair_odds(self.prototypes))
        drawn = np.searchsorted(ends[:-1], rng.random(count) * ends[-1], side="right")
        pairs = np.stack(np.triu_indices(len(self.classes), 1))[:, drawn]
        pairs = np.where(rng.random(count) < 0.5, pairs, pairs[::-1])
        slots = np.full(pairs.shape, -1)
        labels = memory.labels[: memory.size]
        for place in np.unique(pairs):
            members = np.flatnonzero(labels == self.classes[place])
            if len(members):
                here = pairs == place
                slots[here] = members[rng.integers(len(members), size=np.count_nonzero(here))]
        slots = slots[:, (slots >= 0).all(axis=0)]
        return slots[0], slots[1]

    def loss(self, model: Model, rows: Rows) -> Losses:
        weights = self.params
        losses: Losses = {}
        self._found = None
        if weights.cross_entropy:
            has_memory = len(rows) > rows.stream
            start = rows.stream if weights.classify == "memory" and has_memory else 0
            loss = cross_entropy(rows.classified(model), rows, start)
            losses["cross_entropy"] = weights.cross_entropy * loss
        if weights.instance:
            losses["instance"] = weights.instance * self._instance(model, rows)
        if not self.projector:
            if weights.feedback:
                # nothing trains a projector: the features themselves say which classes are near
                self._memory_prototypes(unit(rows.features(model).detach()), rows)
            return losses
        z = model.project(rows.features(model))
        if weights.stream_prototypes:
            stream = _two_views(z[: rows.stream], rows.stream_views)
            _, prototypes = class_prototypes(stream, rows.y[rows.of_stream(0)])
            losses["stream_prototypes"] = weights.stream_prototypes * self._equilibrium(prototypes)
        if weights.memory_prototypes:
            prototypes = self._memory_prototypes(z, rows)
            losses["memory_prototypes"] = weights.memory_prototypes * self._equilibrium(prototypes)
        elif weights.feedback:
            self._memory_prototypes(z.detach(), rows)
        return losses

    def _equilibrium(self, prototypes: Tensor) -> Tensor:
        return equilibrium(prototypes, self.params.prototype_temperature)

    def _memory_prototypes(self, z: Tensor, rows: Rows) -> Tensor:
        """Prototypes [2, K, d] of the memory's unmixed examples, noted for the step after."""
        first = rows.of_memory(0)
        memory, y = _two_views(z[rows.stream :], rows.memory_views), rows.y[first]
        if rows.share is not None:
            pure = tensor(rows.pure)[first]
            memory, y = memory[:, pure], y[pure]
        classes, prototypes = class_prototypes(memory, y)
        self._found = classes, prototypes.detach().mean(dim=0)
        return prototypes

    def _instance(self, model: Model, rows: Rows) -> Tensor:
        h, y, example = rows.features(model), rows.y, _examples(rows)
        if self.turns > 1:
            h = torch.cat([h, model.encoded(host(turned(rows.x, self.turns))).leaf])
        z, h = (f.view(self.turns, len(y), -1) for f in (model.project(h), unit(h)))
        if rows.share is not None:
            y = torch.where(tensor(rows.pure), y, model.classes + example)
        turn = torch.arange(self.turns, device=y.device)[:, None]
        stream, memory = slice(0, rows.stream), slice(rows.stream, len(y))
        by_class = positives((y[stream] * self.turns + turn).flatten())
        twin = positives((example[stream] * self.turns + turn).flatten())
        total = contrastive(self._log_shares(z[:, stream], h[:, stream], rows), 2 * by_class + twin)
        if len(y) > rows.stream:
            by_class = positives((y[memory] * self.turns + turn).flatten())
            total = total + contrastive(self._log_shares(z[:, memory], h[:, memory], rows), by_class)
        return total

    def _log_shares(self, z: Tensor, h: Tensor, rows: Rows) -> Tensor:
        """log p_ij [n, n], n = turns rows, of projections and unit features [turns, rows, d]."""
        z, h = z.flatten(0, 1), h.flatten(0, 1)
        width = min(z.shape[1], h.shape[1])
        room = h.shape[1] - width
        if room:
            generator = rows.views.generator
            start = torch.randint(room + 1, (1,), generator=generator, device=generator.device)
            h = h.index_select(1, start + torch.arange(width, device=h.device))
        similarity = z @ z.T + z[:, :width] @ h.T
        return log_shares(similarity / self.params.instance_temperature)

    def after_step(self, model: Model, rows: Rows) -> None:
        if self._found is not None:
            classes, prototypes = self._found
            self.classes, self.prototypes = classes.cpu().numpy(), prototypes.cpu()

    def part(self) -> Part:
        return Part({"classes": torch.from_numpy(self.classes.copy()), "prototypes": copy(self.prototypes)})

    def load(self, part: Part, model: Model) -> None:
        self.classes = part.tensors["classes"].numpy().copy()
        self.prototypes = part.tensors["prototypes"].clone()


def _two_views(rows: Tensor, views: int) -> Tensor:
    """The first two views [2, n, d] of rows [views n, d]; a single view twice."""
    apart = rows.view(views, len(rows) // views, rows.shape[1])
    return apart[:2] if views > 1 else apart.expand(2, -1, -1)


def _examples(rows: Rows) -> Tensor:
    """A number [rows] for each example, the same in all its views."""
    stream, memory = rows.of_stream(0), rows.of_memory(0)
    number = torch.arange(len(rows.y), device=rows.y.device)
    return torch.cat([number[stream].repeat(rows.stream_views), number[memory].repeat(rows.memory_views)])
