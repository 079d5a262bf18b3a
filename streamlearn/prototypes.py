"""Online prototypes: directions of the classes that are in a batch, made anew from its rows at every step.

After Wei et al., "Online prototype learning for online continual learning" (OnPro, ICCV 2023): no momentum
and no bank, so a prototype never lags behind the encoder.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from streamlearn.arithmetic import unit
from streamlearn.events import Array
from streamlearn.losses import log_shares

NEAREST = 1e-6
"""Distances below count as this: two prototypes in one place are as close as can be, not infinitely."""


def class_prototypes(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the rows of each class in each view, scaled to length 1.

    z: rows of length 1 [views, n, d]; y: class numbers [n]. Returns the class numbers [K] that occur,
    ascending, and their prototypes [views, K, d].
    """
    classes, place = torch.unique(y, return_inverse=True)
    # a product with the indicator of each class: the same sums on every device, in a fixed order
    member = (place == torch.arange(len(classes), device=y.device)[:, None]).to(z.dtype)
    return classes, unit((member @ z).flatten(0, 1)).view(len(z), len(classes), z.shape[2])


def equilibrium(prototypes: Tensor, temperature: float) -> Tensor:
    """Online prototype equilibrium loss (OnPro, ICCV 2023, section 4.2), a scalar.

    prototypes: of the same classes from two views [2, K, d]. Over all 2K of them, u_i+ being that of u_i's
    class in the other view:

        L = 1 / 2K  sum_i  -log  exp(<u_i, u_i+> / t) / sum_{j != i} exp(<u_i, u_j> / t)

    0 where there is one class (nothing to be told apart) or none.
    """
    k = prototypes.shape[1]
    u = prototypes.flatten(0, 1)
    if not k:
        return u.sum()
    other = torch.arange(2 * k, device=u.device).roll(k)
    return functional.nll_loss(log_shares(u @ u.T / temperature), other)


def pair_odds(prototypes: Tensor) -> Array:
    """How likely adaptive prototypical feedback draws each pair of classes: softmax of 1 / distance.

    prototypes [K, d]. Returns float64 [K (K - 1) / 2], summing to 1, in the order of np.triu_indices(K, 1).
    """
    distance = torch.pdist(prototypes.double()).cpu().numpy()
    near = 1 / np.maximum(distance, NEAREST)
    odds = np.exp(near - near.max())
    shares: Array = odds / odds.sum()
    return shares
