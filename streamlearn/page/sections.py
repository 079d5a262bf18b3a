"""The parts of the page, from top to bottom. A part without anything to show is None."""

from __future__ import annotations

from collections.abc import Sequence

from streamlearn.page.charts import (
    Book,
    Line,
    bar,
    colour_scale,
    drops,
    heat_map,
    legend,
    line_chart,
    strip,
)
from streamlearn.page.facts import (
    Facts,
    LearnerFacts,
    Row,
    mapping,
    prequential,
    spread,
    watched,
)
from streamlearn.page.markup import (
    NOTHING,
    Html,
    brief,
    clock,
    count,
    folded,
    join,
    named,
    number,
    percent,
    plain,
    points,
    table,
    tag,
)

MOST_ROWS = 40
"""Sets of a heat map, prototypes of a map, shifts of a table."""
MOST_COLUMNS = 60
"""Moments of a heat map."""
MOST_CELLS = 200
"""Sets of a strip at the top."""
MOST_LINES = 12
"""Moments of a chart's table."""
MOST_NAMED = 5
"""New sets that a row of the table of arrivals names."""
MOST_COLUMNS_OF_LEARNERS = 4


def section(title: str, how: str | None, *inside: str | None) -> Html:
    """A part of the page: its title, a sentence on how to read it, and what it shows."""
    return tag("section", tag("h2", title), tag("p", how, class_="how") if how else None, *inside)


def some_of(shown: int, there_are: int, what: str) -> Html | None:
    """What is said where not everything is shown."""
    if shown >= there_are:
        return None
    said = f"{shown:,} of {there_are:,} {what} are shown, evenly chosen in order of appearance; "
    return tag("p", f"{said}curves.csv and summary.json have all.", class_="note")


def of_so_many(facts: Facts) -> str:
    """Which test examples a figure is of, where it isn't all."""
    return f" Of {facts.asked}." if facts.per_class else ""


def comparison(facts: Facts) -> Html | None:
    """Who forgets, at a glance: a block for each learner."""
    sets = spread(facts.sets, MOST_CELLS)
    blocks = []
    for learner in facts.shown:
        bars = [
            bar(learner.accuracy, learner.colour, "thick", "all classes"),
            bar(learner.worst_case, learner.colour, "thin", "worst case"),
        ]
        if learner.accuracy is None:
            online = prequential(learner)
            if online is None:
                continue
            bars = [bar(online, learner.colour, "thick", "online")]
        elif learner.worst_case is None:
            bars = bars[:1]
        values = [learner.final.get(name) for name in sets]
        cells = None
        if len(sets) > 1 and any(value is not None for value in values):
            known = sum(value is not None and value >= 0.5 for value in values)
            label = f"{known} of {facts.sets_said(len(sets))} known at the end (at least half right)"
            cells = strip(values, sets, label)
        blocks.append(tag("li", tag("h2", named(learner.name)), tag("div", *bars, class_="bars"), cells))
    if not blocks:
        return None
    key = None
    if len(sets) > 1 and any(learner.final for learner in facts.shown):
        each = "each class" if facts.noun == "class" else "each set"
        key = colour_scale(f"{each} at the end, oldest first: forgotten", "known")
    few = len(facts.shown) < len(facts.learners)
    note = tag("p", first_of(len(facts.shown), len(facts.learners)), class_="note") if few else None
    return join(
        [tag("ol", *blocks, class_="learners"), key, some_of(len(sets), len(facts.sets), facts.plural), note]
    )


def curve_section(
    facts: Facts, book: Book, key: str, title: str, how: str, columns: Sequence[str]
) -> Html | None:
    """All learners' curves of one figure, the first of the columns that is there."""
    lines = [Line(each.name, each.colour, values) for each in facts.shown if (values := each.curve(*columns))]
    if not lines:
        return None
    last = {
        line.name: next((value for _, value in reversed(line.values) if value is not None), None)
        for line in lines
    }
    ends = ", ".join(f"{plain(name)} {percent(value)}" for name, value in last.items())
    chart = line_chart(
        book, key, f"{title}. Line chart over {count(facts.events)} events. At the end: {ends}.", lines,
        facts.events, facts.arrivals,
    )  # fmt: skip
    names = [(line.name, line.colour, percent(last[line.name])) for line in lines]
    return section(title, how, legend(names), chart, folded("As a table", curve_table(title, lines)))


def curve_table(title: str, lines: Sequence[Line]) -> Html:
    """A few moments of the curves, as numbers."""
    moments = spread(sorted({events for line in lines for events, _ in line.values}), MOST_LINES)
    rows = []
    for moment in moments:
        cells = [
            percent(next((value for events, value in reversed(line.values) if events <= moment), None))
            for line in lines
        ]
        rows.append([count(moment), *cells])
    return table(f"{title}, at some moments", ["events", *(brief(line.name) for line in lines)], rows)


