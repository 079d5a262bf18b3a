"""Gradients by hand are those of autograd: of every method, head and encoder."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

import streamlearn.methods
from streamlearn.config import ModelSettings
from streamlearn.method import Method, available
from streamlearn.model import Model
from streamlearn.tape import Explicit, backward
from tests.steps import make, make_memory, rows_of

SHAPES = {"mlp": (4,), "conv": (3, 8, 8), "resnet18": (3, 8, 8)}


def gradients(model: Model, method: Method, learns: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Of one step's loss, within a step (by hand) or outside of one (by autograd alone)."""
    shape = model.shape
    torch.manual_seed(0)
    rows = rows_of(method, [1, 3, 3], make_memory([0, 1, 2, 2], shape))
    if learns:
        model.train_mode(True)
    model.backward(method.loss(model, rows).values())
    model.train_mode(False)
    return model.flat_grad.clone(), model.rows_grad.clone()


@pytest.mark.parametrize("head", ["linear", "cosine"])
@pytest.mark.parametrize("net", ["mlp", "conv"])
@pytest.mark.parametrize("modifiers", [[], ["view_batch", "momentum_teacher"]], ids=["plain", "modified"])
@pytest.mark.parametrize("name", available(streamlearn.methods))
def test_a_step_has_the_gradient_of_autograd(
    name: str, modifiers: Sequence[str], net: str, head: str
) -> None:
    shape = SHAPES[net]
    method = make(name, modifiers)
    model = Model(ModelSettings(head=head, net=net, width=8), shape, 0, torch.device("cpu"), method.projector)
    model.grow(5, torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.rows[:5].normal_(generator=torch.Generator().manual_seed(1))
    by_autograd = gradients(model, method, learns=False)
    by_hand = gradients(model, method, learns=True)
    for mine, theirs in zip(by_hand, by_autograd, strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_batch_norm_and_several_forwards_go_through_the_tape() -> None:
    settings = ModelSettings(net="resnet18", width=2)
    found = []
    for learns in (False, True):
        model = Model(settings, (3, 8, 8), 0, torch.device("cpu"))
        model.grow(3, torch.Generator().manual_seed(0))
        x = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(2))
        model.train_mode(True)
        if not learns:
            model._learns = False
        h, more = model.encode(x), model.encode(2 * x)
        loss = model.classify(h).square().sum() + (h * more).sum() + model.classify(more).sum()
        model.backward([loss])
        model.train_mode(False)
        found.append((model.flat_grad.clone(), model.rows_grad.clone()))
    for mine, theirs in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


def test_nothing_of_a_step_that_was_not_learned_is_left_for_the_next() -> None:
    model = Model(ModelSettings(), (4,), 0, torch.device("cpu"))
    model.grow(2, torch.Generator().manual_seed(0))
    model.train_mode(True)
    model.classify(model.encode(torch.ones(2, 4))).sum()
    model.train_mode(False)
    model.train_mode(True)
    model.backward([model.encode(torch.ones(1, 4)).sum() * 0])
    assert not model.flat_grad.any() and not model.rows_grad.any()


def test_known_gradients_and_graphs_add_up() -> None:
    logits = torch.zeros(3, 2, requires_grad=True)
    some = Explicit(torch.tensor(1.0), logits, torch.ones(2, 2), start=1)
    backward([2.0 * some, (3 * logits).sum(), some])
    assert logits.grad is not None
    assert logits.grad.tolist() == [[3, 3], [6, 6], [6, 6]]
    made, other = 5 * logits, torch.zeros(3, 2, requires_grad=True)
    (first,) = torch.autograd.grad(Explicit(torch.tensor(1.0), made, torch.ones(3, 2)).graph(), logits)
    assert first.tolist() == [[5, 5]] * 3
    made = 5 * other
    backward([Explicit(torch.tensor(1.0), made, torch.ones(2, 2)), made.sum()])
    assert other.grad is not None
    assert other.grad.tolist() == [[10, 10], [10, 10], [5, 5]]
