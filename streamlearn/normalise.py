"""Inputs of any scale, standardised online: mean and variance with decay, updated only at a step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from streamlearn.arithmetic import Numbers, clip_, host, onto, tensor
from streamlearn.events import Array
from streamlearn.schema import LARGEST
from streamlearn.state import Part

LIMIT = 10.0
"""Standardised values are clipped here: one absurd value must not blow up a step."""

MAD = 1.4826
"""A normal distribution's standard deviation over its median absolute deviation."""


WAIT = 128
"""A batch waits until it and what waits already are this part of the weight of the past."""

LATE = 256
"""Batches of vectors that wait to be summed, at most."""

STEPS = 64
"""Where a standard deviation is fewer than so many steps of float32, the origin moves."""

LEAST_VARIANCE = 1e-70
"""Below, 1 / std would overflow float32: such a feature counts as constant and has no scale of its own."""


class Normaliser:
    """z = (x - mean) / std, by feature for vectors [d], by channel for images [C, H, W].

    The statistics weigh an event that lies t events back by about exp(-t / horizon): a batch of n events
    is merged (Chan et al. 1983, parallel variance) with a past whose weight is capped at `horizon`; small
    ones wait for others, as sums, so that what a merge costs is shared. The statistics are kept on the host
    (a step changes a few small vectors, which there costs least) and in float64 (squares of large inputs
    must neither overflow nor swallow a small variance). Vectors are summed when a merge is due, or somebody
    asks, many batches at once: to the bit what it would be batch by batch.

    What is stored and computed with is float32, which knows a time in seconds since 1970 to two minutes
    only. So the median of the first batch, by feature or channel, is the `origin`, and is taken off every
    input while it is still float64. The first batch may be no sample of what comes, and streams drift: what
    has a mean so far from its origin by now that float32 no longer resolves its spread gets its mean for a
    new one. What was stored relative to the old one has to move with it (`lost`, `move`).
    """

    def __init__(
        self,
        shape: Sequence[int],
        horizon: int,
        device: torch.device,
        enabled: bool,
        as_bytes: bool = False,
    ) -> None:
        """as_bytes: inputs are uint8, are stored as they are, and have no origin."""
        self.shape = (shape[0], 1, 1) if len(shape) == 3 else tuple(shape)
        self.horizon = horizon
        self.device = device
        self.enabled = enabled
        self.weight = 0.0
        size = shape[0] if len(shape) == 3 else int(np.prod(shape))
        self.origin: Array = np.zeros(self.shape)
        self.anchored = not enabled
        # Mean and variance in one, and what comes of them: of so few numbers each call costs more than its
        # arithmetic.
        self._axes = 0 if len(shape) == 1 else (0, 2)
        self._late: list[Array] = []
        self._moments: Array = np.stack([np.zeros(size), np.ones(size)])
        self._sums: Array = np.zeros((2, size))
        self.waiting = 0
        self.as_bytes = as_bytes
        self.lost = False
        """Whether some feature needs another origin: `move` is to be called before anything else."""
        self._pair: Array = np.zeros((2, size), np.float32)
        self._onto_device()
        self._derive()

    def _onto_device(self) -> None:
        """Shift and scale as inputs need them: on the CPU, views that follow `_pair` by themselves."""
        pair = onto(self._pair, self.device)
        self._shift, self._scale = pair.reshape(2, *self.shape)

    @property
    def mean(self) -> Array:
        """[features]"""
        mean: Array = self._moments[0]
        return mean

    @property
    def variance(self) -> Array:
        """[features]"""
        variance: Array = self._moments[1]
        return variance

    def _derive(self) -> None:
        mean, variance = self._moments
        spread = variance
        constant = float(variance.min()) <= LEAST_VARIANCE
        if constant:
            spread = np.where(variance > LEAST_VARIANCE, variance, 1.0)
        deviation = np.sqrt(spread)
        self._pair[0] = mean
        self._centre, self._inverse = self.origin.ravel() + mean, 1.0 / deviation
        self._pair[1] = self._inverse
        if self.device.type != "cpu":
            self._onto_device()
        reach = LIMIT * deviation
        if constant:
            reach = np.where(variance > 0, LIMIT * np.sqrt(variance), np.inf)
        self._reach = -reach, reach
        if self.enabled and not self.as_bytes:
            self.lost = bool((_step(mean) * STEPS > np.sqrt(variance)).any())

    def _by_feature(self, x: Array) -> Array:
        """[n, features] of vectors; [n, channels, H * W] of images."""
        return x if x.ndim == 2 else x.reshape(len(x), len(self._sums[0]), -1)

    def relative(self, x: Array) -> Array:
        """Raw inputs [n, *shape] as they are stored: uint8, or float32 relative to the origin."""
        if self.as_bytes and x.dtype == np.uint8:
            return x
        away: Array = x - self.origin
        np.minimum(np.maximum(away, -LARGEST, out=away), LARGEST, out=away)
        return away.astype(np.float32)

    def anchor(self, x: Array) -> None:
        """Settle the origin by the first batch [n, *shape]: the median, which a single outlier can't move."""
        if not self.anchored and not self.as_bytes:
            self.origin = np.median(self._by_feature(x), axis=self._axes).reshape(self.shape)
        self.anchored = True

    def move(self) -> Array:
        """Make the mean the origin of every feature that needs another one.

        Returns what is to be taken off all inputs stored so far: float64, mostly zeros. To be
        called between steps, when `lost`: a step that loses a feature has left nothing waiting.
        """
        mean, variance = self._moments
        by: Array = np.where(_step(mean) * STEPS > np.sqrt(variance), mean, 0.0)
        mean -= by
        by = by.reshape(self.shape)
        self.origin = self.origin + by
        self._derive()
        return by

    def update(self, x: Array) -> None:
        """Take a batch of stored inputs [n, *shape] into the statistics. Vectors must not change any more."""
        if not self.enabled:
            return
        centre = self._moments[0]
        self.waiting += len(x)
        due = WAIT * self.waiting >= self.weight
        if not self.weight:
            values = self._by_feature(x)
            centre = np.median(values, axis=self._axes).astype(np.float64)
            spread = MAD * np.median(np.abs(values - _wide(centre, values)), axis=self._axes)
            high = np.where(spread > 0, LIMIT * spread, np.inf)
            self._sum([x], centre, (-high, high))
        else:
            if self._late and len(x) != len(self._late[0]):
                self._sum_late()
            self._late.append(x)
            # Of images the arithmetic is the time, not the calls; bytes are a view of what changes.
            if due or x.ndim > 2 or x.dtype == np.uint8 or len(self._late) == LATE:
                self._sum_late()
        if due:
            self._merge(centre)

    def _sum_late(self) -> None:
        late, self._late = self._late, []
        if late:
            self._sum(late, self._moments[0], self._reach)

    def _sum(self, batches: Sequence[Array], centre: Array, reach: tuple[Array, Array]) -> None:
        """Add to the sums what batches of one size [n, *shape] hold, in their order."""
        values = np.stack([self._by_feature(x) for x in batches])
        batch = values[0]
        away = np.subtract(values, _wide(centre, batch), dtype=np.float64)
        if values.dtype != np.uint8:
            # Within LIMIT deviations, so that one absurd value leaves the scale usable. A real change of
            # scale still gets through: every merge may multiply the variance. In the first batch the
            # deviation is the median absolute one; a feature of which that is 0 is taken as it comes.
            low, high = reach
            np.maximum(away, _wide(low, batch), out=away)
            np.minimum(away, _wide(high, batch), out=away)
        axes = 1 if values.ndim == 3 else (1, 3)
        sums = np.empty((1 + len(values), *self._sums.shape))
        np.add.reduce(away, axis=axes, out=sums[1:, 0])
        away *= away
        np.add.reduce(away, axis=axes, out=sums[1:, 1])
        sums[1:] /= batch.size / (len(batch) * len(centre))
        sums[0] = self._sums
        # One after another: a sum that numpy is free to order would depend on how many come at once.
        self._sums[...] = np.add.accumulate(sums)[-1]

    def _merge(self, centre: Array) -> None:
        """Take what waits, sums and sums of squares of distances from `centre`, into mean and variance."""
        n, self.waiting = self.waiting, 0
        past = min(self.weight, float(self.horizon))
        self.weight = total = past + n
        mean, variance = self._moments
        away, variance_of = self._sums
        away /= n
        variance_of /= n
        variance_of -= away * away
        np.maximum(variance_of, 0.0, out=variance_of)
        if past:
            variance *= past / total
            variance_of *= n / total
            variance += variance_of + away * away * (past * n / total**2)
            mean += away * (n / total)
        else:
            mean[...] = centre + away
            variance[...] = variance_of
        self._sums[...] = 0
        self._derive()

    def straight(self, x: Array) -> Numbers:
        """Raw inputs [n, *shape] -> standardised float32 on the device."""
        if self.as_bytes or not self.enabled or x.ndim != 2:
            return self(onto(self.relative(x), self.device))
        # The same as by way of what is stored, in fewer calls.
        z = np.subtract(x, self._centre)
        z *= self._inverse
        return onto(clip_(z, LIMIT).astype(np.float32), self.device)

    def __call__(self, x: Numbers) -> Numbers:
        """Stored inputs [rows, *shape] -> standardised float32, of the same kind."""
        if isinstance(x, Tensor) and isinstance(self._shift, np.ndarray):
            return tensor(self(host(x)))
        if not self.enabled:
            return x.astype(np.float32) if isinstance(x, np.ndarray) else x.float()
        z = x - self._shift
        z *= self._scale
        return clip_(z, LIMIT)

    def part(self) -> Part:
        self._sum_late()
        arrays = {"mean": self.mean, "variance": self.variance, "origin": self.origin, "sums": self._sums}
        values = {"weight": self.weight, "anchored": self.anchored, "waiting": self.waiting}
        return Part({name: torch.from_numpy(a.copy()) for name, a in arrays.items()}, values)

    def load(self, part: Part) -> None:
        """Take the state in `part`; ValueError if it is of another shape."""
        self._late = []
        own = {"mean": self.mean, "variance": self.variance, "origin": self.origin, "sums": self._sums}
        for name, mine in own.items():
            found = part.tensors[name].numpy()
            if found.shape != mine.shape:
                raise ValueError(f"{name}: the state holds {found.shape}, these inputs have {mine.shape}")
            mine[...] = found
        self.weight = float(part.values["weight"])
        self.anchored = bool(part.values["anchored"])
        self.waiting = int(part.values["waiting"])
        self._derive()


def _step(numbers: Array) -> Array:
    """From a number of this size to the next in float32, about."""
    step: Array = np.abs(numbers) * 2.0**-23
    return step


def _wide(numbers: Array, values: Array) -> Array:
    """[features] to go with [n, features] or [n, features, m]."""
    return numbers if values.ndim == 2 else numbers[:, None]
