"""What the page shows, found in the summary and the curves: bounded, in order, and with its verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from streamlearn.page.markup import Html, count, join, named, number, percent

Row = Mapping[str, Any]
T = TypeVar("T")

MOST_LEARNERS = 8
MOST_POINTS = 240
"""Points of a curve."""
FORGETS = 0.2
"""A learner that has lost so much accuracy, on average over the sets, is said to forget."""
BEHIND = 0.1
"""... if another learner is so far ahead of it."""
ORANGE, BLUE = 0, 2
"""Numbers of colours."""
CLOSE = 0.02
"""Learners no further apart than this are level."""


@dataclass(frozen=True)
class Shift:
    """New classes at `events`: accuracy on what was known just before, its lowest value afterwards."""

    events: float
    groups: tuple[str, ...]
    before: float | None
    lowest: float | None
    gap: float | None
    recovery: float | None


@dataclass(frozen=True)
class LearnerFacts:
    """One learner. Accuracies in 0..1; None where something was not measured."""

    name: str
    index: int
    colour: int
    figures: Row
    rows: Sequence[Row]
    """Of its curves; `sets` is there in each."""
    accuracy: float | None
    worst_case: float | None
    forgetting: float | None
    final: Mapping[str, float]
    """Accuracy of each set at the end."""
    shifts: Sequence[Shift]

    @property
    def continual(self) -> Row:
        return mapping(self.figures.get("continual"))

    def curve(self, *names: str) -> list[tuple[float, float | None]]:
        """(events, value) of the first of the columns that has values."""
        for name in names:
            values = [(number(row.get("events")) or 0.0, number(row.get(name))) for row in self.rows]
            if any(value is not None for _, value in values):
                return values
        return []


@dataclass(frozen=True)
class Facts:
    """All of it. `sets`: names in order of appearance."""

    learners: Sequence[LearnerFacts]
    sets: Sequence[str]
    events: float
    classes: int
    noun: str
    """What a set is: "class", or "set" where it is a group of classes or a task."""
    per_class: int | None
    """Test examples of a class that all but the final accuracy is of; None: all of them."""

    @property
    def shown(self) -> Sequence[LearnerFacts]:
        """The learners that have charts."""
        return self.learners[:MOST_LEARNERS]

    def sets_said(self, amount: int | None = None) -> str:
        """ "10 classes"."""
        amount = len(self.sets) if amount is None else amount
        return f"{amount:,} {self.noun if amount == 1 else self.plural}"

    @property
    def asked(self) -> str:
        """The test examples that all but the final accuracy is of."""
        some = f"{self.per_class} test examples of a class, drawn by the seed"
        return some if self.per_class else "all test examples"

    @property
    def plural(self) -> str:
        return "classes" if self.noun == "class" else "sets"

    @property
    def arrivals(self) -> list[tuple[float, tuple[str, ...]]]:
        """When new sets came: of the learner that saw most of them."""
        return max((arrivals(learner.rows, learner.shifts) for learner in self.shown), key=len, default=[])


def facts_of(summary: Row, curves: Sequence[Row]) -> Facts:
    """From what summary.json says, and the rows of the curves (`sets`: accuracy by set)."""
    given = mapping(summary.get("learners"))
    by_learner: dict[str, list[Row]] = {name: [] for name in given}
    for row in curves:
        # The only learner of `run` need not be named in each row.
        name = str(row.get("learner", next(iter(given)) if len(given) == 1 else ""))
        if name in by_learner:
            by_learner[name].append(row)
    learners = [
        learner_facts(index, name, mapping(figures), by_learner[name])
        for index, (name, figures) in enumerate(given.items())
    ]
    learners = coloured(learners)
    order: dict[str, None] = {}
    for learner in learners:
        for row in learner.rows:
            order.update(dict.fromkeys(row["sets"]))
        order.update(dict.fromkeys(learner.final))
    events = [number(row.get("events")) or 0.0 for learner in learners for row in learner.rows]
    events += [number(learner.figures.get("events_learned")) or 0.0 for learner in learners]
    known = max((number(each.figures.get("known_classes")) or 0 for each in learners), default=0)
    return Facts(
        learners=learners,
        sets=list(order),
        events=max(events, default=0.0),
        classes=round(known) or len(order),
        noun="class" if len(order) == round(known) or not known else "set",
        per_class=round(number(summary.get("test_per_class")) or 0) or None,
    )


def coloured(learners: list[LearnerFacts]) -> list[LearnerFacts]:
    """Who forgets most is orange and the best is blue, as what is forgotten and known is in all the page."""
    shown = learners[:MOST_LEARNERS]
    by_accuracy = sorted(shown, key=lambda learner: learner.accuracy or 0.0)
    taken: dict[int, int] = {}
    if by_accuracy and (by_accuracy[0].forgetting or 0.0) >= FORGETS:
        taken[by_accuracy[0].index] = ORANGE
    if by_accuracy:
        taken.setdefault(by_accuracy[-1].index, BLUE)
    others = [i for i in (1, 3, 4, 5, 6, 7, BLUE, ORANGE) if i not in taken.values()]
    for learner in shown:
        if learner.index not in taken:
            taken[learner.index] = others.pop(0)
    return [replace(learner, colour=taken.get(learner.index, 0)) for learner in learners]


def learner_facts(index: int, name: str, figures: Row, rows: Sequence[Row]) -> LearnerFacts:
    """One learner's, from its figures and its rows."""
    rows = [{**row, "sets": accuracies(row.get("sets"))} for row in thinned(rows)]
    continual = mapping(figures.get("continual"))
    last = rows[-1] if rows else {"sets": {}}
    final = accuracies(figures.get("test_accuracy_by_class")) or last["sets"]
    accuracy = number(figures.get("test_accuracy"))
    forgetting = number(continual.get("forgetting"))
    return LearnerFacts(
        name=name,
        index=index,
        colour=0,
        figures=figures,
        rows=rows,
        accuracy=first(
            accuracy, number(continual.get("average_accuracy")), number(last.get("accuracy_seen_classes"))
        ),
        worst_case=number(continual.get("worst_case_accuracy")),
        forgetting=forgetting if forgetting is not None else lost(rows),
        final=final,
        shifts=[shift_of(mapping(each)) for each in continual.get("shifts") or ()],
    )


