"""Taking examples out of the held-out sets: the others stay what they are, and no class is left half."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlearn.heldout import FIRST, HeldOut
from tests.streams import WHOLE_STREAMS, plain
from tests.test_heldout import Case, cases, choice_of, made, numbered, offered, piles, places


def rows(held: HeldOut) -> list[tuple[int, int, int, int]]:
    """Place in the stream, class, set, and when it was held out, in the order of the slots."""
    columns = (held.x[:, 0].astype(int), held.y, held.group, held.taken)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def rebuilt(held: HeldOut, case: Case) -> HeldOut:
    twin = case.made()
    twin.load(held.part())
    return twin


def check(held: HeldOut) -> None:
    """What holds of held-out sets at any time."""
    assert not held._x[held.size :].any()
    assert not any(column[held.size :].any() for column in held._columns.values())
    fixed, rolling = piles(held, False), piles(held, True)
    assert all(fixed.values()), "no class of a set is without a fixed example"
    assert set(rolling) <= set(fixed)
    in_set = Counter(group for (group, _), pile in fixed.items() for _ in pile)
    assert held._fixed_in == in_set
    assert held._column("cell").max(initial=-1) + 1 == len(held._cells) == len(fixed)
    assert held._slot_of == {choice: slot for slot, choice in enumerate(held._column("choice").tolist())}
    right = np.arange(held.size) % 2 == 0
    for accuracies, chosen in zip(held.accuracies(right), (~held.rolling, held.newest), strict=True):
        for group, accuracy in enumerate(accuracies):
            classes = [held.y == number for g, number in fixed if g == group]
            own = [right[chosen & of & (held.group == group)] for of in classes]
            assert (
                np.isnan(accuracy) if not own else accuracy == pytest.approx(np.mean([r.mean() for r in own]))
            )
    assert (np.isnan(held.errors) == np.isnan(held.accuracies(right)[0])).all()


@WHOLE_STREAMS
@given(case=cases(), seed=st.integers(0, 2**16), often=st.integers(1, 60), cut=st.integers(0, 500))
def test_any_examples_at_any_time(case: Case, seed: int, often: int, cut: int) -> None:
    """Random ids are forgotten while a stream comes; one that was loaded in between goes on alike."""
    held, twin, rng = case.made(), case.made(), np.random.default_rng(seed)
    for number, event in enumerate(case.stream):
        out = held.offer(event.x, event.number, event.group, event.choice)
        assert twin.offer(event.x, event.number, event.group, event.choice) == out
        if number == cut:
            twin = rebuilt(twin, case)
        if rng.integers(often) == 0:
            of = case.stream[int(rng.integers(number + 1))]
            there = of.choice in held._slot_of
            before = rows(held)
            assert held.forget(of.choice) == twin.forget(of.choice) == there
            gone = [row for row in before if row[0] == of.place] if there else []
            assert rows(held) == [row for row in before if row not in gone]
            assert len(before) - held.size == len(gone) == int(there)
            check(held)
    check(held)
    assert plain(held.part()) == plain(twin.part())


def test_the_oldest_rolling_one_takes_the_place_of_the_last_fixed_one() -> None:
    held = made(set_size=1)
    offered(held, numbered([(0, 0)] * 300))
    first, newest = piles(held, False)[0, 0], piles(held, True)[0, 0]
    assert len(first) == len(newest) == 1
    assert held.forget(choice_of(f"0:{first[0]}"))
    assert piles(held, False)[0, 0] == newest and piles(held, True)[0, 0] == []
    assert places(held, held.newest) == newest


def test_a_full_set_takes_nothing_in_place_of_what_was_forgotten() -> None:
    held, stream = made(set_size=5), numbered([(0, 0)] * 300)
    offered(held, stream)
    first = piles(held, False)[0, 0]
    assert held.forget(choice_of(f"0:{first[2]}"))
    offered(held, numbered([(0, 0)] * 300, seed=1))
    assert piles(held, False)[0, 0] == [*first[:2], *first[3:]], "the others stay, and stay alone"


def test_a_class_that_lost_all_may_come_back() -> None:
    held, stream = made(set_size=1), numbered([(0, 0)] * (FIRST + 9))
    out = offered(held, stream)
    for event in out:
        held.forget(event.choice)
    assert held.size == 0 and len(held.accuracies(np.empty(0, bool))[0]) == 0
    again = offered(held, numbered([(0, 0)] * 20, seed=1))
    assert again and piles(held, False)[0, 0] == [again[0].place]


def test_other_sets_keep_their_accuracy() -> None:
    """A set without examples has none; sets keep their numbers."""
    held = made(set_size=3)
    offered(held, numbered([(i % 3, i % 3) for i in range(120)]))
    for place in [place for kind in (False, True) for place in piles(held, kind)[1, 1]]:
        held.forget(choice_of(f"0:{place}"))
    fixed, rolling = held.accuracies(np.ones(held.size, bool))
    for accuracies in (fixed, rolling):
        assert accuracies[[0, 2]].tolist() == [1, 1] and np.isnan(accuracies[1])
