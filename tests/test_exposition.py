"""Every figure, as Prometheus scrapes it over HTTP in both formats, and as /status tells it."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from prometheus_client import Metric

from streamlearn.continual import SetAccuracy
from streamlearn.observe import Observation, Vitals
from streamlearn.prequential import Figures
from tests import metrics_table
from tests.exposed import EXPECTED, FULL, TOPIC
from tests.scrape import OPENMETRICS, Site, parsed, serving


@pytest.fixture
def site() -> Iterator[Site]:
    vitals = Vitals(60)
    vitals.observation = FULL
    vitals.play("learner")
    with serving(vitals) as running:
        yield running


@pytest.mark.parametrize("accept", ["", OPENMETRICS], ids=["text", "openmetrics"])
def test_every_figure_is_there(site: Site, accept: str) -> None:
    samples = site.samples(accept)
    wrong = {
        key: samples.get(key) for key, value in EXPECTED.items() if samples.get(key) != pytest.approx(value)
    }
    assert wrong == {}
    named = {name: dict(labels) for name, labels in samples}
    assert set(named["streamlearn_build_info"]) == {"version", "torch", "python"}
    assert "process_resident_memory_bytes" in named
    assert "python_info" not in named


@pytest.mark.parametrize("accept", ["", OPENMETRICS], ids=["text", "openmetrics"])
def test_figures_that_are_not_there_yet_are_left_out(accept: str) -> None:
    vitals = Vitals(60)
    vitals.observation = Observation(prequential={"window": Figures(None, None, None)})
    with serving(vitals) as site:
        names = {name for name, _ in site.samples(accept)}
    for absent in ("last_checkpoint_timestamp_seconds", "prequential_kappa", "prequential_accuracy"):
        assert f"streamlearn_{absent}" not in names
    assert {"streamlearn_events_total", "streamlearn_step_seconds_count"} & names == {
        "streamlearn_events_total"
    }


def test_counters_count_from_the_start_of_the_process(site: Site) -> None:
    site.vitals.base = Observation(
        learned=100, predicted=200, skipped_steps=2, forgotten=4, rejected={"undecodable": 3}
    )
    samples = site.samples()
    outcomes = {
        dict(labels)["outcome"]: value
        for (name, labels), value in samples.items()
        if name == "streamlearn_events_total"
    }
    assert outcomes == {"learned": 20, "predicted": 0, "held_out": 11, "forgotten": 2, "dead_lettered": 2}
    assert samples["streamlearn_skipped_steps_total", frozenset()] == 0
    assert json.loads(site.ask("/status").body)["learned"] == 120


def families(site: Site) -> list[Metric]:
    return [
        family
        for family in parsed(site.ask("/metrics", Accept=OPENMETRICS).text, OPENMETRICS)
        if family.name.startswith("streamlearn_")
    ]


def test_every_metric_has_help_and_its_unit(site: Site) -> None:
    for family in families(site):
        assert family.documentation.endswith((".", "first.", "nats.")), family.name
        last = family.name.rpartition("_")[2]
        assert family.unit == (last if last in ("seconds", "bytes") else ""), family.name


@pytest.mark.slow
def test_promtool_finds_nothing_to_say(site: Site) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool (Debian package prometheus) is not installed")
    text = site.ask("/metrics").text
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_status_says_it_all(site: Site) -> None:
    site.vitals.output_problem = "disk full"
    answer = site.ask("/status")
    assert answer.headers["Content-Type"] == "application/json"
    assert "NaN" not in answer.text
    status = json.loads(answer.body)
    assert status.pop("version")
    assert abs(datetime.fromisoformat(status.pop("time")).timestamp() - time.time()) < 60
    assert status == {
        "ready": True,
        "unready": None,
        "healthy": True,
        "sickness": None,
        "output_problem": "disk full",
        "role": "learner",
        "paused": False,
        "epoch": 3,
        "resumed": True,
        "read_bytes": 6000,
        "step": 12,
        "skipped_steps": 2,
        "records": 130,
        "learned": 120,
        "predicted": 125,
        "held_out": 11,
        "forgotten": 6,
        "blocked_ids": 2,
        "pending": 5,
        "held": 0,
        "dead_letters": {"undecodable": 4, "too_large": 1},
        "known_classes": 7,
        "classes": ["a", 'odd "\\udc80"'],
        "parameters": 1234,
        "images_per_event": 2.5,
        "offsets": {TOPIC: {"0": 130, "1": 7}},
        "checkpointed_offsets": {TOPIC: {"0": 120, "1": 7}},
        "lag": {TOPIC: {"0": 3, "1": 0}},
        "ends": {TOPIC: {"0": 133, "1": 7}},
        "queues": {"records": 4, "outputs": 5},
        "traffic": {
            "rebalances": 2,
            "fetch_pauses": 1,
            "commits": 30,
            "records_lost": 4,
            "answered_at": 1795240801.5,
            "held": True,
        },
        "memory": {
            "examples": 100,
            "capacity": 500,
            "bytes": 64000,
            "classes": 7,
            "shares": {"a": 0.5, 'odd "\\udc80"': 0.125, "other": 0.375},
            "ages": {"mean": 40.5, "oldest": 120.0},
        },
        "device_memory": {"allocated": 1000, "total": 9000},
        "device_utilization": 0.75,
        "last_checkpoint": {
            "id": "c-9",
            "timestamp": 1795240800.5,
            "time": "2026-11-21T06:00:00Z",
            "bytes": 4096,
            "written": 9,
            "failures": 1,
            "duration_seconds": 0.5,
            "pause_seconds": 0.001,
            "writing_seconds": 2.5,
            "free_bytes": 8192,
        },
        "prequential": {
            "cumulative": {
                "accuracy": 0.8,
                "kappa_majority": pytest.approx(0.6),
                "kappa_no_change": pytest.approx(0.5),
            },
            "window": {"accuracy": 0.9, "kappa_majority": pytest.approx(0.8), "kappa_no_change": 0.0},
            "fading": {
                "accuracy": 0.7,
                "kappa_majority": pytest.approx(0.4),
                "kappa_no_change": pytest.approx(0.25),
            },
        },
        "kappa": 0.75,
        "class_recall": {"a": 0.5, 'odd "\\udc80"': 0.0, "other": 0.75},
        "log_loss": {"cumulative": 0.25, "fading": 0.125},
        "continual": {
            "average_accuracy": 0.5,
            "forgetting": 0.25,
            "worst_set_drop": 0.75,
            "min_accuracy": 0.125,
            "worst_case_accuracy": 0.375,
            "stability_gap": 0.0625,
            "stability_gap_recovery_events": None,
            "evaluations": 7,
            "windowed_forgetting": {"10": 0.5},
            "windowed_plasticity": {"10": 0.75},
            "sets": {
                "a": {"fixed": 0.5, "rolling": 0.25},
                'odd "\\udc80"': {"fixed": 1.0, "rolling": None},
            },
        },
        "evaluation": {
            "examples": 20,
            "bytes": 4000,
            "count": 7,
            "images": 140,
            "interval_steps": 5,
            "errors": [0.125, None],
        },
        "serving": "average",
        "nearest_prototypes": [["a", 'odd "\\udc80"', 0.25]],
        "recall_interval_steps": 12.5,
        "expected_recall_interval_steps": 11.5,
        "losses": {"stream": 0.5, "memory": None},
        "stage_seconds": {"decode": pytest.approx(100.504 / 4), "predict": 0.01},
        "prediction_latency_seconds": pytest.approx(0.03),
        "event_to_prediction_seconds": 0.5,
        "label_delay_seconds": pytest.approx(1000.25),
    }


def test_status_of_a_worker_that_has_done_nothing() -> None:
    with serving(Vitals(60)) as site:
        status = json.loads(site.ask("/status").body)
    assert status["ready"] is False
    assert (status["role"], status["unready"]) == ("starting", "not ready")
    assert status["last_checkpoint"]["id"] is None
    assert status["kappa"] is None


def test_of_many_sets_the_oldest_and_the_newest_are_told(site: Site) -> None:
    """The oldest have had the most time to be forgotten; what has gone never comes back."""
    assert FULL.continual is not None and FULL.evaluation is not None
    before: set[str] = set()
    gone: set[str] = set()
    for count in (*range(45, 60), 150, 1000):
        sets = tuple(SetAccuracy(f"s{i}", i / count, 0.5) for i in range(count))
        errors = [i / 1000 for i in range(count)]
        site.vitals.observation = replace(
            FULL,
            continual=replace(FULL.continual, sets=sets),
            evaluation=replace(FULL.evaluation, errors=errors),
        )
        samples = site.samples()
        told = {
            dict(labels)["set"]: value
            for (name, labels), value in samples.items()
            if name == "streamlearn_set_accuracy" and ("kind", "fixed") in labels
        }
        wanted = range(count) if count <= 50 else (*range(25), *range(count - 25, count))
        assert told == {f"s{i}": pytest.approx(i / count) for i in wanted}
        for i in wanted:
            label = frozenset({("set", f"s{i}")})
            assert samples["streamlearn_set_accuracy_standard_error", label] == pytest.approx(i / 1000)
        status = json.loads(site.ask("/status").body)
        assert set(status["continual"]["sets"]) == set(told)
        assert len(status["evaluation"]["errors"]) == len(told)
        gone |= before - told.keys()
        assert not gone & told.keys()
        before = set(told)


def test_an_answer_is_of_one_moment(site: Site) -> None:
    """Scraped while the worker writes: all figures are of the same observation."""
    done = threading.Event()

    def work() -> None:
        i = 0
        while not done.is_set():
            i += 1
            site.vitals.observation = Observation(step=i, learned=i, rejected={"empty": i})

    site.vitals.observation = Observation(rejected={"empty": 0})
    worker = threading.Thread(target=work)
    worker.start()
    try:
        for _ in range(20):
            samples = site.samples()
            step = samples["streamlearn_model_step", frozenset()]
            assert samples["streamlearn_events_total", frozenset({("outcome", "learned")})] == step
            assert samples["streamlearn_dead_letters_total", frozenset({("reason", "empty")})] == step
    finally:
        done.set()
        worker.join()


def test_the_table_of_metrics_is_what_is_exported() -> None:
    table = (Path(__file__).parent.parent / "ops" / "METRICS.md").read_text("utf-8")
    assert table == metrics_table.table(), "python -m tests.metrics_table > ops/METRICS.md"
