"""Inputs of any scale, standardised online: mean and variance with decay, updated only at a step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

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
        self._host = torch.from_numpy(self._pair).view(2, *self.shape)
        self._derive()

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
        self._shift, self._scale = self._host.to(self.device).unbind(0)
        reach = LIMIT * deviation
        if constant:
            reach = np.where(variance > 0, LIMIT * np.sqrt(variance), np.inf)
        self._bounds = (mean - reach)[:, None], (mean + reach)[:, None]

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
        n, (mean, _) = len(x), self._moments
        # [n, features, values of each]: one value for a vector's feature, H * W for a channel
        values = x.reshape(n, len(mean), -1)
        if x.dtype != np.uint8:
            values = self._tamed(values)
        count = n * values.shape[2]
        batch = np.empty_like(self._moments)
        np.add.reduce(values, axis=(0, 2), dtype=np.float64, out=batch[0])
        batch[0] /= count
        centred = np.subtract(values, batch[0][:, None], dtype=np.float64)
        np.einsum("ijk,ijk->j", centred, centred, out=batch[1])
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
        """Values [n, features, m] within LIMIT deviations, so that one absurd value leaves the scale usable.

        A real change of scale still gets through: every batch may multiply the variance. In the first batch
        the deviation is the median absolute one; a feature of which that is 0 is taken as it comes.
        """
        if self.weight:
            low, high = self._bounds
        else:
            centre = np.median(values, axis=(0, 2), keepdims=True)[0].astype(np.float64)
            spread = MAD * np.median(np.abs(values - centre), axis=(0, 2), keepdims=True)[0]
            reach = np.where(spread > 0, LIMIT * spread, np.inf)
            low, high = centre - reach, centre + reach
        tamed: Array = np.minimum(np.maximum(values, low), high)
        return tamed

    def straight(self, x: Array) -> Tensor:
        """Raw inputs [n, *shape] -> standardised float32 on the device."""
        if x.dtype == np.uint8 or not self.enabled or len(self.origin.shape) != 1:
            return self(torch.from_numpy(self.relative(x)).to(self.device))
        # The same as by way of what is stored, in fewer calls.
        z = np.subtract(x, self._centre)
        z *= self._inverse
        np.minimum(np.maximum(z, -LIMIT, out=z), LIMIT, out=z)
        return torch.from_numpy(z.astype(np.float32)).to(self.device)

    def __call__(self, x: Tensor) -> Tensor:
        """Stored inputs [rows, *shape] -> standardised float32."""
        if not self.enabled:
            return x.float()
        return (x - self._shift).mul_(self._scale).clamp_(-LIMIT, LIMIT)

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
