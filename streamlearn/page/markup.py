"""HTML that is escaped by construction: only what `tag` made is markup, every other string is text."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable

LONGEST = 28
"""Characters of a label that are shown; the rest is in its title, up to LONGEST_TITLE."""
LONGEST_TITLE = 200
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]+")
"""What HTML or UTF-8 can't hold, and line breaks."""
SPACE = "\N{NO-BREAK SPACE}"
NOTHING = "\N{EN DASH}"
"""Stands where there is no figure."""
VOID = ("meta", "link")


class Html(str):
    """Markup: all text in it is escaped already."""

    __slots__ = ()


def join(parts: Iterable[str | None], between: str = "") -> Html:
    """The parts one after another; those that are no `Html` are escaped. None is left out."""
    done = [
        part if isinstance(part, Html) else Html(html.escape(clean(part)))
        for part in parts
        if part is not None
    ]
    return Html(between.join(done))


def tag(name: str, /, *children: str | None, **attributes: str | float | None) -> Html:
    """An element. `class_` is the attribute class, `aria_label` aria-label; None is left out."""
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(clean(str(value)))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{said}>" if name in VOID else f"<{name}{said}>{join(children)}</{name}>")


def clean(text: str) -> str:
    """The text without what a page can't hold."""
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def brief(label: str, longest: int = LONGEST) -> str:
    """A user's label, cut where it is long."""
    label = clean(label)
    if not label.strip():
        return "(empty)"
    return label if len(label) <= longest else f"{label[: longest - 1]}…"


def plain(label: str, longest: int = LONGEST) -> str:
    """A label inside a sentence of plain text: its direction of writing stays its own."""
    return f"\N{FIRST STRONG ISOLATE}{brief(label, longest)}\N{POP DIRECTIONAL ISOLATE}"


def named(label: str, longest: int = LONGEST) -> Html:
    """A label as markup: cut where it is long, its direction of writing kept to itself."""
    shown = brief(label, longest)
    return tag("bdi", shown, title=None if shown == clean(label) else brief(label, LONGEST_TITLE))


def number(value: object) -> float | None:
    """A finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def percent(value: float | None, digits: int = 1) -> str:
    """.934 -> 93.4 %."""
    return NOTHING if value is None else f"{100 * value:.{digits}f}{SPACE}%"


def points(value: float | None) -> str:
    """A difference of two accuracies, in percentage points."""
    return NOTHING if value is None else f"{100 * value:.1f}"


def count(value: float | None) -> str:
    """1234 -> 1,234."""
    return NOTHING if value is None else f"{round(value):,}"


def clock(time: str) -> str:
    """2026-11-21T22:31:05Z -> 2026-11-21 22:31:05 UTC."""
    return time.replace("T", " ").replace("Z", " UTC")


def table(
    caption: str, headings: Iterable[str], rows: Iterable[Iterable[str | None]], kind: str = "figures"
) -> Html:
    """A table in a box that scrolls by itself. Each row's first cell is its heading."""
    head = tag("tr", *(tag("th", heading, scope="col") for heading in headings))
    body = []
    for row in rows:
        first, *rest = row
        body.append(tag("tr", tag("th", first, scope="row"), *(tag("td", cell) for cell in rest)))
    inner = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body), class_=kind)
    return tag("div", inner, class_="scroll", tabindex=0, role="region", aria_label=caption)


def folded(title: str, *inside: str | None) -> Html:
    """What is shown when it is asked for."""
    return tag("details", tag("summary", title), *inside)
