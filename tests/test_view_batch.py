"""View-batch recall: the queue, the interval that it measures, and how it composes with methods."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from streamlearn.buffers import Memory
from streamlearn.modifiers.view_batch import Queue, ViewBatch, consistency
from streamlearn.rows import Draw
from streamlearn.tape import value_of
from tests.steps import IMAGE, inputs, make, make_memory, make_model, rows_of
from tests.streams import WHOLE_STREAMS

MODEL = make_model()


def view_batch(name: str = "er", **params: object) -> ViewBatch:
    method = make(name, ["view_batch"], view_batch=params)
    assert isinstance(method, ViewBatch)
    return method


def resumed(method: ViewBatch) -> ViewBatch:
    """Another one with the state of this one."""
    other = view_batch()
    other.load(method.part(), MODEL)
    return other


@WHOLE_STREAMS
@given(
    steps=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 5)), max_size=40),
    seed=st.integers(0, 2**16),
    cut=st.integers(0, 40),
)
def test_every_pass_is_a_permutation_of_the_slots_at_its_start(
    steps: list[tuple[int, int]], seed: int, cut: int
) -> None:
    """Whatever is drawn while the memory grows, also where a draw ends a pass and begins the next."""
    method, rng, size = view_batch(), np.random.default_rng(seed), 3
    passes: list[tuple[int, list[int]]] = [(0, [])]
    for number, (count, growth) in enumerate(steps):
        if number == cut:
            method = resumed(method)
        queue = method.queue
        left, before = len(queue.ahead), queue.passes
        taken = queue.take(count, size, rng).tolist()
        assert len(taken) == min(count, size) == len(set(taken))
        passes[-1][1].extend(taken[:left])
        if queue.passes > before:
            passes.append((size, []))
            passes[-1][1].extend(taken[left:])
        size += growth
    for slots, drawn in passes[:-1]:
        assert sorted(drawn) == list(range(slots)), "a whole pass"
    slots, drawn = passes[-1]
    assert len(drawn) == len(set(drawn)) and set(drawn) <= set(range(slots))


@given(
    seed=st.integers(0, 2**16), before=st.integers(0, 30), size=st.integers(0, 20), count=st.integers(0, 25)
)
def test_slots_that_the_memory_lost_are_not_drawn(seed: int, before: int, size: int, count: int) -> None:
    queue, rng = Queue(), np.random.default_rng(seed)
    queue.take(before, 20, rng)
    for _ in range(4):
        taken = queue.take(count, size, rng)
        assert len(taken) == min(count, size) and (taken < size).all()


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 7), st.integers(0, 3), st.lists(st.integers(0, 90), max_size=3)), max_size=40
    ),
    seed=st.integers(0, 2**16),
    cut=st.integers(0, 40),
)
def test_forgetting_leaves_every_other_example_its_turn(
    steps: list[tuple[int, int, list[int]]], seed: int, cut: int
) -> None:
    """In a pass every example that was there at its start, and still is, comes once; what is gone never."""
    method, memory = view_batch(), make_memory([0, 1, 2, 0, 1], capacity=200)
    rng, slots = np.random.default_rng(seed), np.random.default_rng(1)
    due: set[int] = set()
    reference = Recalls()
    for number, (count, growth, keys) in enumerate(steps):
        if number == cut:
            method = resumed(method)
        passes, left = method.queue.passes, len(method.queue.ahead)
        drawn = method.draw(memory, count, rng)
        taken = memory.key[drawn.slots].tolist()
        assert len(taken) == min(count, memory.size) == len(set(taken))
        if method.queue.passes > passes:
            assert set(taken[:left]) == due, "the pass ends when all have had their turn"
            due = set(memory.key[: memory.size].tolist())
            reference.gaps = []
            taken = taken[left:]
        assert set(taken) <= due
        due -= set(taken)
        assert set(memory.key[method.queue.ahead].tolist()) | set(memory.key[drawn.slots[:left]]) >= due
        reference.note(memory, drawn, memory.seen)
        if growth:
            y, first = np.zeros(growth, np.int64), memory.seen
            memory.insert(inputs(growth), y, np.arange(first, first + growth), slots)
        for key in keys:
            moved = memory.forget(key)
            if moved is not None:
                method.forget(moved)
            due.discard(key)
            reference.last.pop(key, None)
        held = memory.key[: memory.size].tolist()
        if len(method._recalled):
            last = {key: int(at) for key, at in zip(held, method._recalled, strict=False) if at}
            assert last == {key: reference.last[key] for key in held if key in reference.last}
            assert not method._recalled[memory.size :].any()


def test_passes_are_shuffled_anew_and_by_the_generator() -> None:
    def passes(seed: int) -> list[list[int]]:
        queue, rng = Queue(), np.random.default_rng(seed)
        return [np.concatenate([queue.take(5, 20, rng) for _ in range(4)]).tolist() for _ in range(3)]

    one = passes(0)
    assert one == passes(0) != passes(1)
    assert len({tuple(drawn) for drawn in one}) == 3


class Recalls:
    """The intervals between two recalls of an example, by its key, in a dictionary."""

    def __init__(self) -> None:
        self.last: dict[int, int] = {}
        self.gaps: list[float] = []

    def note(self, memory: Memory, drawn: Draw, step: int) -> None:
        slots = drawn.slots.tolist()
        if drawn.partner is not None and drawn.share is not None:
            slots += drawn.partner[drawn.share < 1].tolist()
        keys = [int(memory.key[slot]) for slot in slots]
        self.gaps += [step - self.last[key] for key in keys if key in self.last]
        self.last |= dict.fromkeys(keys, step)


def test_the_measured_interval_is_that_of_a_dictionary_of_recalls() -> None:
    """The figure is of the last whole pass; replaced examples begin anew."""
    method, memory = view_batch(), make_memory([], capacity=30)
    rng, slots = np.random.default_rng(0), np.random.default_rng(1)
    reference, whole, last = Recalls(), float("nan"), 0
    seen: set[float] = set()
    for step in range(80):
        drawn = method.draw(memory, 7, rng)
        if method.queue.passes > last and reference.gaps:
            whole, reference.gaps = float(np.mean(reference.gaps)), []
        last = method.queue.passes
        reference.note(memory, drawn, step)
        if method.recall_interval is not None:
            assert method.recall_interval == pytest.approx(whole)
            seen.add(whole)
        memory.insert(inputs(10), rng.integers(0, 4, 10), np.arange(10 * step, 10 * step + 10), slots)
        if step == 41:
            method = resumed(method)
    assert len(seen) > 5
    assert method.expected_recall_interval == pytest.approx(30 / 7)


def test_fewer_examples_are_recalled_less_often() -> None:
    """Expected: examples / drawn a step. A slot is never recalled twice in a pass, so hardly at once."""
    memory, rng = make_memory([0, 1] * 60), np.random.default_rng(0)
    for count, expected in ((30, 4.0), (7, 120 / 7)):
        method = view_batch()
        for step in range(600):
            memory.seen = 1000 + 10 * step
            method.draw(memory, count, rng)
        assert method.expected_recall_interval == pytest.approx(expected)
        assert method.recall_interval == pytest.approx(expected, rel=0.1)


def test_the_rows_stay_as_many_and_the_examples_become_fewer() -> None:
    for name, views, examples in (("er", 4, 17), ("er", 3, 23), ("pcr", 4, 15), ("onpro", 3, 20)):
        inner, method = make(name), view_batch(name, views=views)
        rows = inner.plan(10, 80) * len(inner.memory_views)
        assert method.plan(10, 80) == examples == rows // views
        assert method.memory_views == ("weak", *["strong"] * (views - 1))
        assert method.stream_views == inner.stream_views
    assert view_batch(views=3, first="raw", others="weak").memory_views == ("raw", "weak", "weak")
    assert view_batch("er").plan(10, 10) == 0, "nothing to replay"
    few = view_batch("er", views=4)
    for images, made in ((12, ["weak", "strong"]), (11, ["weak"])):
        assert few.plan(10, images) == 1
        assert list(few.memory_views) == made, "no more rows than there were"
    few.inner.given = 3
    few.plan(10, 11)
    assert len(few.memory_views) == 4, "whoever gives the examples gets all views"


@pytest.mark.parametrize("name", ["er", "er_ace", "pcr", "onpro"])
def test_its_term_is_the_divergence_between_the_memory_s_views(name: str) -> None:
    inner, method = make(name), view_batch(name, weight=0.5, views=3)
    model = make_model(projector=method.projector)
    rows = rows_of(method, [1, 3], make_memory([0, 1, 2]))
    assert rows.memory_views == 3 and len(rows.y) == rows.stream + 9
    logits = rows.logits(model)[rows.stream :]
    log_p = torch.stack([torch.log_softmax(part, dim=1) for part in logits.chunk(3)])
    expected = {key: value_of(loss) for key, loss in inner.loss(model, rows).items()}
    expected["consistency"] = 0.5 * float(consistency(log_p).detach())
    found = {key: value_of(loss) for key, loss in method.loss(model, rows).items()}
    assert found == pytest.approx(expected, rel=1e-5)
    assert "consistency" not in view_batch(name, weight=0.0).loss(model, rows)
    rows = rows_of(method, [1, 3], make_memory([]))
    assert "consistency" not in method.loss(model, rows), "an empty memory has nothing to keep consistent"
    method._set_views(1)
    rows = rows_of(method, [1, 3], make_memory([0, 1, 2]))
    assert "consistency" not in method.loss(model, rows), "one view agrees with itself"


def test_the_uniform_part_of_onpro_comes_from_the_queue() -> None:
    method = make("onpro", ["view_batch"], onpro={"feedback": 0.5})
    assert isinstance(method, ViewBatch)
    memory = make_memory([0, 1, 2, 3] * 10)
    rows = rows_of(method, [0, 1], memory)
    model = make_model(projector=method.projector)
    method.loss(model, rows)
    method.after_step(model, rows)
    rng = np.random.default_rng(0)
    base: list[int] = []
    for _ in range(4):
        drawn = method.draw(memory, 20, rng)
        assert drawn.partner is not None and len(drawn.slots) == 20
        assert (drawn.slots[10:] != drawn.partner[10:]).all()
        base += drawn.slots[:10].tolist()
    assert sorted(base) == list(range(40))
    assert method.expected_recall_interval is not None
    assert 40 / 30 <= method.expected_recall_interval < 40 / 20, "partners of mixtures are recalls too"


def test_a_method_that_replays_nothing_stays_as_it_is() -> None:
    method, memory = view_batch("finetune"), make_memory([0, 1, 2])
    drawn = method.draw(memory, 3, np.random.default_rng(0))
    assert not len(drawn.slots) and not method.queue.passes
    assert method.recall_interval is method.expected_recall_interval is None
    rows = rows_of(method, [1, 3], memory, drawn)
    assert set(method.loss(MODEL, rows)) == {"stream"}


@pytest.mark.parametrize("name", ["er", "er_ace", "pcr", "onpro", "finetune"])
def test_it_may_stand_before_or_after_a_teacher(name: str) -> None:
    found = []
    for modifiers in (["view_batch", "momentum_teacher"], ["momentum_teacher", "view_batch"]):
        method = make(name, modifiers, IMAGE)
        model = make_model(IMAGE, projector=method.projector, width=2)
        memory = make_memory([0, 1, 2] * 4, IMAGE)
        for _ in range(2):
            count = method.plan(4, 32)
            rows = rows_of(method, [1, 3, 0, 2], memory, method.draw(memory, count, np.random.default_rng(2)))
            losses = method.loss(model, rows)
            method.after_step(model, rows)
        found.append({key: value_of(loss) for key, loss in losses.items()})
    assert found[0] == pytest.approx(found[1])
    assert "teacher" in found[0] and ("consistency" in found[0]) == (name != "finetune")
