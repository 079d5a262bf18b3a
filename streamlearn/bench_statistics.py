"""Means over few seeds and their 95 % intervals; differences on the same seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` seeds; `half`: half the width of its 95 % interval, None for a single seed.

    Student's t with n - 1 degrees of freedom: half = t * s / sqrt(n), s the sample standard deviation. It
    takes seeds as independent and the figure as about normal over them.
    """

    mean: float
    half: float | None
    n: int

    @property
    def clear(self) -> bool:
        """Is 0 outside of the interval?"""
        return self.half is not None and abs(self.mean) > self.half


def estimate(values: Sequence[float]) -> Estimate | None:
    """Of the values of all seeds; None without any."""
    n = len(values)
    if not n:
        return None
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, None, 1)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    t = float(stdtrit(n - 1, (1 + LEVEL) / 2))
    return Estimate(mean, t * deviation / math.sqrt(n), n)


def paired(values: Mapping[int, float], baseline: Mapping[int, float]) -> Estimate | None:
    """Of the differences `values` - `baseline` on the seeds that both have; None without any."""
    return estimate([values[seed] - baseline[seed] for seed in sorted(values.keys() & baseline.keys())])
