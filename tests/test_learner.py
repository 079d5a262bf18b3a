"""The learner's own rules: shapes, limits, holding, normalising, flushing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from streamlearn import Event, Learner, Settings
from streamlearn.classes import ClassIndex
from streamlearn.config import (
    CodecSettings,
    EvaluationSettings,
    LearningSettings,
    MethodSettings,
    ModelSettings,
)
from streamlearn.events import Array, Prediction, Record, Rejection
from streamlearn.learner import OnlineLearner
from streamlearn.normalise import LIMIT, Normaliser
from streamlearn.trainer import BudgetError
from tests.streams import bits, images, settings, vectors


@given(labels=st.lists(st.text(max_size=3)), limit=st.integers(1, 5))
def test_class_index_numbers_by_first_appearance(labels: list[str], limit: int) -> None:
    index = ClassIndex(limit)
    numbers = [index.number(label) for label in labels]
    first = list(dict.fromkeys(labels))[:limit]
    assert index.labels == first
    assert numbers == [first.index(label) if label in first else None for label in labels]
    twin = ClassIndex(limit, index.labels)
    assert [twin.number(label) for label in labels] == numbers


def test_the_majority_of_the_first_batch_settles_the_shape() -> None:
    learner = OnlineLearner(settings())
    odd = Event("odd", np.zeros(7, np.float32), "a")
    events = [odd, *vectors(9)]
    assert learner.learn(events[:9]) == []
    outputs = learner.learn(events[9:])
    assert [type(o) for o in outputs] == [Rejection] + [Prediction] * 9
    assert isinstance(outputs[0], Rejection) and outputs[0].reason == "wrong_shape"
    assert learner.schema is not None and learner.schema.shape == (5,)


def test_rejections_wait_in_line_until_the_shape_is_settled() -> None:
    learner = OnlineLearner(settings())
    bad = Rejection("undecodable", "bad", Record(b"x", Event("", np.zeros(1)).position))
    events = vectors(12)
    assert learner.learn([events[0], bad, *events[1:5]]) == []
    outputs = learner.learn(events[5:])
    assert [type(o).__name__ for o in outputs[:3]] == ["Prediction", "Rejection", "Prediction"]
    assert len(outputs) == 13


def test_a_shape_in_the_settings_needs_no_vote() -> None:
    learner = OnlineLearner(settings(codec=CodecSettings(shape=[5])))
    assert len(learner.learn(vectors(1))) == 1
    assert learner.memory.x.dtype == torch.float32
    bytes_wanted = OnlineLearner(settings(codec=CodecSettings(shape=[2, 6, 6], dtype="uint8")))
    assert len(bytes_wanted.learn(images(1))) == 1
    assert bytes_wanted.memory.x.dtype == torch.uint8


def test_the_end_of_a_short_stream_settles_the_shape() -> None:
    learner = OnlineLearner(settings())
    assert learner.learn(vectors(3, unlabeled=0)) == []
    assert len(learner.flush()) == 3
    assert (learner.counts.learned, learner.counts.steps, learner.pending) == (3, 1, 0)
    assert learner.flush() == []
    assert learner.counts.steps == 1


def test_classes_past_the_limit_are_rejected() -> None:
    learner = OnlineLearner(settings(codec=CodecSettings(max_classes=2)))
    outputs = learner.learn(vectors(200, unlabeled=0))
    reasons = [o.reason for o in outputs if isinstance(o, Rejection)]
    assert reasons and set(reasons) == {"too_many_classes"}
    assert len(learner.classes) == 2
    assert learner.counts.rejected["too_many_classes"] == len(reasons)


def test_bytes_and_numbers_in_one_stream() -> None:
    learner = OnlineLearner(settings())
    events = images(20)
    events[12].x = events[12].x.astype(np.float32)
    events[13].x = events[13].x + np.float32(0.5)
    outputs = learner.learn(events)
    bad = [o for o in outputs if isinstance(o, Rejection)]
    assert [o.reason for o in bad] == ["wrong_dtype"]
    assert learner.memory.x.dtype == torch.uint8


def test_the_first_predictions_know_no_class() -> None:
    learner = OnlineLearner(settings())
    first = learner.learn(vectors(10))[0]
    assert isinstance(first, Prediction)
    assert (first.label, first.scores, first.known_classes, first.model_step) == (None, {}, 0, 0)


@pytest.mark.parametrize("cut", [1, 7, 500])
def test_an_event_without_a_step_costs_no_second_forward_for_every_step(
    cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It moves those behind it to other rows; a batch is answered in one forward all the same."""
    learner = OnlineLearner(settings(evaluation=EvaluationSettings(held_out=0)))
    events = vectors(210, unlabeled=0)
    learner.learn([*events[:10], *(replace(e, y=None) for e in events[10:13])])
    assert learner.counts.steps == 1
    forwards = 0
    forward = learner.trainer.forward

    def counted(rows: Array) -> Array:
        nonlocal forwards
        forwards += 1
        return forward(rows)

    monkeypatch.setattr(learner.trainer, "forward", counted)
    for start in range(13, 203, cut):
        learner.learn(events[start : min(start + cut, 203)])
    assert learner.counts.steps == 20
    # A call answers what it was given: one forward for each cut, and no more than one for each step.
    cuts = len({*range(13 + cut, 203, cut), *range(23, 213, 10)} | {203})
    assert forwards == cuts


