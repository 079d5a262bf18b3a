"""What the results of a benchmark say: rows of figures over seeds, and whether they may be ranked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from streamlearn.bench_plan import Cell, Plan, Run, examples
from streamlearn.bench_results import Result
from streamlearn.bench_statistics import Estimate, estimate, paired
from streamlearn.transfer import Transfer

TRANSFER = [each.name for each in fields(Transfer)]
FIGURES = [
    *"final_accuracy worst_case_accuracy average_accuracy min_accuracy forgetting stability_gap".split(),
    *TRANSFER,
    *"prequential_accuracy images_per_event forward_images_per_event memory_bytes".split(),
]
"""Of a result's figures, those with a mean over seeds."""
MEASURED = "seconds cpu_seconds evaluation_seconds peak_rss_bytes".split()
"""Of what a result measured."""
COMPARED = "final_accuracy worst_case_accuracy forgetting stability_gap".split()
"""Those with a difference to the baseline."""

BySeed = dict[int, float]


@dataclass
class RowSummary:
    """One row of a table. values: by figure and seed; predictors: the same by predictor."""

    name: str
    reference: bool
    memory: int
    planned: list[int] = field(default_factory=list)
    values: dict[str, BySeed] = field(default_factory=dict)
    predictors: dict[str, dict[str, BySeed]] = field(default_factory=dict)
    estimates: dict[str, Estimate] = field(default_factory=dict)
    differences: dict[str, Estimate] = field(default_factory=dict)
    rank: int | None = None

    @property
    def done(self) -> list[int]:
        return sorted(self.values.get("final_accuracy", {}))

    def add(self, seed: int, result: Result) -> None:
        figures, measured = result["figures"], result["measured"]
        found = {name: figures.get(name) for name in FIGURES} | {
            name: measured.get(name) for name in MEASURED
        }
        for name, value in found.items():
            if value is not None:
                self.values.setdefault(name, {})[seed] = float(value)
        for predictor, its in figures["by_predictor"].items():
            for name, value in its.items():
                if value is not None:
                    self.predictors.setdefault(predictor, {}).setdefault(name, {})[seed] = float(value)


@dataclass
class Table:
    """One table. unequal: why its rows can't be compared; unranked: why there are no ranks.

    per_class: test examples of a class, drawn by the seed, that all figures but the final accuracy are of.
    """

    cell: Cell
    baseline: str | None
    rows: list[RowSummary]
    per_class: int
    unequal: list[str] = field(default_factory=list)
    unranked: str = ""

    @property
    def partial(self) -> str:
        """ "er 3 of 5 seeds, …" of the rows that aren't complete, or nothing."""
        few = [row for row in self.rows if len(row.done) < len(row.planned)]
        alike = {(len(row.done), len(row.planned)) for row in self.rows}
        if few and len(alike) == 1:
            return "{} of {} seeds so far".format(*alike.pop())
        return ", ".join(f"{row.name} {len(row.done)} of {len(row.planned)} seeds" for row in few)

    @property
    def seeds(self) -> list[int]:
        return sorted({seed for row in self.rows for seed in row.planned})


def summarise(plan: Plan, results: Mapping[str, Result]) -> list[Table]:
    """The tables of a plan, of the results that there are, rows in order of their rank."""
    by_cell: dict[Cell, dict[str, RowSummary]] = {}
    for run in plan.runs:
        rows = by_cell.setdefault(run.cell, {})
        row = rows.get(run.row) or RowSummary(run.row, run.reference, examples(run.settings))
        rows[run.row] = row
        row.planned.append(run.seed)
        if run.key in results:
            row.add(run.seed, results[run.key])
    bench = plan.file.bench
    names = [row.name for row in plan.file.rows]
    tables = []
    for cell, rows in by_cell.items():
        ordered = sorted(rows.values(), key=lambda row: names.index(row.name))
        table = Table(cell, bench.baseline, ordered, bench.test_per_class)
        tables.append(_compared(table, bench.tolerance, bench.unequal))
    return tables


def _compared(table: Table, tolerance: float, unequal: bool) -> Table:
    """Fill in estimates, differences and ranks, or why there are none."""
    for row in table.rows:
        row.estimates = estimates(row.values)
    ranked = [row for row in table.rows if not row.reference and row.done]
    table.unequal = differences_in_means(ranked, table.cell, tolerance)
    if table.unequal and not unequal:
        table.unranked = "not ranked: " + "; ".join(table.unequal)
        return table
    base = next((row for row in table.rows if row.name == table.baseline), None)
    for row in table.rows if base is not None else ():
        if base is None or row is base:
            continue
        found = {name: paired(row.values.get(name, {}), base.values.get(name, {})) for name in COMPARED}
        row.differences = {name: each for name, each in found.items() if each is not None}
    if len({tuple(row.done) for row in ranked}) > 1:
        table.unranked = "not ranked yet: rows have different seeds so far"
        return table
    ranked.sort(key=lambda row: -row.estimates["final_accuracy"].mean)
    for rank, row in enumerate(ranked, 1):
        row.rank = rank
    # Rows without a rank, references among them, come last.
    table.rows.sort(key=lambda row: row.rank or len(ranked) + 1)
    return table


