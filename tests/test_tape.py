"""Gradients by hand are those of autograd, of every method, head and encoder; devices reckon as the host."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

import streamlearn.methods
from streamlearn import arithmetic
from streamlearn.arithmetic import host, tensor, unit
from streamlearn.config import MemorySettings, MethodSettings, ModelSettings, ServingSettings
from streamlearn.events import Array, Prediction
from streamlearn.learner import OnlineLearner
from streamlearn.method import Method, available
from streamlearn.model import Model
from streamlearn.rows import Rows
from streamlearn.tape import Explicit, Node, Tape
from tests.steps import make, make_memory, rows_of
from tests.streams import images, settings, vectors

SHAPES = {"mlp": (4,), "conv": (3, 8, 8), "resnet18": (3, 8, 8)}


def make_model(net: str, head: str = "linear", projector: int = 0) -> Model:
    model = Model(ModelSettings(head=head, net=net, width=8), SHAPES[net], 0, torch.device("cpu"), projector)
    model.grow(5, torch.Generator().manual_seed(0))
    model.used.normal_(generator=torch.Generator().manual_seed(1))
    return model


def by_autograd(model: Model, method: Method, rows: Rows) -> tuple[Tensor, Tensor]:
    """Gradients of a step with a graph from the inputs to the losses."""
    head = model.used.clone().requires_grad_()
    h = model.encode(rows.x)
    if model.linear:
        logits = functional.linear(h, head[:, :-1], head[:, -1])
    else:
        logits = unit(h) @ unit(head).T / model.settings.temperature
    for name, made in (("_encoded", h), ("_classified", logits)):
        setattr(rows, name, Node(host(made), lambda gradient: None, _leaf=made))
    total = torch.zeros(())
    for loss in method.loss(model, rows).values():
        if isinstance(loss, Explicit):
            part = logits[loss.start : loss.start + len(loss.gradient)]
            loss = (part * tensor(loss.gradient)).sum()
        total = total + loss
    model.flat_grad.zero_()
    total.backward()  # type: ignore[no-untyped-call]
    assert head.grad is not None
    return model.flat_grad.clone(), head.grad


@pytest.mark.parametrize("head", ["linear", "cosine"])
@pytest.mark.parametrize("net", ["mlp", "conv"])
@pytest.mark.parametrize("modifiers", [[], ["view_batch", "momentum_teacher"]], ids=["plain", "modified"])
@pytest.mark.parametrize("name", available(streamlearn.methods))
def test_a_step_has_the_gradient_of_autograd(
    name: str, modifiers: Sequence[str], net: str, head: str
) -> None:
    method = make(name, modifiers)
    model = make_model(net, head, method.projector)
    found = []
    for learns in (False, True):
        torch.manual_seed(0)
        rows = rows_of(method, [1, 3, 3], make_memory([0, 1, 2, 2], SHAPES[net]))
        if not learns:
            found.append(by_autograd(model, method, rows))
            continue
        model.begin()
        model.backward(method.loss(model, rows).values())
        found.append((model.flat_grad, model.used_grad))
    for theirs, mine in zip(*found, strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("net", ["conv", "resnet18"])
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 9, 6), (3, 41, 7)], ids=str)
def test_a_step_may_encode_more_than_its_rows(net: str, shape: tuple[int, ...]) -> None:
    """Images whose last map is averaged down, too."""
    model = Model(ModelSettings(net=net, width=8), shape, 0, torch.device("cpu"))
    model.begin()
    x = torch.randn(6, *shape, generator=torch.Generator().manual_seed(2))
    reference = [model.encode(x), model.encode(2 * x)]
    model.flat_grad.zero_()
    (reference[0] * reference[1]).sum().backward()  # type: ignore[no-untyped-call]
    expected = model.flat_grad.clone()
    one, two = model.encoded(host(x)), model.encoded(host(2 * x))
    model.backward([(one.leaf * two.leaf).sum()])
    torch.testing.assert_close(model.flat_grad, expected, rtol=1e-3, atol=1e-4)
    assert not model.used_grad.any()


def test_half_precision_is_near_the_whole() -> None:
    found = []
    for dtype in ("float32", "bfloat16"):
        model = Model(ModelSettings(net="conv", width=8, dtype=dtype), (1, 12, 12), 0, torch.device("cpu"))
        x = np.random.default_rng(0).normal(size=(20, 1, 12, 12)).astype(np.float32)
        model.begin()
        h = model.encoded(x)
        model.backward([h.leaf.square().sum()])
        np.testing.assert_array_equal(h.value, model.represent(x))
        found.append(model.flat_grad.clone())
    assert found[1].dtype == torch.float32
    assert 0 < (found[0] - found[1]).norm() < 0.02 * found[0].norm()


def test_nothing_of_a_step_that_was_not_learned_is_left_for_the_next() -> None:
    model = make_model("mlp")
    model.begin()
    logits = model.classified(model.encoded(np.ones((2, 4), np.float32)))
    logits.add(np.ones((2, 5), np.float32))
    model.begin()
    model.backward([model.encoded(np.ones((1, 4), np.float32)).leaf.sum() * 0])
    assert not model.flat_grad.any() and not model.rows_grad.any()


def test_known_gradients_and_graphs_add_up() -> None:
    tape, found = Tape(), []
    logits = tape.node(np.zeros((3, 2), np.float32), lambda gradient: found.append(gradient.tolist()))
    some = Explicit(1.0, logits, np.ones((2, 2), np.float32), start=1)
    tape.backward([2.0 * some, (3 * logits.leaf).sum(), some])
    assert found == [[[3, 3], [6, 6], [6, 6]]]
    tape.backward([])
    assert len(found) == 1, "the tape is empty"


USERS = (
    "average buffers losses model nets normalise optimise rows serving tape trainer views "
    "methods.onpro methods.prototype_replay modifiers.momentum_teacher"
).split()


def all_numbers_stay_tensors(patch: pytest.MonkeyPatch) -> None:
    """As on a device: nothing is reckoned by numpy."""
    for user in USERS:
        module = importlib.import_module(f"streamlearn.{user}")
        for name, other in (("host", Tensor.detach), ("onto", lambda array, _: torch.from_numpy(array))):
            if hasattr(module, name):
                patch.setattr(module, name, other)


@pytest.mark.parametrize("modifiers", [[], ["view_batch", "momentum_teacher"]], ids=["plain", "modified"])
@pytest.mark.parametrize("shape", ["vectors", "images"])
@pytest.mark.parametrize("name", available(streamlearn.methods))
def test_tensors_give_what_arrays_give(
    name: str, shape: str, modifiers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    events = vectors(60, classes=3) if shape == "vectors" else images(60)
    found = []
    for device in (False, True):
        with monkeypatch.context() as patch:
            if device:
                all_numbers_stay_tensors(patch)
            learner = OnlineLearner(
                settings(
                    method=MethodSettings(name=name, modifiers=modifiers),
                    memory=MemorySettings(capacity=20),
                    serving=ServingSettings(predictor="auto"),
                )
            )
            answers = [*learner.learn(events), *learner.flush()]
            found.append([answer.scores for answer in answers if isinstance(answer, Prediction)])
    for mine, theirs in zip(*found, strict=True):
        assert mine == pytest.approx(theirs, abs=2e-3)


def rows(seed: int, *shape: int) -> Array:
    numbers: Array = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return numbers


@pytest.mark.parametrize("name", ["relu_", "exp_", "log_softmax", "lengths", "unit"])
def test_both_reckon_alike(name: str) -> None:
    x = rows(0, 5, 7)
    x[2] = 0
    function = getattr(arithmetic, name)
    mine, theirs = function(x.copy()), function(torch.from_numpy(x.copy()))
    assert isinstance(mine, np.ndarray) and isinstance(theirs, Tensor)
    np.testing.assert_allclose(mine, theirs.numpy(), rtol=1e-5, atol=1e-6)