def test_scores_are_probabilities_best_first() -> None:
    learner = OnlineLearner(settings(learning=LearningSettings(top_k=3)))
    outputs = learner.learn(vectors(200, unlabeled=0))
    last = outputs[-1]
    assert isinstance(last, Prediction)
    scores = list(last.scores.values())
    assert len(scores) == 3 and scores == sorted(scores, reverse=True) and 0 < sum(scores) <= 1.00001
    assert last.label == next(iter(last.scores))


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 1e6, 1e20])
@pytest.mark.parametrize("offset", [0.0, 5.0])
def test_inputs_of_any_scale_are_learned(scale: float, offset: float) -> None:
    learner = OnlineLearner(settings())
    events = vectors(300, unlabeled=0, classes=3)
    for event in events:
        event.x = ((event.x + offset) * scale).astype(np.float32)
    learner.learn(events)
    assert (learner.prequential.figures("window").accuracy or 0) > 0.8


def test_normaliser_matches_the_mean_and_variance_of_all_events() -> None:
    x = np.random.default_rng(0).normal(3, 7, size=(497, 4)).astype(np.float32)
    normaliser = Normaliser((4,), 10**9, torch.device("cpu"), True)
    for start in range(0, 497, 7):
        normaliser.update(x[start : start + 7])
    np.testing.assert_allclose(normaliser.mean, x.mean(0, dtype=np.float64))
    np.testing.assert_allclose(normaliser.variance, x.var(0, dtype=np.float64))
    z = normaliser(torch.from_numpy(x))
    np.testing.assert_allclose(z.mean(0), np.zeros(4), atol=1e-5)


def test_batches_that_wait_for_others_are_not_lost_and_part_of_the_state() -> None:
    x = np.random.default_rng(0).normal(3, 7, size=(4000, 4)).astype(np.float32)
    one, two = (Normaliser((4,), 10**9, torch.device("cpu"), True) for _ in range(2))
    waited = 0
    for start in range(0, 4000, 10):
        one.update(x[start : start + 10])
        waited = max(waited, one.waiting)
        if start == 3900:
            assert one.waiting, "the state below is one of which something waits"
            two.load(one.part())
        if start > 3900:
            two.update(x[start : start + 10])
    assert 20 <= waited < 40
    taken = len(x) - one.waiting
    np.testing.assert_allclose(one.mean, x[:taken].mean(0, dtype=np.float64))
    np.testing.assert_allclose(one.variance, x[:taken].var(0, dtype=np.float64), rtol=1e-6)
    for name, tensor in one.part().tensors.items():
        assert torch.equal(tensor, two.part().tensors[name]), name
    assert one.part().values == two.part().values


