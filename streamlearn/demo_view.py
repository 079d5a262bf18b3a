"""What the demo shows in a terminal; 80 columns are enough for ten classes."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from streamlearn.contender import Contender

BARS = "▁▂▃▄▅▆▇█"
CURVE = 26
"""Characters of a curve."""
NAME = 16
"""Characters of a learner's name on a line."""
NAMED = 20
"""Classes that are shown one by one."""
NOTHING = "·"


def live_view(
    contenders: Sequence[Contender], order: Sequence[str], seen: int, done: int, total: int
) -> Group:
    """How the learners stand, `done` events into the stream: three lines for each of them."""
    table = Table(
        title=f"{done}/{total} events, {seen} classes seen", title_justify="left", box=box.SIMPLE_HEAD
    )
    table.add_column("learner", max_width=NAME, overflow="fold")
    table.add_column("", no_wrap=True)
    table.add_column("now", justify="right", no_wrap=True)
    table.add_column(f"{'so far':<{CURVE}}", no_wrap=True)
    table.add_column("each class", no_wrap=True)
    shown = order[:NAMED]
    for each in contenders:
        knows, gaps = Text(), Text()
        gap_of = {label: shift.gap for shift in each.shifts for label in shift.groups}
        for label in shown:
            value, gap = each.by_class.get(label), gap_of.get(label)
            knows.append(_bar(value), _colour(value))
            gaps.append(_bar(gap), _colour(None if gap is None else 1 - gap))
        table.add_row(
            Text(each.name, "bold"), "all classes", _percent(each.accuracy[-1]), _curve(each.accuracy), knows
        )
        table.add_row("", "worst case", _percent(each.worst[-1]), _curve(each.worst))
        table.add_row("", "gap, mean", _percent(each.mean_gap), "", gaps, end_section=True)
    labels = " ".join(shown) + (" …" if len(order) > NAMED else "")
    return Group(
        table,
        Text(f"each class, in order of appearance: {labels}\nabove: right on its own test examples", "dim"),
        Text("below: the gap, how far the older classes fell when it came", "dim"),
    )


def final_table(
    contenders: Sequence[Contender],
    order: Sequence[str],
    title: str = "at the end, on test examples of every class",
) -> Table:
    """The figures at the end, or where the stream was left; `order`: the classes that have come by then."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    headings = ("learner", "accuracy", "worst", "gap", "early", "late", "online", "images", "time")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "learner" else "right")
    half = len(order) // 2
    for each in contenders:
        counts = each.learner.counts
        table.add_row(
            each.name,
            _percent(each.accuracy[-1]),
            _percent(each.worst[-1]),
            _percent(each.mean_gap),
            _percent(each.mean_of(order[:half]), 0),
            _percent(each.mean_of(order[half:]), 0),
            _percent(each.learner.prequential.figures("cumulative").accuracy),
            f"{counts.images / max(1, counts.learned):.1f}",
            f"{each.seconds:.1f} s",
        )
    table.caption = (
        "worst: mean over the classes of the lowest accuracy since a newer one came (WC-ACC); gap: mean fall "
        "when a class comes; early, late: the half of the classes that came first, last; online: each event "
        "predicted before it was learned; images: trained on, for each event"
    )
    table.caption_justify = "left"
    return table


def standing(contenders: Sequence[Contender], done: int, seen: int) -> str:
    """A line for logs."""
    said = ", ".join(f"{each.name} {each.accuracy[-1]:.3f}" for each in contenders)
    return f"{done:>6} events, {seen:>3} classes: accuracy over all of them: {said}"


def _curve(values: Sequence[float]) -> str:
    """At most CURVE of the values, evenly spaced, the last one among them."""
    if len(values) > CURVE:
        values = [values[round(i * (len(values) - 1) / (CURVE - 1))] for i in range(CURVE)]
    return "".join(_bar(value) for value in values)


def _bar(value: float | None) -> str:
    return NOTHING if value is None else BARS[round(value * (len(BARS) - 1))]


def _colour(value: float | None) -> str:
    if value is None:
        return "dim"
    return "green" if value >= 0.8 else "yellow" if value >= 0.5 else "red"


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}%}"
