"""Every panel and every rule asked of a real Prometheus that scraped a real worker on a real Kafka.

The worker sees new classes, is killed with -9 while events go on coming, starts again and catches up.
`pytest -s` shows the table of panels, expressions and values. STREAMLEARN_TEST_SHOTS names a folder for
pictures of Prometheus's graphs.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import torch

from ops.grafana.__main__ import FILES
from ops.grafana.learning import WEEK
from ops.grafana.spec import Panel
from ops.grafana.worker import NO_GPU
from ops.harness.prometheus import Prometheus, Series
from ops.kafka.broker import Broker
from ops.kafka.ports import free_ports
from tests.browser import Visit, chromium
from tests.kafka_worker import Place, Run, new_place
from tests.processes import line, wait_for
from tests.streams import vectors
from tests.test_alerts import EVERY, RULES

pytestmark = pytest.mark.slow

EVENTS = vectors(8000, classes=5)
"""Classes appear at 0, 800, 1,600, 2,400 and 3,200."""
THREE_CLASSES, ALL_CLASSES = 2300, 3900
SETTINGS = (
    *("--evaluation.held_out", "0.1", "--memory.capacity", "300"),
    *("--method.modifiers", "view_batch", "--exporter.enabled", "true"),
)
CHOSEN = {"$job": "streamlearn", "$__rate_interval": "2m", "$__range": "5m", "$__interval": "2s"}
"""What Grafana puts in the place of its variables."""
EMPTY = {
    WEEK: "needs two hours of history; promtool tests it, ops/prometheus/tests/memory.yml",
    NO_GPU: "this machine has no GPU",
}
"""Why a panel may show nothing, by what it says itself then."""


def chosen(expression: str) -> str:
    for variable, value in CHOSEN.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression
    return expression


def sent(place: Place, start: int, stop: int) -> None:
    """Events that say when they happened, just now, and one that says nothing at all."""
    timed = [json.loads(line(event)) | {"ts": time.time() - 1} for event in EVENTS[start:stop]]
    place.send([*(json.dumps(each).encode() for each in timed), b"garbage"])


@pytest.fixture(scope="module")
def lived(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has seen it all, while the second worker still runs."""
    tmp_path = tmp_path_factory.mktemp("lived")
    place = new_place(broker, tmp_path)
    (port,) = free_ports(1)
    flags = (*SETTINGS, "--exporter.port", str(port))
    target = f"127.0.0.1:{port}"
    with Prometheus(tmp_path / "prometheus", [target], RULES) as prometheus:
        with place.run(*flags, log="first.log") as first:
            sent(place, 0, THREE_CLASSES)
            # For longer than the interval of the mark "New class", which compares with its beginning.
            seen(prometheus, first, "streamlearn_known_classes offset 3s == 3")
            sent(place, THREE_CLASSES, ALL_CLASSES)
            seen(prometheus, first, "streamlearn_known_classes == 5")
            seen(prometheus, first, f"streamlearn_checkpointed_offset == {ALL_CLASSES + 2}")
            first.kill()
        prometheus.until('ALERTS{alertname="StreamlearnWorkerAbsent",alertstate="pending"}')
        sent(place, ALL_CLASSES, len(EVENTS))
        with place.run(*flags, log="second.log") as second:
            seen(prometheus, second, "max_over_time(sum(streamlearn_consumer_lag_events)[2m:]) > 100")
            seen(prometheus, second, f"streamlearn_checkpointed_offset == {len(EVENTS) + 3}")
            seen(prometheus, second, "job:streamlearn_lag:seconds == 0")
            yield prometheus


def seen(prometheus: Prometheus, run: Run, expression: str) -> None:
    run.until(lambda: prometheus.query(expression), expression)


def finite(series: list[Series]) -> list[Series]:
    return [each for each in series if math.isfinite(each.value)]


