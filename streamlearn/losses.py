"""Losses that several methods share, each over the rows of a step."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from streamlearn.rows import Rows

MASKED = -1e9
"""In place of minus infinity, which makes NaN of a gradient where a whole row is masked."""


def cross_entropy(logits: Tensor, rows: Rows, start: int = 0) -> Tensor:
    """Mean cross-entropy over the rows from `start` on; a mixed row counts for both classes, by shares."""
    logits, y = logits[start:], rows.y[start:]
    if rows.share is None or rows.other is None:
        return functional.cross_entropy(logits, y)
    first = functional.cross_entropy(logits, y, reduction="none")
    second = functional.cross_entropy(logits, rows.other[start:], reduction="none")
    share = rows.share[start:]
    return (share * first + (1 - share) * second).mean()


def class_rows(rows: Rows, classes: int) -> Tensor:
    """How many rows there are of each class [classes]; a mixed row counts in shares."""
    counts = torch.zeros(classes, device=rows.y.device)
    if rows.share is None or rows.other is None:
        return counts.index_add_(0, rows.y, torch.ones(len(rows.y), device=rows.y.device))
    counts.index_add_(0, rows.y, rows.share)
    return counts.index_add_(0, rows.other, 1 - rows.share)


def proxy_contrastive(logits: Tensor, rows: Rows) -> Tensor:
    """Proxy-based contrastive loss (Lin et al., PCR, CVPR 2023, equation 7), mean over rows.

    With n_c rows of class c in the step:  L_i = log sum_{c: n_c > 0} n_c exp(s_ic) - s_{i, y_i}.
    (The paper sums over rows; all rows of a class share one proxy, which gives this form.)
    """
    counts = class_rows(rows, logits.shape[1])
    adjusted = (logits + counts.clamp_min(1e-6).log()).masked_fill(counts == 0, MASKED)
    right = logits.gather(1, rows.y[:, None])[:, 0]
    if rows.share is not None and rows.other is not None:
        right = rows.share * right + (1 - rows.share) * logits.gather(1, rows.other[:, None])[:, 0]
    return (torch.logsumexp(adjusted, dim=1) - right).mean()


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
