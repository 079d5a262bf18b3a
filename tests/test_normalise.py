"""The normaliser's statistics: those of the formulas, whenever somebody looks at them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from streamlearn.events import Array
from streamlearn.normalise import LIMIT, MAD, WAIT, Normaliser
from streamlearn.state import Part

CPU = torch.device("cpu")

sizes = st.lists(st.sampled_from([10, 10, 10, 1, 7]), min_size=1, max_size=60)


def made(shape: tuple[int, ...], horizon: int) -> Normaliser:
    return Normaliser(shape, horizon, CPU, enabled=True)


def batches(shape: tuple[int, ...], counts: list[int], seed: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.uniform(-3, 3)
    return [(rng.normal(size=(n, *shape)) * scale).astype(np.float32) for n in counts]


def alike(a: Part, b: Part) -> bool:
    return a.values == b.values and all(torch.equal(a.tensors[n], b.tensors[n]) for n in a.tensors)


@given(
    st.sampled_from([(1,), (2,), (5,), (64,), (2, 3, 4), (4, 5)]),
    sizes,
    st.sampled_from([1, 100, 5000]),
    st.integers(0, 1000),
    st.sets(st.integers(0, 59)),
)
def test_looks_and_resumption_change_no_bit(
    shape: tuple[int, ...], counts: list[int], horizon: int, seed: int, looks: set[int]
) -> None:
    """Batches of vectors are summed many at once; how many is no part of what comes of it."""
    one, other = made(shape, horizon), made(shape, horizon)
    for number, x in enumerate(batches(shape, counts, seed)):
        one.update(x)
        other.update(x)
        if number in looks:
            part = other.part()
            other = made(shape, horizon)
            other.load(part)
    assert alike(one.part(), other.part())
    assert np.array_equal(one(x), other(x))


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4)])
@given(sizes, st.integers(0, 1000))
def test_mean_and_variance_are_those_of_the_formula(
    shape: tuple[int, ...], counts: list[int], seed: int
) -> None:
    """Chan et al. 1983, with a past whose weight is capped, batch by batch in plain words."""
    horizon, normaliser = 150, made(shape, 150)
    axes = (0,) if len(shape) == 1 else (0, 2, 3)
    stream = batches(shape, counts, seed)
    weight, held = 0.0, list[Array]()
    mean = variance = centre = reach = np.zeros(0)
    for x in stream:
        normaliser.update(x)
        held.append(x.astype(np.float64))
        waits = sum(map(len, held))
        if WAIT * waits < weight:
            continue
        every = np.concatenate(held)
        if not weight:
            centre = np.median(every, axis=axes)
            reach = LIMIT * MAD * np.median(np.abs(every - _wide(centre, every)), axis=axes)
        else:
            centre, reach = mean, LIMIT * np.sqrt(variance)
        reach = np.where(reach > 0, reach, np.inf)
        every = np.clip(every, _wide(centre - reach, every), _wide(centre + reach, every))
        new, spread = every.mean(axis=axes), every.var(axis=axes)
        past = min(weight, horizon)
        weight = past + waits
        p, n = past / weight, waits / weight
        if past:
            mean, variance = p * mean + n * new, p * variance + n * spread + p * n * (new - mean) ** 2
        else:
            mean, variance = new, spread
        held.clear()
    assert normaliser.mean == pytest.approx(mean, rel=1e-9, abs=1e-12 * float(np.abs(stream[0]).max()))
    assert normaliser.variance == pytest.approx(variance, rel=1e-9, abs=1e-300)


def _wide(numbers: Array, values: Array) -> Array:
    return numbers if values.ndim == 2 else numbers[:, None, None]
