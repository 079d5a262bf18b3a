"""When to evaluate, at a cost that is bounded in images: the clock must not reach the state."""

from __future__ import annotations

from streamlearn.state import Part

FORCED = 8
"""Evaluations of new classes may run ahead of the budget by so many evaluations; so many may be saved up."""
PROBES = 0.25
"""Share of what is earned that is set aside for probes, which no debt keeps from being taken."""


class Schedule:
    """Earns `ratio` for every image learned; an evaluation, and a probe, costs the images it predicts.

    At any time: images predicted <= ratio * images learned + FORCED * the largest evaluation + the largest
    probe.
    """

    def __init__(self, interval: int, ratio: float) -> None:
        """interval: steps between scheduled evaluations, at least."""
        self._ratio = ratio
        self._interval = interval
        self.credit = 0.0
        self.aside = 0.0
        """Of what was earned since the last probe, what the next one may cost. It is part of the credit."""
        self.interval_steps: int | None = None
        """Steps between the last two scheduled evaluations: a larger number hides drops."""
        self.last: int | None = None
        self.last_scheduled: int | None = None

    def earned(self, images: int) -> None:
        """So many images were learned."""
        earned = self._ratio * images
        self.credit += earned
        self.aside += PROBES * earned

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

    def probe_due(self, cost: int) -> bool:
        """Whether a probe of `cost` images may be taken. Changes nothing: tell `probed` if it is."""
        return self.aside >= cost

    def probed(self, cost: int) -> None:
        """A probe of `cost` images was taken."""
        self.credit -= cost
        self.aside = 0.0

    def part(self) -> Part:
        return Part(values={name: getattr(self, name) for name in _VALUES})

    def load(self, part: Part) -> None:
        for name in _VALUES:
            setattr(self, name, part.values[name])


_VALUES = ("credit", "aside", "interval_steps", "last", "last_scheduled")
