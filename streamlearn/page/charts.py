"""Charts as SVG that stretches with the page: strokes keep their width and all text is HTML, so that a phone
shows the same sizes as a screen. What the script needs for tooltips goes into `Book`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from streamlearn.page.markup import Html, brief, count, join, named, percent, plain, tag

LEVELS = 10
"""Colours of a heat map."""
MOST_MARKS = 12
"""Arrivals of new classes that are named above a chart; more are only lines."""
SHORT = 3
"""Characters of a class's name that has room above its line on a phone."""
MOST_ARRIVALS = 40
"""Lines of arrivals in a chart; more would only hide the curves."""
MOST_TOLD = 300
"""Arrivals that tooltips know, the newest."""
LATE = 0.85
"""Ticks behind this share of the way end where they stand: there may be no room for half of their text."""
MOST_NAMED = 20
"""Prototypes of a map that are named."""
WIDTH, HEIGHT = 1000.0, 100.0
"""The drawing's own units, which the page stretches."""

Values = Sequence[tuple[float, float | None]]
Arrivals = Sequence[tuple[float, tuple[str, ...]]]


@dataclass
class Book:
    """What the script shows in tooltips: by the chart's key."""

    charts: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Line:
    """A curve and the number of its colour and dashes."""

    name: str
    colour: int
    values: Values


def legend(names: Iterable[tuple[str, int, str]]) -> Html:
    """(name, colour, what is said beside it) of every line."""
    items = [
        tag(
            "li",
            tag(
                "svg",
                tag("line", x1=0, x2=28, y1=5, y2=5, class_=f"line c{colour}"),
                viewBox="0 0 28 10",
                class_="key",
                aria_hidden="true",
            ),
            named(name),
            tag("b", said) if said else None,
        )
        for name, colour, said in names
    ]
    return tag("ul", *items, class_="legend")


def line_chart(book: Book, key: str, label: str, lines: Sequence[Line], end: float, marks: Arrivals) -> Html:
    """Accuracies (0..1) over events (0..end), with a dotted line where new classes came."""
    end = end or 1.0
    drawn = [
        tag("path", d=path(line.values, end), class_=f"line c{line.colour}", fill="none") for line in lines
    ]
    book.charts[key] = {
        "kind": "lines",
        "end": end,
        "lines": [
            {
                "name": brief(line.name),
                "x": [events for events, _ in line.values],
                "y": [None if value is None else round(1000 * value) for _, value in line.values],
            }
            for line in lines
        ],
        "marks": [[events, said(names)] for events, names in marks[-MOST_TOLD:]],
    }
    if len(marks) > MOST_ARRIVALS:
        marks = []
    return plot(key, label, [*grid(), *(upright(events, end) for events, _ in marks), *drawn], end, marks)


def plot(key: str, label: str, drawn: Iterable[Html], end: float, marks: Arrivals = ()) -> Html:
    """The frame of a chart: percent on the left, events below, new classes above."""
    picture = tag(
        "svg", *drawn, viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}", preserveAspectRatio="none", aria_hidden="true"
    )
    scale = [tag("span", f"{tick}", style=f"top:{100 - tick}%") for tick in (100, 75, 50, 25, 0)]
    scale[0] = tag("span", percent(1.0, 0), style="top:0%")
    return tag(
        "div",
        top_labels(end, marks),
        tag("div", *scale, class_="scale", aria_hidden="true"),
        tag("div", picture, class_="area", data_chart=key, tabindex=0, role="img", aria_label=label),
        tag("div", *ticks(end), class_="ticks", aria_hidden="true"),
        class_="plot",
    )


def top_labels(end: float, marks: Arrivals) -> Html | None:
    """Names of the classes that came, above their lines; each gets the room up to the next."""
    if not marks or len(marks) > MOST_MARKS:
        return None
    edges = [events for events, _ in marks[1:]] + [end]
    labels = [
        tag(
            "span",
            said(names, 3),
            style=f"left:{100 * events / end:.2f}%;width:{100 * (edge - events) / end:.2f}%",
        )
        for (events, names), edge in zip(marks, edges, strict=True)
        if edge > events
    ]
    long = max(len(name) for _, names in marks for name in names) > SHORT
    return tag("div", *labels, class_="marks long" if long else "marks", aria_hidden="true")


