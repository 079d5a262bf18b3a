"""The report of a benchmark: one folder a table, as `demo` and `run` write it, of means over the seeds."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from streamlearn.bench_plan import Plan, Run
from streamlearn.bench_results import Result
from streamlearn.bench_summary import RowSummary, Table, as_json
from streamlearn.report import write_report

ALIKE = (
    "average_accuracy forgetting min_accuracy worst_case_accuracy windowed_forgetting windowed_plasticity "
    "stability_gap"
).split()
"""Continual figures that have a mean over seeds."""
SHIFT = "events step before lowest gap recovery_events".split()


def write_reports(
    plan: Plan,
    results: Mapping[str, Result],
    tables: Sequence[Table],
    notes: Sequence[str],
    command: str,
    made: datetime,
) -> Path:
    """Write the report, made at this moment, where the settings say; several tables each get a folder inside.

    At the top lie tables.json, with all means, intervals and differences, and runs.csv, with the curve of
    every run. Raises OSError.
    """
    assert plan.base.report is not None
    top = Path(plan.base.report)
    top.mkdir(parents=True, exist_ok=True)
    whole = {"command": command, **as_json(tables, notes)}
    (top / "tables.json").write_bytes(orjson.dumps(whole, option=orjson.OPT_INDENT_2))
    done = [run for run in plan.runs if run.key in results]
    with open(top / "runs.csv", "w", newline="", encoding="utf-8") as file:
        rows = [row for run in done for row in _curve(run, results[run.key])]
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    for table, name in zip(tables, folders(tables), strict=True):
        folder = top if len(tables) == 1 else top / name
        learners, curves = {}, []
        for row in table.rows:
            mine = [r for r in done if r.cell == table.cell and r.row == row.name]
            if mine:
                found = [results[run.key] for run in mine]
                learners[row.name] = means(row, found) | {"prototypes": pairs(mine, results)}
                curves += mean_curve(row.name, [result["curve"] for result in found])
        if learners:
            by_rank = [row.name for row in table.rows]
            here = sorted((r for r in done if r.cell == table.cell), key=lambda run: by_rank.index(run.row))
            settings = here[0].settings.model_copy(update={"report": str(folder)})
            write_report(settings, learners, curves, made, about(table, here, results))
    return top


def about(table: Table, runs: Sequence[Run], results: Mapping[str, Result]) -> dict[str, Any]:
    """What a table's summary.json says beside its learners; its settings: the first run's, the leader's."""
    ended = sorted(str(at) for run in runs if (at := results[run.key]["measured"].get("finished")))
    return {
        "test_per_class": table.per_class,
        "seeds": sorted({run.seed for run in runs}),
        "settings_of": f"{runs[0].row}, seed {runs[0].seed}",
        **({"runs_ended": [ended[0], ended[-1]]} if ended else {}),
    }


def pairs(runs: Sequence[Run], results: Mapping[str, Result]) -> dict[str, Any]:
    """The nearest pairs of classes of a row's first seed that has them; older results have none."""
    found = {run.seed: results[run.key]["figures"].get("prototype_pairs") for run in runs}
    seed = next((seed for seed, its in found.items() if its is not None), runs[0].seed)
    return {"seed": seed, "pairs": found[seed]}


def folders(tables: Sequence[Table]) -> list[str]:
    """Of the folders: what is left of names that differ may be the same."""
    found: dict[str, str] = {}
    for table in tables:
        plain = _name(table)
        tries = (plain if number == 1 else f"{plain}-{number}" for number in itertools.count(1))
        name = next(name for name in tries if name.lower() not in found)
        found[name.lower()] = name
    return list(found.values())


def _name(table: Table) -> str:
    cell = table.cell
    parts = [cell.stream, f"memory {cell.memory}", f"{cell.budget:g} images", cell.about]
    return re.sub(r"[^A-Za-z0-9.]+", "-", " ".join(part for part in parts if part)).strip("-")


def _curve(run: Run, result: Result) -> Iterator[dict[str, Any]]:
    """The curve's rows as they were measured; sets go by their place, as every seed has others."""
    cell = run.cell
    about = {"stream": cell.stream, "memory": cell.memory, "images_per_event": cell.budget, "row": run.row}
    columns = _columns(result["curve"]["columns"])
    for values in result["curve"]["rows"]:
        yield about | {"seed": run.seed} | dict(zip(columns, values, strict=False))


