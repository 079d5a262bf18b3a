"""Continual evaluation against loops over the whole accuracy matrix, and against figures made by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple

import msgpack
import numpy as np
import pytest
import safetensors.torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streamlearn.config import EvaluationSettings
from streamlearn.continual import SHIFTS, Continual, ContinualFigures, SetAccuracy, Shift
from streamlearn.state import Part
from tests.streams import WHOLE_STREAMS, plain

NAN = math.nan


def known(value: float) -> bool:
    return not math.isnan(value)


def mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


@dataclass
class WholeMatrix:
    """Keeps every evaluation and says each definition of specs/metrics.md as a loop.

    matrix[n][i] is A(E_i, f_n), NaN where set i was not evaluated.
    """

    windows: Sequence[int]
    names: list[str] = field(default_factory=list)
    matrix: list[list[float]] = field(default_factory=list)
    rolling: list[list[float]] = field(default_factory=list)
    times: list[tuple[int, int]] = field(default_factory=list)
    shifts: list[tuple[int, int, tuple[str, ...], int]] = field(default_factory=list)

    def shift(self, step: int, events: int, names: Sequence[str]) -> None:
        self.shifts.append((step, events, tuple(names), len(self.matrix)))
        self.names += names

    def record(self, step: int, events: int, fixed: Sequence[float], rolling: Sequence[float] | None) -> None:
        self.times.append((step, events))
        self.matrix.append(list(fixed))
        self.rolling.append(list(rolling or ()))

    def a(self, i: int, n: int) -> float:
        return self.matrix[n][i] if n >= 0 and i < len(self.matrix[n]) else NAN

    def past_from(self, i: int) -> int | None:
        """The first evaluation at which set i is past; None if it isn't."""
        there = 0
        for _, _, names, at in self.shifts:
            if i < there:
                return at
            there += len(names)
        return None

    def minimum(self, i: int) -> float:
        """The lowest A(E_i, f_n) since set i is past; NaN if there is none."""
        start = self.past_from(i)
        if start is None:
            return NAN
        since = [self.a(i, n) for n in range(start, len(self.matrix)) if known(self.a(i, n))]
        return min(since, default=NAN)

    def largest_change(self, i: int, window: int, sign: int) -> float:
        """The largest sign * (A(E_i, f_n) - A(E_i, f_m)) with m < n inside any window."""
        column = [(n, self.a(i, n)) for n in range(len(self.matrix)) if known(self.a(i, n))]
        changes = [sign * (b - a) for (m, a), (n, b) in combinations(column, 2) if n - m < window]
        return max(changes, default=NAN)

    def windowed(self, sign: int) -> dict[int, float]:
        found = {}
        for window in self.windows:
            changes = [self.largest_change(i, window, sign) for i in range(len(self.names))]
            average = mean([change for change in changes if known(change)])
            if average is not None:
                found[window] = average
        return found

    def shift_figures(self, number: int) -> Shift:
        step, events, names, at = self.shifts[number]
        there = sum(len(names) for _, _, names, _ in self.shifts[:number])
        watched = [i for i in range(there) if known(self.a(i, at - 1))]
        before = mean([self.a(i, at - 1) for i in watched])
        if before is None:
            return Shift(step, events, names)
        end = self.shifts[number + 1][3] if number + 1 < len(self.shifts) else len(self.matrix)
        lowest: float | None = None
        recovery: int | None = None
        fallen = False
        for n in range(at, end):
            now = mean([self.a(i, n) for i in watched if known(self.a(i, n))])
            if now is None:
                continue
            lowest = now if lowest is None else min(lowest, now)
            if now < before - 0.01:
                fallen, recovery = True, None
            elif fallen:
                recovery = self.times[n][1] - events
                break
            else:
                recovery = 0
        return Shift(step, events, names, before, lowest, recovery)

    def figures(self) -> ContinualFigures:
        t, sets = len(self.matrix) - 1, range(len(self.names))
        now = [self.a(i, t) for i in sets]
        minima = [self.minimum(i) for i in sets]
        best = [max([self.a(i, n) for n in range(t) if known(self.a(i, n))], default=NAN) for i in sets]
        rolling = self.rolling[t] if self.matrix else []
        rolling = rolling + [NAN] * (len(self.names) - len(rolling))
        shift = self.shift_figures(len(self.shifts) - 1) if self.shifts else None
        return ContinualFigures(
            step=self.times[t][0] if self.times else None,
            events=self.times[t][1] if self.times else None,
            evaluations=len(self.matrix),
            average_accuracy=mean([a for a in now if known(a)]),
            forgetting=mean([b - a for a, b in zip(now, best, strict=True) if known(a) and known(b)]),
            worst_set_drop=max(
                [max(0.0, b - a) for a, b in zip(now, best, strict=True) if known(a) and known(b)],
                default=None,
            ),
            min_accuracy=mean([low for low in minima if known(low)]),
            worst_case_accuracy=mean(
                [
                    low if known(low) else a
                    for a, low in zip(now, minima, strict=True)
                    if known(a) or known(low)
                ]
            ),
            windowed_forgetting=self.windowed(-1),
            windowed_plasticity=self.windowed(1),
            stability_gap=None
            if shift is None or shift.before is None or shift.lowest is None
            else max(0.0, shift.before - shift.lowest),
            stability_gap_recovery_events=shift.recovery_events if shift else None,
            sets=tuple(
                SetAccuracy(name, a if known(a) else None, r if known(r) else None)
                for name, a, r in zip(self.names, now, rolling, strict=True)
            ),
        )


