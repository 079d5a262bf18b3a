"""The origin that inputs are stored relative to: settled by a batch, moved where the stream has gone away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from streamlearn import Learner
from streamlearn.config import (
    CodecSettings,
    CoreSettings,
    EvaluationSettings,
    LearningSettings,
    MemorySettings,
    MethodSettings,
    ModelSettings,
)
from streamlearn.events import Array, Event
from streamlearn.learner import OnlineLearner
from streamlearn.normalise import Normaliser
from tests.streams import bits

HORIZON = 50


def made() -> CoreSettings:
    return CoreSettings(
        model=ModelSettings(normalise_horizon=HORIZON),
        memory=MemorySettings(capacity=200),
        evaluation=EvaluationSettings(held_out=0.1),
    )


def stream(odd: Callable[[int, float], float], count: int) -> list[Event]:
    """Two classes that only the first number tells apart; `odd` makes something else of it."""
    rng = np.random.default_rng(0)
    events = []
    for i in range(count):
        label = i % 2
        first = odd(i, 3 * label + rng.normal() / 2)
        events.append(Event(str(i), np.array([first, rng.normal()]), f"c{label}"))
    return events


@pytest.mark.parametrize(
    "odd",
    [
        lambda i, x: 1e9 if i < 6 else x,
        lambda i, x: (1e9 if i < 10 else 1.7e9) + x,
        lambda i, x: 1.7e9 + 1e7 * min(i // 500, 2) + x,
    ],
    ids=["outliers in the first batch", "a jump", "jumps"],
)
def test_a_feature_that_has_gone_far_from_its_origin_is_still_resolved(
    odd: Callable[[int, float], float],
) -> None:
    one = OnlineLearner(made())
    events = stream(odd, 4000)
    one.learn(events[:3000])
    moved = one.normaliser.origin.copy()
    right = one.prequential.figures("cumulative").accuracy or 0.0
    before = right * one.prequential.events
    one.learn(events[3000:])
    after = (one.prequential.figures("cumulative").accuracy or 0.0) * one.prequential.events
    assert (after - before) / 1000 > 0.95
    assert abs(moved[0] - events[2999].x[0]) < 1000 and abs(moved[1]) < 3


def pictures(away: float, scale: float, count: int) -> list[Event]:
    """Three classes of 8 x 8 numbers that lie around `away`."""
    rng = np.random.default_rng(0)
    quarters = np.kron(np.eye(2), np.ones((4, 4)))
    patterns = [quarters, 1 - quarters, np.pad(np.ones((4, 4)), 2)]
    events = []
    for i in range(count):
        label = int(rng.integers(3))
        x = away + scale * (2 * patterns[label] + rng.normal(size=(1, 8, 8)) / 2)
        events.append(Event(str(i), x, f"c{label}"))
    return events


@pytest.mark.slow
@pytest.mark.parametrize("name", ["er", "er_ace", "prototype_replay"])
@pytest.mark.parametrize(("away", "scale"), [(0, 1), (300, 5), (29_000, 60), (1e6, 1), (-1e9, 1)])
def test_pictures_are_learned_whatever_their_numbers_lie_around(name: str, away: float, scale: float) -> None:
    one = OnlineLearner(made().model_copy(update={"method": MethodSettings(name=name)}))
    events = pictures(away, scale, 1000)
    one.learn(events[:600])
    before = one.prequential.correct[0]
    one.learn(events[600:])
    assert (one.prequential.correct[0] - before) / 400 > 0.95


@pytest.mark.slow
def test_pictures_that_go_far_away_are_still_resolved() -> None:
    one = OnlineLearner(made().model_copy(update={"method": MethodSettings(name="er")}))
    one.learn(pictures(0, 1, 500))
    origin = one.normaliser.origin.copy()
    one.learn(pictures(1e9, 1, 3000))
    before = one.prequential.correct[0]
    one.learn(pictures(1e9, 1, 500))
    assert (one.prequential.correct[0] - before) / 500 > 0.95
    assert origin.shape == one.normaliser.origin.shape == (1, 1, 1)
    assert abs(origin.item()) < 3 and abs(one.normaliser.origin.item() - 1e9) < 100


def test_what_is_stored_moves_with_the_origin() -> None:
    """A memory and held-out sets full of the past stay what they are when they are normalised."""
    one = OnlineLearner(made())
    trainer = None
    for event in stream(lambda i, x: x + (1e8 if i >= 500 else 0.0), 4000):
        before = None
        if one.counts.learned and one.normaliser.lost and trainer is None:
            trainer = one.trainer
            origin = trainer.normaliser.origin.copy()
            before = origin + trainer.memory.x[: trainer.memory.size].double().numpy()
            held = origin + trainer.evaluator.held.x.astype(np.float64)
            trainer._move_origin()
            origin = trainer.normaliser.origin
            after = origin + trainer.memory.x[: trainer.memory.size].double().numpy()
            held_after = origin + trainer.evaluator.held.x.astype(np.float64)
            # To a step of float32 where it lies farthest.
            assert np.abs(after - before).max() <= 8 and np.abs(held_after - held).max() <= 8
            assert abs(origin[0]) > 1e7 and not trainer.normaliser.lost
        one.learn([event])
    assert trainer is not None


def test_a_resumed_learner_moves_the_origin_where_the_other_did(tmp_path: Path) -> None:
    events = stream(lambda i, x: 1e9 if i < 6 else x, 3000)
    whole, learner = Learner(made()), Learner(made())
    origins = set()
    for start in range(0, 3000, 10):
        part = events[start : start + 10]
        whole.learn(part)
        learner.learn(part)
        origins.add(float(whole.normaliser.origin[0]))
        if whole.normaliser.lost or start % 700 == 0:
            learner.save(tmp_path)
            learner = Learner.load(tmp_path)
    assert len(origins) == 2, "it has moved"
    assert bits(learner.snapshot(full=True)) == bits(whole.snapshot(full=True))


def test_constant_features_and_ordinary_ones_keep_their_origin() -> None:
    normaliser = Normaliser((4,), 100, torch.device("cpu"), True)
    rng = np.random.default_rng(0)
    origins = []
    for i in range(300):
        x = np.stack(
            [np.full(10, 7.0), rng.normal(size=10), np.zeros(10), 1.7e9 + i + rng.random(10)], axis=1
        )
        normaliser.anchor(x)
        origins.append(normaliser.origin.tolist())
        normaliser.update(normaliser.relative(x))
        assert not normaliser.lost
    assert origins == [origins[0]] * 300


def test_nothing_is_held_out_before_there_is_an_origin() -> None:
    """Stored relative to zero it would be moved by an origin that it never had."""
    one = OnlineLearner(made().model_copy(update={"learning": LearningSettings(stream_batch=64)}))
    one.learn(stream(lambda i, x: 1.7e9 + x, 400))
    held = one.trainer.evaluator.held
    assert held.size and np.abs(held.x).max() < 100


def test_bytes_have_no_origin_and_stay_what_they_are() -> None:
    """A feature that is the same byte all the time has no spread that anything could hide."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (3000, 4)).astype(np.uint8)
    x[:, 0] = 255
    x[1000:, 1] = 7
    one = OnlineLearner(made())
    one.learn([Event(str(i), row, f"c{i % 2}") for i, row in enumerate(x)])
    assert one.schema is not None and one.schema.dtype == "uint8"
    rows = {row.tobytes() for row in x}
    held = one.trainer.evaluator.held.x
    assert {row.tobytes() for row in one.memory.x[: one.memory.size].numpy()} <= rows
    assert held.size and {row.tobytes() for row in held} <= rows
    assert not one.normaliser.origin.any() and abs(one.normaliser.mean[0] - 255) < 1e-9


@pytest.mark.parametrize("shape", [(1, 8, 8), (64,)], ids=["picture", "vector"])
def test_bytes_in_a_stream_of_other_numbers_have_its_origin(shape: tuple[int, ...]) -> None:
    settings = made().model_copy(update={"codec": CodecSettings(dtype="float32")})
    one, rng = OnlineLearner(settings), np.random.default_rng(0)

    def picture(label: int) -> Array:
        x = rng.integers(180, 200, (8, 8), dtype=np.uint8)
        x[:, :4] += np.uint8(20 * label)
        return x.reshape(shape)

    one.learn([Event(str(i), picture(i % 2), f"c{i % 2}") for i in range(1500)])
    held = one.trainer.evaluator.held
    assert one.normaliser.origin.min() > 150 and held.size and np.abs(held.x).max() < 50
    assert (one.trainer.evaluator.figures.average_accuracy or 0.0) > 0.9
    x = np.stack([picture(i % 2) for i in range(100)])
    for inputs in (x, x.astype(np.float64)):
        names = [one.classes.labels[number] for number in one.numbers(inputs).tolist()]
        assert np.mean([name == f"c{i % 2}" for i, name in enumerate(names)]) > 0.95
