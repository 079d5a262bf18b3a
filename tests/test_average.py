"""The serving average against sums written out, and what a new class changes in it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from streamlearn.average import Average
from streamlearn.config import ModelSettings
from streamlearn.model import Model


def model(classes: int = 2) -> Model:
    made = Model(ModelSettings(width=4), (3,), 0, torch.device("cpu"))
    made.grow(classes, torch.Generator().manual_seed(0))
    return made


def wander(made: Model, steps: int, average: Average, seed: int = 1) -> list[torch.Tensor]:
    """Random weights, step by step; the encoder's at every step."""
    generator = torch.Generator().manual_seed(seed)
    seen = []
    for _ in range(steps):
        made.flat.copy_(torch.randn(made.flat.shape, generator=generator))
        made.rows.copy_(torch.randn(made.rows.shape, generator=generator))
        average.update(made)
        seen.append(made.flat.clone())
    return seen


def test_power_0_is_the_plain_mean_while_it_is_young() -> None:
    made = model()
    average = Average(made, 0.001)
    average.grow(made)
    seen = wander(made, 9, average)
    np.testing.assert_allclose(average.flat, torch.stack(seen).mean(dim=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_the_share_of_every_step(power: float) -> None:
    made = model()
    average = Average(made, 0.2, power)
    average.grow(made)
    seen = wander(made, 30, average)
    expected = np.zeros(made.flat.shape[0])
    for k, weights in enumerate(seen):
        share = max(0.2, (power + 1) / (k + power + 1))
        expected = (1 - share) * expected + share * weights.numpy()
    np.testing.assert_allclose(average.flat.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(("restart", "age"), [(5, 5), (0, 30), (100, 30)])
def test_a_new_class_makes_it_young_again(restart: int, age: int) -> None:
    made = model()
    average = Average(made, 0.01, 1, restart)
    average.grow(made)
    wander(made, 30, average)
    flat, rows = average.flat.clone(), average.rows[:2].clone()
    made.grow(3, torch.Generator().manual_seed(2))
    average.grow(made)
    assert average.steps == age
    assert average.ages[:3, 0].tolist() == [age, age, 0]
    assert torch.equal(average.flat, flat) and torch.equal(average.rows[:2], rows)
    average.grow(made)
    assert average.steps == age


def test_a_slow_rate_follows_a_stream_whose_classes_come_fast() -> None:
    """Weights that jump at every new class: after 40 steps the average is nearer the new place."""
    lag = {}
    for restart in (0, 10):
        made = model(1)
        average = Average(made, 0.01, 1, restart)
        average.grow(made)
        for place in range(1, 6):
            made.grow(place, torch.Generator().manual_seed(place))
            average.grow(made)
            made.flat.fill_(float(place))
            for _ in range(40):
                average.update(made)
        lag[restart] = float(5 - average.flat[0])
    assert lag[10] < 0.15 < lag[0]