class Happening(NamedTuple):
    """A shift, if it has names; otherwise an evaluation."""

    step: int
    events: int
    names: tuple[str, ...] = ()
    fixed: tuple[float, ...] = ()
    rolling: tuple[float, ...] | None = None

    def to(self, one: Continual | WholeMatrix) -> None:
        if self.names:
            one.shift(self.step, self.events, self.names)
        else:
            one.record(self.step, self.events, self.fixed, self.rolling)


def accuracies(sixty_fourths: Sequence[int]) -> tuple[float, ...]:
    """Multiples of 1/64: sums and differences of them are exact, so that results must be equal to the bit.

    What is below 0 is missing.
    """
    return tuple(n / 64 if n >= 0 else NAN for n in sixty_fourths)


@st.composite
def histories(draw: st.DrawFn, most: int = 30) -> list[Happening]:
    """Shifts that bring one group or several, evaluations that miss some sets or all, in any order."""
    history: list[Happening] = []
    sets = events = 0
    for step in range(draw(st.integers(0, most))):
        events += draw(st.integers(0, 30))
        if draw(st.integers(0, 4)) == 0:
            names = tuple(f"set {sets + i}" for i in range(draw(st.integers(1, 3))))
            sets += len(names)
            history.append(Happening(step, events, names))
        else:
            rows = st.lists(st.integers(-32, 64), max_size=sets).map(accuracies)
            history.append(Happening(step, events, (), draw(rows), draw(st.none() | rows)))
    return history


def assert_equal(ours: Continual, whole: WholeMatrix) -> None:
    assert ours.figures() == whole.figures()
    assert ours.names == whole.names
    assert ours.shifts == [whole.shift_figures(i) for i in range(len(whole.shifts))]


@settings(max_examples=30)
@given(histories(), st.sets(st.integers(2, 12), min_size=1, max_size=3))
def test_every_figure_is_that_of_the_whole_matrix(history: list[Happening], windows: set[int]) -> None:
    ours, whole = Continual(sorted(windows)), WholeMatrix(sorted(windows))
    assert_equal(ours, whole)
    for happening in history:
        happening.to(ours)
        happening.to(whole)
        assert_equal(ours, whole)


