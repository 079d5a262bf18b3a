"""What is looked up when somebody asks: right against plain counting, and without a trace in the state."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from connectors.kafka.ages import STRIDE, Ages
from streamlearn import histograms, live
from streamlearn.checkpoint import CheckpointStore
from streamlearn.group import Alone
from streamlearn.histograms import DELAYS, SECONDS, Histogram, Stopwatch
from streamlearn.instruments import Instruments
from streamlearn.keeper import Keeper
from streamlearn.learner import OnlineLearner
from streamlearn.live import device_figures, memory_figures
from streamlearn.observe import OTHER, Observation, Vitals
from streamlearn.settings import CheckpointSettings
from tests.scrape import serving
from tests.streams import bits, settings, vectors


def learned(count: int = 300) -> OnlineLearner:
    learner = OnlineLearner(settings())
    learner.learn(vectors(count))
    return learner


def test_nothing_before_the_shape_is_settled() -> None:
    assert memory_figures(OnlineLearner(settings()), 50) is None


@pytest.mark.parametrize("most", [0, 1, 2, 6, 50])
def test_the_memory_is_what_counting_finds(most: int) -> None:
    learner = learned()
    memory, labels = learner.memory, learner.classes.labels
    held = [labels[number] for number in memory.labels[: memory.size]]
    counts = Counter(held)
    found = memory_figures(learner, most)
    assert found is not None
    assert found.classes == len(counts)
    named = {label: counts[label] / len(held) for label in labels[:most]}
    rest = sum(counts[label] for label in labels[most:]) / len(held)
    expected = named | ({OTHER: rest} if most < max(memory.labels) + 1 else {})
    assert found.shares == pytest.approx(expected)
    ages = sorted(memory.seen - born for born in memory.born[: memory.size].tolist())
    assert found.ages == {"mean": np.mean(ages), "median": np.median(ages), "oldest": ages[-1]}
    assert ages[0] >= 1 and ages[-1] <= learner.counts.learned
    assert found.bytes > memory.capacity * 5 * 4


def test_an_empty_memory() -> None:
    learner = learned(60)
    for event in vectors(60):
        learner.forget(event.id, {})
    found = memory_figures(learner, 50)
    assert found is not None
    assert (found.classes, found.shares, found.ages) == (0, {}, {})


def test_a_class_that_is_called_other() -> None:
    """Two series of one name would make Prometheus refuse the whole scrape."""
    assert live._shares(np.array([0.25, 0.25, 0.5]), [OTHER, "a", "b"], 2) == {OTHER: 0.75, "a": 0.25}


def test_being_looked_at_changes_no_bit(tmp_path: Path) -> None:
    """Scraped between all batches, in all ways, and never: the same state."""
    quiet, watched = (OnlineLearner(settings()) for _ in range(2))
    vitals = Vitals(60)
    keeper = Keeper(CheckpointSettings(), CheckpointStore(tmp_path), watched)
    instruments = Instruments(watched, Alone(), keeper, vitals, curve=True)
    watched.mark = instruments.stopwatch.mark
    events = vectors(300)
    with serving(vitals) as site:
        for start in range(0, 300, 10):
            quiet.learn(events[start : start + 10])
            watched.learn(events[start : start + 10])
            instruments.read([], events[start : start + 10])
            instruments.observe("t", {0: start}, epoch=1, paused=False)
            for path in ("/metrics", "/status", "/healthz", "/readyz"):
                assert site.ask(path).status in (200, 503)
    assert bits(quiet.snapshot(full=True)) == bits(watched.snapshot(full=True))


def test_observing_takes_a_small_share_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long one observation takes; but what it shows is never much older than a second."""
    now, takes = 100.0, 0.0

    def slow(*_: object, **__: object) -> Observation:
        nonlocal now
        now += takes
        return Observation()

    monkeypatch.setattr("streamlearn.instruments.time.monotonic", lambda: now)
    monkeypatch.setattr("streamlearn.instruments.time.thread_time", lambda: now)
    monkeypatch.setattr("streamlearn.instruments.observe", slow)
    learner = OnlineLearner(settings())
    keeper = Keeper(CheckpointSettings(), CheckpointStore(tmp_path), learner)
    instruments = Instruments(learner, Alone(), keeper, Vitals(60), curve=False)
    for cost, pause in ((0.0001, 0.25), (0.004, 0.8), (0.05, 1.0)):
        takes = cost
        assert instruments.due()
        instruments.observe("t", {}, epoch=1, paused=False)
        now += 0.99 * pause
        assert not instruments.due()
        now += 0.02 * pause
    assert instruments.due()


