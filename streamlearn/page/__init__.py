"""`report.html`: one page that needs no network, drawn here; its script only adds tooltips."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import orjson

from streamlearn.page.charts import Book
from streamlearn.page.facts import Facts, examples_of, facts_of, headline
from streamlearn.page.markup import Html, count, join, tag
from streamlearn.page.prototypes import prototypes_section
from streamlearn.page.sections import (
    comparison,
    curve_section,
    figures_section,
    gaps_section,
    of_so_many,
    sets_section,
    settings_section,
)

STAYS = (
    " Asked on events held out of the stream, as often as the budget allows: in between, a line stays "
    "where it was."
)


def page(summary: Mapping[str, Any], curves: Sequence[Mapping[str, Any]]) -> str:
    """The page as HTML.

    `summary`: what summary.json holds. `curves`: the rows of curves.csv as numbers, each set's accuracy in a
    mapping under `sets`. Whatever is missing is left out.
    """
    facts, book = facts_of(summary, curves), Book()
    title = headline(facts)
    some = f"{facts.per_class} test examples, drawn by the seed, of every class"
    seen = some if facts.per_class else "Test examples of all classes"
    parts = [
        curve_section(
            facts, book, "seen", "Accuracy over everything seen so far",
            f"{seen} seen up to that moment. A dotted line: new classes arrive."
            + (STAYS if held_out(facts) else ""),
            ("accuracy_seen_classes", "average_accuracy"),
        ),
        curve_section(
            facts, book, "worst", "Worst case",
            "What could be relied on all along: the newest set as it is, every older one at its lowest "
            f"since a newer one came (WC-ACC).{of_so_many(facts)}",
            ("worst_case_accuracy",),
        ),
        sets_section(facts, book),
        gaps_section(facts, book),
        prototypes_section(facts, book),
        curve_section(
            facts, book, "online", "Online accuracy",
            "Each event predicted right before it was learned, over the newest ones. It can look splendid "
            "while old classes are being forgotten.",
            ("prequential_window", "prequential_cumulative"),
        ),
        figures_section(facts),
        settings_section(summary),
    ]  # fmt: skip
    main = tag(
        "main",
        tag("header", tag("h1", title), tag("p", lead(facts), class_="lead"), comparison(facts)),
        *parts,
    )
    return document(title, main, book)


def held_out(facts: Facts) -> bool:
    """Whether the figures are of events that the learners themselves held out, and not of a test set."""
    return any(each.continual and not each.figures.get("test_examples") for each in facts.learners)


def lead(facts: Facts) -> str:
    """What was done, in a sentence."""
    if not facts.events:
        return "There is nothing to compare: the stream had no events with labels."
    said = f"{count(facts.events)} events"
    if facts.classes > 1:
        said += f" of {facts.classes:,} classes"
    seeds = max((len(each.figures.get("seeds") or ()) for each in facts.learners), default=0)
    if any(learner.accuracy is not None for learner in facts.learners):
        examples = max((examples_of(learner) for learner in facts.learners), default=0.0)
        asked = f"{count(examples)} test examples" if examples else "examples"
        mean = f" Means over {seeds} seeds." if seeds > 1 else ""
        few = f" Worst case and test curves: {facts.per_class} of a class." if facts.per_class else ""
        return f"{said}, each seen once. Accuracy is measured on {asked} that were never learned.{few}{mean}"
    return f"{said}. Nothing was held out for testing, so this page can't say what was forgotten."


def document(title: Html, main: Html, book: Book) -> str:
    """The whole file. No address but its own may be used, and no script but ours may run."""
    style, script = (files(__name__).joinpath(name).read_text("utf-8") for name in ("page.css", "page.js"))
    # In a script element nothing is escaped but "<" must not end it.
    data = orjson.dumps(book.charts).decode().replace("<", "\\u003c")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:,"),
        tag("title", "streamlearn report"),
        Html(f"<style>\n{style}</style>"),
    )
    body = tag(
        "body",
        main,
        Html(f'<script type="application/json" id="data">{data}</script>\n<script>{script}</script>'),
    )
    return join([Html("<!doctype html>\n"), tag("html", head, body, lang="en"), Html("\n")])
