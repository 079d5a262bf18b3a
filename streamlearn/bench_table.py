"""The tables of a benchmark as text: for terminals of 100 columns, and in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from streamlearn.bench_statistics import LEVEL, Estimate
from streamlearn.bench_summary import COMPARED, TRANSFER, RowSummary, Table, by_predictor

WIDTH = 100
TEXTS = ("", "row", "predictor")
"""Headings of columns that hold words."""


class Grid(NamedTuple):
    """Text in rows and columns, the first column to the left; `best`: the row to point out."""

    title: str
    headings: list[str]
    rows: list[list[str]]
    best: int | None = None


def _share(value: Estimate | None, sign: str = "") -> str:
    """In percent; a mark where the interval of a difference doesn't hold 0."""
    if value is None:
        return "-"
    half = "" if value.half is None else f" ±{100 * value.half:.1f}"
    return f"{100 * value.mean:{sign}.1f}{half}{' *' if sign and value.clear else ''}"


def _plain(value: Estimate | None, digits: int, scale: float = 1.0) -> str:
    return "-" if value is None else f"{value.mean * scale:,.{digits}f}"


COLUMNS: dict[str, Callable[[Mapping[str, Estimate]], str]] = {
    "accuracy": lambda e: _share(e.get("final_accuracy")),
    "WC-ACC": lambda e: _share(e.get("worst_case_accuracy")),
    "forgetting": lambda e: _share(e.get("forgetting")),
    "gap": lambda e: _share(e.get("stability_gap")),
    "images": lambda e: _plain(e.get("images_per_event"), 2),
    "forward": lambda e: _plain(e.get("forward_images_per_event"), 2),
    "CPU s": lambda e: _plain(e.get("cpu_seconds"), 1),
    "KB": lambda e: _plain(e.get("memory_bytes"), 0, 1 / 1024),
}
HEADINGS = dict(zip(COMPARED, ("accuracy", "WC-ACC", "forgetting", "gap"), strict=True))

LEGEND = (
    f"Mean ± half the {LEVEL:.0%} interval over seeds (Student's t), shares in %. accuracy: final, all test "
    "examples of the stream's classes; WC-ACC: worst case of past sets with the newest; forgetting: best "
    "before minus now; gap: stability gap, mean over shifts; these three: of {per_class} test "
    "examples of a class, drawn by the seed; images: trained on, an event; {forward}CPU s: processor time to "
    "learn, without the bench's evaluations; KB: replay memory and held-out sets."
)
LEGEND_OF_TRANSFER = (
    " Of the same test examples, means over sets of classes. Learning curve area: accuracy from a set's "
    "first event to the next set's. Backward transfer: accuracy at the stream's end minus that when the next "
    "set came. Performance maintenance: mean accuracy from that moment on minus it."
)
FORWARD = "forward"
LEGEND_OF_FORWARD = "forward: images an event that go forward only (a teacher's), not among images; "
LEGEND_OF_DIFFERENCES = "* the interval doesn't hold 0"


def grids(table: Table) -> list[Grid]:
    """The rows; their differences to the baseline; their accuracy by predictor where there are several."""
    cell = table.cell
    title = f"{cell.stream}, memory {cell.memory}, {cell.budget:g} images an event"
    title += f", {cell.about} tuned" if cell.about else ""
    title += f"; seeds {' '.join(map(str, table.seeds))}"
    title += f"; partial: {table.partial}" if table.partial else ""
    columns = {name: shown for name, shown in COLUMNS.items() if name != FORWARD or _forward(table)}
    rows = []
    for row in table.rows:
        rank = "ref" if row.reference else str(row.rank or "-")
        rows.append(
            [rank, row.name, f"{len(row.done)}/{len(row.planned)}"]
            + [shown(row.estimates) for shown in columns.values()]
        )
    best = 0 if table.rows and table.rows[0].rank == 1 else None
    found = [Grid(title, ["", "row", "seeds", *columns], rows, best)]
    differing = [row for row in table.rows if row.differences]
    if differing:
        found.append(
            Grid(
                f"differences to {table.baseline}, on the same seeds",
                ["row", "seeds", *HEADINGS.values()],
                [_differences(row) for row in differing],
            )
        )
    if _transfers(table):
        found.append(
            Grid(
                "how fast a set is learned, and what later ones do to it",
                ["row", *(name.replace("_", " ") for name in TRANSFER)],
                [[row.name, *(_share(row.estimates.get(name)) for name in TRANSFER)] for row in table.rows],
            )
        )
    kept = {row.name: by_predictor(row) for row in table.rows}
    lines = [
        [row, predictor, *(_share(figures.get(name)) for name in COMPARED)]
        for row, its in kept.items()
        for predictor, figures in its.items()
        if len(its) > 1
    ]
    if lines:
        title = "each predictor as if it had served all along"
        found.append(Grid(title, ["row", "predictor", *HEADINGS.values()], lines))
    return found


def _transfers(table: Table) -> bool:
    """Whether some row has a figure of TRANSFER."""
    return any(name in row.estimates for row in table.rows for name in TRANSFER)


def _forward(table: Table) -> bool:
    """Whether some row has images that go forward only."""
    found = [row.estimates.get("forward_images_per_event") for row in table.rows]
    return any(each.mean > 0 for each in found if each is not None)


def _differences(row: RowSummary) -> list[str]:
    pairs = next(iter(row.differences.values())).n
    return [row.name, str(pairs), *(_share(row.differences.get(name), "+") for name in COMPARED)]


def show(console: Console, tables: Sequence[Table], notes: Sequence[str]) -> None:
    """Print for people."""
    for table in tables:
        for grid in grids(table):
            shown = RichTable(
                title=grid.title,
                title_justify="left",
                title_style="italic",
                box=box.SIMPLE_HEAD,
                padding=(0, 1, 0, 0),
                pad_edge=False,
            )
            for heading in grid.headings:
                left = heading in TEXTS
                shown.add_column(heading, justify="left" if left else "right", no_wrap=heading != "row")
            for number, line in enumerate(grid.rows):
                shown.add_row(*line, style="bold" if number == grid.best else "")
            console.print(shown)
        if table.unranked:
            console.print(Text(table.unranked, "yellow"))
        elif table.unequal:
            console.print(Text(f"ranked all the same: {'; '.join(table.unequal)}", "yellow"))
    console.print(Text(_legend(tables), "dim"))
    for note in notes:
        console.print(Text(note, "yellow"))


def markdown(tables: Sequence[Table], notes: Sequence[str]) -> str:
    """The same in Markdown."""
    blocks = []
    for table in tables:
        for grid in grids(table):
            lines = [f"**{grid.title}**", ""]
            lines.append(_line(grid.headings))
            lines.append(_line(["---" if name in TEXTS else "---:" for name in grid.headings]))
            lines += [_line(row) for row in grid.rows]
            blocks.append("\n".join(lines))
        if table.unranked:
            blocks.append(table.unranked)
        elif table.unequal:
            blocks.append(f"ranked all the same: {'; '.join(table.unequal)}")
    return "\n\n".join([*blocks, _legend(tables), *notes]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _legend(tables: Sequence[Table]) -> str:
    differing = any(row.differences for table in tables for row in table.rows)
    forward = LEGEND_OF_FORWARD if any(map(_forward, tables)) else ""
    # All tables of a plan are of the same test examples.
    said = LEGEND.format(per_class=next((table.per_class for table in tables), 0), forward=forward)
    said += LEGEND_OF_TRANSFER if any(map(_transfers, tables)) else ""
    return f"{said} {LEGEND_OF_DIFFERENCES}." if differing else said