def test_every_panel_shows_something_and_every_rule_is_well(lived: Prometheus) -> None:
    table, without = [], {}
    for spec in FILES.values():
        for panel in spec.panels:
            for query in panel.queries:
                found = finite(lived.query(chosen(query.expr)))
                values = " ".join(f"{each.value:.4g}" for each in found[:4])
                more = f" … {len(found)}" if len(found) > 4 else ""
                table.append((f"{spec.title}: {panel.title}", query.expr, f"{values}{more}"))
                if not found:
                    without[panel.title] = panel.silent
    print("\n".join("\t".join(row) for row in table))
    may = {panel.title for panel in all_panels() if panel.silent in EMPTY}
    must = {p.title for p in all_panels() if p.silent == NO_GPU and not torch.cuda.is_available()}
    assert set(without) <= may, "show nothing"
    assert must <= set(without), "show something without a GPU?"
    if torch.cuda.is_available():
        assert NO_GPU not in without.values()

    for spec in FILES.values():
        for mark in spec.marks:
            assert lived.query(f"max_over_time(({chosen(mark.expr)})[30m:500ms])"), mark.name

    # It was killed and came back, and that is told by the panel that is there for it.
    (starts,) = [panel for panel in all_panels() if panel.title == "Starts in the last hour"]
    assert [each.value for each in lived.query(chosen(starts.queries[0].expr))] == [1]

    # All is in a checkpoint, and nothing comes: however long ago that was, nothing is at risk.
    (since,) = [panel for panel in all_panels() if panel.title == "Since the last checkpoint"]
    assert [each.value for each in lived.query(chosen(since.queries[0].expr))] == [0]
    rules_are_well(lived)


DRAWN = {
    "streamlearn_prequential_accuracy": 'kind="fading"',
    "streamlearn_average_accuracy": "instance=",
    "streamlearn_set_accuracy": 'kind="rolling"',
    "sum by (outcome) (rate(streamlearn_events_total[1m]))": 'outcome="learned"',
    "sum by (partition) (streamlearn_consumer_lag_events)": 'partition="0"',
    "streamlearn_class_recall": 'label="class 4"',
}
"""What a person on call types first, and what the graph's legend then says."""


def test_what_prometheus_draws_of_it(lived: Prometheus) -> None:
    """In a real browser, as whoever has no Grafana looks at it."""
    shots = os.environ.get("STREAMLEARN_TEST_SHOTS")
    with chromium() as browser:
        for number, (expression, legend) in enumerate(DRAWN.items()):
            words = urlencode({"g0.expr": expression, "g0.tab": "0", "g0.range_input": "5m"})
            visit = Visit(browser, f"{lived.url}/graph?{words}", 1280, 900, dark=False)
            wait_for(lambda visit=visit, legend=legend: legend in visit.text, f"{legend} in {expression}")  # type: ignore[misc]
            assert "Error executing query" not in visit.text and "No datapoints found" not in visit.text
            if shots:
                visit.page.screenshot(path=f"{shots}/graph{number}.png")
            visit.page.context.close()


def all_panels() -> list[Panel]:
    return [panel for spec in FILES.values() for panel in spec.panels]


def rules_are_well(prometheus: Prometheus) -> None:
    """Each is valid here, those that were evaluated worked, and a short crash has alarmed nobody."""
    for rule in EVERY:
        prometheus.query(rule["expr"])

    def groups() -> list[dict[str, object]]:
        with urlopen(f"{prometheus.url}/api/v1/rules", timeout=20) as answer:
            return [rule for group in json.load(answer)["data"]["groups"] for rule in group["rules"]]

    wait_for(
        lambda: sum(rule["health"] == "ok" for rule in groups()) >= len(EVERY) / 2, "rules are evaluated"
    )
    found = groups()
    assert len(found) == len(EVERY)
    assert [rule["lastError"] for rule in found if rule.get("lastError")] == []
    assert prometheus.query('ALERTS{alertstate="firing"}') == []