def test_normaliser_follows_a_shift_within_its_horizon() -> None:
    normaliser = Normaliser((1,), 100, torch.device("cpu"), True)
    normaliser.update(np.zeros((1000, 1), np.float32))
    for _ in range(50):
        normaliser.update(np.full((10, 1), 8, np.float32))
    assert abs(float(normaliser.mean[0]) - 8) < 0.1
    assert float(normaliser(torch.full((1, 1), 1e30)).max()) == LIMIT


def test_images_are_normalised_by_channel() -> None:
    learner = OnlineLearner(settings(evaluation=EvaluationSettings(held_out=0)))
    events = images(50)
    learner.learn(events)
    channels = np.stack([event.x for event in events]).astype(np.float64).mean(axis=(0, 2, 3))
    np.testing.assert_allclose(learner.normaliser.mean, channels)


@pytest.mark.parametrize("net", ["mlp", "conv", "resnet18"])
def test_every_net_learns_images_and_resumes(net: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    model = ModelSettings(net=net, width=4 if net == "resnet18" else 16)
    events = images(400 if net == "resnet18" else 200)
    whole = OnlineLearner(settings(model=model))
    whole.learn(events[:160])
    folder = tmp_path_factory.mktemp("state")
    first = Learner(settings(model=model))
    first.learn(events[:93])
    first.save(folder)
    second = Learner.load(folder)
    second.learn(events[93:160])
    assert bits(second.snapshot(full=True)) == bits(whole.snapshot(full=True))
    second.learn(events[160:])
    assert (second.prequential.figures("window").accuracy or 0) > 0.4


def test_resnet_takes_a_batch_of_one() -> None:
    model = ModelSettings(net="resnet18", width=2)
    learner = OnlineLearner(settings(model=model, method=MethodSettings(name="finetune")))
    learner.learn(images(11))
    learner.flush()
    assert learner.counts.steps == 2
    assert all(torch.isfinite(t.float()).all() for t in learner.model.part().tensors.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtypes(dtype: str) -> None:
    learner = OnlineLearner(settings(model=ModelSettings(dtype=dtype)))
    learner.learn(vectors(300))
    assert (learner.prequential.figures("window").accuracy or 0) > 0.5


def test_a_budget_of_images_sets_the_memory_batch() -> None:
    learner = OnlineLearner(settings(learning=LearningSettings(images_per_event=4)))
    learner.learn(vectors(10))
    assert learner.trainer.replay_batch == 30
    with pytest.raises(ValueError, match="not both"):
        LearningSettings(images_per_event=4, memory_batch=3)


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"method": MethodSettings(name="nothing")}, "there is no method 'nothing'"),
        ({"method": MethodSettings(name="er", modifiers=["x"])}, "there is no modifier 'x'"),
        ({"method": MethodSettings(name="er", er={"weight": 1})}, "method.er.weight"),
        ({"model": ModelSettings(device="cuda:77x")}, "model.device"),
    ],
)
def test_settings_that_cannot_be_used(sections: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        OnlineLearner(settings(**sections))


@pytest.mark.parametrize("net", ["conv", "resnet18", "no.such:thing", "nonsense"])
def test_nets_that_do_not_fit(net: str) -> None:
    learner = OnlineLearner(settings(model=ModelSettings(net=net)))
    with pytest.raises(ValueError, match=r"model\.net"):
        learner.learn(vectors(10))


def test_the_notebook_way(tmp_path_factory: pytest.TempPathFactory) -> None:
    learner = Learner(Settings())
    events = vectors(105, unlabeled=0)
    answers = learner.learn(events)
    assert len(answers) == 105 and learner.pending == 5
    learner.flush()
    folder = tmp_path_factory.mktemp("state")
    learner.save(folder)
    twin = Learner.load(folder)
    assert twin.predict(events) == learner.predict(events)
    with pytest.raises(FileNotFoundError):
        Learner.load(tmp_path_factory.mktemp("empty"))
    with pytest.raises(ValueError, match="shape"):
        learner.predict([Event("?", np.zeros(3, np.float32))])


@pytest.mark.parametrize("offset", [0.0, 1e6, 1.79e9, -1e12])
def test_an_offset_of_any_size_hides_nothing(offset: float) -> None:
    """float32 knows 1.79e9 to 128; a sensor's value and the time of day are events' features all the same."""
    rng = np.random.default_rng(0)
    learner = OnlineLearner(settings())
    for i in range(300):
        label = i % 2
        x = np.array([offset + 3 * label + rng.normal() / 2, rng.normal()])
        learner.learn([Event(str(i), x, f"c{label}")])
    assert (learner.prequential.figures("window").accuracy or 0) > 0.9


def test_an_outlier_in_the_first_batch_does_not_move_the_origin() -> None:
    learner = OnlineLearner(settings())
    events = vectors(600, unlabeled=0, classes=3)
    events[2].x = np.full(5, 1e30)
    learner.learn(events)
    assert np.abs(learner.normaliser.origin).max() < 100
    assert (learner.prequential.figures("window").accuracy or 0) > 0.8


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_what_is_no_number_is_rejected_whoever_decoded_it(bad: float) -> None:
    learner = OnlineLearner(settings())
    events = vectors(60)
    events[30].x = np.array([0, 0, bad, 0, 0])
    outputs = learner.learn(events)
    assert [o.reason for o in outputs if isinstance(o, Rejection)] == ["not_finite"]
    assert np.isfinite(learner.normaliser.mean).all()


def test_labels_that_a_notebook_gives() -> None:
    learner = OnlineLearner(settings())
    labels = [1, "1", np.int64(1), 2, None, True, 1.0] * 10
    events = [Event(str(i), np.ones(5), y) for i, y in enumerate(labels)]  # type: ignore[arg-type]
    outputs = learner.learn(events)
    assert learner.classes.labels == ["1", "2"]
    assert {o.reason for o in outputs if isinstance(o, Rejection)} == {"bad_label"}


def test_events_that_are_held_are_saved(tmp_path_factory: pytest.TempPathFactory) -> None:
    events = vectors(40)
    whole = Learner(settings())
    whole.learn(events)
    first, folder = Learner(settings()), tmp_path_factory.mktemp("state")
    first.learn(events[:6])
    first.save(folder)
    second = Learner.load(folder)
    second.learn(events[6:])
    assert bits(second.snapshot(full=True)) == bits(whole.snapshot(full=True))


class Treacherous(torch.nn.Module):
    """Its values are finite, its gradient is not: the square root of zero behind a `where`."""

    features = 4

    def __init__(self, shape: Sequence[int], width: int | None) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(math.prod(shape), 4)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.linear(x)
        return torch.where(h > 0, torch.sqrt(h), torch.zeros_like(h))


@pytest.mark.parametrize("method", ["er", "prototype_replay"])
def test_a_gradient_that_is_no_number_changes_nothing(method: str) -> None:
    net = f"{__name__}:Treacherous"
    one = OnlineLearner(settings(model=ModelSettings(net=net), method=MethodSettings(name=method)))
    one.learn(vectors(200))
    assert one.counts.skipped_steps > 0
    assert all(torch.isfinite(t).all() for t in one.model.part().tensors.values())


@pytest.mark.parametrize(
    ("method", "budget"),
    [({"name": "onpro", "onpro": {"rotations": 16}}, 8), ({"name": "pcr", "pcr": {"views": 2}}, 2)],
)
def test_a_budget_that_leaves_nothing_to_replay_is_refused(method: dict[str, Any], budget: float) -> None:
    one = OnlineLearner(
        settings(method=MethodSettings(**method), learning=LearningSettings(images_per_event=budget))
    )
    with pytest.raises(BudgetError, match=r"learning.images_per_event = \d+ leaves nothing to replay"):
        one.learn(images(20))


def test_numbers_of_nothing_are_none() -> None:
    one = OnlineLearner(settings())
    one.learn(vectors(30))
    assert one.numbers(np.empty((0, 5))).shape == (0,)
