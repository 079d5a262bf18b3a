"""Durations: counted by bucket, and taken stage by stage."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence

import numpy as np

from streamlearn.events import Array

SECONDS = (0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Upper bounds of the duration histograms' buckets."""
DELAYS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1e3, 1e4, 1e5, 1e6)
"""The same of those of how old something was: a backlog may be of last week."""
MOST_MARKS = 8192
"""Marks of a stopwatch that wait to be counted."""


class Histogram:
    """Counts by bucket. Written by one thread; `copy` is what others may read."""

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def observe_all(self, values: Array) -> None:
        """Of many [n] at once."""
        places = np.searchsorted(np.array(self.bounds), values)
        for place, times in enumerate(np.bincount(places, minlength=len(self.counts)).tolist()):
            self.counts[place] += times
        self.sum += float(values.sum())

    def copy(self) -> Histogram:
        twin = Histogram(self.bounds)
        twin.counts, twin.sum = list(self.counts), self.sum
        return twin


class Stopwatch:
    """Time by stage: `mark(stage)` charges the time since the last mark to it. For one thread.

    A step has seven marks, and a look at the stages comes once in a thousand steps. So a mark is written
    down, and counted with MOST_MARKS others or when somebody looks: a third of the time.
    """

    def __init__(self) -> None:
        self._stages: dict[str, Histogram] = {}
        self._names: list[str] = []
        self._times = [time.perf_counter()]
        """When each of the names was marked, behind the mark before them."""

    def start(self) -> None:
        """The time since the last mark is nobody's."""
        self.mark("")

    def mark(self, stage: str) -> None:
        self._names.append(stage)
        self._times.append(time.perf_counter())
        if len(self._names) == MOST_MARKS:
            self._count()

    @property
    def stages(self) -> Mapping[str, Histogram]:
        """Durations by stage, in the order in which they came first."""
        self._count()
        return self._stages

    def _count(self) -> None:
        numbers = {name: number for number, name in enumerate(dict.fromkeys(self._names))}
        which = np.array([numbers[name] for name in self._names])
        durations = np.diff(self._times)
        self._names.clear()
        del self._times[:-1]
        for name, number in numbers.items():
            if name:
                self._stages.setdefault(name, Histogram()).observe_all(durations[which == number])
