"""The step: everything whose size depends on the shape of x, and the one function that changes weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from streamlearn import bookkeeping
from streamlearn.arithmetic import Numbers, fetched, onto
from streamlearn.bookkeeping import Counts
from streamlearn.buffers import Memory
from streamlearn.classes import ClassIndex
from streamlearn.config import CoreSettings
from streamlearn.evaluator import Evaluator
from streamlearn.events import Array
from streamlearn.forgetting import Identity
from streamlearn.method import chain, make_method
from streamlearn.model import Model
from streamlearn.normalise import Normaliser
from streamlearn.optimise import Optimiser
from streamlearn.rows import make_rows
from streamlearn.schema import Schema
from streamlearn.serving import Serving
from streamlearn.state import Part, SegmentedPart, Snapshot
from streamlearn.tape import value_of
from streamlearn.views import Views

Mark = Callable[[str], None]
"""Told the name of every stage when it ends; the worker measures time with it, the core has no clock."""


class BudgetError(ValueError):
    """The budget of images leaves a method that replays nothing to replay."""


BULK = 256
"""Rows of one forward where many inputs are predicted at once."""


class Generators:
    """Independent streams for slots, draws and what happens on the device, all from one seed."""

    def __init__(self, seed: int, device: torch.device) -> None:
        slots, draws, views = np.random.SeedSequence(seed).spawn(3)
        self.slots = np.random.Generator(np.random.PCG64(slots))
        self.draws = np.random.Generator(np.random.PCG64(draws))
        self.views = torch.Generator(device=device)
        self._seed_views(views)

    def _seed_views(self, seed: np.random.SeedSequence) -> None:
        self.views.manual_seed(int(seed.generate_state(1, np.uint64)[0] >> np.uint64(1)))

    def part(self) -> Part:
        return Part(
            {"views": self.views.get_state()},
            {"slots": bookkeeping.rng_state(self.slots), "draws": bookkeeping.rng_state(self.draws)},
        )

    def load(self, part: Part) -> None:
        """Take the state in `part`.

        One made on another kind of device holds numbers that no generator here can go on with. A new
        beginning is made of them: not theirs, but a function of the state all the same.
        """
        views = part.tensors["views"]
        if views.shape == self.views.get_state().shape:
            self.views.set_state(views)
        else:
            theirs = np.random.SeedSequence(int.from_bytes(views.numpy().tobytes(), "little"))
            self._seed_views(theirs)
        self.slots.bit_generator.state = bookkeeping.rng_from(part.values["slots"])
        self.draws.bit_generator.state = bookkeeping.rng_from(part.values["draws"])


class Trainer:
    """Model, optimiser, normaliser, memory, method and what serves.

    `step` changes them all, `forget` what holds examples, nothing else any of them.
    """

    def __init__(
        self,
        settings: CoreSettings,
        schema: Schema,
        classes: ClassIndex,
        device: torch.device,
        generators: Generators,
    ) -> None:
        self.settings = settings
        self.device = device
        self.generators = generators
        shape = schema.shape
        self.method = make_method(settings.method, shape)
        self.base = chain(self.method)[-1]
        self.replay_batch = self._plan(len(shape) == 3)
        self.model = Model(settings.model, shape, settings.seed, device, self.method.projector)
        self.optimiser = Optimiser(settings.learning, self.model)
        as_bytes = schema.dtype == "uint8"
        horizon = settings.model.normalise_horizon
        self.normaliser = Normaliser(shape, horizon, device, settings.model.normalise, as_bytes)
        kind = torch.uint8 if as_bytes else torch.float32
        self.memory = Memory(settings.memory, shape, kind, device)
        self.views = Views(settings.views, shape, self.normaliser, generators.views)
        predictor = settings.serving.predictor or self.base.predictor
        mirrors = self.views.mirrors and self.base.mirrors
        judged = bool(settings.settled_evaluation().capacity)
        self.serving = Serving(settings.serving, predictor, self.model, mirrors, judged)
        self.evaluator = Evaluator(
            settings,
            shape,
            np.dtype(schema.dtype),
            classes,
            self.serving,
            self.normaliser.relative,
            self._asked,
        )

    def _plan(self, image: bool) -> int:
        """Examples to replay in a step; the method chooses its views by the budget."""
        learning, batch = self.settings.learning, self.settings.learning.stream_batch
        method = self.base
        budget = learning.images_per_event or (method.budget if image else method.vector_budget)
        method.given = learning.memory_batch
        planned = self.method.plan(batch, budget * batch)
        if learning.memory_batch is not None:
            return learning.memory_batch
        if method.budget > 1 and not planned:
            least = self.method.images(batch * len(self.method.stream_views)) / batch
            raise BudgetError(
                f"learning.images_per_event = {budget:g} leaves nothing to replay: the views of an event "
                f"alone are {least:g} images with these settings of method.{self.settings.method.name}. "
                "Give more images, or fewer views"
            )
        return planned

    def step(
        self, pending_x: Array, y: Array, keys: Array, counts: Counts, losses: dict[str, float], mark: Mark
    ) -> dict[str, float]:
        """One update on `n` labeled events and what the method draws from memory.

        pending_x: inputs as they came [n, *shape]; y: class numbers [n]; keys: hashes of the ids [n].
        Returns the parts of the loss; `losses`, those of the step before, where this one was not finite.
        """
        model, method = self.model, self.method
        new_set = self.evaluator.before_step(counts.steps, counts.learned)
        if new_set:
            mark("evaluate")
        if self.normaliser.lost:
            self._move_origin()
        self.normaliser.anchor(pending_x)
        stored = self.normaliser.relative(pending_x)
        self.evaluator.arrive(stored, y, counts.steps)
        stream = onto(stored, self.device)
        self.grow(int(y.max()) + 1)
        self.normaliser.update(stored)
        draw = method.draw(self.memory, self.replay_batch, self.generators.draws)
        rows = make_rows(stream, y, self.memory, draw, self.views, method.stream_views, method.memory_views)
        mark("draw")
        model.begin()
        counts.forwards += method.forwards(len(rows))
        parts = method.loss(model, rows)
        values = {name: value_of(part) for name, part in parts.items()}
        finite = math.isfinite(sum(values.values()))
        if finite:
            model.backward(parts.values())
            finite = model.learnable()
        model.end(finite)
        mark("forward_backward")
        if finite:
            self.optimiser.step(model)
            losses = values
            method.after_step(model, rows)
            self.serving.after_step(rows)
        else:
            # What isn't a number must not become weights that aren't.
            counts.skipped_steps += 1
        mark("update")
        self.memory.insert(stream, y, keys, self.generators.slots)
        counts.steps += 1
        counts.learned += len(y)
        images = method.images(len(rows))
        counts.images += images
        mark("store")
        self.evaluator.after_step(counts.steps, counts.learned, images, new_set)
        mark("evaluate")
        return losses

    def forget(self, who: Identity) -> tuple[int, int]:
        """Take the examples of an id out; how many the memory held of it, and the held-out sets."""
        key, choice = who
        before = self.memory.size
        moved = self.memory.forget(key)
        if moved is not None:
            self.method.forget(moved)
        return before - self.memory.size, int(self.evaluator.held.forget(choice))

    def _move_origin(self) -> None:
        """Give features that float32 no longer resolves a new origin, and what is stored the same one."""
        by = self.normaliser.move()
        self.memory.shift(by)
        self.evaluator.held.shift(by)

    def grow(self, classes: int) -> None:
        """Give everything that has a row a class rows for `classes` classes."""
        if classes > self.model.classes:
            self.model.grow(classes, self.generators.views)
            self.optimiser.grow(self.model)
            self.method.grow(self.model)
            self.serving.grow()

    def forward(self, rows: Array) -> Array:
        """Logits [n, classes] of inputs as they came [n, *shape], by the predictor that serves."""
        return fetched(self.serving.logits(self.normaliser.straight(rows)))

    def candidates(self, x: Array) -> dict[str, Array]:
        """Class numbers [n] that every predictor gives for inputs as they came [n, *shape], in bulk."""
        return self._answers(x, self.normaliser.straight, list(self.serving.names))

    def numbers(self, x: Array) -> Array:
        """The same by the predictor that serves alone."""
        return self._answers(x, self.normaliser.straight, [self.serving.name])[self.serving.name]

    def _asked(self, x: Array) -> dict[str, Array]:
        """The same for stored inputs, by the predictors that may serve."""
        names = list(self.serving.names) if self.serving.auto else [self.serving.name]
        return self._answers(x, lambda part: self.normaliser(onto(part, self.device)), names)

    def _answers(
        self, x: Array, normal: Callable[[Array], Numbers], names: Sequence[str]
    ) -> dict[str, Array]:
        found: dict[str, list[Array]] = {name: [] for name in names}
        for start in range(0, len(x), BULK):
            for name, logits in self.serving.candidates(normal(x[start : start + BULK]), names).items():
                found[name].append(fetched(logits.argmax(1)))
        none = np.empty(0, dtype=np.int64)
        return {name: np.concatenate([none, *parts]) for name, parts in found.items()}

    def snapshot(self, full: bool) -> dict[str, Part | SegmentedPart]:
        """Copies of all state, by part; of the memory only what changed since the last (`full`: all)."""
        return {
            "model": self.model.part(),
            "optimiser": self.optimiser.part(),
            "normaliser": self.normaliser.part(),
            "method": bookkeeping.merge_layers([layer.part() for layer in chain(self.method)]),
            "serving": self.serving.part(),
            "evaluation": self.evaluator.part(),
            "held_out": self.evaluator.held.part(),
            "memory": self.memory.snapshot(full),
        }

    def load(self, parts: Snapshot) -> None:
        """Take a snapshot whose memory segments are all there. ValueError if it doesn't fit."""
        plain = {name: part for name, part in parts.items() if isinstance(part, Part)}
        self.model.load(plain["model"])
        self.optimiser.load(plain["optimiser"], self.model)
        self.normaliser.load(plain["normaliser"])
        for layer, part in zip(chain(self.method), bookkeeping.split_layers(plain["method"]), strict=True):
            layer.load(part, self.model)
        self.serving.load(plain["serving"])
        self.evaluator.load(plain["evaluation"], plain["held_out"])
        memory = parts["memory"]
        assert isinstance(memory, SegmentedPart)
        self.memory.load(memory)
