"""Dashboards: the files are those that the code makes, each panel explains itself and can be fed."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import pytest

from ops.grafana.__main__ import FILES, FOLDER
from ops.grafana.draw import draw
from ops.grafana.spec import Dashboard, Panel
from tests.promql import exported, metrics_in
from tests.test_alerts import RECORDED

OF_PROMETHEUS = {"ALERTS"}

PANELS = [
    pytest.param(panel, id=f"{spec.title}: {panel.title}") for spec in FILES.values() for panel in spec.panels
]


def drawn(spec: Dashboard) -> list[dict[str, Any]]:
    """The panels of the JSON, without the rows' headings."""
    return [panel for panel in json.loads(draw(spec))["panels"] if panel["type"] != "row"]


@pytest.mark.parametrize("name", FILES)
def test_the_file_is_what_the_code_makes(name: str) -> None:
    written = (FOLDER / name).read_text("utf-8")
    assert written == draw(FILES[name]), "python -m ops.grafana"


def test_there_is_no_other_file() -> None:
    assert {path.name for path in FOLDER.iterdir() if path.suffix == ".json"} == set(FILES)


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_explains_itself(panel: Panel) -> None:
    assert panel.description.endswith((".", "?"))
    assert len(panel.description.split()) >= 10, "a newcomer reads this"
    assert panel.unit
    assert panel.queries
    assert [each.value for each in panel.limits] == sorted(each.value for each in panel.limits)
    if len(panel.queries) > 1:
        assert all(query.legend for query in panel.queries)


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_asks_for_what_there_is(panel: Panel) -> None:
    names = set().union(*(metrics_in(query.expr) for query in panel.queries))
    assert names
    assert names - exported() - RECORDED - OF_PROMETHEUS == set()


@pytest.mark.parametrize("spec", FILES.values(), ids=FILES)
def test_panels_have_places_and_names_of_their_own(spec: Dashboard) -> None:
    panels = drawn(spec)
    assert len({panel["title"] for panel in panels}) == len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert {target["refId"] for target in panel["targets"]} == set("ABCD"[: len(panel["targets"])])
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        apart = any(
            a[start] + a[size] <= b[start]
            for start, size in (("x", "w"), ("y", "h"))
            for a, b in ((one, other), (other, one))
        )
        assert apart, f"{one} and {other} overlap"


@pytest.mark.parametrize("spec", FILES.values(), ids=FILES)
def test_new_classes_and_starts_are_marked(spec: Dashboard) -> None:
    marks = json.loads(draw(spec))["annotations"]["list"]
    assert {mark["name"] for mark in marks} == {"New class", "Start"}
    for mark in marks:
        assert mark["enable"]
        assert metrics_in(mark["expr"]) <= exported()
