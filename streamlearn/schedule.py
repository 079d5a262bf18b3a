"""When to evaluate, at a cost that is bounded in images: the clock must not reach the state."""

from __future__ import annotations

from streamlearn.config import EvaluationSettings
from streamlearn.state import Part

FORCED = 8
"""Evaluations of new classes may run ahead of the budget by so many evaluations; so many may be saved up."""


class Schedule:
    """Earns `images_per_image_learned` for every image learned; an evaluation costs the images it predicts.

    At any time: images evaluated <= images_per_image_learned * images learned + FORCED * the largest cost.
    """

    def __init__(self, settings: EvaluationSettings) -> None:
        self._ratio = settings.images_per_image_learned
        self._interval = settings.interval
        self.credit = 0.0
        self.interval_steps: int | None = None
        """Steps between the last two scheduled evaluations: a larger number hides drops."""
        self.last: int | None = None
        self.last_scheduled: int | None = None

    def earned(self, images: int) -> None:
        """So many images were learned."""
        self.credit += self._ratio * images

    def due(self, cost: int, step: int, forced: bool = False) -> bool:
        """Whether to evaluate `cost` images at `step`. Changes nothing: tell `spent` if it is done.

        forced: for new classes. It waits for no interval, and may run into debt.
        """
        if cost <= 0:
            return False
        if forced:
            return self.credit - cost >= -FORCED * cost
        rested = self.last is None or step - self.last >= self._interval
        return rested and self.credit >= cost

    def spent(self, cost: int, step: int, forced: bool = False) -> None:
        """An evaluation of `cost` images was done at `step`."""
        # What is saved while there is little to evaluate must not make a burst of evaluations later.
        self.credit = min(self.credit, FORCED * cost) - cost
        self.last = step
        if not forced:
            if self.last_scheduled is not None:
                self.interval_steps = step - self.last_scheduled
            self.last_scheduled = step

    def charge(self, cost: int) -> None:
        """So many images were predicted beside the evaluations."""
        self.credit -= cost

    def part(self) -> Part:
        return Part(values={name: getattr(self, name) for name in _VALUES})

    def load(self, part: Part) -> None:
        for name in _VALUES:
            setattr(self, name, part.values[name])


_VALUES = ("credit", "interval_steps", "last", "last_scheduled")
