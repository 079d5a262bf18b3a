"""Figures that are taken of a learner for others to see."""

from __future__ import annotations

from streamlearn import Learner
from streamlearn.config import MemorySettings, ModelSettings
from streamlearn.observe import MOST_CLASSES, MOST_RECALLS, OTHER, Observation, Vitals, observe
from streamlearn.settings import Settings
from tests.scrape import serving
from tests.streams import vectors


def scored(labels: list[str], updates: list[tuple[int, int]]) -> Observation:
    """What is seen of a learner that knows `labels` and has scored (predicted, actual) pairs."""
    learner = Learner(Settings(model=ModelSettings(width=1), memory=MemorySettings(capacity=1)))
    for label in labels:
        learner.classes.number(label)
    learner.prequential.update([(predicted, actual, 0.5) for predicted, actual in updates])
    return observe(learner)


def test_recall_of_every_class() -> None:
    assert scored([], []).class_recall == {}
    seen = scored(["a", "b", "c"], [(0, 0), (-1, 0), (0, 1), (1, 1), (1, 1), (0, 1)])
    assert seen.class_recall == {"a": 0.5, "b": 0.5}, "a class without an event has none"


def test_recall_is_bounded() -> None:
    """Three hits and one miss of every class; the late ones are all missed."""
    many = MOST_RECALLS + 20
    updates = [(c if c < MOST_RECALLS and i else many - 1, c) for c in range(many - 1) for i in range(4)]
    seen = scored([f"c{i}" for i in range(many)], [*updates, (many - 1, many - 1)])
    assert list(seen.class_recall) == [*(f"c{i}" for i in range(MOST_RECALLS)), OTHER]
    assert {seen.class_recall[f"c{i}"] for i in range(MOST_RECALLS)} == {0.75}
    assert seen.class_recall[OTHER] == 1 / (19 * 4 + 1)


def test_a_class_that_is_called_other() -> None:
    """Two series of one name would make Prometheus refuse the whole scrape."""
    labels = [OTHER, *(f"c{i}" for i in range(MOST_RECALLS))]
    seen = scored(labels, [(0, 0), (0, MOST_RECALLS)])
    assert seen.class_recall == {OTHER: 0.5}
    vitals = Vitals(60)
    vitals.observation = seen
    with serving(vitals) as site:
        assert site.samples()["streamlearn_class_recall", frozenset({("label", OTHER)})] == 0.5


def test_the_classes_that_are_named_are_known_and_not_too_many() -> None:
    learner = Learner(Settings(model=ModelSettings(width=4), memory=MemorySettings(capacity=9)))
    assert observe(learner).classes == []
    learner.learn([event for event in vectors(60) if event.y is not None])
    known = learner.model.classes
    assert observe(learner).classes == learner.classes.labels[:known] != []
    for i in range(200):
        learner.classes.number(f"more {i}")
    assert len(observe(learner).classes) == known, "of the others none is known yet"
    learner.model.grow(180, learner.generators.views)
    assert observe(learner).classes == learner.classes.labels[:MOST_CLASSES]
