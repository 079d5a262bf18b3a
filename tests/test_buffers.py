"""The replay memory: what is kept, what is drawn, what a snapshot holds."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from streamlearn.buffers import Memory, _level
from streamlearn.config import MemorySettings
from streamlearn.state import SegmentedPart
from tests.streams import WHOLE_STREAMS

CPU = torch.device("cpu")


def memory(policy: str = "reservoir", capacity: int = 10, horizon: int = 100, shape: int = 2) -> Memory:
    settings = MemorySettings(capacity=capacity, policy=policy, horizon=horizon)
    return Memory(settings, (shape,), torch.float32, CPU)


def offer(held: Memory, labels: list[int], rng: np.random.Generator, batch: int = 10) -> None:
    """Offer events numbered on; x and key hold the number."""
    for start in range(0, len(labels), batch):
        y = np.array(labels[start : start + batch], dtype=np.int64)
        number = np.arange(held.seen, held.seen + len(y))
        x = torch.from_numpy(np.repeat(number[:, None], held.x.shape[1], 1).astype(np.float32))
        held.insert(x, y, number, rng)


def whole(held: Memory) -> SegmentedPart:
    """All segments, in the form that `load` takes."""
    part = held.snapshot(full=True)
    raw = {
        i: (np.frombuffer(b"".join(a.tobytes() for a in arrays), dtype=np.uint8),)
        for i, arrays in part.changed.items()
    }
    return SegmentedPart(part.values, part.count, raw)


@WHOLE_STREAMS
@given(
    policy=st.sampled_from(["reservoir", "balanced", "ageing"]),
    capacity=st.integers(1, 30),
    labels=st.lists(st.integers(0, 5), max_size=120),
    batch=st.integers(1, 12),
    seed=st.integers(0, 2**16),
)
def test_columns_stay_together(policy: str, capacity: int, labels: list[int], batch: int, seed: int) -> None:
    """Whatever is offered: rows belong together, stand once, nothing is held that was not offered."""
    held = memory(policy, capacity)
    offer(held, labels, np.random.default_rng(seed), batch)
    assert held.seen == len(labels)
    assert held.size == min(capacity, len(labels))
    keys = held.key[: held.size]
    assert len(set(keys.tolist())) == held.size
    assert held.x[: held.size, 0].tolist() == keys.tolist() == held.born[: held.size].tolist()
    assert held.labels[: held.size].tolist() == [labels[k] for k in keys]
    assert not held.x[held.size :].any()


@WHOLE_STREAMS
@given(
    policy=st.sampled_from(["reservoir", "balanced", "ageing"]),
    cuts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    capacity=st.integers(1, 600),
)
def test_snapshots_add_up_to_the_memory(policy: str, cuts: list[int], capacity: int) -> None:
    """The changed segments of successive snapshots, put together, are the memory; loading gives it back."""
    held, rng = memory(policy, capacity, shape=40), np.random.default_rng(0)
    known: dict[int, bytes] = {}
    for cut in cuts:
        offer(held, [i % 3 for i in range(cut)], rng)
        part = held.snapshot()
        known |= {i: b"".join(a.tobytes() for a in arrays) for i, arrays in part.changed.items()}
        full = {i: raw.tobytes() for i, (raw,) in whole(held).changed.items()}
        assert known == full
        assert part.count == len(full)
    twin = memory(policy, capacity, shape=40)
    twin.load(whole(held))
    assert torch.equal(twin.x, held.x)
    for name in ("key", "born", "labels"):
        assert np.array_equal(getattr(twin, name), getattr(held, name)), name
    assert not twin.snapshot().changed


def test_a_snapshot_is_a_copy() -> None:
    held, rng = memory(capacity=4), np.random.default_rng(0)
    offer(held, [0] * 4, rng)
    part = held.snapshot()
    before = [a.copy() for a in part.changed[0]]
    offer(held, [1] * 400, rng)
    assert all(np.array_equal(a, b) for a, b in zip(part.changed[0], before, strict=True))


def test_only_what_changed_is_copied() -> None:
    held, rng = memory(capacity=5000, shape=500), np.random.default_rng(0)
    offer(held, [0] * 5000, rng)
    assert len(held.snapshot().changed) == held.segments > 100
    offer(held, [0] * 20, rng)
    assert 0 < len(held.snapshot().changed) <= 20
    held.mark_changed([3, 7])
    assert set(held.snapshot().changed) == {3, 7}


def test_reservoir_is_uniform_over_the_past() -> None:
    counts: Counter[int] = Counter()
    for seed in range(400):
        held = memory(capacity=10)
        offer(held, [0] * 100, np.random.default_rng(seed), batch=7)
        counts.update(held.key.tolist())
    result = stats.chisquare([counts[i] for i in range(100)])
    assert result.pvalue > 1e-3


def test_balanced_keeps_a_uniform_sample_of_every_class() -> None:
    labels = [0] * 300 + [1] * 60 + [2] * 4 + [0] * 200
    counts: Counter[int] = Counter()
    for seed in range(300):
        held = memory("balanced", capacity=20)
        offer(held, labels, np.random.default_rng(seed), batch=47)
        assert Counter(held.labels.tolist()) == {0: 8, 1: 8, 2: 4}
        counts.update(held.key.tolist())
    zeros = [i for i, label in enumerate(labels) if label == 0]
    assert stats.chisquare([counts[i] for i in zeros]).pvalue > 1e-3


def test_ageing_forgets_the_old() -> None:
    ages = []
    for seed in range(100):
        held = memory("ageing", capacity=10, horizon=100)
        offer(held, [0] * 2000, np.random.default_rng(seed), batch=70)
        ages += (1999 - held.key).tolist()
    # Replacement odds of 1/horizon an event and slot: ages are exponential with mean `horizon`.
    assert 80 < np.mean(ages) < 120
    assert memory(capacity=10).policy == "reservoir"


@given(counts=st.lists(st.integers(0, 50), min_size=1, max_size=8), capacity=st.integers(1, 100))
def test_levels_fill_the_capacity_evenly(counts: list[int], capacity: int) -> None:
    quotas = _level(np.array(counts), capacity)
    assert quotas.sum() == min(capacity, sum(counts))
    assert (quotas <= counts).all()
    cut = [q for q, c in zip(quotas, counts, strict=True) if q < c]
    if cut:
        assert max(quotas) - min(cut) <= 1


@pytest.mark.parametrize("size", [0, 1, 5, 1000])
def test_draws_are_distinct_and_uniform(size: int) -> None:
    held = memory(capacity=max(1, size))
    offer(held, [0] * size, np.random.default_rng(0))
    rng = np.random.default_rng(0)
    counts: Counter[int] = Counter()
    for _ in range(300):
        slots = held.draw(4, rng)
        assert len(set(slots.tolist())) == len(slots) == min(4, size)
        counts.update(slots.tolist())
    if size == 5:
        assert stats.chisquare([counts[i] for i in range(5)]).pvalue > 1e-3
    if size == 1000:
        x, y = held.rows(slots)
        assert x[:, 0].tolist() == slots.tolist() and not y.any()


# ---- forgetting


@given(
    policy=st.sampled_from(["reservoir", "balanced", "ageing"]),
    capacity=st.integers(1, 60),
    steps=st.lists(st.tuples(st.integers(1, 12), st.lists(st.integers(0, 200), max_size=5)), max_size=20),
    segment_rows=st.integers(1, 7),
    cut=st.integers(0, 20),
    missed=st.booleans(),
)
def test_what_is_forgotten_is_gone_and_what_comes_next_takes_its_place(
    policy: str,
    capacity: int,
    steps: list[tuple[int, list[int]]],
    segment_rows: int,
    cut: int,
    missed: bool,
) -> None:
    """Whatever is forgotten between steps; one that is loaded in between goes on alike."""

    def made() -> Memory:
        one = memory(policy, capacity)
        one.segment_rows, one.changed = segment_rows, np.zeros(-(-capacity // segment_rows), dtype=bool)
        return one

    held, twin = made(), made()
    generators = [np.random.default_rng(7) for _ in range(2)]
    known: dict[int, bytes] = {}
    forgotten: set[int] = set()
    for number, (count, keys) in enumerate(steps):
        before = held.size
        for one, rng in zip((held, twin), generators, strict=True):
            offer(one, [i % 3 for i in range(count)], rng, batch=count)
        assert held.size == min(capacity, before + count)
        for key in keys:
            there = held.key[: held.size] == key
            slots = {int(k): slot for slot, k in enumerate(held.key[: held.size])}
            moved, other = held.forget(key), twin.forget(key)
            assert (moved is not None) == there.any()
            if moved is None or other is None:
                continue
            assert moved.tolist() == other.tolist()
            forgotten.add(key)
            assert moved[there].tolist() == [-1]
            assert {k: int(moved[slot]) for k, slot in slots.items() if k != key} == {
                int(k): slot for slot, k in enumerate(held.key[: held.size])
            }
        assert held.seen == twin.seen
        assert not forgotten & set(held.key[: held.size].tolist())
        assert held.x[: held.size, 0].tolist() == held.key[: held.size].tolist()
        assert not held.x[held.size :].any()
        assert not any(c[held.size :].any() for c in (held.key, held.labels, held.born, held.priority))
        part = held.snapshot()
        if missed and number % 3 == 0:
            held.mark_changed(list(part.changed))  # could not be written; more may be forgotten until it is
        else:
            known |= {i: b"".join(a.tobytes() for a in arrays) for i, arrays in part.changed.items()}
            full = {i: raw.tobytes() for i, (raw,) in whole(held).changed.items()}
            assert {i: known[i] for i in range(part.count)} == full
        if number == cut:
            saved, twin = whole(twin), made()
            twin.load(saved)
    assert whole(held).values == whole(twin).values
    assert torch.equal(held.x, twin.x) and (held.labels == twin.labels).all()


@pytest.mark.parametrize("policy", ["reservoir", "balanced", "ageing"])
def test_freed_slots_go_to_the_next_events(policy: str) -> None:
    held, rng = memory(policy, capacity=20), np.random.default_rng(0)
    offer(held, [0] * 2000, rng)
    for key in held.key[[0, 7, 19]].tolist():
        held.forget(key)
    offer(held, [0] * 3, rng, batch=3)
    assert held.size == 20 and {2000, 2001, 2002} <= set(held.key.tolist())


def test_a_reservoir_stays_uniform_over_what_was_not_forgotten() -> None:
    counts: Counter[int] = Counter()
    for seed in range(400):
        held, rng = memory(capacity=10), np.random.default_rng(seed)
        offer(held, [0] * 60, rng, batch=7)
        for key in range(0, 60, 6):
            held.forget(key)
        offer(held, [0] * 60, rng, batch=7)
        counts.update(key for key in held.key.tolist() if key < 60)
    assert not any(counts[key] for key in range(0, 60, 6))
    assert stats.chisquare([counts[key] for key in range(60) if key % 6]).pvalue > 1e-3


def test_balanced_keeps_its_level_after_forgetting() -> None:
    held, rng = memory("balanced", capacity=20), np.random.default_rng(0)
    offer(held, [0] * 300 + [1] * 60 + [2] * 4, rng)
    for key in held.key[held.labels == 1].tolist():
        held.forget(key)
    assert Counter(held.labels[: held.size].tolist()) == {0: 8, 2: 4}
    offer(held, [0, 1, 2, 0] * 30, rng)
    assert Counter(held.labels.tolist()) == {0: 7, 1: 7, 2: 6}


def test_another_memory_is_refused() -> None:
    held = memory(capacity=10)
    with pytest.raises(ValueError, match="capacity"):
        memory(capacity=11).load(whole(held))
