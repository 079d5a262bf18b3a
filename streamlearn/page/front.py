"""The worker's front page: what a person who opens its port in a browser wants to know first.

Made of what /status says, without a script: it is of the moment at which it was asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from importlib.resources import files

from streamlearn.page.facts import Row, mapping
from streamlearn.page.markup import (
    NOTHING,
    SPACE,
    Html,
    clock,
    count,
    join,
    named,
    number,
    percent,
    points,
    table,
    tag,
)

MOST_NAMED = 20
"""Classes, the newest, and reasons of dead letters that are named."""
MOST_PARTITIONS = 64
"""Partitions that have a row."""
STANDS_BY = (
    "Another worker of the group learns, and its page has the figures. This one keeps the newest checkpoint "
    "at hand and goes on from it as soon as the other is gone."
)
LOADS = "Its state is not loaded yet, so there are no figures."


def front(status: Row, paths: Mapping[str, str]) -> str:
    """The page as HTML. status: what /status answers. paths: what there is on this port, and what it is."""
    title = headline(status)
    said = f"streamlearn {status['version']}, {status['role']}, as of {clock(status['time'])}."
    links = [tag("li", tag("a", path, href=path), f" {text}") for path, text in paths.items() if path != "/"]
    main = tag(
        "main",
        tag("header", tag("h1", title), tag("p", f"{said} Load it again for newer figures.", class_="lead")),
        *problems(status),
        *figures(status),
        tag("section", tag("h2", "More"), tag("ul", *links, class_="links")),
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"streamlearn: {title}"),
        Html(f"<style>\n{_style()}</style>"),
    )
    body = tag("html", head, tag("body", main), lang="en")
    return join([Html("<!doctype html>\n"), body, Html("\n")])


@cache
def _style() -> str:
    return files(__package__).joinpath("page.css").read_text("utf-8")


def headline(status: Row) -> str:
    """How it stands, in a few words."""
    if not status["healthy"]:
        return "It is sick"
    if not status["ready"]:
        return "It starts" if status["role"] == "starting" else "It is not ready"
    if status["role"] == "standby":
        return "It stands by"
    if status["paused"]:
        return "It is paused by a command"
    return "It learns" if status["learned"] else "It has learned nothing yet"


def figures(status: Row) -> list[Html | None]:
    """All of them; where no state is loaded there are none, and zeros would say that nothing was learned."""
    if status["role"] == "standby":
        return [tag("p", STANDS_BY)]
    if not status["epoch"]:
        return [tag("p", LOADS)]
    return [tag("div", knows(status), works(status), class_="two"), partitions(status)]


def problems(status: Row) -> list[Html]:
    """What is wrong, each in a sentence."""
    said = [status["sickness"] or status["unready"], status["output_problem"]]
    return [tag("p", str(each), class_="problem", role="alert") for each in said if each]


def knows(status: Row) -> Html:
    """What the model knows, and what it has forgotten."""
    continual, window = mapping(status["continual"]), mapping(mapping(status["prequential"]).get("window"))
    memory = mapping(status["memory"])
    gap, recovery = number(continual.get("stability_gap")), continual.get("stability_gap_recovery_events")
    back = "not yet" if recovery is None and gap is not None else events(number(recovery))
    rows: list[tuple[str, str, str | None]] = [
        ("right on the stream", "newest events, each predicted before it was learned",
         percent(number(window.get("accuracy")))),
        ("right on everything taught", "held-out events, mean of the classes" + surely(status),
         percent(number(continual.get("average_accuracy")))),
        ("worst case", "what could be relied on all along (WC-ACC)",
         percent(number(continual.get("worst_case_accuracy")))),
        ("forgetting", "mean fall from the best, points; below 0 it rose",
         points(number(continual.get("forgetting")))),
        ("last new class cost", "stability gap, points", points(gap)),
        ("recovered after", "", back),
        ("classes", "the newest of them" if status["known_classes"] else "", classes(status)),
        ("memory", "examples, and how many it has room for",
         f"{count(number(memory.get('examples')))}{SPACE}of{SPACE}{count(number(memory.get('capacity')))}"),
    ]  # fmt: skip
    return _table("What it knows", rows)


def surely(status: Row) -> str:
    """How far off the mean over the sets may be: few examples can't say much."""
    errors = [number(error) or 0.0 for error in mapping(status["evaluation"]).get("errors") or ()]
    if not any(errors):
        return ""
    return f"; standard error up to {points(math.hypot(*errors) / len(errors))} points"