def differences_in_means(rows: Sequence[RowSummary], cell: Cell, tolerance: float) -> list[str]:
    """What is unequal among rows that are to be ranked: examples kept, images per event as measured."""
    if not rows:
        return []
    said = []
    if len({row.memory for row in rows} | {cell.memory}) > 1:
        said.append(
            f"the memory is {cell.memory} examples, replay and held out together, but "
            + ", ".join(f"{row.name} keeps {row.memory}" for row in rows if row.memory != cell.memory)
        )
    images = {row.name: row.estimates["images_per_event"].mean for row in rows}
    least, most = min(images.values()), max(images.values())
    listed = ", ".join(f"{name} {value:.2f}" for name, value in images.items())
    if most > least * (1 + tolerance):
        said.append(f"images per event differ by more than {tolerance:.0%}: {listed}")
    elif most > cell.budget * (1 + tolerance):
        said.append(f"the budget of {cell.budget:g} images per event is exceeded: {listed}")
    # (Results from before there was this figure count as 0: no benchmark of ours had a teacher then.)
    none = Estimate(0.0, None, 0)
    forward = {row.name: row.estimates.get("forward_images_per_event", none).mean for row in rows}
    if max(forward.values()) > min(forward.values()) * (1 + tolerance):
        listed = ", ".join(f"{name} {value:.2f}" for name, value in forward.items())
        said.append(f"images per event that go forward only differ by more than {tolerance:.0%}: {listed}")
    return said


def remarks(runs: Iterable[Run], results: Mapping[str, Result]) -> list[str]:
    """What a reader must know of where the figures come from: code, hosts, other settings."""
    used = [results[run.key] for run in runs if run.key in results]

    def mixed(of: Callable[[Result], Any]) -> str:
        counted = Counter(str(of(result)) for result in used)
        return (
            ", ".join(f"{name} ({n} runs)" for name, n in counted.most_common()) if len(counted) > 1 else ""
        )

    said = []
    if text := mixed(lambda result: f"{result['versions']['streamlearn']} {result['versions']['code']}"):
        said.append(
            f"made by several versions of the code: {text}. Take the lines of one out of the results to have "
            "its runs done again"
        )
    if text := mixed(lambda result: f"torch {result['versions']['torch']}"):
        said.append(f"made by several versions of torch: {text}")
    if text := mixed(lambda result: result["host"]["cpu"]):
        said.append(f"seconds were measured on several machines: {text}")
    return said


def as_json(tables: Sequence[Table], notes: Sequence[str]) -> dict[str, Any]:
    """All of it for machines. Shares in 0..1; half: of the 95 % interval, null for one seed."""

    def plain(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
        return {name: {"mean": e.mean, "half": e.half, "seeds": e.n} for name, e in estimates.items()}

    return {
        "tables": [
            {
                "stream": table.cell.stream,
                "memory": table.cell.memory,
                "images_per_event": table.cell.budget,
                **({"tunes": table.cell.about} if table.cell.about else {}),
                "baseline": table.baseline,
                "test_per_class": table.per_class,
                "partial": table.partial or None,
                "unequal": table.unequal,
                "unranked": table.unranked or None,
                "rows": [
                    {
                        "name": row.name,
                        "rank": row.rank,
                        "reference": row.reference,
                        "seeds": row.done,
                        "planned_seeds": row.planned,
                        "memory_examples": row.memory,
                        "figures": plain(row.estimates),
                        "differences": plain(row.differences),
                        "by_predictor": {name: plain(e) for name, e in by_predictor(row).items()},
                    }
                    for row in table.rows
                ],
            }
            for table in tables
        ],
        "notes": list(notes),
    }


def by_predictor(row: RowSummary) -> dict[str, dict[str, Estimate]]:
    """The figures of each predictor that the row kept, as if it had served all along."""
    return {name: estimates(its) for name, its in row.predictors.items()}


def estimates(values: Mapping[str, BySeed]) -> dict[str, Estimate]:
    """By figure, those that there are."""
    found = {name: estimate(list(by_seed.values())) for name, by_seed in values.items()}
    return {name: each for name, each in found.items() if each is not None}
