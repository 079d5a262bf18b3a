"""Ten thousand classes must not make ten thousand series, and figures must not change what they are of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from streamlearn import Learner
from streamlearn.checkpoint import CheckpointStore
from streamlearn.events import Event, Traffic
from streamlearn.group import Alone
from streamlearn.instruments import Instruments
from streamlearn.keeper import Keeper
from streamlearn.observe import MOST_RECALLS, Vitals
from streamlearn.settings import CheckpointSettings, Settings
from tests.scrape import OPENMETRICS, serving

CLASSES = 10_000
STAGES = "decode collate predict draw forward_backward update store evaluate publish flush".split()
MOST_SERIES = 600
"""Of a worker with one partition, whatever it learns: README says so."""


class Busy(Alone):
    """The traffic of a topic with one partition."""

    def traffic(self, offsets: Mapping[int, int]) -> Traffic:
        counts = {"rebalances": 1, "fetch_pauses": 2, "commits": 3, "records_lost": 0}
        return Traffic({0: 9}, {0: 2}, {"records": 1, "outputs": 2}, counts, 1.0, False, True)


def watched(learner: Learner, folder: Path) -> tuple[Instruments, Vitals]:
    vitals = Vitals(60)
    keeper = Keeper(CheckpointSettings(), CheckpointStore(folder), learner)
    return Instruments(learner, Busy(), keeper, vitals, curve=False), vitals


def events(labels: list[int]) -> list[Event]:
    x = np.random.default_rng(0).normal(size=(len(labels), 4)).astype(np.float32)
    return [Event(f"e{i}", x[i], f"class {label}") for i, label in enumerate(labels)]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Learner:
    settings = Settings.model_validate(
        {
            "codec": {"max_classes": 2 * CLASSES},
            "learning": {"stream_batch": 500},
            "method": {"name": "er"},
            "memory": {"capacity": 5000},
            "evaluation": {"held_out": 0.1},
        }
    )
    learner = Learner(settings)
    # The oldest and the newest come again and again, so that their held-out sets have something to say.
    ends = [*range(50), *range(CLASSES - 100, CLASSES)]
    often = [label for _ in range(30) for label in ends]
    learner.learn(events([*range(CLASSES), *often]))
    assert learner.model.classes == CLASSES
    return learner


def scraped(learner: Learner, folder: Path, site_accept: str) -> Counter[str]:
    instruments, vitals = watched(learner, folder)
    for stage in STAGES:
        instruments.stopwatch.mark(stage)
    instruments.observe("topic", {0: 7}, epoch=1, paused=False)
    with serving(vitals) as site:
        return Counter(name for name, _ in site.samples(site_accept))


@pytest.mark.slow
@pytest.mark.parametrize("accept", ["", OPENMETRICS], ids=["text", "openmetrics"])
def test_series_are_bounded(many: Learner, tmp_path: Path, accept: str) -> None:
    found = scraped(many, tmp_path, accept)
    assert found.total() <= MOST_SERIES
    assert found["streamlearn_class_recall"] == MOST_RECALLS + 1
    assert found["streamlearn_memory_class_share"] == MOST_RECALLS + 1
    assert 50 < found["streamlearn_set_accuracy"] <= 100
    assert found["streamlearn_prototype_distance"] == 5