def works(status: Row) -> Html:
    """What has been done, since the state's first start, and what waits."""
    checkpoint, dead = mapping(status["last_checkpoint"]), mapping(status["dead_letters"])
    waiting = [number(lag) or 0.0 for lags in mapping(status["lag"]).values() for lag in lags.values()]
    latency = number(status["prediction_latency_seconds"])
    reasons = [
        f"{name} {amount:,}" for name, amount in sorted(dead.items(), key=lambda each: -each[1])[:MOST_NAMED]
    ]
    written = checkpoint.get("time")
    failures = (
        f"{checkpoint['failures']:,} since the start could not be written" if checkpoint["failures"] else ""
    )
    rows: list[tuple[str, str, str | None]] = [
        ("predicted", "events, since the first start", count(number(status["predicted"]))),
        ("learned", "events; the rest was held out, has no label or waits", count(number(status["learned"]))),
        ("held out", "events, for asking", count(number(status["held_out"]))),
        ("dead letters", ", ".join(reasons), count(sum(dead.values()))),
        ("waits", "records in the topic", count(sum(waiting)) if waiting else NOTHING),
        ("updates", "of the model", count(number(status["step"]))),
        ("from reading to answering", "mean of this run",
         NOTHING if latency is None else f"{1000 * latency:,.0f}{SPACE}ms"),
        ("last checkpoint", failures, age(str(written), str(status["time"])) if written else "none yet"),
        ("starts", "of a worker on this state", count(number(status["epoch"]))),
    ]  # fmt: skip
    return _table("What it does", rows)


def partitions(status: Row) -> Html | None:
    """Where it is in what it reads."""
    rows: list[list[str | None]] = []
    for topic, offsets in mapping(status["offsets"]).items():
        kept, ends, lags = (
            mapping(mapping(status[name]).get(topic)) for name in ("checkpointed_offsets", "ends", "lag")
        )
        for partition in sorted({*offsets, *ends}, key=lambda each: (len(each), each)):
            where = (offsets, kept, ends, lags)
            places = [count(number(each.get(partition))) for each in where]
            rows.append([join([named(str(topic)), f" {partition}"]), *places])
    if not rows:
        return None
    few = None
    if len(rows) > MOST_PARTITIONS:
        few = tag("p", f"The first {MOST_PARTITIONS} of {len(rows)}; /status has all.", class_="note")
    headings = ["partition", "next", "checkpoint", "end", "waits"]
    listed = table("Offsets by topic and partition", headings, rows[:MOST_PARTITIONS], "figures places")
    return tag("section", tag("h2", "Where it is"), listed, few)


def classes(status: Row) -> Html:
    """How many, and the newest by name."""
    known = status["known_classes"]
    labels = status["classes"]
    # Of very many only the first are told: the newest aren't among them.
    newest = labels[-MOST_NAMED:] if len(labels) == known else []
    names = join([named(str(label)) for label in newest], ", ")
    return join([count(known), tag("small", names) if newest else None])


def events(value: float | None) -> str:
    return NOTHING if value is None else f"{count(value)} events"


def age(then: str, now: str) -> Html:
    """How long ago that was; the time itself below."""
    seconds = max(0.0, (datetime.fromisoformat(now) - datetime.fromisoformat(then)).total_seconds())
    units = (("d", 86400.0), ("h", 3600.0), ("min", 60.0))
    unit, size = next(((name, size) for name, size in units if seconds >= 2 * size), ("s", 1.0))
    return join(
        [f"{seconds / size:.0f}{SPACE}{unit} ago", tag("small", tag("span", clock(then), class_="n"))]
    )


def _table(title: str, rows: list[tuple[str, str, str | None]]) -> Html:
    cells: list[list[str | None]] = [
        [join([name, tag("small", explained) if explained else None]), value]
        for name, explained, value in rows
    ]
    return tag("section", tag("h2", title), table(title, ["", ""], cells, "figures front"))
