"""`streamlearn bench` as people run it: the smoke benchmark, twice, and over a kill."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.processes import ROOT, Process, count_lines, here, wait_for

SMOKE = ["--config", str(ROOT / "ops/bench/smoke.toml")]
NOT_THE_SAME = ("measured", "host", "command")

Lines = dict[str, dict[str, Any]]


def lines(path: Path) -> Lines:
    """Results by key, without what differs from time to time."""
    found = {}
    for text in path.read_bytes().splitlines():
        result = json.loads(text)
        found[result["key"]] = {name: v for name, v in result.items() if name not in NOT_THE_SAME}
    return found


def ran(*words: str, status: int = 0) -> Process:
    with Process("bench", *words) as process:
        assert process.process.wait(280) == status, process.err
    return process


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Process]:
    """The folder of results and report of the whole smoke benchmark, and what it said."""
    folder = tmp_path_factory.mktemp("smoke")
    flags = ["--results", str(folder / "smoke.jsonl"), "--report", str(folder / "report")]
    return folder, ran(*SMOKE, *flags)


@pytest.mark.slow
def test_smoke(smoke: tuple[Path, Process], capfd: pytest.CaptureFixture[str]) -> None:
    folder, process = smoke
    said = "\n".join(process.out)
    for part in ("digits, memory 100, 4 images an event; seeds 0 1", " er ", "finetune", "differences to er"):
        assert part in said
    assert max(map(len, process.out)) <= 100
    assert "partial" not in said
    assert count_lines(folder / "smoke.jsonl") == 6
    again = folder / "smoke.jsonl"
    before = again.read_bytes()
    assert here("bench", *SMOKE, "--results", str(again), "--format", "json") == 0
    table = json.loads(capfd.readouterr().out)["tables"][0]
    assert again.read_bytes() == before
    rows: Mapping[str, Any] = {row["name"]: row for row in table["rows"]}
    er, finetune = (rows[name]["figures"] for name in ("er", "finetune"))
    assert er["final_accuracy"]["mean"] > finetune["final_accuracy"]["mean"] + 0.3
    assert er["images_per_event"]["mean"] == pytest.approx(4, rel=0.02)
    assert rows["finetune"]["rank"] is None


@pytest.mark.slow
def test_the_report_of_the_smoke_benchmark(smoke: tuple[Path, Process]) -> None:
    report = smoke[0] / "report"
    summary = json.loads((report / "summary.json").read_bytes())
    assert set(summary["learners"]) == {"er", "default", "finetune"}
    assert summary["learners"]["er"]["seeds"] == summary["seeds"] == [0, 1]
    assert summary["test_per_class"] == 15 and summary["made"].endswith("Z")
    assert all(len(each["prototypes"]["pairs"]) == 10 for each in summary["learners"].values())
    text = (report / "report.html").read_text("utf-8")
    for part in (
        "Seeds 0, 1;",
        "15 test examples, drawn by the seed, of every class",
        "The nearest pairs",
        "The runs ended on 20",
        "made on 20",
    ):
        assert part in text
    assert len(json.loads((report / "tables.json").read_bytes())["tables"]) == 1
    assert count_lines(report / "runs.csv") > 6 * 15
    assert count_lines(report / "curves.csv") > 3 * 15


@pytest.mark.slow
def test_results_from_before_a_figure_was_kept_are_good_for_all_the_others(
    smoke: tuple[Path, Process], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A figure more is no reason to run anything again: what a result is known by are its settings."""
    old, report = tmp_path / "old.jsonl", tmp_path / "report"
    results = [json.loads(text) for text in (smoke[0] / "smoke.jsonl").read_bytes().splitlines()]
    for result in results:
        del result["figures"]["prototype_pairs"], result["figures"]["forward_images_per_event"]
    old.write_text("".join(json.dumps(result) + "\n" for result in results))
    before = old.read_bytes()
    words = ["bench", *SMOKE, "--results", str(old), "--report", str(report), "--format", "json"]
    assert here(*words) == 0
    assert old.read_bytes() == before
    table = json.loads(capfd.readouterr().out)["tables"][0]
    assert {row["name"]: row["rank"] for row in table["rows"]}["finetune"] is None and not table["unranked"]
    assert "Not recorded in these results." in (report / "report.html").read_text("utf-8")


@pytest.mark.slow
def test_a_killed_bench_goes_on_where_it_was(smoke: tuple[Path, Process], tmp_path: Path) -> None:
    path = tmp_path / "killed.jsonl"
    words = [*SMOKE, "--results", str(path), "--bench.seeds", "1"]
    with Process("bench", *words, "--bench.processes", "1") as process:
        wait_for(lambda: count_lines(path) >= 1, "the first result")
        process.process.send_signal(signal.SIGKILL)
        process.process.wait(60)
    kept = path.read_bytes()
    assert 1 <= kept.count(b"\n") < 3
    path.write_bytes(kept + kept[:100])
    second = ran(*words)
    assert any("the last line is torn" in text for text in second.err)
    assert path.read_bytes().startswith(kept)
    assert count_lines(path) == 3
    whole = lines(smoke[0] / "smoke.jsonl")
    assert lines(path) == {key: result for key, result in whole.items() if result["seed"] == 1}


@pytest.mark.slow
def test_tuning_has_results_of_its_own(tmp_path: Path) -> None:
    config = tmp_path / "some.toml"
    config.write_text((ROOT / "ops/bench/smoke.toml").read_text())
    process = ran("--config", str(config), "--tune", "--format", "markdown")
    assert [text[:5] for text in process.out if text.startswith("| 1 |") or text.startswith("| 2 |")]
    assert "er tuned" in process.out[0]
    found = [json.loads(text) for text in (tmp_path / "results/some.tune.jsonl").read_bytes().splitlines()]
    assert len(found) == 2
    for result in found:
        assert result["command"].startswith("streamlearn bench --config") and "--tune" in result["command"]
        assert result["definition"]["evaluation"]["split"] == "validation"
        assert result["figures"]["tests"] == 200


@pytest.mark.slow
def test_what_fails_for_all_runs_ends_the_bench(tmp_path: Path) -> None:
    config = tmp_path / "some.toml"
    config.write_text((ROOT / "ops/bench/smoke.toml").read_text().replace('"digits"', '"clinc150"'))
    process = ran("--config", str(config), status=2)
    assert any("set data_dir" in text for text in process.err)


def said(capfd: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    assert here("bench", *words) == status
    captured = capfd.readouterr()
    return captured.out + captured.err


def test_usage(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "give --config FILE" in said(capfd, status=2)
    assert "--format is 'csv': it must be one of text, markdown, json" in said(
        capfd, *SMOKE, "--format", "csv", status=2
    )
    assert "flag --results needs a value" in said(capfd, *SMOKE, "--results", status=2)
    assert "--tune takes no value" in said(capfd, *SMOKE, "--tune=1", status=2)
    assert "did you mean seeds?" in said(capfd, *SMOKE, "--bench.seed", "1", status=2)
    nothing = said(capfd, *SMOKE, "--table", "--results", str(tmp_path / "none.jsonl"))
    assert "partial: 0 of 2 seeds so far" in " ".join(nothing.split())
    assert not (tmp_path / "none.jsonl").exists()
