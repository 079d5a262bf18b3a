"""The sets of tasks: balanced among their classes, whenever these come."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlearn.config import CoreSettings, EvaluationSettings, MemorySettings, MethodSettings
from streamlearn.events import Event
from streamlearn.heldout import FIRST, HeldOut
from streamlearn.learner import OnlineLearner
from tests.forgetting import whole
from tests.streams import WHOLE_STREAMS, bits, plain
from tests.test_heldout import Labeled, choice_of, made, numbered, piles
from tests.test_heldout_forget import check


@dataclass(frozen=True)
class Tasks:
    """A stream whose tasks and classes come in any order, and what keeps examples of it."""

    settings: EvaluationSettings
    capacity: int
    classes: int
    tasks: int
    stream: list[Labeled]

    def made(self) -> HeldOut:
        return HeldOut(self.settings, self.capacity, (2,), np.float32)


def offer(held: HeldOut, event: Labeled, task: bool = True) -> bool:
    return held.offer(event.x, event.number, event.group, event.choice, task)


@st.composite
def tasks(draw: st.DrawFn, roomy: bool = False) -> Tasks:
    """Few classes in a set or more than it has room for; late ones, bursts, a class in several tasks."""
    per_set = draw(st.integers(1, 3))
    settings = EvaluationSettings(
        held_out=draw(st.sampled_from([0.3, 0.9])),
        set_size=draw(st.integers(per_set, 14)),
        classes_per_set=per_set,
    )
    classes, count = draw(st.integers(1, 8)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    length = draw(st.sampled_from([80, 250]))
    numbers = rng.integers(classes, size=length)
    if draw(st.booleans()):
        numbers = np.sort(numbers)
    groups = rng.integers(count, size=length)
    pairs = list(zip(numbers.tolist(), groups.tolist(), strict=True))
    capacity = 1000 if roomy else draw(st.sampled_from([1, 7, 20, 60, 1000]))
    return Tasks(settings, capacity, classes, count, numbered(pairs, draw(st.integers(0, 9))))


@WHOLE_STREAMS
@given(tasks())
def test_sets_are_bounded_and_hold_what_was_held_out(case: Tasks) -> None:
    held, taken = case.made(), []
    for event in case.stream:
        if not offer(held, event):
            continue
        taken.append(event)
        assert event.place in held.x[:, 0]
        assert held.size <= case.capacity
        fixed, rolling = piles(held, False), piles(held, True)
        of_set: dict[int, int] = defaultdict(int)
        for key, pile in fixed.items():
            of_set[key[0]] += len(pile)
            assert 0 < len(pile) <= case.settings.set_size // case.settings.classes_per_set
            assert len(rolling[key]) <= len(pile)
            assert pile == sorted(pile)
        assert all(size <= case.settings.set_size for size in of_set.values())
    check(held)
    for x, number, group, order in zip(held.x, held.y, held.group, held.taken, strict=True):
        event = taken[order]
        assert (x.tolist(), number, group) == (event.x.tolist(), event.number, event.group)
    assert len({*held.taken.tolist()}) == held.size


@WHOLE_STREAMS
@given(tasks(roomy=True), st.integers(0, 10))
def test_where_enough_came_of_every_class_a_set_is_balanced(case: Tasks, forgotten: int) -> None:
    """Whatever came before, late classes, forgetting: then twenty events that are chosen of each class."""
    held = case.made()
    for event in case.stream:
        offer(held, event)
    for choice in held._column("choice")[:forgotten].tolist():
        held.forget(choice)
    for again in range(FIRST + 20):
        for number in range(case.classes):
            for group in range(case.tasks):
                choice = -(1 << 62) - (choice_of(f"{again} {number} {group}") & ((1 << 61) - 1))
                offer(held, Labeled(-1, number, group, choice if again >= FIRST else (1 << 62)))
    share = case.settings.set_size // case.settings.classes_per_set
    for group in range(case.tasks):
        sizes = [len(pile) for (of, _), pile in piles(held, False).items() if of == group]
        assert len(sizes) == min(case.classes, case.settings.set_size)
        assert max(sizes) - min(sizes) <= 1
        if not forgotten:
            assert sum(sizes) == min(case.settings.set_size, case.classes * share)


@WHOLE_STREAMS
@given(tasks(roomy=True))
def test_a_class_only_ever_gives_its_last_to_one_with_much_less(case: Tasks) -> None:
    held = case.made()
    before: dict[tuple[int, int], list[int]] = {}
    for event in case.stream:
        if not offer(held, event):
            continue
        fixed = piles(held, False)
        shrunk = {key: pile for key, pile in before.items() if len(fixed[key]) < len(pile)}
        grown = [key for key, pile in fixed.items() if len(pile) > len(before.get(key, []))]
        assert all(fixed[key] == pile[: len(fixed[key])] for key, pile in shrunk.items())
        if shrunk:
            ((giver, pile),), (taker,) = shrunk.items(), grown
            of_set = {key: len(pile) for key, pile in before.items() if key[0] == taker[0]}
            assert giver[0] == taker[0] == event.group and taker[1] == event.number
            assert sum(of_set.values()) == case.settings.set_size, "only a full set makes room"
            assert len(pile) == max(of_set.values()) >= of_set.get(taker, 0) + 2
            assert len(pile) - len(fixed[giver]) == 1 == len(fixed[taker]) - of_set.get(taker, 0)
        before = fixed


@WHOLE_STREAMS
@given(tasks(), st.integers(0, 250), st.integers(0, 2**16), st.integers(2, 40))
def test_it_goes_on_from_a_state_as_if_it_had_not_stopped(
    case: Tasks, at: int, seed: int, often: int
) -> None:
    held, twin, rng = case.made(), case.made(), np.random.default_rng(seed)
    for number, event in enumerate(case.stream):
        if number == at:
            (twin := case.made()).load(held.part())
        out = offer(held, event)
        if number >= at:
            assert offer(twin, event) == out
        if rng.integers(often) == 0:
            of = case.stream[int(rng.integers(number + 1))].choice
            forgotten = held.forget(of)
            if number >= at:
                assert twin.forget(of) == forgotten
            check(held)
            if number >= at:
                assert plain(twin.part()) == plain(held.part())


@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 4))
def test_where_the_sets_are_classes_it_makes_no_difference(seed: int, per_set: int, share: int) -> None:
    numbers = np.random.default_rng(seed).integers(7, size=300).tolist()
    settings = {"set_size": per_set * share, "classes_per_set": per_set}
    one, other = made(**settings), made(**settings)
    for event in numbered([(number, number // per_set) for number in numbers]):
        assert offer(one, event) == offer(other, event, task=False)
    assert plain(one.part()) == plain(other.part())


def test_a_full_set_makes_room_by_hand() -> None:
    """A set of four. Choices that 4 divides may roll, too: these do not."""
    held = made(set_size=4)
    for number in range(5):
        assert not any(offer(held, Labeled(0, number, 0, 4)) for _ in range(FIRST))

    def comes(place: int, number: int) -> dict[int, list[int]]:
        offer(held, Labeled(place, number, 0, 1 - 4 * place))
        return {number: pile for (_, number), pile in piles(held, False).items()}

    for place in (1, 2, 3, 4):
        comes(place, 0)
    assert comes(5, 1) == {0: [1, 2, 3], 1: [5]}
    assert comes(6, 1) == {0: [1, 2], 1: [5, 6]}
    assert comes(7, 1) == {0: [1, 2], 1: [5, 6]}, "a share is enough"
    assert comes(8, 2) == {0: [1, 2], 1: [5], 2: [8]}, "of equals the newest class gives"
    assert comes(9, 3) == {0: [1], 1: [5], 2: [8], 3: [9]}
    assert comes(10, 4) == {0: [1], 1: [5], 2: [8], 3: [9]}, "no class loses its last one"


def test_what_rolls_goes_with_what_is_fixed() -> None:
    held = made(set_size=4)
    for number in (0, 1):
        assert not any(offer(held, Labeled(0, number, 0, 4)) for _ in range(FIRST))
    for place in range(1, 9):
        assert offer(held, Labeled(place, 0, 0, -4 * place))
    assert (piles(held, False), piles(held, True)) == ({(0, 0): [1, 2, 3, 4]}, {(0, 0): [5, 6, 7, 8]})
    assert offer(held, Labeled(9, 1, 0, 1 - 4 * 9))
    assert piles(held, False) == {(0, 0): [1, 2, 3], (0, 1): [9]}
    assert piles(held, True) == {(0, 0): [6, 7, 8], (0, 1): []}
    assert not held.forget(-4 * 4) and not held.forget(-4 * 5), "what gave way is not there any more"
    assert held.forget(1 - 4 * 9) and piles(held, False) == {(0, 0): [1, 2, 3]}
    check(held)


def late_classes(count: int) -> list[Event]:
    """Two tasks in turns; classes 3 to 5 come when the sets have long been full."""
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(6, 5)) * 3
    numbers = [*rng.integers(3, size=count // 2).tolist(), *rng.integers(3, 6, size=count // 2).tolist()]
    return [
        Event(
            f"event {i}", (centres[n] + rng.normal(size=5)).astype(np.float32), str(n), task=f"task {i % 2}"
        )
        for i, n in enumerate(numbers)
    ]


def learner() -> OnlineLearner:
    return OnlineLearner(
        CoreSettings(
            method=MethodSettings(name="pcr"),
            memory=MemorySettings(capacity=2000),
            evaluation=EvaluationSettings(held_out=0.4, capacity=100, set_size=18),
        )
    )


@pytest.fixture(scope="module")
def learned() -> tuple[OnlineLearner, list[Event]]:
    one, events = learner(), late_classes(1200)
    one.learn(events)
    return one, events


def test_a_learner_balances_the_sets_of_its_tasks(learned: tuple[OnlineLearner, list[Event]]) -> None:
    one, events = learned
    held = one.trainer.evaluator.held
    assert [each.name for each in one.trainer.evaluator.figures.sets] == ["task 0", "task 1"]
    assert {key: len(pile) for key, pile in piles(held, False).items()} == {
        (group, number): 3 for group in (0, 1) for number in range(6)
    }
    origin = one.normaliser.origin
    given = {(event.x - origin).astype(np.float32).tobytes() for event in events}
    kept = {row.tobytes() for row in held.x}
    learned_rows = {row.tobytes() for row in one.memory.x.numpy()[: one.memory.size]}
    assert one.counts.held_out > held.size, "some have given way"
    assert one.counts.learned + one.pending + one.counts.held_out == len(events)
    assert len(learned_rows) == one.memory.size == one.counts.learned, "the memory holds all that was learned"
    assert kept <= given and not kept & learned_rows
    # Of what was held out, also of what gave way, nothing was learned; what waits aside.
    assert len(given - learned_rows) == one.counts.held_out + one.pending


@pytest.mark.parametrize("at", [300, 620, 900])
def test_a_learner_with_tasks_resumes_to_the_bit(at: int, learned: tuple[OnlineLearner, list[Event]]) -> None:
    all_at_once, events = learned
    one, two = learner(), learner()
    one.learn(events[:at])
    two.restore(whole(one))
    two.learn(events[at:])
    assert bits(two.snapshot(full=True)) == bits(all_at_once.snapshot(full=True))
