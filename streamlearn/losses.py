"""Losses that several methods share, each over the rows of a step."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from streamlearn.rows import Rows
from streamlearn.tape import Explicit

ALL = slice(None)

MASKED = -1e9
"""In place of minus infinity, which makes NaN of a gradient where a whole row is masked."""


def competition(logits: Tensor, rows: Rows, of: slice = ALL, offset: Tensor | None = None) -> Explicit:
    """Mean over the rows i in `of` of  log sum_c exp(s_ic + o_c) - sum_c t_ic s_ic.

    s: logits [rows, classes]; o: `offset` [classes], 0 without one; t_i is 1 at the row's class, and at both
    classes of a mixed row by their shares. The gradient by s_ic is (softmax_c(s_i + o) - t_ic) / rows.
    """
    with torch.no_grad():
        scores, y = (logits, rows.y) if of == ALL else (logits[of], rows.y[of])
        n, place = len(y), y[:, None]
        log_p = torch.log_softmax(scores if offset is None else scores + offset, dim=1)
        # log sum_c exp(s_c + o_c) - s_y = o_y - log p_y
        terms = log_p if offset is None else log_p - offset
        if rows.share is None or rows.other is None:
            value = functional.nll_loss(terms, y)
            gradient = log_p.exp_().scatter_(1, place, -1, reduce="add").div_(n)
        else:
            share, other = rows.share[of, None].to(logits.dtype), rows.other[of, None]
            value = (share * terms.gather(1, place) + (1 - share) * terms.gather(1, other)).sum() / -n
            gradient = log_p.exp_().scatter_add_(1, place, -share).scatter_add_(1, other, share - 1).div_(n)
        return Explicit(value, logits, gradient, of.start or 0)


def cross_entropy(logits: Tensor, rows: Rows, start: int = 0) -> Explicit:
    """Mean cross-entropy over the rows from `start` on; a mixed row counts for both classes, by shares."""
    return competition(logits, rows, slice(start, None) if start else ALL)


def class_rows(rows: Rows, classes: int) -> Tensor:
    """How many rows there are of each class [classes]; a mixed row counts in shares."""
    counts = torch.zeros(classes, device=rows.y.device)
    if rows.share is None or rows.other is None:
        return counts.index_add_(0, rows.y, torch.ones(len(rows.y), device=rows.y.device))
    counts.index_add_(0, rows.y, rows.share)
    return counts.index_add_(0, rows.other, 1 - rows.share)


def proxy_contrastive(logits: Tensor, rows: Rows, absent: float = 0.0) -> Explicit:
    """Proxy-based contrastive loss (Lin et al., PCR, CVPR 2023, equation 7), mean over rows.

    With n_c rows of class c in the step:  L_i = log sum_{c: n_c > 0} n_c exp(s_ic) - s_{i, y_i}.
    (The paper sums over rows; all rows of a class share one proxy, which gives this form.)
    A known class without a row in the step takes part as though it had `absent` rows.
    """
    counts = class_rows(rows, logits.shape[1])
    if absent:
        counts[counts == 0] = absent
    return competition(logits, rows, offset=counts.clamp_min(1e-6).log_().masked_fill_(counts == 0, MASKED))


def log_shares(similarity: Tensor) -> Tensor:
    """log of exp(s_ij) / sum_{k != i} exp(s_ik), similarity [n, n]; the diagonal means nothing."""
    alone = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    return torch.log_softmax(similarity.masked_fill(alone, MASKED), dim=1)


def positives(group: Tensor) -> Tensor:
    """Weights [n, n] of a contrast: row i's are 1 / (their number) at the other rows of its group [n]."""
    same = group[:, None] == group
    weights = same.fill_diagonal_(False).float()
    return weights / weights.sum(dim=1, keepdim=True).clamp_min(1)


def contrastive(log_p: Tensor, weights: Tensor) -> Tensor:
    """Mean over rows i of - sum_j weights_ij log p_ij; log_p of `log_shares`, both [n, n].

    With the weights of `positives`: supervised contrast (Khosla et al., NeurIPS 2020, equation 2). A row
    that is alone in its group counts 0.
    """
    return -(log_p * weights).sum() / len(log_p)