def mapping(value: object) -> Row:
    """The mapping, or an empty one."""
    return value if isinstance(value, Mapping) else {}


def first(*values: float | None) -> float | None:
    """The first that is not None."""
    return next((value for value in values if value is not None), None)


def accuracies(values: object) -> dict[str, float]:
    """Accuracy by set, of those that have one."""
    return {str(key): value for key, value in mapping(values).items() if number(value) is not None}


def shift_of(shift: Row) -> Shift:
    """Of summary.json's table."""
    return Shift(
        events=number(shift.get("events")) or 0.0,
        groups=tuple(str(group) for group in shift.get("groups") or ()),
        before=number(shift.get("before")),
        lowest=number(shift.get("lowest")),
        gap=number(shift.get("gap")),
        recovery=number(shift.get("recovery_events")),
    )


def arrivals(rows: Sequence[Row], shifts: Sequence[Shift]) -> list[tuple[float, tuple[str, ...]]]:
    """When which sets came: by the shifts, or by the rows that show them first."""
    if shifts:
        later = {name for shift in shifts for name in shift.groups}
        there = dict.fromkeys(name for row in rows for name in row["sets"] if name not in later)
        came = [(shift.events, shift.groups) for shift in shifts]
        return [(0.0, tuple(there)), *came] if there else came
    found: list[tuple[float, tuple[str, ...]]] = []
    seen: set[str] = set()
    begun = 0.0
    for row in rows:
        fresh = tuple(name for name in row["sets"] if name not in seen)
        seen.update(fresh)
        if fresh:
            found.append((begun, fresh))
        begun = number(row.get("events")) or 0.0
    return found


