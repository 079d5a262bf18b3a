"""The worker's front page: what it says of each state, whatever the labels are, and of very much."""

from __future__ import annotations

from typing import Any

import pytest

from streamlearn.exporter import PATHS
from streamlearn.exposition import status
from streamlearn.observe import Observation, Vitals
from streamlearn.page.front import LOADS, MOST_PARTITIONS, STANDS_BY, age, front
from streamlearn.page.markup import clock
from tests.exposed import FULL
from tests.test_page import NASTY, Reader, read

MARK = "\N{NO-BREAK SPACE}"


def told(**changes: Any) -> dict[str, Any]:
    """What /status answers, with changes."""
    vitals = Vitals(60)
    vitals.observation = FULL
    vitals.play("learner")
    return status(vitals) | {"time": "2026-11-21T06:00:45Z"} | changes


def shown(**changes: Any) -> Reader:
    return read(front(told(**changes), PATHS))


@pytest.mark.parametrize(
    ("changes", "headline"),
    [
        ({}, "It learns"),
        ({"learned": 0}, "It has learned nothing yet"),
        ({"paused": True}, "It is paused by a command"),
        ({"role": "standby", "learned": 0}, "It stands by"),
        ({"ready": False, "unready": "not ready: the partitions are another's"}, "It is not ready"),
        ({"ready": False, "role": "starting", "unready": "not ready: loading a checkpoint"}, "It starts"),
        ({"ready": False, "healthy": False, "sickness": "reading has hung for 61 s"}, "It is sick"),
    ],
)
def test_it_begins_with_how_it_stands(changes: dict[str, Any], headline: str) -> None:
    page = shown(**changes)
    assert headline in page.texts
    assert f"streamlearn: {headline}" in page.texts
    assert (changes.get("sickness") or changes.get("unready") or headline) in page.text


def test_a_standby_shows_no_zeros() -> None:
    page = shown(role="standby", learned=0)
    assert STANDS_BY in page.texts
    assert "table" not in {name for name, _ in page.tags}


def test_it_says_what_status_says() -> None:
    page = shown(output_problem="disk full")
    text = page.text.replace(MARK, " ")
    assert "as of 2026-11-21 06:00:45 UTC" in text
    assert "disk full" in text
    assert "45 s ago" in text and "2026-11-21 06:00:00 UTC" in text
    assert "learned events; the rest was held out, has no label or waits 120" in text
    assert "dead letters undecodable 4, too_large 1 5" in text
    assert "last checkpoint 1 since the start could not be written" in text
    assert {attributes.get("href") for name, attributes in page.tags if name == "a"} == set(PATHS) - {"/"}


def test_of_a_worker_that_has_done_nothing() -> None:
    vitals = Vitals(60)
    page = read(front(status(vitals), PATHS))
    assert {"It starts", "not ready", LOADS} <= set(page.texts)
    vitals.observation = Observation(epoch=1)
    text = read(front(status(vitals), PATHS)).text
    assert "none yet" in text and "None" not in text and "nan" not in text.lower()


def test_labels_are_text() -> None:
    labels = [label for label in NASTY if "\ud800" not in label]
    page = shown(classes=labels, known_classes=len(labels), offsets={NASTY[0]: {"0": 1}})
    names = {name for name, _ in page.tags}
    assert not names & {"script", "img"}
    assert NASTY[1] in page.text


def test_of_very_many_only_some_are_named() -> None:
    places = {str(number): number for number in range(3 * MOST_PARTITIONS)}
    page = shown(known_classes=10_000, offsets={"t": places}, ends={"t": {"500": 7}}, lag={"t": {"500": 2}})
    assert f"The first {MOST_PARTITIONS} of {3 * MOST_PARTITIONS + 1}; /status has all." in page.text
    assert "10,000" in page.text and "waits records in the topic 2 " in page.text
    rows = [each for each in page.texts if each.startswith(" ") and each[1:].isdecimal()]
    assert rows == [f" {number}" for number in range(MOST_PARTITIONS)], "in their order as numbers"


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ("2026-11-21T06:00:00Z", "0 s ago"),
        ("2026-11-21T05:59:59Z", "0 s ago"),  # a clock that was set back
        ("2026-11-21T06:01:59Z", "119 s ago"),
        ("2026-11-21T06:02:00Z", "2 min ago"),
        ("2026-11-21T09:00:00Z", "3 h ago"),
        ("2026-11-25T06:00:00Z", "4 d ago"),
    ],
)
def test_ages(now: str, said: str) -> None:
    then = "2026-11-21T06:00:00Z"
    assert age(then, now).replace(MARK, " ").startswith(said)
    assert clock(then) == "2026-11-21 06:00:00 UTC"
