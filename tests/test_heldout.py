"""What is held out of a stream: which examples, how many, and for how long they stay."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import mmh3
import msgpack
import numpy as np
import pytest
import safetensors.torch
from hypothesis import given
from hypothesis import strategies as st

from streamlearn.config import EvaluationSettings
from streamlearn.events import Array
from streamlearn.heldout import FIRST, LEAST, ROLLING, HeldOut
from streamlearn.state import Part
from tests.streams import plain


class Labeled(NamedTuple):
    """An event of a stream; its x holds its place in the stream."""

    place: int
    number: int
    group: int
    choice: int

    @property
    def x(self) -> Array:
        return np.array([self.place, -self.place], np.float32)


def choice_of(name: str) -> int:
    return mmh3.hash64(name.encode())[0]


def made(capacity: int = 1000, **settings: Any) -> HeldOut:
    return HeldOut(EvaluationSettings(**{"held_out": 0.5, **settings}), capacity, (2,), np.float32)


def offered(held: HeldOut, stream: Sequence[Labeled]) -> list[Labeled]:
    """The events that were held out."""
    return [event for event in stream if held.offer(event.x, event.number, event.group, event.choice)]


def places(held: HeldOut, chosen: Array) -> list[int]:
    """Places in the stream of the chosen examples, in the order in which they were held out."""
    slots = np.flatnonzero(chosen)
    return [int(place) for place in held.x[slots[np.argsort(held.taken[slots])], 0]]


def numbered(stream: Sequence[tuple[int, int]], seed: int = 0) -> list[Labeled]:
    """Events of (number, group) with the hashes of their ids."""
    return [Labeled(i, number, group, choice_of(f"{seed}:{i}")) for i, (number, group) in enumerate(stream)]


@dataclass(frozen=True)
class Case:
    settings: EvaluationSettings
    capacity: int
    stream: list[Labeled]

    def made(self) -> HeldOut:
        return HeldOut(self.settings, self.capacity, (2,), np.float32)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Small sets of few classes or many, by class or by task, with room enough or with next to none."""
    classes_per_set = draw(st.integers(1, 3))
    settings = EvaluationSettings(
        held_out=draw(st.sampled_from([0.1, 0.5, 0.9])),
        set_size=draw(st.integers(classes_per_set, 14)),
        classes_per_set=classes_per_set,
    )
    classes, tasks = draw(st.integers(1, 8)), draw(st.integers(0, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    length = draw(st.sampled_from([80, 250]))
    # In bursts, in order of appearance, as they come: all of these occur.
    ordered = draw(st.booleans())
    numbers = np.sort(rng.integers(classes, size=length)) if ordered else rng.integers(classes, size=length)
    if draw(st.booleans()):
        numbers = np.concatenate([numbers, numbers])
    groups = rng.integers(tasks, size=len(numbers)) if tasks else numbers // classes_per_set
    pairs = list(zip(numbers.tolist(), groups.tolist(), strict=True))
    return Case(
        settings, draw(st.sampled_from([1, 7, 20, 60, 1000])), numbered(pairs, draw(st.integers(0, 9)))
    )


def piles(held: HeldOut, rolling: bool) -> dict[tuple[int, int], list[int]]:
    """By (group, number): places in the stream, in the order in which they were held out."""
    columns = (held.taken, held.group, held.y, held.rolling, held.x[:, 0].astype(int))
    found: dict[tuple[int, int], list[int]] = {}
    for _, group, number, kind, place in sorted(zip(*(c.tolist() for c in columns), strict=True)):
        found.setdefault((group, number), []).extend([place] if kind == rolling else [])
    return found


def watched(case: Case) -> Iterator[tuple[HeldOut, Labeled, bool]]:
    """After each event: the sets, the event, and whether it was held out."""
    held = case.made()
    for event in case.stream:
        yield held, event, held.offer(event.x, event.number, event.group, event.choice)


@given(cases())
def test_what_is_kept_is_what_was_held_out_and_never_too_much(case: Case) -> None:
    taken: list[Labeled] = []
    for held, event, out in watched(case):
        taken += [event] if out else []
        assert held.size <= min(case.capacity, len(taken))
        assert held.size == len(held.x) == len(held.y) == len(held.group) == len(held.newest)
        if out:
            assert event.place in held.x[:, 0]
    for x, number, group, order in zip(held.x, held.y, held.group, held.taken, strict=True):
        event = taken[order]
        assert (x.tolist(), number, group) == (event.x.tolist(), event.number, event.group)
    assert len({*held.taken.tolist()}) == held.size, "no example is kept twice"
    assert held.bytes == held.size * (8 + 5 * 8 + 1 + 8)


@given(cases())
def test_the_first_labels_of_a_class_are_learned(case: Case) -> None:
    learned: dict[int, int] = {}
    for _, event, out in watched(case):
        if out:
            assert learned[event.number] >= FIRST
        else:
            learned[event.number] = learned.get(event.number, 0) + 1


@given(cases())
def test_only_what_the_hash_chooses_is_held_out(case: Case) -> None:
    for _, event, out in watched(case):
        share = (event.choice + 2**63) / 2**64
        assert not out or share < (case.settings.held_out or 0)


@given(cases())
def test_a_set_keeps_to_its_size_and_shares_it_among_its_classes(case: Case) -> None:
    size, share = case.settings.set_size, case.settings.set_size // case.settings.classes_per_set
    for held, _, out in watched(case):
        if not out:
            continue
        fixed, rolling = piles(held, False), piles(held, True)
        for group in {group for group, _ in fixed}:
            assert sum(len(pile) for key, pile in fixed.items() if key[0] == group) <= size
        for key, pile in fixed.items():
            assert 0 < len(pile) <= share
            assert len(rolling[key]) <= len(pile)


@given(cases())
def test_a_fixed_set_that_was_full_only_ever_gives_up_its_last(case: Case) -> None:
    size, share = case.settings.set_size, case.settings.set_size // case.settings.classes_per_set
    before: dict[tuple[int, int], list[int]] = {}
    full: set[tuple[int, int]] = set()
    for held, _, out in watched(case):
        if not out:
            continue
        fixed = piles(held, False)
        for key, pile in fixed.items():
            was = before.get(key, [])
            if key in full:
                assert pile == was[: len(pile)]
            else:
                assert pile[: len(was)] == was[: len(pile)], "a set that fills up keeps what it has"
            if len(pile) < len(was):
                assert held.size == case.capacity
            in_set = sum(len(other) for (group, _), other in fixed.items() if group == key[0])
            if len(pile) == share or in_set == size:
                full.add(key)
        assert before.keys() <= fixed.keys(), "no class is lost"
        before = fixed


def sizes(held: HeldOut) -> dict[tuple[bool, int, int], int]:
    """By (rolling, group, number)."""
    found = {}
    for rolling in (False, True):
        found.update({(rolling, *key): len(pile) for key, pile in piles(held, rolling).items()})
    return found


@given(cases())
def test_at_the_capacity_only_the_largest_give_up_and_only_to_much_smaller_ones(case: Case) -> None:
    before: dict[tuple[bool, int, int], int] = {}
    for held, _, out in watched(case):
        if not out:
            continue
        after = sizes(held)
        grown = [key for key, size in after.items() if size > before.get(key, 0)]
        shrunk = [key for key, size in before.items() if size > after[key]]
        if not shrunk:
            # There was room, or a rolling set has let its oldest go.
            assert len(grown) <= 1
        else:
            (taker,), (giver,) = grown, shrunk
            assert held.size == case.capacity
            assert before[giver] >= before.get(taker, 0) + 2
            eligible = {key: size for key, size in before.items() if not taker[0] or key[0] or size > LEAST}
            assert before[giver] == max(eligible.values())
            assert giver[0] or all(size < before[giver] for key, size in before.items() if key[0])
        before = after


@given(cases())
def test_the_rolling_set_is_the_newest(case: Case) -> None:
    rolled: dict[tuple[int, int], list[int]] = {}
    for held, event, out in watched(case):
        if not out:
            continue
        fixed, rolling = piles(held, False), piles(held, True)
        key = (event.group, event.number)
        if event.place in rolling[key]:
            rolled.setdefault(key, []).append(event.place)
        for key, pile in fixed.items():
            ring = rolling[key]
            assert ring == rolled.get(key, [])[len(rolled.get(key, [])) - len(ring) :]
            group, number = key
            newest = places(held, held.newest & (held.group == group) & (held.y == number))
            assert newest == [*pile, *ring][-len(pile) :], "as many as the fixed set has"


@given(cases(), st.data())
def test_it_goes_on_from_a_state_as_if_it_had_not_stopped(case: Case, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(case.stream)))
    ours, twin = case.made(), case.made()
    offered(ours, case.stream[:at])
    part = ours.part()
    then = plain(part)
    values = msgpack.unpackb(msgpack.packb(dict(part.values)))
    twin.load(Part(safetensors.torch.load(safetensors.torch.save(dict(part.tensors))), values))
    assert plain(twin.part()) == then
    for event in case.stream[at:]:
        assert offered(ours, [event]) == offered(twin, [event])
    assert plain(twin.part()) == plain(ours.part())
    assert ours.newest.tolist() == twin.newest.tolist()
    right = ours.x[:, 0] % 3 == 0
    for mine, other in zip(ours.accuracies(right), twin.accuracies(right), strict=True):
        assert mine.tobytes() == other.tobytes()
    assert plain(part) == then, "the part is a copy: it is still that of the moment at which it was taken"


@given(cases())
def test_accuracies_are_means_over_the_classes_of_a_set(case: Case) -> None:
    held = case.made()
    offered(held, case.stream)
    right = held.x[:, 0] % 3 == 0
    fixed, rolling = held.accuracies(right)
    assert len(fixed) == len(rolling) == len(held.errors) == held.group.max(initial=-1) + 1
    for chosen, got in ((~held.rolling, fixed), (held.newest, rolling)):
        for group in range(len(got)):
            by_class = []
            variance = 0.0
            for number in sorted({*held.y[held.group == group].tolist()}):
                answers = right[chosen & (held.group == group) & (held.y == number)]
                by_class.append(sum(answers) / len(answers))
                variance += 0.5**2 / len(answers)
            if not by_class:
                assert math.isnan(got[group]) and math.isnan(held.errors[group])
                continue
            assert got[group] == pytest.approx(sum(by_class) / len(by_class))
            if got is fixed:
                assert held.errors[group] == pytest.approx(math.sqrt(variance) / len(by_class))


def test_the_share_is_held_out() -> None:
    stream = numbered([(0, 0)] * 20_000)
    held = made(20_000, held_out=0.02, set_size=20_000)
    out = len(offered(held, stream))
    deviation = math.sqrt(20_000 * 0.02 * 0.98)
    assert abs(out - 400) < 4 * deviation
    assert held.errors.tolist() == [pytest.approx(0.5 / math.sqrt(out))]


def test_a_full_set_lets_a_quarter_roll() -> None:
    stream = numbered([(0, 0)] * 8000)
    held = made(set_size=20)
    out = offered(held, stream)
    chosen = [event for event in stream[FIRST:] if event.choice < 0]
    rolled = len(out) - 20
    deviation = math.sqrt(len(chosen) / ROLLING * (1 - 1 / ROLLING))
    assert abs(rolled - (len(chosen) - 20) / ROLLING) < 4 * deviation
    assert places(held, ~held.rolling) == [event.place for event in out[:20]]
    assert places(held, held.newest) == places(held, held.rolling) == [event.place for event in out[-20:]]


def test_a_fixed_set_by_hand() -> None:
    """The eleventh label can be the first; a choice of -1 is in the lower half, 1 is not."""
    held = made(set_size=2)
    stream = [Labeled(i, 0, 0, -4) for i in range(FIRST)]
    stream += [Labeled(10, 0, 0, 4), Labeled(11, 0, 0, -3), Labeled(12, 0, 0, -8), Labeled(13, 0, 0, -7)]
    stream += [Labeled(14, 0, 0, -12)]
    assert [event.place for event in offered(held, stream)] == [11, 12, 14]
    assert held.accuracies(np.array([True, True, False]))[0].tolist() == [1.0]
    assert held.accuracies(np.array([True, True, False]))[1].tolist() == [0.5]


def test_what_is_held_out_is_not_learned_when_it_comes_again() -> None:
    held = made(set_size=2)
    stream = [Labeled(i, 0, 0, 4) for i in range(FIRST)] + [Labeled(10, 0, 0, -3), Labeled(11, 0, 0, -7)]
    offered(held, stream)
    again = [*stream[-2:], Labeled(12, 0, 0, -8), Labeled(13, 0, 0, -8), Labeled(14, 0, 0, -12)]
    (restored := made(set_size=2)).load(held.part())
    for each in (held, restored):
        assert [event.place for event in offered(each, again)] == [10, 11, 12, 13, 14]
        assert places(each, ~each.rolling) == [10, 11] and each.size == 4


def test_a_set_that_gave_an_example_up_has_room_again() -> None:
    """A task of three classes, a set of four, room for four: the first class ends with one of them."""
    held = made(4, set_size=4)
    a, b, c, other = ((number, group) for number, group in ((0, 0), (1, 0), (2, 0), (3, 1)))
    first = [Labeled(0, number, group, 4) for number, group in (a, b, c, other) for _ in range(FIRST)]
    assert offered(held, first) == []
    for place, (number, group) in enumerate((a, a, a, other, other, b, c), 1):
        assert held.offer(np.full(2, place, np.float32), number, group, 1 - 4 * place)
    assert piles(held, False) == {(0, 0): [1], (0, 1): [6], (0, 2): [7], (1, 3): [4]}


def test_at_the_capacity_the_largest_give_way() -> None:
    """Ten classes one after another: 60 examples in all, so 3 fixed and 3 rolling ones each in the end."""
    stream = numbered([(number, number) for number in range(10) for _ in range(400)] * 3)
    held = made(60, set_size=50)
    offered(held, stream)
    assert held.size == 60
    sizes = [len(pile) for pile in piles(held, False).values()]
    assert max(sizes) - min(sizes) <= 1
    assert sum(sizes) <= 60

    roomy = made(10 * 4 * LEAST, set_size=50)
    offered(roomy, stream * 3)
    sizes = [len(pile) for rolling in (False, True) for pile in piles(roomy, rolling).values()]
    assert min(sizes) >= 2 * LEAST - 1 and max(sizes) <= 2 * LEAST + 1


def test_rolling_sets_take_nothing_from_small_fixed_ones() -> None:
    stream = numbered([(i % 4, i % 4) for i in range(4000)])
    held = made(4 * (LEAST // 2), set_size=50)
    offered(held, stream)
    assert [len(pile) for pile in piles(held, False).values()] == [LEAST // 2] * 4
    assert held.newest.all(), "the rolling set is then the fixed one"
    larger = made(4 * (LEAST + 5), set_size=50)
    offered(larger, stream)
    assert min(len(pile) for pile in piles(larger, False).values()) == LEAST
    assert larger.rolling.any()


def test_ten_thousand_classes_take_no_more_room() -> None:
    held = made(100, held_out=0.9)
    stream = numbered([(i % 10_000, i % 10_000) for i in range(130_000)])
    out = offered(held, stream)
    assert held.size == 100
    assert len(out) < 2000
    assert len({*held.group.tolist()}) == 100, "one each, and those stay"
    part = held.part()
    assert sum(tensor.nbytes for tensor in part.tensors.values()) < 20_000
    assert len(held.accuracies(np.ones(100, bool))[0]) <= 10_000


@pytest.mark.parametrize(("capacity", "share"), [(0, 0.5), (100, 0.0)])
def test_nothing_is_held_out_where_none_may_be(capacity: int, share: float) -> None:
    held = made(capacity, held_out=share)
    assert offered(held, numbered([(0, 0)] * 200)) == []
    fixed, rolling = held.accuracies(np.empty(0, bool))
    assert (held.size, held.bytes, len(fixed), len(rolling), len(held.errors)) == (0, 0, 0, 0, 0)
    twin = made(capacity, held_out=share)
    twin.load(held.part())
    assert plain(twin.part()) == plain(held.part())


def test_images_are_kept_as_they_came() -> None:
    settings = EvaluationSettings(held_out=0.9)
    held = HeldOut(settings, 10, (1, 2, 2), np.uint8)
    x = np.arange(4, dtype=np.uint8).reshape(1, 2, 2)
    assert [held.offer(x, 0, 0, -(2**63)) for _ in range(FIRST + 1)] == [False] * FIRST + [True]
    x[:] = 0
    assert held.x.dtype == np.uint8
    assert held.x.tolist() == [[[[0, 1], [2, 3]]]], "it is a copy"


def test_what_does_not_fit_is_refused() -> None:
    held = made(10)
    offered(held, numbered([(0, 0)] * 100))
    with pytest.raises(ValueError, match="10 examples are held out, 3 answers came"):
        held.accuracies(np.ones(3, bool))
    with pytest.raises(
        ValueError, match=r"the state holds 10 examples of float32 \(2,\), these hold at most 9"
    ):
        made(9).load(held.part())
    settings = EvaluationSettings(held_out=0.5)
    with pytest.raises(ValueError, match=r"at most 10 of uint8 \(2,\)"):
        HeldOut(settings, 10, (2,), np.uint8).load(held.part())