class Gpu:
    """What torch.cuda says, as far as it is asked."""

    def mem_get_info(self, device: torch.device) -> tuple[int, int]:
        return 700, 1000

    def memory_allocated(self, device: torch.device) -> int:
        return 200

    def memory_reserved(self, device: torch.device) -> int:
        return 300

    def get_device_properties(self, device: torch.device) -> Any:
        return SimpleNamespace(uuid="1234-abcd")


class Nvml:
    """The management library: of one device, which is 80 % busy. Nonzero: an error."""

    def __init__(self, known: bytes = b"GPU-1234-abcd", error: int = 0) -> None:
        self._known, self._error = known, error

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: Any) -> int:  # noqa: N802  # its name
        return int(uuid != self._known)

    def nvmlDeviceGetUtilizationRates(self, handle: Any, found: Any) -> int:  # noqa: N802
        found._obj.gpu = 80
        return self._error


@pytest.mark.parametrize(
    ("nvml", "busy"),
    [(Nvml(), 0.8), (None, None), (Nvml(b"GPU-other"), None), (Nvml(error=3), None)],
    ids=["known", "no driver", "another device", "a slice"],
)
def test_the_accelerator(monkeypatch: pytest.MonkeyPatch, nvml: Nvml | None, busy: float | None) -> None:
    monkeypatch.setattr(torch, "cuda", Gpu())
    monkeypatch.setattr(live, "_nvml", lambda: nvml)
    assert device_figures(torch.device("cpu")) is None
    found = device_figures(torch.device("cuda", 0))
    assert found is not None
    assert found.memory == {"allocated": 200, "reserved": 300, "free": 700, "total": 1000}
    assert found.utilization == busy


def test_many_values_at_once_are_as_one_by_one() -> None:
    values = np.array([0.0, 0.01, 0.010001, 5.0, 1e6, 1e9, 5.0])
    one, many = Histogram(DELAYS), Histogram(DELAYS)
    for value in values.tolist():
        one.observe(value)
    many.observe_all(values)
    assert many.counts == one.counts
    assert many.sum == pytest.approx(one.sum)


@pytest.mark.parametrize("most", [1, 3, 4, 100])
def test_stages(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """However many marks wait to be counted together."""
    monkeypatch.setattr(histograms, "MOST_MARKS", most)
    clock = iter([0.0, 5.0, 5.002, 5.502, 5.504, 7.0, 7.5, 8.0])
    monkeypatch.setattr("streamlearn.histograms.time.perf_counter", lambda: next(clock))
    watch = Stopwatch()
    watch.start()
    for stage in ("draw", "learn", "draw"):
        watch.mark(stage)
    assert {stage: found.sum for stage, found in watch.stages.items()} == pytest.approx(
        {"draw": 0.004, "learn": 0.5}
    )
    watch.start()
    watch.mark("draw")
    watch.mark("late")
    found = watch.stages
    assert list(found) == ["draw", "learn", "late"]
    assert found["draw"].sum == pytest.approx(0.504)
    assert {stage: sum(one.counts) for stage, one in found.items()} == {"draw": 3, "learn": 1, "late": 1}
    assert found["draw"].counts[SECONDS.index(0.003)] == 2


def messages(start: int, count: int, seconds: float) -> list[Any]:
    return [SimpleNamespace(offset=start + i, timestamp=int(seconds * 1000) + i) for i in range(count)]


def test_ages_of_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.kafka.ages.time.time", lambda: 1000.0)
    ages, place = Ages(), ("t", 0)
    ages.came(place, messages(0, STRIDE + 10, 990.0), 0)
    ages.came(("t", 1), messages(0, 5, -1.0), 0)
    ages.visible({place: STRIDE})
    assert ages.take() == [(10.0, STRIDE)]
    assert ages.take() == []
    ages.visible({place: STRIDE + 9, ("t", 1): 5})
    assert ages.take() == [], "one is not visible yet; the others have no time"
    ages.visible({place: STRIDE + 10})
    ((seconds, count),) = ages.take()
    assert (round(seconds, 6), count) == (10.0 - STRIDE / 1000, 10)
    ages.came(place, messages(100, 20, 999.0), 120)
    ages.visible({place: 120})
    assert ages.take() == [], "they were visible before this start"
    ages.came(place, messages(120, 1, 1001.0), 120)
    ages.visible({place: 121})
    assert ages.take() == [(0.0, 1)], "a clock that is ahead"