def sets_section(facts: Facts, book: Book) -> Html | None:
    """Accuracy of every set over time, a heat map for each learner."""
    names = spread(facts.sets, MOST_ROWS)
    maps = []
    for learner in facts.shown:
        rows = [row for row in spread(learner.rows, MOST_COLUMNS) if row["sets"]]
        if not rows or len(facts.sets) < 2:
            continue
        ends = [number(row.get("events")) or 0.0 for row in rows]
        values = [[row["sets"].get(name) for row in rows] for name in names]
        what = f"accuracy of {facts.sets_said(len(names))} over {count(facts.events)} events"
        label = f"{plain(learner.name)}: {what}"
        chart = heat_map(book, f"sets{learner.index}", label, names, ends, values)
        maps.append(tag("figure", tag("figcaption", named(learner.name)), chart))
    if not maps:
        return None
    what = "class" if facts.noun == "class" else "set"
    return section(
        f"Every {what} over time",
        f"A row for each {what}, oldest at the top; it begins where the {what} was first seen. A row that "
        f"turns orange is being forgotten.{of_so_many(facts)}",
        colour_scale("0 % right", "100 %"),
        tag("div", *maps, class_="side-by-side"),
        some_of(len(names), len(facts.sets), facts.plural),
        folded("As a table", sets_table(facts, names)),
    )


def sets_table(facts: Facts, names: Sequence[str]) -> Html:
    """Highest and last accuracy of each set, for each learner."""
    headings = [facts.noun]
    for learner in facts.shown:
        headings += [f"{brief(learner.name)}: highest", "at the end"]
    rows = []
    for name in names:
        cells: list[str | None] = [named(name)]
        for learner in facts.shown:
            values = [row["sets"][name] for row in learner.rows if name in row["sets"]]
            # Of the same examples as the highest; the final figure may be of more.
            last = values[-1] if values else learner.final.get(name)
            cells += [percent(max(values, default=None), 0), percent(last, 0)]
        rows.append(cells)
    return table("Accuracy of each set of test examples", headings, rows)


def gaps_section(facts: Facts, book: Book) -> Html | None:
    """The stability gap at every arrival of new classes."""
    charts, rows, there_are = [], [], 0
    for learner in facts.shown:
        gaps = [shift for shift in learner.shifts if shift.gap is not None]
        if not gaps:
            continue
        there_are += len(gaps)
        mean, largest = sum(shift.gap or 0.0 for shift in gaps) / len(gaps), max(s.gap or 0.0 for s in gaps)
        said = f"mean gap {points(mean)} points, largest {points(largest)}"
        line = Line(learner.name, learner.colour, watched(learner.rows, gaps))
        chart = drops(
            book, f"gaps{learner.index}", f"{plain(learner.name)}: {said}", line, gaps, facts.events
        )
        caption = tag("figcaption", named(learner.name), tag("small", said))
        charts.append(tag("figure", caption, chart))
        for shift in spread(gaps, MOST_ROWS):
            new = join([named(name) for name in shift.groups[:MOST_NAMED]], ", ")
            more = f" and {len(shift.groups) - MOST_NAMED} more" if len(shift.groups) > MOST_NAMED else None
            recovered = (
                f"{count(shift.recovery)} events" if shift.recovery is not None else "not before the next"
            )
            rows.append(
                [
                    named(learner.name),
                    count(shift.events),
                    join([new, more]),
                    percent(shift.before),
                    percent(shift.lowest),
                    points(shift.gap),
                    recovered,
                ]
            )
    if not charts:
        return None
    headings = ["learner", "at event", "new", "before", "lowest", "gap, points", "recovered after"]
    return section(
        "What each new class costs",
        "The stability gap: how far accuracy on everything known before falls when something new arrives, "
        "until it is back (within one point). Each bar is one arrival, from the accuracy before it to the "
        f"lowest after; the line follows those older classes until the next arrival.{of_so_many(facts)}",
        tag("div", *charts, class_="side-by-side"),
        some_of(len(rows), there_are, "arrivals"),
        folded("As a table", table("Stability gap at each arrival", headings, rows)),
    )


def figures_section(facts: Facts) -> Html | None:
    """The table of final figures: a column for each learner, a row where they are many.

    Figures that no learner has are left out.
    """
    if not facts.learners:
        return None
    learners = facts.learners[:MOST_ROWS]
    figures = [each for each in final_figures(learners) if any(value != NOTHING for value in each[2])]
    titles = [join([title, tag("small", explained)]) for title, explained, _ in figures]
    if len(learners) <= MOST_COLUMNS_OF_LEARNERS:
        headings = ["at the end", *(named(learner.name) for learner in learners)]
        rows = [[title, *values] for title, (_, _, values) in zip(titles, figures, strict=True)]
    else:
        headings = ["at the end", *titles]
        rows = [
            [named(learner.name), *(values[i] for _, _, values in figures)]
            for i, learner in enumerate(learners)
        ]
    error = max((standard_error(learner) or 0.0 for learner in learners), default=0.0)
    notes = []
    if facts.per_class:
        notes.append(
            "Accuracy is of all test examples; worst case, forgetting, lowest of the past, stability gap and "
            f"what is windowed are of {facts.asked}."
        )
    if error:
        notes.append(f"Standard error of the accuracy: at most {points(error)} points.")
    if len(learners) < len(facts.learners):
        notes.append(first_of(len(learners), len(facts.learners)))
    table_of = table("Final figures of every learner", headings, rows)
    return section("Figures", None, table_of, *(tag("p", said, class_="note") for said in notes))


