"""Alert and recording rules: valid, tested for firing and for silence, explained, fed by the worker."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.promql import exported, metrics_in

OPS = Path(__file__).parent.parent / "ops"
RULES = sorted((OPS / "prometheus" / "rules").glob("*.yml"))
TESTS = sorted((OPS / "prometheus" / "tests").glob("*.yml"))
RUNBOOK = OPS / "RUNBOOK.md"
PARTS = ("Meaning", "First look", "What to do", "How to know that it worked")
NOT_OURS = {"up", "node_filesystem_avail_bytes", "node_filesystem_size_bytes"}
"""Prometheus' own, and node_exporter's where there is one."""


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


EVERY = [rule for path in RULES for group in loaded(path)["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in EVERY if "alert" in rule}
RECORDED = {rule["record"] for rule in EVERY if "record" in rule}


def promtool(*words: str | Path) -> None:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool (Debian package prometheus) is not installed")
    # It writes its little database file by file, with fsync: minutes on a busy disk.
    memory = {"TMPDIR": "/dev/shm"} if os.access("/dev/shm", os.W_OK) else {}
    done = subprocess.run(
        [found, *words], capture_output=True, text=True, check=False, env={**os.environ, **memory}
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_rules_are_valid() -> None:
    promtool("check", "rules", *RULES)


@pytest.mark.slow
@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_they_fire_and_stay_silent_as_they_should(path: Path) -> None:
    promtool("test", "rules", path)


def test_each_alert_is_tested_for_firing_and_for_staying_silent() -> None:
    """By name, and where what it looks at is there: one that can't fire in a test says nothing by silence."""
    fires: set[str] = set()
    silent: set[str] = set()
    for path in TESTS:
        for test in loaded(path)["tests"]:
            series = {each["series"].partition("{")[0] for each in test["input_series"]}
            for case in test.get("alert_rule_test", []):
                name = case["alertname"]
                if case.get("exp_alerts"):
                    fires.add(name)
                elif series & (sources(ALERTS[name]["expr"]) - {"up"} or {"up"}):
                    silent.add(name)
    assert fires == set(ALERTS)
    assert silent == set(ALERTS)


def sources(expression: str) -> set[str]:
    """The metrics that an expression looks at, also through recording rules."""
    found = metrics_in(expression)
    by_name = {rule["record"]: rule["expr"] for rule in EVERY if "record" in rule}
    while recorded := found & set(by_name):
        found = (found - recorded).union(*(metrics_in(by_name[name]) for name in recorded))
    return found


@pytest.mark.parametrize("name", sorted(ALERTS))
def test_each_alert_says_whom_it_wakes_and_where_to_read_on(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in ("page", "ticket", "info")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"ops/RUNBOOK.md#{name.lower()}"
    sections = re.split(r"^## ", RUNBOOK.read_text("utf-8"), flags=re.MULTILINE)
    (section,) = [text for text in sections if text.startswith(f"{name}\n")]
    assert re.findall(r"^\*\*(.+?)\.\*\*", section, flags=re.MULTILINE) == list(PARTS)
    assert f"severity {rule['labels']['severity']}" in section.splitlines()[2]


def test_the_runbook_begins_with_a_table_of_all_alerts() -> None:
    """In the order of the rules, each with its severity and what it fires and stays silent for."""
    rows = re.findall(
        r"^\| \[(\w+)\]\(#(\w+)\) \| (\w+) \| (.+) \| (.+) \|$", RUNBOOK.read_text("utf-8"), re.M
    )
    assert [(f"Streamlearn{name}", link, severity) for name, link, severity, *_ in rows] == [
        (name, name.lower(), rule["labels"]["severity"]) for name, rule in ALERTS.items()
    ]


def yaml_of_the_runbook() -> list[str]:
    return re.findall(r"^```yaml\n(.*?)^```$", RUNBOOK.read_text("utf-8"), re.M | re.S)


def test_the_runbook_says_how_to_be_paged() -> None:
    alerting, alertmanager = map(yaml.safe_load, yaml_of_the_runbook())
    assert set(alerting) == {"alerting"}
    receivers = {each["name"] for each in alertmanager["receivers"]}
    routes = [alertmanager["route"], *alertmanager["route"]["routes"]]
    assert {each["receiver"] for each in routes} == receivers
    named = set(re.findall(r'severity="(\w+)"', yaml.safe_dump(alertmanager)))
    assert named == {"page", "info"}  # a ticket takes the way that is left
    for rule in alertmanager["inhibit_rules"]:
        assert set(re.findall(r"Streamlearn\w+", yaml.safe_dump(rule))) <= set(ALERTS)


@pytest.mark.slow
def test_prometheus_and_alertmanager_take_what_the_runbook_says(tmp_path: Path) -> None:
    alerting, alertmanager = yaml_of_the_runbook()
    config = tmp_path / "prometheus.yml"
    config.write_text((OPS / "prometheus" / "prometheus.yml").read_text("utf-8") + alerting, "utf-8")
    promtool("check", "config", "--syntax-only", config)
    if (amtool := shutil.which("amtool")) is not None:  # Debian package prometheus-alertmanager
        config.write_text(alertmanager, "utf-8")
        subprocess.run([amtool, "check-config", config], check=True, capture_output=True)


def test_the_runbook_has_no_section_of_an_alert_that_is_gone() -> None:
    titles = re.findall(r"^## (Streamlearn\w+)$", RUNBOOK.read_text("utf-8"), flags=re.MULTILINE)
    assert sorted(titles) == sorted(ALERTS)


def test_every_metric_of_the_rules_is_exported() -> None:
    used = set().union(*(metrics_in(rule["expr"]) for rule in EVERY))
    assert used - RECORDED - NOT_OURS - exported() == set()
    assert "streamlearn_set_accuracy" in used  # the names are really found
