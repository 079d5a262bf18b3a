"""Inputs of any scale, standardised online: mean and variance with decay, updated only at a step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from streamlearn.state import Part, copy, fill

LIMIT = 10.0
"""Standardised values are clipped here: one absurd value must not blow up a step."""


class Normaliser:
    """z = (x - mean) / std, by feature for vectors [d], by channel for images [C, H, W].

    The statistics weigh an event that lies t events back by about exp(-t / horizon): a batch of n events
    is merged (Chan et al. 1983, parallel variance) with a past whose weight is capped at `horizon`.
    """

    def __init__(self, shape: Sequence[int], horizon: int, device: torch.device, enabled: bool) -> None:
        size = (shape[0], 1, 1) if len(shape) == 3 else tuple(shape)
        self.reduce = (0, 2, 3) if len(shape) == 3 else (0,)
        self.horizon = horizon
        self.enabled = enabled
        self.weight = 0.0
        # float64: squares of large inputs must neither overflow nor swallow a small variance
        self.mean = torch.zeros(size, dtype=torch.float64, device=device)
        self.variance = torch.ones(size, dtype=torch.float64, device=device)
        self._derive()

    def _derive(self) -> None:
        self._shift = self.mean.float()
        # a constant feature has no scale of its own
        # (and one below float32's range would scale to infinity)
        spread = torch.where(self.variance > 1e-70, self.variance, torch.ones_like(self.variance))
        self._scale = spread.rsqrt().float()

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Take a batch of raw inputs [n, *shape] into the statistics."""
        if not self.enabled:
            return
        n = x.shape[0]
        variance, mean = torch.var_mean(x.double(), dim=self.reduce, correction=0)
        mean, variance = mean.view_as(self.mean), variance.view_as(self.mean)
        past = min(self.weight, float(self.horizon))
        total = past + n
        delta = mean - self.mean
        self.mean += delta * (n / total)
        if past:
            self.variance.mul_(past).add_(variance, alpha=n).addcmul_(delta, delta, value=past * n / total)
            self.variance.div_(total)
        else:
            self.variance.copy_(variance)
        self.weight = total
        self._derive()

    def __call__(self, x: Tensor) -> Tensor:
        """Raw inputs [rows, *shape] of any dtype -> standardised float32."""
        if not self.enabled:
            return x.float()
        return (x.float() - self._shift).mul_(self._scale).clamp_(-LIMIT, LIMIT)

    def part(self) -> Part:
        return Part({"mean": copy(self.mean), "variance": copy(self.variance)}, {"weight": self.weight})

    def load(self, part: Part) -> None:
        fill(self.mean, part.tensors["mean"], "mean")
        fill(self.variance, part.tensors["variance"], "variance")
        self.weight = float(part.values["weight"])
        self._derive()
