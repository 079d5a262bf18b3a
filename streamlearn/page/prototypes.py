"""Which classes look alike to a learner, on the page: a map of all prototypes, or the nearest pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from streamlearn.page.charts import Book, colour_scale, similarity_map
from streamlearn.page.facts import Facts, LearnerFacts, mapping, spread
from streamlearn.page.markup import Html, join, named, number, plain, table, tag
from streamlearn.page.sections import MOST_ROWS, section, some_of

TITLE = "Which classes look alike"
MOST_PAIRS = 10
NOT_RECORDED = "Not recorded in these results."


def prototypes_section(facts: Facts, book: Book) -> Html | None:
    """Which classes look alike to a learner: a map where all cosines are there, else the nearest pairs.

    A bench keeps pairs, of one seed, and its older results not even those: they say so.
    """
    maps = {learner.index: likeness(learner) for learner in facts.shown}
    highest = max((v for _, rows in maps.values() for row in off_diagonal(rows) for v in row), default=0.0)
    top = max(1, math.ceil(10 * highest)) / 10
    shown, recorded = [], False
    for learner in facts.shown:
        found, (names, rows) = mapping(learner.figures.get("prototypes")), maps[learner.index]
        if len(names) >= 2:
            label = f"{plain(learner.name)}: cosine similarity of {len(names)} prototypes"
            inside = [
                similarity_map(book, f"prototypes{learner.index}", label, names, rows, top),
                some_of(len(names), len(found["labels"]), "prototypes"),
                pairs_table(found),
            ]
        elif "seed" in found:
            inside = [pairs_table(found) or tag("p", NOT_RECORDED, class_="note")]
        else:
            continue
        recorded = recorded or bool(found.get("pairs"))
        seed = tag("small", f"seed {found['seed']}") if "seed" in found and found.get("pairs") else None
        shown.append(tag("figure", tag("figcaption", named(learner.name), seed), *inside))
    if not shown:
        return None
    if not recorded and not any(names for names, _ in maps.values()):
        return section(TITLE, NOT_RECORDED)
    how = "Cosine similarity of the classes' prototypes, with which the learner tells them apart. "
    if any(names for names, _ in maps.values()):
        how += "The stronger the colour, the easier the two are to confuse."
        scale = colour_scale("≤ 0: unlike", f"{top:.1f}: most alike", "cosines")
    else:
        how, scale = how + "The nearest, at the end, are the easiest to confuse.", None
    return section(TITLE, how, scale, tag("div", *shown, class_="side-by-side"))


def pairs_table(found: object) -> Html | None:
    """The pairs of classes whose prototypes are nearest."""
    pairs = [
        [join([named(str(one)), " and ", named(str(other))]), f"{number(cosine) or 0.0:.2f}"]
        for one, other, cosine in (mapping(found).get("pairs") or ())[:MOST_PAIRS]
    ]
    return table("The nearest pairs", ["classes", "cosine"], pairs, "figures pairs") if pairs else None


def likeness(learner: LearnerFacts) -> tuple[list[str], list[list[float]]]:
    """Labels and cosines of MOST_ROWS prototypes at most; none where they don't fit together."""
    found = mapping(learner.figures.get("prototypes"))
    labels, rows = found.get("labels") or (), found.get("similarity") or ()
    if any(len(row) != len(labels) or len(rows) != len(labels) for row in rows):
        return [], []
    which = spread(range(len(rows)), MOST_ROWS)
    return [str(labels[i]) for i in which], [[number(rows[y][x]) or 0.0 for x in which] for y in which]


def off_diagonal(rows: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[value for x, value in enumerate(row) if x != y] for y, row in enumerate(rows)]