def _columns(columns: Sequence[str]) -> list[str]:
    """The columns of the sets by number: accuracy_1, accuracy_2, ..."""
    fixed = [name for name in columns if name == "accuracy_seen_classes" or not name.startswith("accuracy_")]
    return [*fixed, *(f"accuracy_{i + 1}" for i in range(len(columns) - len(fixed)))]


def means(row: RowSummary, results: Sequence[Result]) -> dict[str, Any]:
    """What summary.json says of a row: means over its seeds."""
    figures = [result["figures"] for result in results]
    shifts = [found["shifts"] for found in figures]
    sets = max(len(found["sets"]) for found in figures)
    by_set = {f"group {i + 1}": _mean([_of_group(found, i) for found in figures]) for i in range(sets)}
    return {
        "seeds": row.done,
        "steps": _mean([found["steps"] for found in figures]),
        "events_learned": _mean([found["learned"] for found in figures]),
        "known_classes": _mean([found["classes"] for found in figures]),
        "images_per_event": _mean([found["images_per_event"] for found in figures]),
        "forward_images_per_event": _mean([found.get("forward_images_per_event") for found in figures]),
        "prequential": {
            "cumulative": {"accuracy": _mean([found["prequential_accuracy"] for found in figures])},
            "window": {"accuracy": _mean([found["prequential_window"] for found in figures])},
        },
        "continual": {
            **{name: _mean([found[name] for found in figures]) for name in ALIKE},
            "shifts": [
                {name: _mean([each[i][name] for each in shifts]) for name in SHIFT}
                | {"groups": [f"group {i + 1}"]}
                for i in range(min(map(len, shifts)))
            ],
        },
        "test_accuracy": _mean([found["final_accuracy"] for found in figures]),
        "test_accuracy_by_class": by_set,
        "test_examples": round(_mean([found["tests"] for found in figures]) or 0),
        "seconds": _mean([result["measured"]["seconds"] for result in results]),
        "memory_examples": row.memory,
    }


def _of_group(figures: Mapping[str, Any], number: int) -> float | None:
    """Final accuracy on the classes of a group."""
    by_class = list(figures["final_accuracy_by_class"].values())
    size = -(-len(by_class) // len(figures["sets"]))
    part = by_class[number * size : (number + 1) * size]
    return sum(part) / len(part) if part else None


def _mean(values: Sequence[Any]) -> Any:
    """Mean of what isn't None, None without any; of mappings, by key."""
    there = [value for value in values if value is not None]
    if there and isinstance(there[0], Mapping):
        return {key: _mean([each.get(key) for each in there]) for key in there[0]}
    return sum(there) / len(there) if there else None


def mean_curve(name: str, curves: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a learner's curve: means over the curves, taken at the events of the first.

    Where a curve has no evaluation at that moment its value is interpolated; before its first it has none.
    """
    at = [row[1] for row in curves[0]["rows"]]
    columns = _columns(curves[0]["columns"])
    read = []
    for curve in curves:
        table = np.array(
            [row + [None] * (len(curve["columns"]) - len(row)) for row in curve["rows"]], dtype=np.float64
        )
        read.append(np.stack([_at(at, table[:, 1], column) for column in table.T], axis=1))
    width = min(part.shape[1] for part in read)
    there = np.stack([part[:, :width] for part in read])
    counts = (~np.isnan(there)).sum(axis=0)
    mean = np.nansum(there, axis=0) / np.where(counts, counts, np.nan)
    rows = []
    for values in mean.round(5).tolist():
        found = {n: None if np.isnan(v) else v for n, v in zip(columns, values, strict=False)}
        sets = {column: found.pop(column) for column in columns if _is_set(column) and column in found}
        found["sets"] = {
            f"group {column.removeprefix('accuracy_')}": value
            for column, value in sets.items()
            if value is not None
        }
        found["events"] = round(found["events"] or 0)
        rows.append({"learner": name, **found})
    return rows


def _is_set(column: str) -> bool:
    return column.removeprefix("accuracy_").isdecimal()


def _at(at: Sequence[float], events: Any, values: Any) -> Any:
    """`values` at the moments `at`, NaN before the first that there is."""
    there = ~np.isnan(values)
    if not there.any():
        return np.full(len(at), np.nan)
    return np.interp(at, events[there], values[there], left=np.nan)
