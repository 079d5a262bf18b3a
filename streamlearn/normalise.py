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


LEAST_VARIANCE = 1e-70
"""Below, 1 / std would overflow float32: such a feature counts as constant and has no scale of its own."""


class Normaliser:
    """z = (x - mean) / std, by feature for vectors [d], by channel for images [C, H, W].

    The statistics weigh an event that lies t events back by about exp(-t / horizon): a batch of n events
    is merged (Chan et al. 1983, parallel variance) with a past whose weight is capped at `horizon`. They
    are kept on the host (a step changes a few small vectors, which there costs least) and in float64
    (squares of large inputs must neither overflow nor swallow a small variance).

    What is stored and computed with is float32, which knows a time in seconds since 1970 to two minutes
    only. So the median of a vector stream's first batch is its `origin`, and is taken off every input while
    it is still float64.
    """

    def __init__(self, shape: Sequence[int], horizon: int, device: torch.device, enabled: bool) -> None:
        self.shape = (shape[0], 1, 1) if len(shape) == 3 else tuple(shape)
        self.horizon = horizon
        self.device = device
        self.enabled = enabled
        self.weight = 0.0
        size = shape[0] if len(shape) == 3 else int(np.prod(shape))
        self.origin: Array = np.zeros(self.shape if len(shape) == 1 else ())
        self.anchored = len(shape) != 1 or not enabled
        # Mean and variance in one, and what comes of them: of so few numbers each call costs more than its
        # arithmetic.
        self._moments: Array = np.stack([np.zeros(size), np.ones(size)])
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
        self._centre, self._inverse = self.origin + mean, 1.0 / deviation
        self._pair[1] = self._inverse
        if self.device.type != "cpu":
            self._onto_device()
        reach = LIMIT * deviation
        if constant:
            reach = np.where(variance > 0, LIMIT * np.sqrt(variance), np.inf)
        self._bounds = mean - reach, mean + reach

    def relative(self, x: Array) -> Array:
        """Raw inputs [n, *shape] as they are stored: uint8, or float32 relative to the origin."""
        if x.dtype == np.uint8:
            return x
        away: Array = np.minimum(np.maximum(x - self.origin, -LARGEST), LARGEST)
        return away.astype(np.float32)

    def anchor(self, x: Array) -> None:
        """Settle the origin by the first batch [n, *shape]: the median, which a single outlier can't move."""
        if not self.anchored and x.dtype != np.uint8:
            self.origin = np.median(x, axis=0)
        self.anchored = True

    def update(self, x: Array) -> None:
        """Take a batch of stored inputs [n, *shape] into the statistics."""
        if not self.enabled:
            return
        n, mean = len(x), self._moments[0]
        # [n, features] of vectors; [n, channels, H * W] of images
        values, axes = (x, 0) if x.ndim == 2 else (x.reshape(n, len(mean), -1), (0, 2))
        values = values.astype(np.float64) if x.dtype == np.uint8 else self._tamed(values)
        count = values.size // len(mean)
        batch = np.empty_like(self._moments)
        np.add.reduce(values, axis=axes, out=batch[0])
        batch[0] /= count
        values -= batch[0] if x.ndim == 2 else batch[0][:, None]
        values *= values
        np.add.reduce(values, axis=axes, out=batch[1])
        batch[1] /= count
        past = min(self.weight, float(self.horizon))
        total = past + n
        if past:
            # mean <- (past mean + n m) / total, and the variance alike, with that between the two means
            between = batch[0] - mean
            between *= between
            between *= past / total
            batch[1] += between
            batch *= n / total
            self._moments *= past / total
            self._moments += batch
        else:
            self._moments[...] = batch
        self.weight = total
        self._derive()

    def _tamed(self, values: Array) -> Array:
        """Values [n, features(, m)] within LIMIT deviations so that one absurd value leaves the scale usable.

        A real change of scale still gets through: every batch may multiply the variance. In the first batch
        the deviation is the median absolute one; a feature of which that is 0 is taken as it comes.
        """
        axes = 0 if values.ndim == 2 else (0, 2)
        if self.weight:
            low, high = self._bounds
        else:
            centre = np.median(values, axis=axes).astype(np.float64)
            spread = MAD * np.median(np.abs(values - _wide(centre, values)), axis=axes)
            reach = np.where(spread > 0, LIMIT * spread, np.inf)
            low, high = centre - reach, centre + reach
        tamed: Array = np.maximum(values, _wide(low, values))
        return np.minimum(tamed, _wide(high, values), out=tamed)

    def straight(self, x: Array) -> Numbers:
        """Raw inputs [n, *shape] -> standardised float32 on the device."""
        if x.dtype == np.uint8 or not self.enabled or len(self.origin.shape) != 1:
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
        arrays = {"mean": self.mean, "variance": self.variance, "origin": self.origin}
        values = {"weight": self.weight, "anchored": self.anchored}
        return Part({name: torch.from_numpy(a.copy()) for name, a in arrays.items()}, values)

    def load(self, part: Part) -> None:
        """Take the state in `part`; ValueError if it is of another shape."""
        for name in ("mean", "variance", "origin"):
            found, mine = part.tensors[name].numpy(), getattr(self, name)
            if found.shape != mine.shape:
                raise ValueError(f"{name}: the state holds {found.shape}, these inputs have {mine.shape}")
            mine[...] = found
        self.weight = float(part.values["weight"])
        self.anchored = bool(part.values["anchored"])
        self._derive()


def _wide(numbers: Array, values: Array) -> Array:
    """[features] to go with [n, features] or [n, features, m]."""
    return numbers if values.ndim == 2 else numbers[:, None]