def first_of(shown: int, there_are: int) -> str:
    """What is said where there are too many learners."""
    return f"The first {shown} of {there_are} learners are shown; summary.json has all."


def standard_error(learner: LearnerFacts) -> float | None:
    """Of the final accuracy: what the learner says, or at most .5 / sqrt(n) for n test examples."""
    examples = number(learner.figures.get("test_examples"))
    return 0.5 / examples**0.5 if examples else number(learner.figures.get("standard_error"))


def final_figures(learners: Sequence[LearnerFacts]) -> list[tuple[str, str, list[str]]]:
    """(name, explanation, value of each learner)."""

    def each(value_of: object, *path: str) -> list[float | None]:
        found = []
        for learner in learners:
            value: object = learner.continual if value_of == "continual" else learner.figures
            for key in path:
                value = mapping(value).get(key)
            found.append(number(value))
        return found

    def seconds(value: float | None) -> str:
        return NOTHING if value is None else f"{value:.1f}\N{NO-BREAK SPACE}s"

    gaps = [_mean([shift.gap for shift in learner.shifts]) for learner in learners]
    windows = sorted(
        {str(key) for learner in learners for key in mapping(learner.continual.get("windowed_forgetting"))},
        key=lambda window: (len(window), window),
    )
    ratio = [NOTHING if v is None else f"{v:.1f}" for v in each("figures", "images_per_event")]
    aside = each("figures", "forward_images_per_event")
    forward = [f"{v or 0.0:.1f}" if any(aside) else NOTHING for v in aside]
    return [
        ("accuracy", "over all classes", [percent(learner.accuracy) for learner in learners]),
        ("worst case", "mean of every set's lowest accuracy since a newer one came (WC-ACC)",
         [percent(learner.worst_case) for learner in learners]),
        ("forgetting", "mean fall from each set's highest accuracy before, points; below 0 it rose",
         [points(learner.forgetting) for learner in learners]),
        ("lowest of the past", "mean of past sets' lowest accuracies (min-ACC)",
         [percent(v) for v in each("continual", "min_accuracy")]),
        ("stability gap", "mean fall when something new arrives, points", [points(v) for v in gaps]),
        *((f"windowed forgetting {w}", f"largest fall within {w} evaluations, points",
           [points(v) for v in each("continual", "windowed_forgetting", w)]) for w in windows),
        *((f"windowed plasticity {w}", f"largest rise within {w} evaluations, points",
           [points(v) for v in each("continual", "windowed_plasticity", w)]) for w in windows),
        ("online accuracy", "each event predicted before it was learned, all of the stream",
         [percent(prequential(learner)) for learner in learners]),
        ("events learned", "", [count(v) for v in each("figures", "events_learned")]),
        ("classes", "", [count(v) for v in each("figures", "known_classes")]),
        ("images per event", "trained on", ratio),
        ("forward-only images", "an event, a teacher's; not among those trained on", forward),
        ("memory", "examples", [count(v) for v in each("figures", "memory_examples")]),
        ("predicts with", "", [str(each.figures.get("serving") or NOTHING) for each in learners]),
        ("time", "learning", [seconds(v) for v in each("figures", "seconds")]),
    ]  # fmt: skip


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def settings_section(summary: Row) -> Html:
    """Seeds, versions, dates and every setting."""
    versions = mapping(summary.get("versions"))
    settings = mapping(summary.get("settings"))
    made = ", ".join(f"{name} {version}" for name, version in versions.items())
    seeds = summary.get("seeds") or [summary.get("seed", NOTHING)]
    said = f"Seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    said += f"; {made}." if made else "."
    if runs := summary.get("runs_ended"):
        days = list(dict.fromkeys(str(each)[:10] for each in runs))
        said += f" The runs ended {'from' if len(days) > 1 else 'on'} {' to '.join(days)}."
    if written := summary.get("made"):
        said += f" This page was made on {clock(str(written))}."
    whose = f", of {summary['settings_of']}" if summary.get("settings_of") else ""
    rows = [
        [tag("code", str(key)), tag("code", brief(str(value), 300))]
        for key, value in sorted(settings.items())
    ]
    listed = table("Settings", ["setting", "value"], rows, "settings") if rows else None
    return section(
        "How it was made",
        None,
        tag("p", said),
        folded(f"All {len(rows)} settings{whose}", listed) if listed else None,
    )
