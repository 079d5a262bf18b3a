"""Every benchmark script runs, at a tiny size, and writes the figures that it is there for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("STREAMLEARN_TEST_DATA") or ROOT.parent / "shared" / "data")

pytestmark = pytest.mark.slow


def bench(name: str, out: Path, *flags: str) -> dict[str, Any]:
    """The result of `python -m ops.bench.<name> flags`."""
    done = subprocess.run(
        [sys.executable, "-m", f"ops.bench.{name}", "--out", str(out), "--work-dir", str(out.parent), *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result: dict[str, Any] = json.loads(out.read_bytes())
    assert {"date", "cpu", "commit", "versions", "options"} <= result.keys()
    return result


def data(name: str) -> None:
    if not (DATA / name).exists():
        pytest.skip(f"{DATA / name} is not there (STREAMLEARN_TEST_DATA names its folder)")


@pytest.mark.parametrize("format", ["jsonl", "msgpack"])
def test_million(tmp_path: Path, format: str) -> None:
    flags = "--events 4000 --format".split()
    found = bench("million", tmp_path / "million.json", *flags, format)["long_run"]
    assert found["events"] == 4000
    assert found["accuracy"] > 0.3
    assert found["events_per_second"] > 0


def test_w1(tmp_path: Path) -> None:
    found = bench("w1", tmp_path / "w1.json", *"--rounds 1 --events 1000".split())
    rows = {row["loop"]: row for row in found["rounds"]}
    assert len(rows) == 13
    assert rows["plain loop, arrays"]["to_plain"] == 1
    # The same stream, whichever way it comes: the loops' own differences aside, accuracies are the same.
    plain = {row["accuracy"] for name, row in rows.items() if name.startswith("plain")}
    matched = {row["accuracy"] for name, row in rows.items() if name.endswith(" matched")}
    assert len(plain) == len(matched) == 1
    assert min(plain | matched) > 0.3


def test_images(tmp_path: Path) -> None:
    data("fashion_mnist.npz")
    flags = ["--data-dir", str(DATA), *"--rounds 1 --events 600".split()]
    found = bench("images", tmp_path / "images.json", *flags)["rounds"]
    rows = {row["loop"]: row for row in found}
    assert len(rows) == 8
    assert all(row["to_by_hand"] > 0 for row in found)
    # The same learning, whoever does it, from arrays and from encoded images.
    assert rows["W2 by hand"]["accuracy"] == rows["W5 by hand"]["accuracy"]
    assert rows["W2 learner"]["accuracy"] == rows["W5 run"]["accuracy"]
    by_hand, ours = (rows[name]["test_accuracy"] for name in ("W3 by hand", "W3 learner"))
    assert abs(by_hand - ours) < 0.15


def test_growth(tmp_path: Path) -> None:
    sizes = "--classes 10 20 --memory 200 300 --length 1000 1500".split()
    sizes += "--partitions 1 2 --events 90000 --turns 2".split()
    rows = bench("growth", tmp_path / "growth.json", *"--rounds 1 --window 500".split(), *sizes)["rows"]
    in_memory = [10, 20, 200, 300, 1000, 1500]
    assert [row["size"] for row in rows] == [*in_memory, 1, 2, *in_memory]
    assert all(row["us_per_event"] > 0 for row in rows)


def test_kafka(tmp_path: Path) -> None:
    flags = (
        "--learners default --events 150000 --rounds 2 --seconds 0.5 --warm 2000 --latency-seconds 2".split()
    )
    found = bench("kafka", tmp_path / "kafka.json", *flags)
    rows = {row["loop"]: row for row in found["rows"]}
    beside = "memory, beside as much traffic"
    assert list(rows) == ["memory", "kafka, msgpack", "kafka, json", beside]
    assert rows["memory"]["to_memory"] == 1
    assert all(row["events_per_second"] > 0 and row["cpu_us_per_event"] > 0 for row in rows.values())
    assert 0 < found["latency"]["p50_seconds"] <= found["latency"]["p99_seconds"]
    assert found["latency"]["events"] > 100


def test_checkpoint_100k(tmp_path: Path) -> None:
    flags = "--images 600 --phase-seconds 1.5 --seconds 0.4 --phases 1 --model.width 16".split()
    found = bench("checkpoint_100k", tmp_path / "checkpoint.json", *flags)
    phases = [one["phase"] for one in found["phases"]]
    assert phases == ["fill", "first", "off", "catch_up", "on"]
    summary = found["summary"]
    assert summary["first_bytes"] > 600 * 3072
    assert summary["later_checkpoints"] >= 1
    assert 0 < summary["longest_pause_seconds"] < 5


def test_observing(tmp_path: Path) -> None:
    flags = "--classes 10 20 --events 2000 --rounds 1 --every 0.05".split()
    found = bench("observing", tmp_path / "observing.json", *flags)
    assert [row["classes"] for row in found["scrapes"]] == [10, 10, 10, 20, 20, 20]
    assert all(row["bytes"] > 1000 and row["median_ms"] > 0 for row in found["scrapes"])
    assert [row["watched_by"] for row in found["rounds"]] == ["neither", "exporter", "evaluation", "both"]
    assert all(row["events_per_second"] > 0 for row in found["rounds"])


def test_faults(tmp_path: Path) -> None:
    """The order in which things are said, at a tiny patience; a full disk only where one can be mounted."""
    found = bench("faults", tmp_path / "faults.json", "--stall", "2", "--patience", "12", "--alerts", "0")
    rows = {row["fault"]: row for row in found["rows"]}
    for fault in ("the learner hangs", "the Kafka loop hangs", "records don't come"):
        row = rows[fault]
        assert 1 < row["healthz"] < 10 and row["ended"] is None, row
        assert row["log_says"].partition("not healthy: ")[2].startswith(row["healthz_says"][:20]), row
    gone = rows["the broker is gone"]
    assert "no broker has answered" in gone["log_says"] and gone["ended_says"].startswith("status 4"), gone
    if "the disk is full" in rows:
        full = rows["the disk is full"]
        assert "checkpoint not written" in full["log_says"] and full["ended_says"].startswith("status 6")


def test_electricity(tmp_path: Path) -> None:
    data("elec.csv")
    flags = ["--data-dir", str(DATA), "--seeds", "1", "--events", "2000"]
    found = bench("electricity", tmp_path / "electricity.json", *flags)
    assert found["streamlearn"][0]["events"] == 2000
    assert found["streamlearn"][0]["dead_letters"] == 0
    assert found["mean_accuracy"] > 0.6
    assert found["previous_label"] > 0.6


def test_clinc(tmp_path: Path) -> None:
    data("clinc150.json")
    flags = ["--data-dir", str(DATA), "--train", "600", "--test", "100", "--no-river"]
    found = bench("clinc", tmp_path / "clinc.json", *flags)
    with_domain, without, majority = found["rows"]
    assert with_domain["domain"] and not without["domain"]
    assert with_domain["test"] > majority["test"]
    assert with_domain["known_classes"] > 100