def long_history(seed: int, evaluations: int = 260) -> list[Happening]:
    """A new class every 50 evaluations; one accuracy in ten is missing."""
    rng = np.random.default_rng(seed)
    history = []
    for n in range(evaluations):
        if n % 50 == 0:
            history.append(Happening(n, 10 * n, (f"class {n // 50}",)))
        row = np.round(rng.random(1 + n // 50) * 64) / 64
        row[rng.random(len(row)) < 0.1] = NAN
        history.append(Happening(n, 10 * n + 10, (), tuple(row.tolist())))
    return history


@pytest.mark.parametrize("seed", range(3))
def test_the_windows_of_the_settings_are_those_of_the_whole_matrix(seed: int) -> None:
    """Long enough for the windows of 10 and 100 evaluations to have moved on."""
    windows = EvaluationSettings().windows
    assert windows == [10, 100]
    ours, whole = Continual(windows), WholeMatrix(windows)
    for i, happening in enumerate(long_history(seed)):
        happening.to(ours)
        happening.to(whole)
        if i % 40 == 39:
            assert_equal(ours, whole)


def carried(part: Part) -> Part:
    """The part as a checkpoint gives it back."""
    tensors = safetensors.torch.load(safetensors.torch.save(dict(part.tensors)))
    return Part(tensors, msgpack.unpackb(msgpack.packb(dict(part.values))))


def assert_resumes(history: Sequence[Happening], at: int, windows: Sequence[int]) -> None:
    ours, twin = Continual(windows), Continual(windows)
    for happening in history[:at]:
        happening.to(ours)
    part = ours.part()
    then = plain(part)
    twin.load(carried(part))
    assert plain(twin.part()) == then
    for happening in history[at:]:
        happening.to(ours)
        happening.to(twin)
        assert plain(twin.part()) == plain(ours.part())
        assert (twin.figures(), twin.shifts) == (ours.figures(), ours.shifts)
    assert plain(part) == then, "the part is a copy: it is still that of the moment at which it was taken"


@settings(max_examples=30)
@given(histories(), st.data())
def test_a_state_has_equal_bytes_and_an_equal_future(history: list[Happening], data: st.DataObject) -> None:
    assert_resumes(history, data.draw(st.integers(0, len(history))), (3, 7))


@pytest.mark.parametrize("at", [1, 30, 51, 130, 264])
def test_a_long_history_resumes(at: int) -> None:
    assert_resumes(long_history(7), at, (10, 100))


@WHOLE_STREAMS
@given(st.lists(st.integers(1, 8), min_size=1, max_size=6), st.integers(0, 2**31))
def test_with_one_current_set_worst_case_accuracy_is_the_papers(lengths: list[int], seed: int) -> None:
    """WC-ACC = (1/k) A(E_k, f_t) + (1 - 1/k) min-ACC, every set evaluated from its first step on."""
    rng = np.random.default_rng(seed)
    ours = Continual()
    for k, evaluations in enumerate(lengths, 1):
        ours.shift(0, 0, [f"task {k}"])
        for _ in range(evaluations):
            row = rng.random(k)
            ours.record(0, 0, row, None)
            figures = ours.figures()
            min_acc = figures.min_accuracy or 0.0
            assert figures.worst_case_accuracy == pytest.approx(row[-1] / k + (1 - 1 / k) * min_acc)


def test_a_history_by_hand() -> None:
    ours = Continual((2, 3))
    ours.shift(0, 0, ["a"])
    assert ours.shifts == [Shift(0, 0, ("a",))]
    for step, accuracy in ((1, 0.2), (2, 0.9), (3, 0.8)):
        ours.record(step, 10 * step, [accuracy], [accuracy])
    figures = ours.figures()
    assert (figures.average_accuracy, figures.worst_case_accuracy, figures.min_accuracy) == (0.8, 0.8, None)
    assert figures.forgetting == pytest.approx(0.1)
    assert figures.windowed_forgetting == pytest.approx({2: 0.1, 3: 0.1})
    assert figures.windowed_plasticity == pytest.approx({2: 0.7, 3: 0.7})
    assert (figures.step, figures.events, figures.evaluations) == (3, 30, 3)

    ours.shift(3, 30, ["b"])  # a was at .8; b's first evaluation finds nothing known of it
    assert ours.figures().worst_case_accuracy == 0.8, "the evaluation that made a past does not count"
    ours.record(4, 40, [0.5, 0.0], [0.6])
    ours.record(5, 50, [0.4, 0.5], [0.6])
    assert ours.shifts[-1] == Shift(3, 30, ("b",), before=0.8, lowest=0.4, recovery_events=None)
    ours.record(6, 60, [0.8, 0.7], None)
    ours.record(7, 70, [0.1, 0.9], [NAN, 0.75])
    figures = ours.figures()
    assert figures.average_accuracy == pytest.approx(0.5)
    assert figures.forgetting == pytest.approx(((0.9 - 0.1) + (0.7 - 0.9)) / 2)
    assert figures.min_accuracy == 0.1
    assert figures.worst_case_accuracy == pytest.approx((0.1 + 0.9) / 2)
    assert figures.windowed_forgetting == pytest.approx({2: (0.7 - 0.2) / 2, 3: (0.7 - 0.2) / 2})
    assert figures.windowed_plasticity == pytest.approx({2: (0.7 + 0.5) / 2, 3: (0.7 + 0.7) / 2})
    assert figures.stability_gap == pytest.approx(0.4), "what falls after the recovery is no part of the gap"
    assert figures.stability_gap_recovery_events == 30
    assert figures.sets == (SetAccuracy("a", 0.1, None), SetAccuracy("b", 0.9, 0.75))


def test_groups_that_appear_together_make_none_of_each_other_past() -> None:
    ours = Continual()
    ours.shift(0, 0, ["a", "b"])
    ours.record(1, 10, [0.4, 0.2], None)
    ours.record(2, 20, [0.8, 0.6], None)
    assert ours.figures().min_accuracy is None
    assert ours.figures().worst_case_accuracy == pytest.approx(0.7)
    ours.shift(2, 20, ["c", "d"])
    ours.record(3, 30, [0.7, 0.5, 0.1, 0.3], None)
    figures = ours.figures()
    assert figures.min_accuracy == pytest.approx(0.6)
    assert figures.worst_case_accuracy == pytest.approx((0.7 + 0.5 + 0.1 + 0.3) / 4)
    assert figures.stability_gap == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("after", "lowest", "recovery"),
    [
        ((), None, None),
        ((0.75,), 0.75, 0),
        ((0.745,), 0.745, 0),
        # The first update changes little: that is no recovery yet.
        ((0.745, 0.5, 0.75, 0.2), 0.5, 30),
        ((0.5, 0.6, 0.7), 0.5, None),
        ((0.5, 0.7, 0.9), 0.5, 30),
    ],
)
def test_a_gap_lasts_from_the_fall_to_the_recovery(
    after: Sequence[float], lowest: float | None, recovery: int | None
) -> None:
    ours = Continual()
    ours.shift(0, 0, ["a"])
    ours.record(1, 10, [0.75], None)
    ours.shift(1, 10, ["b"])
    for n, accuracy in enumerate(after, 2):
        ours.record(n, 10 * n, [accuracy, 0.9], None)
        part, ours = ours.part(), Continual()
        ours.load(carried(part))
    shift = ours.shifts[-1]
    assert (shift.before, shift.lowest, shift.recovery_events) == (0.75, lowest, recovery)
    assert shift.gap == (None if lowest is None else 0.75 - lowest)
    ours.shift(20, 200, ["c"])
    ours.record(21, 210, [0.0, 0.0], None)
    assert ours.shifts[-2] == shift, "the next shift ends it"


def test_a_gap_is_never_negative() -> None:
    assert Shift(0, 0, ("a",), before=0.5, lowest=0.75, recovery_events=0).gap == 0.0


def test_only_the_newest_shifts_are_kept() -> None:
    ours = Continual()
    for i in range(SHIFTS + 3):
        ours.shift(i, i, [str(i)])
        ours.record(i, i, [0.5] * (i + 1), None)
    assert [shift.groups for shift in ours.shifts] == [(str(i),) for i in range(3, SHIFTS + 3)]
    assert len(ours.names) == SHIFTS + 3


def test_before_the_first_evaluation_there_is_no_figure() -> None:
    figures = Continual().figures()
    assert figures == ContinualFigures(None, None, 0, None, None, None, None, None, {}, {}, None, None, ())


def test_what_does_not_fit_is_refused() -> None:
    ours = Continual()
    ours.shift(0, 0, ["a"])
    with pytest.raises(ValueError, match="2 accuracies came for 1 sets: call shift"):
        ours.record(0, 0, [0.5, 0.5], None)
    with pytest.raises(ValueError, match="one new group at least"):
        ours.shift(0, 0, [])
    with pytest.raises(ValueError, match=r"windows of \[10, 100\] evaluations, not of \[11, 100\]"):
        Continual((11, 100)).load(ours.part())
    for windows in ((), (1, 10)):
        with pytest.raises(ValueError, match="two evaluations at least"):
            Continual(windows)