def watched(rows: Sequence[Row], shifts: Sequence[Shift]) -> list[tuple[float, float | None]]:
    """Accuracy on what was known before the latest arrival, in stretches from one arrival to the next.

    Each stretch begins with the accuracy just before, which its stability gap is measured from.
    """
    found: list[tuple[float, float | None]] = []
    edges = [shift.events for shift in shifts[1:]] + [float("inf")]
    later = {name: shift.events for shift in shifts for name in shift.groups}
    for shift, edge in zip(shifts, edges, strict=True):
        found.append((shift.events, shift.before))
        for row in rows:
            events = number(row.get("events")) or 0.0
            if shift.events < events <= edge:
                known = [value for name, value in row["sets"].items() if later.get(name, -1.0) < shift.events]
                found.append((events, sum(known) / len(known) if known else None))
        found.append((edge, None))
    return [(events, value) for events, value in found if events != float("inf")]


def lost(rows: Sequence[Row]) -> float | None:
    """Mean over the sets of the highest earlier accuracy minus the last one; None without sets."""
    highest: dict[str, float] = {}
    drops: list[float] = []
    for row in rows:
        values = row["sets"]
        drops = [highest[name] - value for name, value in values.items() if name in highest]
        for name, value in values.items():
            highest[name] = max(value, highest.get(name, 0.0))
    return max(0.0, sum(drops) / len(drops)) if drops else None


def thinned(rows: Sequence[Row], most: int = MOST_POINTS) -> list[Row]:
    """At most `most` rows: of each stretch the one of the lowest accuracy (drops must show) and the last."""
    if len(rows) <= most:
        return list(rows)
    stretches, kept = most // 2, []
    for i in range(stretches):
        begin, end = i * len(rows) // stretches, (i + 1) * len(rows) // stretches
        lowest = min(range(begin, end), key=lambda at: _height(rows[at]))
        kept += sorted({lowest, end - 1})
    return [rows[at] for at in kept]


def _height(row: Row) -> float:
    names = ("average_accuracy", "accuracy_seen_classes", "prequential_window")
    return first(*(number(row.get(name)) for name in names), 1.0) or 0.0


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of the items, evenly chosen, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def headline(facts: Facts) -> Html:
    """One sentence: who forgets, who doesn't."""
    measured = [learner for learner in facts.learners if learner.accuracy is not None]
    over = f"over all {facts.classes:,} classes" if facts.classes > 1 else "at the end"
    if not measured:
        return _unmeasured(facts)
    best = max(measured, key=lambda learner: learner.accuracy or 0.0)
    worst = min(measured, key=lambda learner: learner.accuracy or 0.0)
    high, low = best.accuracy or 0.0, worst.accuracy or 0.0
    forgets = (worst.forgetting or 0.0) >= FORGETS
    if len(measured) == 1:
        verb = "forgets: " if forgets else "keeps "
        return join([named(best.name), f" {verb}", figure(high), f" {over}."])
    if forgets and high - low >= BEHIND:
        left = [named(worst.name), " forgets: ", figure(low), f" {over}. "]
        return join([*left, named(best.name), " keeps ", figure(high), "."])
    if high - low <= CLOSE:
        return join([f"{len(measured)} learners level: ", figure(low), " to ", figure(high), f" {over}."])
    return join(
        [
            named(best.name),
            " knows most: ",
            figure(high),
            f" {over}. ",
            named(worst.name),
            " ",
            figure(low),
            ".",
        ]
    )


def _unmeasured(facts: Facts) -> Html:
    for learner in facts.learners:
        online = prequential(learner)
        learned = number(learner.figures.get("events_learned")) or 0.0
        if online is not None and learned:
            said = [named(learner.name), " was right in ", figure(online)]
            return join([*said, f" of {count(learned)} events, each before it was learned."])
    return join(["No event was learned."])


def figure(value: float) -> Html:
    """An accuracy that does not break over two lines."""
    return Html(f'<span class="n">{percent(value)}</span>')


def examples_of(learner: LearnerFacts) -> float:
    """Test examples, a test set's or those held out of the stream; 0 where nobody says."""
    figures = learner.figures
    return first(number(figures.get("test_examples")), number(figures.get("events_held_out"))) or 0.0


def prequential(learner: LearnerFacts) -> float | None:
    """Accuracy of predictions made before learning, over the whole stream."""
    kinds = mapping(learner.figures.get("prequential"))
    return number(mapping(kinds.get("cumulative")).get("accuracy"))
