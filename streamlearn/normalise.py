"""Inputs of any scale, standardised online: mean and variance with decay, updated only at a step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from streamlearn.events import Array
from streamlearn.state import Part

LIMIT = 10.0
"""Standardised values are clipped here: one absurd value must not blow up a step."""

LEAST_VARIANCE = 1e-70
"""Below, 1 / std would overflow float32: such a feature counts as constant and has no scale of its own."""


class Normaliser:
    """z = (x - mean) / std, by feature for vectors [d], by channel for images [C, H, W].

    The statistics weigh an event that lies t events back by about exp(-t / horizon): a batch of n events
    is merged (Chan et al. 1983, parallel variance) with a past whose weight is capped at `horizon`. They
    are kept on the host (a step changes a few small vectors, which there costs least) and in float64
    (squares of large inputs must neither overflow nor swallow a small variance).
    """

    def __init__(self, shape: Sequence[int], horizon: int, device: torch.device, enabled: bool) -> None:
        self.shape = (shape[0], 1, 1) if len(shape) == 3 else tuple(shape)
        self.horizon = horizon
        self.device = device
        self.enabled = enabled
        self.weight = 0.0
        size = shape[0] if len(shape) == 3 else int(np.prod(shape))
        self.mean: Array = np.zeros(size)
        self.variance: Array = np.ones(size)
        self._derive()

    def _derive(self) -> None:
        spread = np.where(self.variance > LEAST_VARIANCE, self.variance, 1.0)
        pair = np.stack([self.mean, 1 / np.sqrt(spread)]).astype(np.float32)
        self._shift, self._scale = torch.from_numpy(pair).to(self.device).view(2, *self.shape).unbind(0)

    def update(self, x: Array) -> None:
        """Take a batch of raw inputs [n, *shape] into the statistics."""
        if not self.enabled:
            return
        n = len(x)
        # [n, features, values of each]: one value for a vector's feature, H * W for a channel
        values = x.reshape(n, len(self.mean), -1)
        count = n * values.shape[2]
        mean = np.add.reduce(values, axis=(0, 2), dtype=np.float64) / count
        centred = np.subtract(values, mean[:, None], dtype=np.float64)
        variance = np.add.reduce(centred * centred, axis=(0, 2)) / count
        past = min(self.weight, float(self.horizon))
        total = past + n
        delta = mean - self.mean
        self.mean = self.mean + delta * (n / total)
        if past:
            between = delta * delta * (past * n / total)
            self.variance = (self.variance * past + variance * n + between) / total
        else:
            self.variance = variance
        self.weight = total
        self._derive()

    def __call__(self, x: Tensor) -> Tensor:
        """Raw inputs [rows, *shape] of any dtype -> standardised float32."""
        if not self.enabled:
            return x.float()
        return (x - self._shift).mul_(self._scale).clamp_(-LIMIT, LIMIT)

    def part(self) -> Part:
        tensors = {"mean": self.mean, "variance": self.variance}
        return Part(
            {name: torch.from_numpy(a.copy()) for name, a in tensors.items()}, {"weight": self.weight}
        )

    def load(self, part: Part) -> None:
        """Take the state in `part`; ValueError if it is of another shape."""
        for name in ("mean", "variance"):
            found = part.tensors[name].numpy().copy()
            if found.shape != self.mean.shape:
                raise ValueError(
                    f"{name}: the state holds {found.shape}, these inputs have {self.mean.shape}"
                )
            setattr(self, name, found)
        self.weight = float(part.values["weight"])
        self._derive()
