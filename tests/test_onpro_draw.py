"""What OnPro draws: pairs of the classes whose prototypes are near, and its state."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from streamlearn.buffers import Memory
from streamlearn.methods.onpro import OnlinePrototypes
from streamlearn.prototypes import pair_odds
from tests.steps import make, make_memory, make_model


def knowing(feedback: float = 1.0, mix: float = 0.6) -> tuple[OnlinePrototypes, Memory]:
    """A method that knows four classes; a memory of 10, 20, 30, 40 examples of them, 50 of another."""
    method = make("onpro", onpro={"feedback": feedback, "mix": mix})
    assert isinstance(method, OnlinePrototypes)
    method.classes = np.array([0, 1, 2, 3])
    method.prototypes = torch.tensor([[1.0, 0.0], [0.9, 0.3], [-0.5, 0.5], [0.0, -0.8]])
    return method, make_memory([label for label, n in enumerate((10, 20, 30, 40, 50)) for _ in range(n)])


def test_pairs_come_as_often_as_their_prototypes_are_near() -> None:
    method, memory = knowing()
    rng = np.random.default_rng(0)
    draws = [method.draw(memory, 150, rng) for _ in range(40)]
    assert all(len(drawn.slots) == 150 for drawn in draws)
    slots = np.concatenate([drawn.slots for drawn in draws])
    partner = np.concatenate([drawn.partner for drawn in draws if drawn.partner is not None])
    share = np.concatenate([drawn.share for drawn in draws if drawn.share is not None])
    first, second = memory.labels[slots], memory.labels[partner]
    low, high = np.minimum(first, second), np.maximum(first, second)
    counts = [np.count_nonzero((low == a) & (high == b)) for a in range(4) for b in range(a + 1, 4)]
    assert sum(counts) == 6000
    assert stats.chisquare(counts, pair_odds(method.prototypes) * 6000).pvalue > 0.001
    assert stats.binomtest(np.count_nonzero(first < second), 6000).pvalue > 0.001, "in either order"
    assert stats.binomtest(np.count_nonzero(share < 1), 6000, 0.6).pvalue > 0.001
    assert stats.kstest(share[share < 1], stats.beta(0.4, 0.4).cdf).pvalue > 0.001
    for label in range(4):
        members = slots[first == label]
        seen = np.bincount(members, minlength=150)[memory.labels == label]
        assert stats.chisquare(seen).pvalue > 0.001, "uniform within a class"


def test_only_a_share_of_the_draw_is_pairs_and_the_rest_is_uniform() -> None:
    method, memory = knowing(feedback=0.25)
    rng = np.random.default_rng(1)
    seen = np.zeros(150)
    for _ in range(200):
        drawn = method.draw(memory, 40, rng)
        assert drawn.partner is not None and drawn.share is not None
        assert len(drawn.slots) == len(drawn.partner) == len(drawn.share) == 40
        assert len(set(drawn.slots[:30].tolist())) == 30
        assert (drawn.slots[:30] == drawn.partner[:30]).all() and (drawn.share[:30] == 1).all()
        assert (memory.labels[drawn.slots[30:]] != memory.labels[drawn.partner[30:]]).all()
        seen[drawn.slots[:30]] += 1
    assert stats.chisquare(seen).pvalue > 0.001


def test_draws_are_a_function_of_the_generator() -> None:
    method, memory = knowing(feedback=0.5)
    one, two, other = (method.draw(memory, 20, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert one.slots.tolist() == two.slots.tolist() != other.slots.tolist()
    assert one.partner is not None and two.partner is not None and (one.partner == two.partner).all()
    assert one.share is not None and two.share is not None and (one.share == two.share).all()


def test_classes_that_have_left_the_memory_are_not_drawn() -> None:
    method, memory = knowing()
    memory.labels[memory.labels == 0] = 4
    drawn = method.draw(memory, 60, np.random.default_rng(0))
    assert len(drawn.slots) == 60 and drawn.partner is not None
    pairs = drawn.slots != drawn.partner
    assert 0 < np.count_nonzero(pairs) < 60, "the pairs with it became uniform draws"
    memory.labels[:] = 4
    drawn = method.draw(memory, 60, np.random.default_rng(0))
    assert len(set(drawn.slots.tolist())) == 60


@pytest.mark.parametrize("known", [0, 1])
def test_without_two_known_classes_it_draws_like_the_others(known: int) -> None:
    method, memory = knowing()
    method.classes, method.prototypes = method.classes[:known], method.prototypes[:known]
    drawn = method.draw(memory, 40, np.random.default_rng(0))
    assert drawn.partner is None and len(set(drawn.slots.tolist())) == 40
    assert not len(method.draw(make_memory([]), 40, np.random.default_rng(0)).slots)


def test_the_prototypes_are_state() -> None:
    method, _ = knowing()
    part = method.part()
    method.prototypes.zero_()
    method.classes[:] = 7
    other, _ = knowing()
    other.classes = other.classes[:0]
    other.load(part, make_model(projector=128))
    assert other.classes.tolist() == [0, 1, 2, 3] and other.prototypes[1].tolist() == pytest.approx(
        [0.9, 0.3]
    )
