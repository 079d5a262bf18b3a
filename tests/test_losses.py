"""Every loss against loops that are written from the formula, and its gradient against finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from streamlearn.arithmetic import unit
from streamlearn.losses import (
    class_rows,
    contrastive,
    cross_entropy,
    log_shares,
    positives,
    proxy_contrastive,
)
from streamlearn.modifiers.momentum_teacher import MomentumTeacher
from streamlearn.modifiers.view_batch import consistency
from streamlearn.prototypes import class_prototypes, equilibrium, pair_odds
from streamlearn.rows import Rows
from streamlearn.tape import Explicit, Node, value_of
from tests.steps import make, make_memory, make_model, make_views, mixture, rows_of

CLASSES = 5


def labelled(y: list[int], other: list[int] | None = None, share: list[float] | None = None) -> Rows:
    """Rows of which only the labels matter."""
    mixed = (None, None) if other is None else (np.array(other), np.array(share, np.float32))
    return Rows(np.zeros((len(y), 1), np.float32), np.array(y), len(y), 1, 1, make_views((1,)), *mixed)


PURE = labelled([0, 2, 2, 1, 0, 2])
MIXED = labelled([0, 2, 2, 1, 0, 2], [0, 2, 1, 3, 2, 2], [1.0, 1.0, 0.25, 0.5, 0.875, 1.0])
ONE_CLASS = labelled([3, 3, 3])
ONE_ROW = labelled([1])
ROWS = [
    pytest.param(PURE, id="pure"),
    pytest.param(MIXED, id="mixed"),
    pytest.param(ONE_CLASS, id="one class"),
    pytest.param(ONE_ROW, id="one row"),
]


def doubles(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient_is_right(loss: Callable[[Tensor], Tensor], at: Tensor) -> bool:
    return bool(torch.autograd.gradcheck(loss, (at.requires_grad_(),)))


def node(s: Tensor) -> Node:
    return Node(s.detach().numpy(), lambda gradient: None)


def explicit_gradient_is_right(loss: Callable[[Node], Explicit], at: Tensor) -> bool:
    """Against central differences of the value by every number in `at`."""
    differences, small = np.zeros(tuple(at.shape)), 1e-5
    for place in range(at.numel()):
        step = torch.zeros_like(at)
        step.view(-1)[place] = small
        differences.flat[place] = (loss(node(at + step)).value - loss(node(at - step)).value) / (2 * small)
    found = loss(node(at))
    found.node.add(found.gradient, found.start)
    return np.allclose(np.asarray(found.node.gradient), differences, atol=1e-8)


def halves(rows: Rows, row: int) -> list[tuple[int, float]]:
    """The classes of a row and their shares."""
    if rows.share is None or rows.other is None:
        return [(int(rows.y[row]), 1.0)]
    share = float(rows.share[row])
    return [(int(rows.y[row]), share), (int(rows.other[row]), 1 - share)]


@pytest.mark.parametrize("rows", ROWS)
def test_cross_entropy(rows: Rows) -> None:
    s = doubles(len(rows.y), CLASSES)
    for start in range(len(rows.y)):
        terms = [
            share * (math.log(sum(math.exp(v) for v in s[i].tolist())) - float(s[i, c]))
            for i in range(start, len(rows.y))
            for c, share in halves(rows, i)
        ]
        expected = sum(terms) / (len(rows.y) - start)
        assert value_of(cross_entropy(node(s), rows, start)) == pytest.approx(expected)
        assert explicit_gradient_is_right(lambda at, start=start: cross_entropy(at, rows, start), s)  # type: ignore[misc]


@pytest.mark.parametrize("rows", ROWS)
def test_proxy_contrastive_is_the_double_loop_of_the_paper(rows: Rows) -> None:
    """Over rows i and their positives p; a mixed row stands in the sums as parts of two rows."""
    s = doubles(len(rows.y), CLASSES)
    parts = [(j, c, share) for j in range(len(rows.y)) for c, share in halves(rows, j) if share]
    total = 0.0
    for i, label, weight in parts:
        below = sum(share * math.exp(s[i, c]) for _, c, share in parts)
        same = [(c, share) for _, c, share in parts if c == label]
        mean = sum(share * math.log(math.exp(s[i, c]) / below) for c, share in same)
        total -= weight * mean / sum(share for _, share in same)
    assert value_of(proxy_contrastive(node(s), rows)) == pytest.approx(total / len(rows.y), rel=1e-6)
    assert explicit_gradient_is_right(lambda at: proxy_contrastive(at, rows), s)


def test_classes_that_are_not_in_the_step_get_no_gradient_from_proxies() -> None:
    gradient = proxy_contrastive(node(doubles(len(MIXED.y), CLASSES)), MIXED).gradient
    assert abs(gradient[:, 4]).max() == 0 and abs(gradient[:, :4]).min() > 0
    assert class_rows(MIXED, CLASSES).tolist() == [1.875, 1.25, 2.375, 0.5, 0.0]
    assert class_rows(PURE, CLASSES).tolist() == [2.0, 1.0, 3.0, 0.0, 0.0]


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("besides", [[], [4], [0, 3, 4]])
def test_a_class_besides_counts_as_one_row_where_there_is_none(rows: Rows, besides: list[int]) -> None:
    s = doubles(len(rows.y), CLASSES)
    weights = [w or float(c in besides) for c, w in enumerate(class_rows(rows, CLASSES).tolist())]
    total = 0.0
    for i in range(len(rows.y)):
        below = math.log(sum(w * math.exp(v) for w, v in zip(weights, s[i].tolist(), strict=True)))
        total += sum(share * (below - float(s[i, c])) for c, share in halves(rows, i))
    also = np.isin(np.arange(CLASSES), besides)
    assert value_of(proxy_contrastive(node(s), rows, also)) == pytest.approx(total / len(rows.y), rel=1e-5)
    assert explicit_gradient_is_right(lambda at: proxy_contrastive(at, rows, also), s)


@pytest.mark.parametrize("groups", [[0, 1, 0, 2, 1, 0], [0, 1, 2, 3, 4, 5], [7] * 6])
def test_contrast_is_the_loop_over_pairs(groups: list[int]) -> None:
    s = doubles(6, 6)
    group = torch.tensor(groups)
    total = 0.0
    for i in range(6):
        below = sum(math.exp(s[i, k]) for k in range(6) if k != i)
        same = [j for j in range(6) if j != i and groups[j] == groups[i]]
        total -= sum(math.log(math.exp(s[i, j]) / below) for j in same) / max(1, len(same))
    assert float(contrastive(log_shares(s), positives(group))) == pytest.approx(total / 6)
    assert gradient_is_right(lambda at: contrastive(log_shares(at), positives(group).double()), s)


def test_a_row_alone_has_no_contrast() -> None:
    s = doubles(1, 1).requires_grad_()
    loss = contrastive(log_shares(s), positives(torch.tensor([2])))
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0.0
    assert s.grad is not None and not s.grad.any()


def test_class_prototypes_are_means_on_the_sphere() -> None:
    z = unit(doubles(14, 3)).view(2, 7, 3)
    y = torch.tensor([4, 0, 4, 9, 0, 4, 9])
    classes, prototypes = class_prototypes(z, y)
    assert classes.tolist() == [0, 4, 9]
    for view in range(2):
        for place, label in enumerate([0, 4, 9]):
            mean = np.mean([z[view, i].numpy() for i in range(7) if y[i] == label], axis=0)
            assert np.allclose(prototypes[view, place].numpy(), mean / np.linalg.norm(mean))


@pytest.mark.parametrize("k", [1, 2, 5])
def test_equilibrium_is_the_loop_over_prototypes(k: int) -> None:
    p, t = unit(doubles(2 * k, 4)), 0.5
    views = p.view(2, k, 4)
    total = 0.0
    for view in range(2):
        for a in range(k):
            u = views[view, a]
            right = math.exp(float(u @ views[1 - view, a]) / t)
            below = sum(
                math.exp(float(u @ views[w, b]) / t)
                for w in range(2)
                for b in range(k)
                if (w, b) != (view, a)
            )
            total -= math.log(right / below)
    assert float(equilibrium(views, t)) == pytest.approx(total / (2 * k), abs=1e-12)
    assert gradient_is_right(lambda at: equilibrium(unit(at).view(2, k, 4), t), doubles(2 * k, 4))


def test_equilibrium_of_one_class_or_none_is_nothing_but_has_a_graph() -> None:
    for k in (0, 1):
        p = doubles(2, k, 4).requires_grad_()
        loss = equilibrium(p, 0.5)
        loss.backward()  # type: ignore[no-untyped-call]
        assert float(loss.detach()) == 0.0
        assert p.grad is not None and (p.grad == (0 if k else 1)).all()


def test_pair_odds_are_the_softmax_of_inverse_distances() -> None:
    q = doubles(4, 3).float()
    pairs = [(a, b) for a in range(4) for b in range(a + 1, 4)]
    raw = [math.exp(1 / float(torch.linalg.vector_norm(q[a] - q[b]))) for a, b in pairs]
    assert pair_odds(q) == pytest.approx(np.array(raw) / sum(raw), rel=1e-5)
    q[2] = q[0]
    odds = pair_odds(q)
    assert np.isfinite(odds).all() and odds[1] == pytest.approx(1.0), "two in one place are as near as can be"
    assert pair_odds(torch.ones(3, 2)) == pytest.approx(np.full(3, 1 / 3))


def test_consistency_is_the_mean_divergence_from_the_first_view() -> None:
    logits = doubles(3, 2, CLASSES)
    p = torch.softmax(logits, dim=2)
    total = 0.0
    for view in (1, 2):
        for i in range(2):
            total += sum(float(p[0, i, c] * (p[0, i, c] / p[view, i, c]).log()) for c in range(CLASSES))
    log_p = torch.log_softmax(logits, dim=2)
    assert float(consistency(log_p)) == pytest.approx(total / 4)
    assert float(consistency(log_p[:1].expand(3, -1, -1))) == pytest.approx(0.0, abs=1e-12)
    teacher = log_p[:1].detach()
    others = doubles(2, 2, CLASSES, seed=1)
    assert gradient_is_right(lambda at: consistency(torch.cat([teacher, at.log_softmax(2)])), others)
    log_p = log_p.detach().requires_grad_()
    consistency(log_p).backward()  # type: ignore[no-untyped-call]
    assert log_p.grad is not None and not log_p.grad[0].any(), "the teacher is not taught"


def test_asymmetric_replay_lets_the_stream_compete_among_its_own_classes() -> None:
    method, model = make("er_ace"), make_model()
    rows = rows_of(method, [1, 3, 3], make_memory([0, 1, 2]))
    s = rows.logits(model).tolist()
    stream = [math.log(math.exp(s[i][1]) + math.exp(s[i][3])) - s[i][y] for i, y in enumerate([1, 3, 3])]
    memory = [math.log(sum(map(math.exp, s[3 + i]))) - s[3 + i][i] for i in range(3)]
    losses = {name: value_of(loss) for name, loss in method.loss(model, rows).items()}
    assert losses == pytest.approx({"stream": np.mean(stream), "memory": np.mean(memory)}, rel=1e-5)


def test_the_teacher_is_a_divergence_at_its_temperature() -> None:
    method = make("er", ["momentum_teacher"], momentum_teacher={"weight": 0.5, "temperature": 4.0})
    model = make_model()
    assert isinstance(method, MomentumTeacher)
    rows = rows_of(method, [1, 3], make_memory([0, 2]), mixture([0, 1], [1, 0], [0.25, 1.0]))
    assert set(method.loss(model, rows)) == {"all"}, "there is no teacher before the first step"
    assert method.forwards(4) == 0
    method.after_step(model, rows)
    with torch.no_grad():
        model.flat[::2] *= 1.5
    rows = rows_of(method, [1, 3], make_memory([0, 2]))
    assert method.teacher is not None
    student, teacher = rows.logits(model).tolist(), method.teacher.logits(model, rows.inputs).tolist()
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        p = [math.exp(v / 4) / sum(math.exp(w / 4) for w in t) for v in t]
        q = [math.exp(v / 4) / sum(math.exp(w / 4) for w in s) for v in s]
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert (method.images(4), method.forwards(4)) == (4, 4), "the teacher's rows are counted apart"
    found = value_of(method.loss(model, rows)["teacher"])
    assert found == pytest.approx(0.5 * 16 * total / len(student), rel=1e-3)
