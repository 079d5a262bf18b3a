"""Continual evaluation inside the step: what is held out, when it is asked, and which predictor serves.

Held-out events are chosen on arrival; everything else happens at a step, so that the figures, and the
choice of the predictor, are a function of (state, events in order).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from streamlearn.bookkeeping import merge_layers, split_layers
from streamlearn.classes import ClassIndex
from streamlearn.config import CoreSettings
from streamlearn.continual import Continual, ContinualFigures
from streamlearn.events import Array
from streamlearn.heldout import HeldOut
from streamlearn.schedule import Schedule
from streamlearn.serving import Serving
from streamlearn.state import Part

Candidates = Callable[[Array], dict[str, Array]]
"""Class numbers [n] by predictor, of inputs as stored [n, *shape]."""

NEVER = (1 << 63) - 1
"""A choice that no share takes."""

PROBE = 4
"""Steps between two probes, at least: questions to all predictors about a batch before it is learned."""

PROBED = 16
"""Inputs of a batch that a probe asks about, at most."""

OF_IMAGES, OF_VECTORS = 0.1, 0.25
"""Budgets in images evaluated per image learned, where none is set. To learn from a vector costs many times
what it costs to predict one, since most of the time goes into calls: there the larger one is hardly felt."""

MOST_TASKS = 256
"""Tasks with a set of their own. Names come from outside: a field `task` may hold ticket numbers."""

NEAREST = 5
"""Pairs of classes that are shown."""


class Evaluator:
    """Owns the held-out sets, their accuracies over time and the budget that evaluations keep to."""

    def __init__(
        self,
        settings: CoreSettings,
        shape: Sequence[int],
        dtype: np.dtype[np.generic],
        classes: ClassIndex,
        serving: Serving,
        stored: Callable[[Array], Array],
        candidates: Candidates,
    ) -> None:
        """stored: makes of an input as it came the form that the memory holds."""
        own = settings.settled_evaluation()
        self.classes = classes
        self.serving = serving
        self.stored = stored
        self.candidates = candidates
        self.classes_per_set = own.classes_per_set
        self.held = HeldOut(own, own.capacity or 0, shape, dtype)
        self.continual = Continual(own.windows)
        ratio = own.images_per_image_learned or (OF_IMAGES if len(shape) == 3 else OF_VECTORS)
        self.schedule = Schedule(own.interval, ratio)
        self.groups: dict[str, int] = {}
        """Numbers of the evaluation sets by key, in order of appearance."""
        self._group_of: dict[int, int] = {}
        """The same by class, of the classes that have come without a task: to spell a key takes long."""
        self.tasks = 0
        """How many of the sets are tasks'."""
        self.announced = 0
        """How many of the sets have been in a step."""
        self.images = 0
        """Inputs put through the network for evaluations, once for every predictor that they ask."""
        self._figures: ContinualFigures | None = None

    def takes(self, x: Array, number: int, task: str | None, choice: int) -> bool:
        """Whether a labeled event is held out; then it must not be learned.

        x: as it came [*shape]; number: of its class; choice: a 64-bit hash of its id. To be called for every
        accepted labeled event, in order. A set's first event is never held out, nor is any before the first
        step, which settles what inputs are stored as.
        """
        if not self.announced:
            choice = NEVER
        group = self._group_of.get(number) if task is None else None
        is_task = False
        if group is None:
            key = self._key(number, task)
            is_task = key.startswith("task ")
            group = self.groups.get(key)
            if group is None:
                self.tasks += is_task
                group = self.groups[key] = len(self.groups)
                choice = NEVER
            if not is_task:
                self._group_of[number] = group
        x = self.stored(x) if self.held.chooses(choice) else x
        return self.held.offer(x, number, group, choice, is_task)

    def _key(self, number: int, task: str | None) -> str:
        """Of the set that an event belongs to."""
        if task is not None and (f"task {task}" in self.groups or self.tasks < MOST_TASKS):
            return f"task {task}"
        # Without a task, or of one too many to be tasks: it counts to the set of its class.
        return f"class {number // self.classes_per_set}"

    def before_step(self, step: int, events: int) -> bool:
        """To be called when a step is about to begin; whether it brings a new set.

        The sets so far are asked once more then: what they lose from here on is the stability gap.
        """
        if len(self.groups) == self.announced:
            return False
        if self.announced and self.schedule.due(self._cost(), step, forced=True):
            self._evaluate(step, events, forced=True)
        keys = list(self.groups)[self.announced :]
        self._figures = None
        self.continual.shift(step, events, [self._name(key) for key in keys])
        self.announced = len(self.groups)
        return True

    def arrive(self, x: Array, y: Array, step: int) -> None:
        """The batch of a step before it is learned, inputs as stored [n, *shape] and class numbers [n].

        Now and then all predictors are asked about some of it: who lags behind a drifting stream shows there.
        """
        serving = self.serving
        if step % PROBE or not serving.auto or not self.held.capacity or not serving.model.classes:
            return
        x, y = x[:PROBED], y[:PROBED]
        cost = len(x) * serving.forwards
        if self.schedule.probe_due(cost):
            self.schedule.probed(cost)
            self.images += cost
            serving.arrive(step, y, {name: numbers == y for name, numbers in self.candidates(x).items()})

    def after_step(self, step: int, events: int, images: int, new: bool) -> None:
        """To be called when a step has ended.

        images: put through the network to learn from; new: what `before_step` said.
        """
        self.schedule.earned(images)
        if self.held.size and self.schedule.due(self._cost(), step, forced=new):
            self._evaluate(step, events, forced=new)

    def _name(self, key: str) -> str:
        kind, _, rest = key.partition(" ")
        name = rest if kind == "task" else self.classes.labels[int(rest) * self.classes_per_set]
        return f"{kind} {name}" if name in self.continual.names else name

    def _cost(self) -> int:
        return self.held.size * self.serving.forwards

    def _evaluate(self, step: int, events: int, forced: bool) -> None:
        cost = self._cost()
        self.schedule.spent(cost, step, forced)
        self._figures = None
        self.images += cost
        answers = self.candidates(self.held.x)
        right = {name: numbers == self.held.y for name, numbers in answers.items()}
        # Judged before anything is changed: the figures are of what has been serving.
        fixed, rolling = self.held.accuracies(right[self.serving.name])
        self.continual.record(step, events, fixed[: self.announced], rolling[: self.announced])
        # Who is to serve is judged by the newest examples: on old ones of a drifting stream the past wins.
        newest = self.held.newest
        self.serving.choose(step, self.held.y[newest], {name: hits[newest] for name, hits in right.items()})

    def asked_again(self, step: int, events: int) -> Continual:
        """A copy of the continual evaluation that has been asked once more, now, whatever the budget says.

        The state keeps no trace of it.
        """
        found = Continual(self.continual.windows)
        found.load(self.continual.part())
        if self.held.size and self.announced:
            right = self.candidates(self.held.x)[self.serving.name] == self.held.y
            fixed, rolling = self.held.accuracies(right)
            found.record(step, events, fixed[: self.announced], rolling[: self.announced])
        return found

    @property
    def nearest(self) -> list[tuple[int, int, float]]:
        """The pairs of classes that are easiest to confuse now: (a, b, cosine); none before an evaluation."""
        return self.serving.nearest(NEAREST) if self.continual.evaluations else []

    @property
    def figures(self) -> ContinualFigures:
        """As of the latest evaluation or new set."""
        if self._figures is None:
            self._figures = self.continual.figures()
        return self._figures

    @property
    def errors(self) -> list[float | None]:
        """Standard error, at most, of each announced set's fixed accuracy; None where it has no examples."""
        known = [
            None if math.isnan(error) else error for error in self.held.errors[: self.announced].tolist()
        ]
        return known + [None] * (self.announced - len(known))

    def part(self) -> Part:
        """All state but the held-out examples, which change less often and have a part of their own."""
        values = {"groups": list(self.groups), "announced": self.announced, "images": self.images}
        own = Part(values=values)
        return merge_layers([own, self.continual.part(), self.schedule.part()])

    def load(self, part: Part, held: Part) -> None:
        """Take the state in `part` and in `held`; ValueError if it doesn't fit these settings."""
        own, continual, schedule = split_layers(part)
        self.groups = {key: number for number, key in enumerate(own.values["groups"])}
        self._group_of = {}
        self.announced, self.images = int(own.values["announced"]), int(own.values["images"])
        self._figures = None
        self.held.load(held)
        self.continual.load(continual)
        self.schedule.load(schedule)
        self.tasks = sum(key.startswith("task ") for key in self.groups)
