"""Losses that several methods share, each over the rows of a step."""

from __future__ import annotations

import torch
from torch import Tensor

from streamlearn.arithmetic import Numbers, added, exp_, full, log, log_softmax, places
from streamlearn.rows import Rows
from streamlearn.tape import Explicit, Node

ALL = slice(None)

LEAST_ROWS = 1e-6
"""What a class counts for at least that has a part of a mixed row."""

MASKED = -1e9
"""In place of minus infinity, which makes NaN of a gradient where a whole row is masked."""


def competition(logits: Node, rows: Rows, of: slice = ALL, offset: Numbers | None = None) -> Explicit:
    """Mean over the rows i in `of` of  log sum_c exp(s_ic + o_c) - sum_c t_ic s_ic.

    s: logits [rows, classes]; o: `offset` [classes], 0 without one; t_i is 1 at the row's class, and at both
    classes of a mixed row by their shares. The gradient by s_ic is (softmax_c(s_i + o) - t_ic) / rows.
    """
    scores, y = logits.value[of], rows.labels[of]
    n, row = len(y), places(y)
    log_p = log_softmax(scores if offset is None else scores + offset)

    def against(label: Numbers) -> Numbers:
        # log sum_c exp(s_c + o_c) - s_y = o_y - log p_y
        return -log_p[row, label] if offset is None else offset[label] - log_p[row, label]

    if rows.share is None or rows.other is None:
        value = float(against(y).sum()) / n
        gradient = exp_(log_p)
        gradient[row, y] -= 1
    else:
        share, other = rows.share[of], rows.other[of]
        value = float((share * against(y) + (1 - share) * against(other)).sum()) / n
        gradient = exp_(log_p)
        gradient[row, y] -= share
        gradient[row, other] -= 1 - share
    gradient /= n
    return Explicit(value, logits, gradient, of.start or 0)


def cross_entropy(logits: Node, rows: Rows, start: int = 0) -> Explicit:
    """Mean cross-entropy over the rows from `start` on; a mixed row counts for both classes, by shares."""
    return competition(logits, rows, slice(start, None) if start else ALL)


def class_rows(rows: Rows, classes: int) -> Numbers:
    """How many rows there are of each class, float32 [classes]; a mixed row counts in shares."""
    counts = full(classes, 0.0, rows.labels)
    if rows.share is None or rows.other is None:
        return added(counts, rows.labels, full(len(rows), 1.0, counts))
    share = rows.share
    return added(added(counts, rows.labels, share), rows.other, 1 - share)


def proxy_contrastive(logits: Node, rows: Rows, besides: Numbers | None = None) -> Explicit:
    """Proxy-based contrastive loss (Lin et al., PCR, CVPR 2023, equation 7), mean over rows.

    With n_c rows of class c in the step:  L_i = log sum_{c: n_c > 0} n_c exp(s_ic) - s_{i, y_i}.
    (The paper sums over rows; all rows of a class share one proxy, which gives this form.)
    besides: bool [classes]; such a class counts as one row where the step has none of it.
    """
    counts = class_rows(rows, logits.value.shape[1])
    missing = counts == 0
    offset = log(counts.clip(LEAST_ROWS))
    offset[missing] = MASKED
    if besides is not None:
        offset[missing & besides] = 0
    return competition(logits, rows, offset=offset)


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
