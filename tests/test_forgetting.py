"""Forgetting an id: nothing of its examples is left, and reading on doesn't bring them back."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from streamlearn.buffers import Memory
from streamlearn.config import EvaluationSettings, MemorySettings, MethodSettings
from streamlearn.durable import Learner
from streamlearn.events import Event, Position, Prediction, Record, Rejection
from streamlearn.forgetting import Blocked, Forgotten, identity
from streamlearn.learner import OnlineLearner
from streamlearn.method import Method
from streamlearn.modifiers.view_batch import ViewBatch
from streamlearn.rows import Draw
from streamlearn.schema import Schema, blank
from streamlearn.state import SegmentedPart, Snapshot
from tests.streams import answers, bits, images, plain, settings, vectors


def placed(events: Sequence[Event], partitions: int = 1) -> list[Event]:
    """The same events as records of a topic, dealt out to its partitions."""
    return [
        replace(event, position=Position("t", i % partitions, i // partitions))
        for i, event in enumerate(events)
    ]


def whole(of: OnlineLearner) -> Snapshot:
    """A full snapshot in the form that `restore` takes: through a file, as it always goes."""
    parts = dict(of.snapshot(full=True))
    memory = parts.get("memory")
    if isinstance(memory, SegmentedPart):
        raw = {i: b"".join(a.tobytes() for a in arrays) for i, arrays in memory.changed.items()}
        segments = {i: (np.frombuffer(segment, np.uint8),) for i, segment in raw.items()}
        parts["memory"] = SegmentedPart(memory.values, memory.count, segments)
    return parts


def resumed(of: OnlineLearner) -> OnlineLearner:
    twin = OnlineLearner(of.settings)
    twin.restore(whole(of))
    return twin


def kept(of: OnlineLearner) -> dict[str, set[int]]:
    """The hashes of the ids that something is kept of, by place."""
    if not of.settled:
        return {"memory": set(), "pending": set(), "held out": set()}
    held = of.trainer.evaluator.held
    return {
        "memory": {*of.memory.key[: of.memory.size].tolist()},
        "pending": {*of.pending_key[: of.pending].tolist()},
        "held out": {*held.part().tensors["choice"].tolist()},
    }


def traces(of: OnlineLearner, id: str) -> list[str]:
    """Where something of an id is."""
    first, second = identity(id)
    return [
        place for place, hashes in kept(of).items() if (second if place == "held out" else first) in hashes
    ]


def learner(**sections: object) -> OnlineLearner:
    return OnlineLearner(
        settings(**{"evaluation": EvaluationSettings(held_out=0.3, capacity=20), **sections})
    )


def someone(of: OnlineLearner, events: Sequence[Event], place: str) -> str:
    """An id of which something is there."""
    hashes = kept(of)[place]
    return next(event.id for event in events if identity(event.id)[place == "held out"] in hashes)


# ---- what is found and taken out


@pytest.mark.parametrize("place", ["memory", "held out", "pending"])
def test_it_says_what_it_found_and_nothing_is_left(place: str) -> None:
    one, events = learner(), vectors(205)
    one.learn(events)
    id = someone(one, events, place)
    before = {name: len(hashes) for name, hashes in kept(one).items()}
    labeled = one.counts.labeled
    found = one.forget(id, {})
    expected = {name: int(name == place) for name in before}
    assert found == Forgotten(expected["memory"], expected["held out"], expected["pending"], one.counts.steps)
    assert traces(one, id) == []
    assert {name: len(hashes) for name, hashes in kept(one).items()} == {
        name: size - expected[name] for name, size in before.items()
    }
    assert one.counts.forgotten == labeled - one.counts.labeled == expected["pending"]
    assert one.forget(id, {}) == Forgotten(0, 0, 0, one.counts.steps)


def test_an_id_that_came_often_goes_altogether() -> None:
    """Most of its events lie in the memory, one may be held out, some wait for their batch."""
    one, events = learner(memory=MemorySettings(capacity=400)), vectors(200, unlabeled=0.0)
    again = [replace(event, id="again" if i % 5 == 0 else event.id) for i, event in enumerate(events)]
    one.learn(again[:196])
    places = traces(one, "again")
    found = one.forget("again", {})
    assert "memory" in places and "pending" in places
    assert found.memory > 20 and found.waiting == 1
    assert traces(one, "again") == []
    assert found.memory + found.waiting + one.counts.held_out * found.held_out == 40


def test_its_bytes_are_overwritten() -> None:
    """From every array that holds inputs, stale rows included."""
    one, events = learner(), images(203)
    for place in ("memory", "held out", "pending"):
        one.learn(events[one.counts.records : one.counts.records + 67])
        event = next(e for e in events if e.id == someone(one, events, place))
        one.forget(event.id, {})
        arrays = [one.memory.x.numpy(), one.trainer.evaluator.held._x, one.pending_x, one.rows]
        assert not any(event.x.tobytes() in array.tobytes() for array in arrays), place
        assert not one.memory.x[one.memory.size :].any() and not one.memory.y[one.memory.size :].any()


def test_nothing_stays_in_the_batch_before() -> None:
    one, events = learner(evaluation=EvaluationSettings(held_out=0)), images(200)
    one.learn(events)
    last = events[-1]
    assert one.pending == 0 and last.x.tobytes() in one.pending_x.tobytes()
    one.forget(last.id, {})
    assert last.x.tobytes() not in one.pending_x.tobytes() and not one.pending_key.any()


@pytest.mark.parametrize("at", [0, 5, 10, 203])
def test_an_unknown_id_changes_no_bit(at: int) -> None:
    one = learner(method=MethodSettings(name="er", modifiers=["view_batch"]))
    one.learn(vectors(203)[:at])
    before = bits(one.snapshot(full=True))
    one.snapshot()
    assert one.forget("nobody", {}) == Forgotten(0, 0, 0, one.counts.steps)
    assert bits(one.snapshot(full=True)) == before
    if at == 203:
        memory = one.snapshot()["memory"]
        assert isinstance(memory, SegmentedPart) and not memory.changed
    one.forget("nobody", {0: 7})
    after = bits(one.snapshot(full=True))
    assert after.pop("blocked") and after == before


def test_who_never_forgot_has_the_parts_that_there_always_were() -> None:
    one = learner()
    one.learn(vectors(100))
    parts = one.snapshot(full=True)
    assert "blocked" not in parts
    assert "forgotten" not in parts["counts"].values


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


# ---- whatever is forgotten, and whenever


@dataclass(frozen=True)
class Turn:
    """So many events are learned; then these of the past, or of the next few, are forgotten.

    ids: how many events ago; ahead: to which offset from here on they are blocked, 0: not at all.
    """

    events: int
    ids: tuple[int, ...]
    ahead: int


TURNS = st.lists(
    st.builds(
        Turn,
        st.sampled_from([1, 5, 23, 40]),
        st.lists(st.integers(-20, 60), min_size=3, max_size=20).map(tuple),
        st.sampled_from([0, 0, 1, 25]),
    ),
    min_size=4,
    max_size=9,
)


class Watch:
    """Plays turns, notes which examples are drawn, and checks what is kept after every turn."""

    def __init__(self, of: OnlineLearner, events: Sequence[Event]) -> None:
        self.of, self.events = of, events
        self.at = 0
        self.alive: set[str] = set()
        self.drawn: set[int] = set()
        self.until: dict[str, int] = {}
        self.said: list[object] = []

    def play(self, turn: Turn) -> None:
        for event in self.events[self.at : self.at + turn.events]:
            if event.y is not None and event.position.offset >= self.until.get(event.id, 0):
                self.alive.add(event.id)
        self.said += answers(self.of.learn(self.events[self.at : self.at + turn.events]))
        self.check()
        self.at = min(len(self.events), self.at + turn.events)
        for ago in turn.ids:
            id = f"event {self.at - ago}"
            if turn.ahead:
                self.until[id] = max(self.until.get(id, 0), self.at + turn.ahead)
            self.said.append(self.of.forget(id, {0: self.at + turn.ahead} if turn.ahead else {}))
            self.alive.discard(id)
        self.drawn.clear()
        self.watch()
        self.check()

    def watch(self) -> None:
        if not self.of.settled or "draw" in vars(self.of.trainer.method):
            return
        method: Method = self.of.trainer.method
        inner = method.draw

        def draw(memory: Memory, count: int, rng: np.random.Generator) -> Draw:
            made = inner(memory, count, rng)
            slots = made.slots if made.partner is None else np.concatenate([made.slots, made.partner])
            assert (slots < memory.size).all()
            self.drawn.update(memory.key[slots].tolist())
            return made

        vars(method)["draw"] = draw

    def check(self) -> None:
        one, counts = self.of, self.of.counts
        if not one.settled:
            return
        first = {identity(id)[0] for id in self.alive}
        found = kept(one)
        assert found["memory"] <= first and found["pending"] <= first and self.drawn <= first
        assert found["held out"] <= {identity(id)[1] for id in self.alive}
        assert not found["memory"] & found["pending"]
        memory = one.memory
        method = one.trainer.method
        if isinstance(method, ViewBatch):
            assert not method._recalled[memory.size :].any() and (method.queue.ahead < memory.size).all()
        assert len(found["memory"]) == memory.size <= memory.capacity
        assert not memory.x[memory.size :].any() and not memory.key[memory.size :].any()
        assert (memory.y.numpy() == memory.labels).all()
        labels = {identity(e.id)[0]: e.y for e in self.events}
        assert [one.classes.labels[y] for y in memory.labels[: memory.size]] == [
            labels[key] for key in memory.key[: memory.size].tolist()
        ]
        assert counts.labeled == counts.learned + one.pending
        came = sum(event.y is not None for event in self.events[: counts.records])
        assert came == counts.labeled + counts.held_out + counts.forgotten


@hypothesis_settings(max_examples=30)
@given(
    name=st.sampled_from(["er", "onpro", "prototype_replay"]),
    modifiers=st.sampled_from([[], ["view_batch"]]),
    policy=st.sampled_from(["reservoir", "balanced", "ageing"]),
    capacity=st.sampled_from([3, 12, 40, 300]),
    turns=TURNS,
    cut=st.integers(1, 6),
)
def test_any_ids_at_any_time(
    name: str, modifiers: list[str], policy: str, capacity: int, turns: list[Turn], cut: int
) -> None:
    method = MethodSettings(name=name, modifiers=modifiers)
    if name == "prototype_replay":
        method = MethodSettings(name=name, modifiers=modifiers, prototype_replay={"feedback": 0.5})
    memory = MemorySettings(capacity=capacity, policy=policy, horizon=60)
    events = placed(vectors(400))
    never, stopped = (Watch(learner(method=method, memory=memory), events) for _ in range(2))
    for number, turn in enumerate(turns):
        never.play(turn)
        stopped.play(turn)
        if number == cut and stopped.of.settled:
            stopped.of = resumed(stopped.of)
            stopped.watch()
    assert never.said == stopped.said
    assert bits(never.of.snapshot(full=True)) == bits(stopped.of.snapshot(full=True))


def test_everything_can_be_forgotten_and_learning_goes_on() -> None:
    events = placed(vectors(200))
    for name in ("er", "onpro", "prototype_replay"):
        one = learner(method=MethodSettings(name=name, modifiers=["view_batch"]))
        one.learn(events[:105])
        for event in events[:105]:
            one.forget(event.id, {})
        assert kept(one) == {"memory": set(), "pending": set(), "held out": set()}
        one.learn(events[105:])
        assert one.memory.size > 30 and one.counts.skipped_steps == 0


def test_a_learner_from_a_folder_forgets_alike() -> None:
    events = vectors(180)
    whole_run, first = learner(), Learner(learner().settings)
    for each in (whole_run, first):
        each.learn(events[:120])
    id = someone(first, events, "memory")
    with tempfile.TemporaryDirectory() as folder:
        first.save(folder)
        second = Learner.load(folder)
    assert second.forget(id, {}) == whole_run.forget(id, {})
    assert answers(second.learn(events[120:])) == answers(whole_run.learn(events[120:]))
    assert bits(second.snapshot(full=True)) == bits(whole_run.snapshot(full=True))
