"""The block: reading on doesn't bring a forgotten id back, also before the shape of x is settled."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlearn.config import EvaluationSettings, MemorySettings
from streamlearn.durable import Learner
from streamlearn.events import Event, Position, Prediction, Record, Rejection
from streamlearn.forgetting import Blocked, Forgotten, identity
from streamlearn.schema import Schema, blank
from tests.forgetting import learner, placed, resumed, someone, traces
from tests.streams import answers, bits, images, plain, settings, vectors

# ---- the block


def test_what_is_blocked_is_answered_and_scored_and_not_learned() -> None:
    events = placed(vectors(240, unlabeled=0.0))
    one, other = learner(), learner()
    for each in (one, other):
        each.learn(events[:120])
    id = events[120].id
    assert one.forget(id, {0: 200}) == Forgotten(0, 0, 0, one.counts.steps)
    outputs = one.learn(events[120:121])
    assert answers(outputs) == answers(other.learn(events[120:121])), "answered as if nothing had been said"
    assert plain(one.prequential.part()) == plain(other.prequential.part()), "and scored"
    assert (one.counts.forgotten, one.counts.predicted) == (1, 121)
    assert traces(one, id) == [] != traces(other, id)
    one.learn(events[121:])
    counts = one.counts
    assert traces(one, id) == [] and not one.blocked
    assert counts.learned + one.pending + counts.held_out + counts.forgotten == 240
    assert counts.labeled == counts.learned + one.pending


def test_from_the_offset_on_it_is_a_new_event() -> None:
    events = placed(vectors(60, unlabeled=0.0))
    ids = {9: "x", 29: "x", 39: "x", 41: "x"}
    events = [replace(event, id=ids.get(i, event.id)) for i, event in enumerate(events)]
    one = learner(evaluation=EvaluationSettings(held_out=0), memory=MemorySettings(capacity=100))
    one.learn(events[:20])
    assert one.forget("x", {0: 40}).memory == 1
    one.learn(events[20:40])
    assert one.counts.forgotten == 2 and traces(one, "x") == [] and not one.blocked
    one.learn(events[40:])
    assert one.counts.forgotten == 2 and traces(one, "x") == ["memory"]


def test_at_a_tombstone_s_place_it_is_a_function_of_the_records() -> None:
    """No block: what comes behind is new. Read again, however cut, it is the same to the bit."""
    events = vectors(200)
    runs = []
    for cuts in ([0, 77, 150, 200], [0, 1, 60, 77, 78, 150, 199, 200]):
        one = learner()
        for start, end in pairwise(cuts):
            one.learn(events[start:end])
            if end in (77, 150):
                one.forget(someone(one, events, "memory"), {})
        runs.append(bits(one.snapshot(full=True)))
    assert runs[0] == runs[1]


def test_the_block_ends_when_every_partition_has_been_passed() -> None:
    events = placed(vectors(90), partitions=3)
    one = learner()
    one.learn(events[:30])
    one.forget("x", {0: 15, 1: 20, 2: 10})
    assert len(one.blocked) == 1
    one.learn(events[30:58])
    assert len(one.blocked) == 1, "partition 1 has been read up to 18"
    dead = Rejection("undecodable", "", Record(b"", Position("t", 1, 19)))
    one.learn([dead])
    assert not one.blocked, "a rejection passes, too"
    assert "blocked" not in one.snapshot()


def test_the_block_is_part_of_the_state() -> None:
    events = placed(vectors(240))
    one = learner()
    one.learn(events[:101])
    one.forget("event 150", {0: 160})
    two = resumed(one)
    assert len(two.blocked) == 1
    assert answers(one.learn(events[101:])) == answers(two.learn(events[101:]))
    assert bits(one.snapshot(full=True)) == bits(two.snapshot(full=True))
    assert traces(two, "event 150") == [] and two.counts.forgotten == 1


@given(
    blocks=st.lists(
        st.tuples(st.sampled_from("ab"), st.dictionaries(st.integers(0, 2), st.integers(0, 12))), max_size=6
    ),
    read=st.lists(st.integers(0, 2), max_size=40),
)
def test_the_block_against_a_plain_list(blocks: list[tuple[str, dict[int, int]]], read: list[int]) -> None:
    """Records of three partitions, each in order; ids are blocked between them."""
    blocked, reached = Blocked(), {0: 0, 1: 0, 2: 0}
    plain_list: list[tuple[str, int, int]] = []
    for number, partition in enumerate(read):
        if number % 4 == 0 and blocks:
            id, until = blocks.pop()
            blocked.add(identity(id), until)
            plain_list += [(id, p, end) for p, end in until.items() if end]
        at = Position("t", partition, reached[partition])
        for id in "abc":
            expected = any((i, p) == (id, partition) and at.offset < end for i, p, end in plain_list)
            assert blocked.holds(Event(id, np.zeros(1), position=at)) == expected
        blocked.passes(at)
        reached[partition] += 1
        plain_list = [(i, p, end) for i, p, end in plain_list if p != partition or end > reached[p]]
        assert len(blocked) == len({i for i, _, _ in plain_list}) and bool(blocked) == bool(plain_list)
        twin = Blocked()
        twin.load(blocked.part())
        assert twin.part() == blocked.part() and twin._next == blocked._next


# ---- before the shape of x is settled


def test_what_waits_for_the_shape_is_answered_and_not_learned() -> None:
    events = placed(vectors(60, unlabeled=0.0))
    one = learner()
    one.learn(events[:7])
    assert one.forget("event 3", {}) == Forgotten(0, 0, 1, 0)
    assert one.forget("event 3", {}) == Forgotten(0, 0, 0, 0)
    outputs = one.learn(events[7:])
    assert [output.id for output in outputs if isinstance(output, Prediction)] == [e.id for e in events]
    assert (one.counts.forgotten, one.counts.labeled + one.counts.held_out) == (1, 59)
    assert one.prequential.events == 60 and traces(one, "event 3") == []


def test_read_again_from_the_start_it_is_the_same() -> None:
    """C stays at the start until the shape is settled: the block is all that a checkpoint holds then."""
    events = placed(vectors(60, unlabeled=0.0))
    one = learner()
    one.learn(events[:7])
    assert one.forget("event 3", {0: 7}).waiting == 1
    two = resumed(one)
    assert answers(one.learn(events[7:])) == answers(two.learn(events))
    assert bits(one.snapshot(full=True)) == bits(two.snapshot(full=True))
    assert not one.blocked and one.counts.forgotten == 1


def test_a_saved_learner_holds_nothing_of_it(tmp_path: Path) -> None:
    events = placed(images(60))
    one = Learner(settings())
    one.learn(events[:7])
    one.forget("image 3", {})
    one.forget("image 6", {0: 20})
    one.learn([replace(events[7], id="image 6")])
    one.save(tmp_path)
    saved = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert [i for i in range(8) if events[i].x.tobytes() in saved] == [0, 1, 2, 4, 5]
    two = Learner.load(tmp_path)
    assert answers(one.learn(events[8:])) == answers(two.learn(events[8:]))
    assert bits(one.snapshot(full=True)) == bits(two.snapshot(full=True))
    assert one.counts.forgotten == 3


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_blank_input_fits_where_the_other_one_did(dtype: str) -> None:
    xs = [
        np.array([1, 2], np.uint8),
        np.array([1.0, 255.0]),
        np.array([1.5, 2.0], np.float32),
        np.array([-3, 2], np.int8),
        np.array([3, 2], np.int64),
        np.array([300, 2], np.uint16),
        np.array([np.nan, 1.0]),
        np.array([1e300, 1.0]),
        np.array(["a", "b"]),
        np.array([1.0]),
    ]
    schema = Schema((2,), dtype)
    for x in xs:
        assert schema.misfit(blank(x)) == schema.misfit(x), x
        assert blank(x).dtype == x.dtype and len({*blank(x).astype(str).tolist()}) == 1


def test_rejections_alone_pass_the_block() -> None:
    one = learner()
    one.forget("x", {0: 3})
    one.learn([Rejection("undecodable", "", Record(b"", Position("t", 0, i))) for i in range(4)])
    one.flush()
    assert not one.blocked
