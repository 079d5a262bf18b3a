"""Continual evaluation: what is still known of everything that was ever taught.

    De Lange, van de Ven, Tuytelaars, "Continual evaluation for lifelong learning: identifying the stability
    gap", ICLR 2023. The definitions are those of specs/metrics.md.

A(i, n) is the accuracy on evaluation set i at evaluation n. Sets are numbered as their groups appear; some
may appear together. A set is *past* from the step at which a newer one appears; its minimum counts the
evaluations since then. A NaN says that a set was not evaluated (yet): that evaluation is none of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from streamlearn.events import Array
from streamlearn.state import Part

RECOVERED = 0.01
"""Below what it was before the shift by no more than this, the accuracy has recovered."""
SHIFTS = 256
"""So many shifts are kept, the newest."""


@dataclass(frozen=True)
class Shift:
    """New groups appeared, and what that did to the sets there were.

    step, events: the learner's, at the moment. groups: the new ones.
    before: mean accuracy of the sets that had one, just before; None where none had.
    lowest: the lowest that this mean has been until it recovered, or until the next shift; None before the
        first evaluation. A mean has recovered when it is within RECOVERED of `before` after it was not.
    recovery_events: events until it had recovered; 0 while it has not fallen that far, None while it has.
    """

    step: int
    events: int
    groups: tuple[str, ...]
    before: float | None = None
    lowest: float | None = None
    recovery_events: int | None = None

    @property
    def gap(self) -> float | None:
        """The stability gap: how far the mean fell, at least 0."""
        if self.before is None or self.lowest is None:
            return None
        return max(0.0, self.before - self.lowest)


@dataclass(frozen=True)
class SetAccuracy:
    """The latest accuracy of one set, on its fixed and on its rolling examples; None where it has none."""

    name: str
    fixed: float | None
    rolling: float | None


@dataclass(frozen=True)
class ContinualFigures:
    """Everything as of the latest evaluation t; None (or {}) where it is not defined yet. All are means.

    step, events: the learner's, at that evaluation. evaluations: how many there have been.
    average_accuracy: of A(i, t), over the sets evaluated at t.
    forgetting: of max over n < t of A(i, n) - A(i, t), over those with an earlier evaluation. Negative: it
        knows more than it ever did.
    worst_set_drop: the largest such difference of one set, at least 0: what the mean over many sets hides.
    min_accuracy: of the minimum of A(i, n) since set i became past, over past sets.
    worst_case_accuracy: of that minimum for past sets and of A(i, t) for the others (a past one that was
        not evaluated since counts like them). With one set that is not past, it is the paper's WC-ACC.
    windowed_forgetting: by window w, of the largest drop A(i, m) - A(i, n) over m < n in any w evaluations in
        a row; windowed_plasticity: of the largest gain. Over the sets that have such a pair.
    stability_gap, stability_gap_recovery_events: those of the latest shift.
    """

    step: int | None
    events: int | None
    evaluations: int
    average_accuracy: float | None
    forgetting: float | None
    worst_set_drop: float | None
    min_accuracy: float | None
    worst_case_accuracy: float | None
    windowed_forgetting: dict[int, float]
    windowed_plasticity: dict[int, float]
    stability_gap: float | None
    stability_gap_recovery_events: int | None
    sets: tuple[SetAccuracy, ...]


class Continual:
    """Takes evaluations and shifts, keeps what the figures need: max(windows) accuracies a set."""

    def __init__(self, windows: Sequence[int] = (10, 100)) -> None:
        if not windows or min(windows) < 2:
            raise ValueError(f"windows are {list(windows)}: each must hold two evaluations at least")
        self.windows = tuple(windows)
        self.names: list[str] = []
        self.shifts: list[Shift] = []
        self.evaluations = 0
        self.step: int | None = None
        self.events: int | None = None
        # Sets before this one are past.
        self._past = 0
        # The latest shift waits for its recovery, of the sets in _watched; _fallen: it needs one.
        self._watching = self._fallen = False
        # A column a set, rows by name in _ROWS; columns that no set has yet are NaN.
        self._recent = np.full((max(windows) - 1, 0), np.nan)
        self._rows = np.full((len(_ROWS) + 2 * len(windows), 0), np.nan)
        self._watched = np.zeros(0, np.bool_)

    def shift(self, step: int, events: int, names: Sequence[str]) -> None:
        """New groups appear in the step that comes next; the sets there were have just been evaluated."""
        if not names:
            raise ValueError("a shift brings one new group at least")
        self._past = len(self.names)
        self.names += names
        self._make_room()
        now = self._rows[_LAST]
        before = _mean(now)
        self._watched = ~np.isnan(now)
        self._watching, self._fallen = before is not None, False
        self.shifts = [*self.shifts, Shift(step, events, tuple(names), before)][-SHIFTS:]

    def record(
        self, step: int, events: int, fixed: Sequence[float] | Array, rolling: Sequence[float] | Array | None
    ) -> None:
        """One evaluation: accuracies by set, NaN where it has none; sets at the end may be left out.

        ValueError for accuracies of a set that no shift has brought.
        """
        now = self._by_set(fixed)
        recent = self._recent
        for i, window in enumerate(self.windows):
            # The window - 1 evaluations before this one; the oldest lies where this one will.
            rows = np.arange(self.evaluations - window + 1, self.evaluations) % len(recent)
            before = recent if len(rows) == len(recent) else recent[rows]
            drop, gain = self._rows[len(_ROWS) + 2 * i : len(_ROWS) + 2 * i + 2]
            np.fmax(drop, np.fmax.reduce(before, axis=0) - now, out=drop)
            np.fmax(gain, now - np.fmin.reduce(before, axis=0), out=gain)
        recent[self.evaluations % len(recent)] = now
        best, lowest, last, last_rolling = self._rows[: len(_ROWS)]
        np.fmax(best, last, out=best)
        np.fmin(lowest[: self._past], now[: self._past], out=lowest[: self._past])
        last[:] = now
        last_rolling[:] = self._by_set(() if rolling is None else rolling)
        self.evaluations += 1
        self.step, self.events = step, events
        if self._watching:
            self._watch(events, now)

    def _watch(self, events: int, now: Array) -> None:
        """Follow the latest shift until its sets have recovered."""
        mean = _mean(now[self._watched])
        shift = self.shifts[-1]
        if mean is None or shift.before is None:
            return
        lowest = mean if shift.lowest is None else min(shift.lowest, mean)
        there = mean >= shift.before - RECOVERED
        recovery = None if not there else events - shift.events if self._fallen else 0
        self._watching = not (there and self._fallen)
        self._fallen = not there
        self.shifts[-1] = replace(shift, lowest=lowest, recovery_events=recovery)

    def figures(self) -> ContinualFigures:
        """All figures, as of the latest evaluation."""
        n, past = len(self.names), self._past
        best, lowest, now, rolling = self._rows[: len(_ROWS), :n]
        drops, worst = best - now, now.copy()
        worst[:past] = np.where(np.isnan(lowest[:past]), now[:past], lowest[:past])
        windowed = [_mean(row) for row in self._rows[len(_ROWS) :]]
        shift = self.shifts[-1] if self.shifts else None
        return ContinualFigures(
            step=self.step,
            events=self.events,
            evaluations=self.evaluations,
            average_accuracy=_mean(now),
            forgetting=_mean(drops),
            worst_set_drop=max(0.0, float(np.fmax.reduce(drops))) if not np.isnan(drops).all() else None,
            min_accuracy=_mean(lowest[:past]),
            worst_case_accuracy=_mean(worst),
            windowed_forgetting=self._by_window(windowed[0::2]),
            windowed_plasticity=self._by_window(windowed[1::2]),
            stability_gap=shift.gap if shift else None,
            stability_gap_recovery_events=shift.recovery_events if shift else None,
            sets=tuple(
                SetAccuracy(name, None if math.isnan(a) else a, None if math.isnan(b) else b)
                for name, a, b in zip(self.names, now.tolist(), rolling.tolist(), strict=True)
            ),
        )

    def _by_window(self, means: Sequence[float | None]) -> dict[int, float]:
        return {w: mean for w, mean in zip(self.windows, means, strict=True) if mean is not None}

    def _by_set(self, accuracies: Sequence[float] | Array) -> Array:
        """float64 [columns], NaN behind the last that is given."""
        if len(accuracies) > len(self.names):
            raise ValueError(
                f"{len(accuracies)} accuracies came for {len(self.names)} sets: call shift for a new group "
                "before its set is evaluated"
            )
        row = np.full(self._recent.shape[1], np.nan)
        row[: len(accuracies)] = accuracies
        return row

    def _make_room(self) -> None:
        """Columns for all sets, twice as many when they run out."""
        there = self._recent.shape[1]
        if len(self.names) <= there:
            return
        more = max(len(self.names), 2 * there) - there
        self._recent = np.pad(self._recent, ((0, 0), (0, more)), constant_values=np.nan)
        self._rows = np.pad(self._rows, ((0, 0), (0, more)), constant_values=np.nan)
        self._watched = np.pad(self._watched, (0, more))

    def part(self) -> Part:
        n = len(self.names)
        tensors = {
            "recent": torch.from_numpy(self._recent[:, :n].copy()),
            "rows": torch.from_numpy(self._rows[:, :n].copy()),
            "watched": torch.from_numpy(self._watched[:n].copy()),
        }
        values = {
            "windows": list(self.windows),
            "names": list(self.names),
            "shifts": [
                [s.step, s.events, list(s.groups), s.before, s.lowest, s.recovery_events] for s in self.shifts
            ],
            "step": self.step,
            "events": self.events,
            "evaluations": self.evaluations,
            "past": self._past,
            "watching": self._watching,
            "fallen": self._fallen,
        }
        return Part(tensors, values)

    def load(self, part: Part) -> None:
        """Take the state in `part`. ValueError if it was kept for other windows."""
        values = part.values
        if tuple(values["windows"]) != self.windows:
            raise ValueError(
                f"continual evaluation: the state was kept for windows of {list(values['windows'])} "
                f"evaluations, not of {list(self.windows)}"
            )
        self.names = list(values["names"])
        self.shifts = [Shift(s, e, tuple(groups), *rest) for s, e, groups, *rest in values["shifts"]]
        self.step, self.events = values["step"], values["events"]
        self.evaluations, self._past = values["evaluations"], values["past"]
        self._watching, self._fallen = values["watching"], values["fallen"]
        self._recent, self._rows, self._watched = (
            part.tensors[name].numpy().copy() for name in ("recent", "rows", "watched")
        )


_ROWS = ("best before the last", "lowest since past", "last", "last rolling")
"""The first rows of the table of the sets; behind them, for each window, the largest drop and gain."""
_LAST = _ROWS.index("last")


def _mean(values: Array) -> float | None:
    """Mean of what is not NaN."""
    there = values[~np.isnan(values)]
    return float(there.sum() / len(there)) if len(there) else None