def said(names: Sequence[str], most: int = 5) -> str:
    """Labels in a row: "+cat, dog, 3 more"."""
    shown = ", ".join(plain(name, 14) for name in names[:most])
    return f"+{shown}" + (f", {len(names) - most} more" if len(names) > most else "")


def grid() -> Iterator[Html]:
    for y in (0, 25, 50, 75, 100):
        yield tag("line", x1=0, x2=f"{WIDTH:g}", y1=y, y2=y, class_="grid")


def upright(events: float, end: float) -> Html:
    """The line where new classes came."""
    x = f"{WIDTH * events / end:.1f}"
    return tag("line", x1=x, x2=x, y1=0, y2=f"{HEIGHT:g}", class_="arrival")


def path(values: Values, end: float) -> str:
    """An SVG path through the points; a gap where there is no value, a dot for a point by itself."""
    parts: list[str] = []
    pen = "M"
    for i, (events, value) in enumerate(values):
        if value is None:
            pen = "M"
            continue
        parts.append(f"{pen}{WIDTH * events / end:.1f} {HEIGHT * (1 - value):.1f}")
        if pen == "M" and (i + 1 == len(values) or values[i + 1][1] is None):
            parts.append("h.01")
        pen = "L"
    return "".join(parts)


def ticks(end: float) -> list[Html]:
    """Round numbers of events below a chart."""
    raw = max(1.0, end / 4)
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw)
    places = [i * step for i in range(int(end // step) + 1)]
    return [
        tag(
            "span",
            count(place),
            style=f"left:{100 * place / (end or 1):.2f}%",
            class_="late" if place > LATE * end else None,
        )
        for place in places
    ]


def level(value: float) -> int:
    """0..LEVELS-1 of a value in 0..1."""
    return min(LEVELS - 1, max(0, int(value * LEVELS)))


def cells(rows: Sequence[Sequence[float | None]], edges: Sequence[float]) -> list[Html]:
    """The cells of a heat map, a path for each colour; `edges`: of the columns, one more than there are."""
    paths: Mapping[int, list[str]] = {i: [] for i in range(LEVELS)}
    for y, row in enumerate(rows):
        levels = [None if value is None else level(value) for value in row]
        x = 0
        while x < len(levels):
            begin, colour = x, levels[x]
            while x < len(levels) and levels[x] == colour:
                x += 1
            if colour is not None:
                left, right = f"{edges[begin]:.1f}", f"{edges[x]:.1f}"
                paths[colour].append(f"M{left} {y}H{right}v1H{left}z")
    return [tag("path", d="".join(parts), class_=f"l{i}") for i, parts in paths.items() if parts]


def heat_map(
    book: Book,
    key: str,
    label: str,
    names: Sequence[str],
    ends: Sequence[float],
    rows: Sequence[Sequence[float | None]],
) -> Html:
    """Accuracy of each set (a row) over time; a column ends where it was measured."""
    end = ends[-1] if ends else 1.0
    edges = [0.0, *(WIDTH * value / (end or 1.0) for value in ends)]
    picture = tag(
        "svg", *cells(rows, edges), viewBox=f"0 0 {WIDTH:g} {max(1, len(rows))}", preserveAspectRatio="none",
        shape_rendering="crispEdges", aria_hidden="true",
    )  # fmt: skip
    book.charts[key] = {
        "kind": "heat",
        "x": list(ends),
        "names": [brief(name) for name in names],
        "y": [[None if value is None else round(100 * value) for value in row] for row in rows],
    }
    return matrix(key, label, names, picture, tag("div", *ticks(end), class_="ticks", aria_hidden="true"))


def matrix(
    key: str, label: str, names: Sequence[str], picture: Html, below: Html | None, kind: str = ""
) -> Html:
    """The frame of a heat map: a label for each row."""
    return tag(
        "div",
        tag("div", *(tag("span", named(name, 16)) for name in names), class_="rows", aria_hidden="true"),
        tag("div", picture, class_="area", data_chart=key, tabindex=0, role="img", aria_label=label),
        below,
        class_=f"matrix {kind} {'dense' if len(names) > 16 else ''}".strip(),
        style=f"--rows:{max(1, len(names))}",
    )


def similarity_map(
    book: Book, key: str, label: str, names: Sequence[str], rows: Sequence[Sequence[float]], top: float
) -> Html:
    """Cosines of prototypes, coloured from 0 to `top`; each one's own (always 1) is left out."""
    shown = [[None if x == y else value / top for x, value in enumerate(row)] for y, row in enumerate(rows)]
    edges = [float(x) for x in range(len(names) + 1)]
    size = max(1, len(names))
    picture = tag(
        "svg", *cells(shown, edges), viewBox=f"0 0 {size} {size}", preserveAspectRatio="none",
        shape_rendering="crispEdges", aria_hidden="true", class_="cosines",
    )  # fmt: skip
    book.charts[key] = {
        "kind": "similarity",
        "names": [brief(name) for name in names],
        "y": [[round(100 * value) for value in row] for row in rows],
    }
    tall = "tall" if max(map(len, names), default=0) > 2 else ""
    few = len(names) <= MOST_NAMED
    below = tag("div", *(tag("span", named(name, 16)) for name in names), class_=f"columns {tall}".strip())
    return matrix(key, label, names if few else (), picture, below if few else None, "square")


def strip(values: Sequence[float | None], names: Sequence[str], label: str) -> Html:
    """A row of cells: each set at the end."""
    shown = [
        tag(
            "i",
            class_="none" if value is None else f"l{level(value)}",
            title=f"{brief(name)}: {percent(value)}",
        )
        for name, value in zip(names, values, strict=True)
    ]
    return tag(
        "div", *shown, class_="strip many" if len(values) > 40 else "strip", role="img", aria_label=label
    )


def colour_scale(low: str, high: str, kind: str = "") -> Html:
    """What the colours mean."""
    swatches = [tag("i", class_=f"l{i}") for i in range(LEVELS)]
    return tag(
        "p",
        low,
        tag("span", *swatches, class_="swatches", aria_hidden="true"),
        high,
        class_=f"scale-key {kind}".strip(),
    )


def drops(book: Book, key: str, label: str, line: Line, shifts: Sequence[Any], end: float) -> Html:
    """A learner's accuracy, with a bar at each arrival: from the accuracy before down to the lowest after."""
    end = end or 1.0
    bars = []
    for shift in shifts:
        if shift.before is None or shift.lowest is None:
            continue
        x = f"{WIDTH * shift.events / end:.1f}"
        top, low = HEIGHT * (1 - shift.before), HEIGHT * (1 - min(shift.before, shift.lowest))
        bars.append(tag("path", d=f"M{x} {top:.1f}V{low + 0.01:.2f}", class_="drop"))
    curve = tag("path", d=path(line.values, end), class_=f"line c{line.colour} faint", fill="none")
    book.charts[key] = {
        "kind": "drops",
        "end": end,
        "x": [shift.events for shift in shifts],
        "y": [
            [
                said(shift.groups),
                *(None if v is None else round(1000 * v) for v in (shift.before, shift.lowest, shift.gap)),
                shift.recovery,
            ]
            for shift in shifts
        ],
    }
    return plot(key, label, [*grid(), curve, *bars], end)


def bar(value: float | None, colour: int, kind: str, what: str) -> Html:
    """A bar with its figure at the right, for the comparison at the top."""
    width = 0.0 if value is None else 100 * value
    return join(
        [
            tag("span", what, class_=f"what {kind}"),
            tag(
                "span", tag("span", style=f"width:{width:.1f}%", class_=f"fill c{colour}"),
                class_=f"track {kind}", aria_hidden="true",
            ),
            tag("span", percent(value), class_=f"value {kind}"),
        ]
    )  # fmt: skip
