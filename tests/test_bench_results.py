"""The results of a benchmark: lines that survive a kill, statistics, ranks and their refusal, tables."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from streamlearn.bench_plan import Plan, Run
from streamlearn.bench_report import about, folders, mean_curve, pairs
from streamlearn.bench_results import Results
from streamlearn.bench_statistics import Estimate, estimate, paired
from streamlearn.bench_summary import Table, as_json, remarks, summarise
from streamlearn.bench_table import WIDTH, markdown, show
from streamlearn.settings import SettingsError
from tests.bench_files import FILE, ROW_OF_ITS_OWN, plan_of, result

# ---- lines


def written(path: Path, *keys: str) -> None:
    with Results(path) as results:
        for key in keys:
            results.add({"key": key, "n": len(keys)})


def test_lines_are_found_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "some.jsonl"
    written(path, "a", "b")
    written(path, "b")
    assert Results(path).read().found == {"a": {"key": "a", "n": 2}, "b": {"key": "b", "n": 1}}
    assert path.read_bytes().count(b"\n") == 3


@pytest.mark.parametrize("torn", [b'{"key": "c", "n', b'{"key":"c","n":1}'])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "some.jsonl"
    written(path, "a")
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    only_read = Results(path).read()
    assert set(only_read.found) == {"a"}
    assert "torn" in only_read.problems[0]
    assert path.read_bytes() == whole + torn
    written(path, "d")
    assert path.read_bytes().startswith(whole)
    assert set(Results(path).read().found) == {"a", "d"}


def test_a_line_that_is_no_result_is_named(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    path.write_bytes(b'{"key":"a"}\nnonsense\n[1]\n\n{"key":"b"}\n')
    results = Results(path).read()
    assert set(results.found) == {"a", "b"}
    assert [text.split(":")[0].rpartition(" ")[2] for text in results.problems] == ["2", "3"]


def test_two_benches_dont_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    with Results(path), pytest.raises(SettingsError, match="another bench"), Results(path):
        pass
    written(path, "a")


# ---- statistics


@pytest.mark.parametrize(("n", "t"), [(2, 12.706), (3, 4.303), (5, 2.776), (10, 2.262), (31, 2.042)])
def test_the_quantile_is_that_of_the_printed_tables(n: int, t: float) -> None:
    values = [float(i % 2) for i in range(n)]
    found = estimate(values)
    assert found is not None and found.half is not None
    assert found.half == pytest.approx(t * np.std(values, ddof=1) / np.sqrt(n), rel=2e-4)


@pytest.mark.parametrize("n", [2, 3, 5, 9])
def test_the_interval_is_that_of_scipy(n: int) -> None:
    rng = np.random.default_rng(n)
    values, baseline = rng.normal(0.7, 0.1, n), rng.normal(0.6, 0.1, n)
    found = estimate(list(values))
    assert found is not None and found.half is not None
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))
    order = rng.permutation(n)
    pairs = paired(
        dict(zip(order.tolist(), values[order].tolist(), strict=True)), dict(enumerate(baseline.tolist()))
    )
    assert pairs is not None and pairs.half is not None
    low, high = stats.ttest_rel(values, baseline).confidence_interval(0.95)
    assert (pairs.mean - pairs.half, pairs.mean + pairs.half) == pytest.approx((low, high))
    assert pairs.clear == (stats.ttest_rel(values, baseline).pvalue < 0.05)


def test_few_seeds() -> None:
    assert estimate([]) is None
    assert estimate([0.3]) == Estimate(0.3, None, 1)
    assert not Estimate(0.3, None, 1).clear
    assert estimate([0.3, 0.3]) == Estimate(0.3, 0.0, 2)
    assert paired({1: 0.5}, {2: 0.5}) is None
    assert paired({1: 0.5, 2: 9.0}, {1: 0.25, 3: 9.0}) == Estimate(0.25, None, 1)


# ---- ranks


Of = Callable[[Run], dict[str, Any]]


def tables(plan: Plan, of: Of, but: Sequence[Run] = ()) -> list[Table]:
    return summarise(plan, {run.key: result(run, **of(run)) for run in plan.runs if run not in but})


def by_row(run: Run) -> dict[str, Any]:
    return {"final_accuracy": {"er": 0.5, "ace": 0.6, "finetune": 0.9}[run.row] + 0.01 * run.seed}


def ranks(table: Table) -> dict[str, int | None]:
    return {row.name: row.rank for row in table.rows}


def test_rows_are_ranked_by_accuracy_references_last(tmp_path: Path) -> None:
    (table,) = tables(plan_of(tmp_path, FILE + ROW_OF_ITS_OWN), by_row)
    assert list(ranks(table).items()) == [("ace", 1), ("er", 2), ("finetune", None)]
    assert not table.unranked and not table.partial
    ace = table.rows[0]
    assert ace.estimates["final_accuracy"].mean == pytest.approx(0.61)
    assert ace.differences["final_accuracy"].mean == pytest.approx(0.1)
    assert ace.differences["final_accuracy"].half == pytest.approx(0, abs=1e-9)


def test_unequal_budgets_are_not_ranked_unless_told_to(tmp_path: Path) -> None:
    def of(run: Run) -> dict[str, Any]:
        return by_row(run) | {"images": 4.0 if run.row == "er" else 3.7}

    (table,) = tables(plan_of(tmp_path), of)
    assert ranks(table) == {"er": None, "ace": None}
    assert not any(row.differences for row in table.rows)
    assert "images per event differ by more than 5%: er 4.00, ace 3.70" in table.unranked
    (table,) = tables(plan_of(tmp_path, FILE, "--bench.unequal", "true"), of)
    assert ranks(table) == {"er": 2, "ace": 1}
    assert table.unequal
    (table,) = tables(plan_of(tmp_path, FILE, "--bench.tolerance", "0.1"), of)
    assert ranks(table) == {"er": 2, "ace": 1} and not table.unequal
    (table,) = tables(plan_of(tmp_path), lambda run: {"images": 5.0})
    assert "the budget of 4 images per event is exceeded" in table.unranked


def test_rows_whose_teachers_cost_more_are_not_ranked_unless_told_to(tmp_path: Path) -> None:
    def of(run: Run) -> dict[str, Any]:
        return by_row(run) | ({"forward_images_per_event": 3.9} if run.row == "ace" else {})

    (table,) = tables(plan_of(tmp_path), of)
    assert ranks(table) == {"er": None, "ace": None}
    assert "that go forward only differ by more than 5%: er 0.00, ace 3.90" in table.unranked
    assert "| images | forward | CPU s |" in markdown([table], [])
    assert "(a teacher's), not among images" in markdown([table], [])
    (table,) = tables(plan_of(tmp_path, FILE, "--bench.unequal", "true"), of)
    assert ranks(table) == {"er": 2, "ace": 1}
    alike, old = (
        tables(plan_of(tmp_path), lambda _: {"forward_images_per_event": 3.9}),
        tables(plan_of(tmp_path), by_row),
    )
    assert not alike[0].unranked and not old[0].unranked
    assert "forward" not in markdown(old, [])


def test_unequal_memory_is_not_ranked(tmp_path: Path) -> None:
    text = FILE.replace('model.head = "linear"', "memory.capacity = 130")
    plan = plan_of(tmp_path, text, "--bench.unequal", "true")
    (table,) = tables(plan, by_row)
    assert "the memory is 100 examples" in table.unequal[0]
    assert "ace keeps 130" in table.unequal[0]


def test_partial_results_say_so(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    late = [run for run in plan.runs if run.seed == 2]
    (table,) = tables(plan, by_row, but=late)
    assert table.partial == "2 of 3 seeds so far"
    assert ranks(table) == {"er": 2, "ace": 1}
    (table,) = tables(plan, by_row, but=[late[0]])
    assert table.partial == f"{late[0].row} 2 of 3 seeds"
    assert "different seeds" in table.unranked
    assert ranks(table) == {"er": None, "ace": None}
    ace = next(row for row in table.rows if row.name == "ace")
    assert ace.differences["final_accuracy"].n == 2
    (table,) = tables(plan, by_row, but=plan.runs)
    assert table.partial == "0 of 3 seeds so far"


def test_mixed_code_and_machines_are_said(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    results: dict[str, Any] = {run.key: result(run) for run in plan.runs}
    assert remarks(plan.runs, results) == []
    results[plan.runs[0].key] |= {
        "versions": {"streamlearn": "0", "torch": "2", "code": "def"},
        "host": {"cpu": "b"},
    }
    said = remarks(plan.runs, results)
    assert "0 abc (5 runs), 0 def (1 runs)" in said[0]
    assert "several machines" in said[1]


# ---- tables


def test_tables_as_text_markdown_and_json(tmp_path: Path) -> None:
    text = FILE.replace('name = "ace"', 'name = "er_ace with a linear head and a | in its name"')
    plan = plan_of(tmp_path, text)

    def of(run: Run) -> dict[str, Any]:
        both = {"weights": {"final_accuracy": 0.5}, "average": {"final_accuracy": 0.6}}
        return {"final_accuracy": 0.5 + run.seed / 10, "by_predictor": both if run.row == "er" else {}}

    found = tables(plan, of)
    console = Console(width=WIDTH, file=io.StringIO())
    show(console, found, ["a note"])
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, shown.splitlines())) <= WIDTH
    for part in ("60.0 ±24.8", "3/3", "4.00", "differences to er", "average", "a note", "seeds 0 1 2"):
        assert part in shown
    plain = markdown(found, ["a note"])
    rows = [line for line in plain.splitlines() if line.startswith("| 1 |")]
    assert len(rows) == 1 and "60.0 ±24.8" in rows[0]
    assert "a \\| in its name" in plain
    assert "| er | 70.0 ±0.0 | -12.5 ±0.0 | - |" in plain
    whole = json.loads(json.dumps(as_json(found, ["a note"])))
    first = whole["tables"][0]["rows"][0]
    assert first["figures"]["final_accuracy"]["mean"] == pytest.approx(0.6)
    assert first["figures"]["final_accuracy"]["seeds"] == 3
    assert "these three: of 100 test examples of a class, drawn by the seed" in plain
    assert whole["tables"][0]["test_per_class"] == 100


def test_curves_are_averaged_where_they_were_measured() -> None:
    columns = ["step", "events", "accuracy_seen_classes", "accuracy_a", "accuracy_b"]
    one = {"columns": columns, "rows": [[1, 10, 0.5, 0.5], [2, 20, 0.4, 0.2, 0.6], [3, 30, 0.6, 0.4, 0.8]]}
    two = {"columns": columns, "rows": [[1, 10, 0.7, 0.7], [3, 30, None, 0.5, 0.9]]}
    rows = mean_curve("er", [one, two])
    assert [row["events"] for row in rows] == [10, 20, 30]
    assert rows[0] == {
        "learner": "er", "step": 1.0, "events": 10, "accuracy_seen_classes": 0.6, "sets": {"group 1": 0.6}
    }  # fmt: skip
    assert rows[1]["sets"] == {"group 1": pytest.approx(0.4), "group 2": pytest.approx(0.6)}
    assert rows[2]["sets"] == {"group 1": pytest.approx(0.45), "group 2": pytest.approx(0.85)}


def test_a_report_names_its_seeds_and_shows_the_first_pairs_that_there_are(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    results: dict[str, Any] = {run.key: result(run) for run in plan.runs}
    (table,) = summarise(plan, results)
    runs = [run for run in plan.runs if run.row == "er"]
    assert about(table, runs, results) == {
        "test_per_class": 100, "seeds": [0, 1, 2], "settings_of": "er, seed 0"
    }  # fmt: skip
    assert pairs(runs, results) == {"seed": 0, "pairs": None}
    results[runs[1].key]["figures"]["prototype_pairs"] = [["3", "8", 0.5]]
    assert pairs(runs, results) == {"seed": 1, "pairs": [["3", "8", 0.5]]}
    for run, day in zip(runs, ("21", "20", "22"), strict=True):
        results[run.key]["measured"]["finished"] = f"2026-11-{day}T00:00:00+00:00"
    ended = about(table, runs, results)["runs_ended"]
    assert [each[:10] for each in ended] == ["2026-11-20", "2026-11-22"]


def test_every_table_of_a_report_has_a_folder_of_its_own(tmp_path: Path) -> None:
    """What is left of names that differ, once it may name a folder, can be the same."""
    streams = "".join(
        f'[[streams]]\nname = "{name}"\ndataset = "digits"\nper_class = 20\n'
        for name in ("数据", "流れ", "ein Strom", "ein-Strom", "Ein Strom")
    )
    plan = plan_of(tmp_path, streams + FILE.replace("[[streams]]", '[[streams]]\nname = "-"'))
    tables = summarise(plan, {})
    names = folders(tables)
    assert len({name.lower() for name in names}) == len(tables) == 6
    assert names[:3] == ["memory-100-4-images", "memory-100-4-images-2", "ein-Strom-memory-100-4-images"]
