"""Forgetting an id: nothing of its examples is left, whatever is forgotten and whenever."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from streamlearn.buffers import Memory
from streamlearn.config import EvaluationSettings, MemorySettings, MethodSettings
from streamlearn.durable import Learner
from streamlearn.events import Event
from streamlearn.forgetting import Forgotten, identity
from streamlearn.learner import OnlineLearner
from streamlearn.method import Method
from streamlearn.modifiers.view_batch import ViewBatch
from streamlearn.rows import Draw
from streamlearn.state import SegmentedPart
from tests.forgetting import kept, learner, placed, resumed, someone, traces
from tests.streams import answers, bits, images, vectors

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
        assert not one.memory.x[one.memory.size :].any() and not one.memory.labels[one.memory.size :].any()


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


@cache
def stream() -> tuple[list[Event], dict[int, str | None]]:
    """What is played, and the label of each hashed id."""
    events = placed(vectors(400))
    return events, {identity(event.id)[0]: event.y for event in events}


class Watch:
    """Plays turns, notes which examples are drawn, and checks what is kept after every turn."""

    def __init__(self, of: OnlineLearner) -> None:
        self.of = of
        self.events, self.labels = stream()
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
        assert [one.classes.labels[y] for y in memory.labels[: memory.size]] == [
            self.labels[key] for key in memory.key[: memory.size].tolist()
        ]
        assert counts.labeled == counts.learned + one.pending
        came = sum(event.y is not None for event in self.events[: counts.records])
        assert came == counts.labeled + counts.held_out + counts.forgotten


@hypothesis_settings(max_examples=20)
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
    never, stopped = (Watch(learner(method=method, memory=memory)) for _ in range(2))
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
