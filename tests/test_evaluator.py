"""Continual evaluation in the learner: what is held out, when it is asked, and who answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlearn import evaluator
from streamlearn.arrivals import ENOUGH, RECENT, Arrivals
from streamlearn.config import (
    CoreSettings,
    EvaluationSettings,
    LearningSettings,
    MemorySettings,
    MethodSettings,
    ServingSettings,
)
from streamlearn.durable import Learner
from streamlearn.events import Event
from streamlearn.learner import OnlineLearner
from streamlearn.serving import AVERAGE, MEANS, WEIGHTS
from tests.streams import WHOLE_STREAMS, bits, images, vectors


def learner(**evaluation: object) -> OnlineLearner:
    return OnlineLearner(
        CoreSettings(
            method=MethodSettings(name="pcr"),
            memory=MemorySettings(capacity=60),
            evaluation=EvaluationSettings(**{"held_out": 0.3, "capacity": 40, **evaluation}),
            serving=ServingSettings(predictor="auto"),
        )
    )


def labeled(count: int, seed: int = 0) -> list[Event]:
    return vectors(count, seed=seed, unlabeled=0.0)


def test_what_is_held_out_is_predicted_and_never_learned() -> None:
    one = learner(capacity=10_000, set_size=1000)
    events = labeled(400)
    outputs = one.learn(events)
    assert len(outputs) == len(events) == one.counts.predicted
    held = one.trainer.evaluator.held
    assert one.counts.held_out == held.size > 60
    assert one.counts.learned + one.pending + one.counts.held_out == len(events)
    assert one.prequential.events == len(events), "held-out events are scored too"
    kept = {row.tobytes() for row in held.x}
    learned = {row.tobytes() for row in one.memory.x.numpy()}
    assert not kept & learned
    origin = one.normaliser.origin
    given = {(event.x - origin).astype(np.float32).tobytes() for event in events}
    assert kept <= given


def test_without_a_share_nothing_is_held_out_and_nothing_evaluated() -> None:
    one = learner(held_out=0)
    one.learn(labeled(300))
    assert one.counts.held_out == 0 and one.trainer.evaluator.figures.evaluations == 0
    assert one.serving.name == WEIGHTS, "with nothing to judge by, vectors are answered by the weights"


def test_every_new_class_is_a_shift_with_an_evaluation_before_and_after() -> None:
    one = learner(images_per_image_learned=1e-6)
    one.learn(labeled(300))
    figures = one.trainer.evaluator.figures
    shifts = one.trainer.evaluator.continual.shifts
    assert [group for shift in shifts for group in shift.groups] == one.classes.labels
    assert [shift.before is not None for shift in shifts[2:]] == [True] * (len(shifts) - 2)
    # the budget pays for next to nothing: all of these were forced
    assert 0 < figures.evaluations <= 2 * len(shifts)


def test_asked_again_it_says_how_it_is_now_and_keeps_no_trace() -> None:
    poor, rich = learner(images_per_image_learned=1e-6), learner(interval=1, images_per_image_learned=1000)
    for one in (poor, rich):
        one.learn(labeled(300))
    before = bits(poor.snapshot(full=True))
    evaluator = poor.trainer.evaluator
    asked = evaluator.asked_again(poor.counts.steps, poor.counts.learned)
    right = evaluator.candidates(evaluator.held.x)[poor.serving.name] == evaluator.held.y
    known = evaluator.held.accuracies(right)[0].tolist()
    assert [one.fixed for one in asked.figures().sets] == known
    assert asked.evaluations == evaluator.continual.evaluations + 1
    assert bits(poor.snapshot(full=True)) == before
    again = rich.trainer.evaluator.asked_again(rich.counts.steps, rich.counts.learned).figures()
    assert again.sets == rich.trainer.evaluator.figures.sets, "it was asked just before"


def test_the_figures_are_those_of_the_predictor_that_serves() -> None:
    settings = learner(interval=1, images_per_image_learned=1000).settings
    one = OnlineLearner(settings.model_copy(update={"serving": ServingSettings(predictor=MEANS)}))
    for event in labeled(400):
        one.learn([event])
        if one.counts.steps == 30:
            break
    its = one.trainer.evaluator
    served = one.trainer._asked(its.held.x)[MEANS]
    fixed, rolling = its.held.accuracies(served == its.held.y)
    sets = its.figures.sets
    assert [each.fixed for each in sets] == [None if np.isnan(a) else a for a in fixed]
    assert [each.rolling for each in sets] == [None if np.isnan(a) else a for a in rolling]
    assert [each.name for each in sets] == its.classes.labels


def test_the_cost_keeps_to_its_budget() -> None:
    one = learner(images_per_image_learned=0.5, interval=1)
    one.learn(labeled(1500))
    its = one.trainer.evaluator
    most = 0.5 * one.counts.images + 8 * 2 * 40
    assert 0.2 * one.counts.images < its.images <= most
    assert its.schedule.interval_steps is not None


def test_tasks_make_the_sets_where_events_name_them() -> None:
    one = learner()
    events = labeled(300)
    for i, event in enumerate(events):
        event.task = "morning" if i < 150 else "evening"
    one.learn(events)
    assert [each.name for each in one.trainer.evaluator.figures.sets] == ["morning", "evening"]


def test_tasks_without_end_make_no_sets_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluator, "MOST_TASKS", 5)
    one = learner()
    events = labeled(400)
    for i, event in enumerate(events):
        event.task = f"ticket {i}"
    one.learn(events)
    names = [each.name for each in one.trainer.evaluator.figures.sets]
    assert names[:5] == [f"ticket {i}" for i in range(5)]
    assert set(names[5:]) <= set(one.classes.labels), "what is no task counts to its class"
    assert one.counts.held_out and one.trainer.evaluator.figures.evaluations
    assert one.counts.learned + one.pending + one.counts.held_out == 400


def test_a_task_may_be_called_like_a_class() -> None:
    one = learner()
    events = labeled(300)
    for event in events[100:]:
        event.task = events[0].y
    one.learn(events)
    names = [each.name for each in one.trainer.evaluator.figures.sets]
    assert len(set(names)) == len(names) and f"task {events[0].y}" in names


def test_a_held_out_event_that_comes_again_is_not_learned() -> None:
    one = learner(set_size=5)
    events = labeled(400)
    one.learn(events)
    held = {row.tobytes() for row in one.trainer.evaluator.held.x}
    assert held
    origin = one.normaliser.origin
    again = [e for e in events if (e.x - origin).astype(np.float32).tobytes() in held]
    before = one.counts.learned + one.pending
    one.learn(again)
    assert one.counts.learned + one.pending == before
    assert {row.tobytes() for row in one.trainer.evaluator.held.x} == held


def test_after_a_restart_the_nearest_prototypes_are_there(tmp_path: Path) -> None:
    one = Learner(learner().settings)
    one.learn(labeled(400))
    assert one.trainer.evaluator.nearest
    one.save(tmp_path)
    assert Learner.load(tmp_path).trainer.evaluator.nearest


def test_classes_can_share_a_set() -> None:
    one = learner(classes_per_set=3)
    one.learn(labeled(300))
    sets = one.trainer.evaluator.figures.sets
    assert [each.name for each in sets] == one.classes.labels[::3]


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_any_stream_batch(batch: int) -> None:
    """With a batch of 64 a class has had ten labels before the first step has settled the origin."""
    one = OnlineLearner(
        learner().settings.model_copy(update={"learning": LearningSettings(stream_batch=batch)})
    )
    events = labeled(250)
    one.learn(events)
    one.flush()
    held = one.trainer.evaluator.held
    assert held.size and one.counts.learned + one.counts.held_out == 250
    given = {(event.x - one.normaliser.origin).astype(np.float32).tobytes() for event in events}
    assert {row.tobytes() for row in held.x} <= given


def test_the_share_of_images_is_uint8() -> None:
    one = learner()
    one.learn(images(100))
    held = one.trainer.evaluator.held
    assert held.size and held.x.dtype == np.uint8


def choice(serving: OnlineLearner, right: Mapping[str, Sequence[int]], y: Sequence[int]) -> str:
    hits = {name: np.array(hits, bool) for name, hits in right.items()}
    serving.serving.choose(serving.counts.steps, np.array(y), hits)
    return serving.serving.name


def arrive(one: OnlineLearner, step: int, number: int, **right: int) -> None:
    """Ten events of class `number` come, about which the predictors of value 1 are right."""
    hits = {name: np.full(10, bool(right.get(name, 0))) for name in one.serving.names}
    one.serving.arrive(step, np.full(10, number), hits)


def test_another_predictor_takes_over_only_when_it_is_surely_better() -> None:
    one = learner()
    one.learn(labeled(50))
    y = [0] * 20 + [1] * 20
    half = [1, 0] * 20
    one.serving.name = AVERAGE
    assert choice(one, {WEIGHTS: half, AVERAGE: half, MEANS: half}, y) == AVERAGE
    a_little_better = [*half[:-1], 1]
    assert choice(one, {WEIGHTS: a_little_better, AVERAGE: half, MEANS: half}, y) == AVERAGE
    assert choice(one, {WEIGHTS: half, AVERAGE: half, MEANS: [1] * 40}, y) == MEANS
    assert choice(one, {WEIGHTS: [1] * 40, AVERAGE: [0] * 40, MEANS: [1] * 40}, y) == MEANS


def test_the_choice_is_class_balanced() -> None:
    one = learner()
    one.learn(labeled(50))
    # twenty more right of the one large class, all wrong of eleven small ones
    y = [0] * 30 + list(range(1, 12))
    average = [0] * 20 + [1] * 10 + [1] * 11
    weights = [1] * 30 + [0] * 11
    assert sum(weights) > sum(average)
    one.serving.name = AVERAGE
    assert choice(one, {WEIGHTS: weights, AVERAGE: average, MEANS: average}, y) == AVERAGE
    one.serving.name = WEIGHTS
    assert choice(one, {WEIGHTS: weights, AVERAGE: average, MEANS: average}, y) == AVERAGE


def test_a_class_that_arrives_is_judged_by_its_arrivals() -> None:
    """Better on the held-out examples and worse on what arrives: that is drift."""
    one = learner()
    one.learn(labeled(50))
    y = [0] * 20 + [1] * 20
    held: dict[str, Sequence[int]] = {WEIGHTS: [0] * 40, AVERAGE: [1] * 40, MEANS: [0] * 40}
    for number in (0, 1):
        arrive(one, one.counts.steps, number, weights=1)
    assert choice(one, held, y) == WEIGHTS
    one.serving.name = AVERAGE
    assert choice(one, held, y) == WEIGHTS, "who has come to lag behind gives way"
    one.counts.steps += RECENT
    assert choice(one, held, y) == AVERAGE, "what was long ago says nothing of the weights of today"


def test_a_class_that_is_away_is_judged_by_what_was_held_out() -> None:
    """Who follows the newest class is right about what arrives, and has forgotten the others."""
    one = learner()
    one.learn(labeled(50))
    arrive(one, one.counts.steps, 3, weights=1)
    y = [0] * 20 + [1] * 20 + [3] * 20
    held: dict[str, Sequence[int]] = {WEIGHTS: [0] * 40 + [1] * 20, AVERAGE: [1] * 60, MEANS: [0] * 60}
    assert choice(one, held, y) == AVERAGE


@WHOLE_STREAMS
@given(st.lists(st.tuples(st.integers(0, 70), st.lists(st.integers(0, 4), max_size=9)), max_size=30))
def test_the_evidence_is_the_newest_of_every_class(batches: list[tuple[int, list[int]]]) -> None:
    """Against a loop over all that ever came; and it goes on from its state."""
    rng, arrivals, came, step = np.random.default_rng(0), Arrivals(2), [], 0
    for pause, numbers in batches:
        step += pause
        right = rng.random((len(numbers), 2)) < 0.5
        arrivals.note(step, np.array(numbers, np.int64), right)
        came += [(step, n, hits) for n, hits in zip(numbers, right.tolist(), strict=True)]
        twin = Arrivals(2)
        twin.load(arrivals.part())
        arrivals = twin
    step += 1
    recent = [(n, hits) for at, n, hits in came if at > step - RECENT]
    known = {n for n, _ in recent if sum(n == other for other, _ in recent) >= ENOUGH}
    held = [(n, [True, False]) for n in range(6)]
    expected = [pair for pair in held if pair[0] not in known] + [pair for pair in recent if pair[0] in known]
    y, right = arrivals.beside(step, np.arange(6), np.array([hits for _, hits in held]))
    assert list(zip(y.tolist(), right.tolist(), strict=True)) == expected


def test_arrivals_are_noted_within_the_budget() -> None:
    one = learner()
    rng = np.random.default_rng(0)
    one.learn([Event(str(i), rng.normal(size=5), str(rng.integers(4))) for i in range(400)])
    assert 0 < len(one.serving.arrivals) <= 400
    asked = one.trainer.evaluator.images
    assert asked <= evaluator.OF_VECTORS * one.counts.images + 8 * 2 * 40 + 2 * evaluator.PROBED


def test_who_lags_behind_a_stream_that_jumps_does_not_go_on_answering() -> None:
    """Six clusters change their labels all at once: the average takes long, the held-out examples longer."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(6, 20)) * 0.8
    y = rng.integers(0, 6, 3000)
    x = centres[y] + rng.normal(size=(3000, 20))
    y[1500:] = (y[1500:] + 1) % 6
    one = OnlineLearner(CoreSettings(serving=ServingSettings(predictor="auto")))
    events = [Event(str(i), x[i], f"c{y[i]}") for i in range(len(y))]
    one.learn(events[:1500])
    one.serving.name = AVERAGE
    one.learn(events[1500:2200])
    assert one.serving.name != AVERAGE
    learned, right = one.prequential.events, one.prequential.figures("cumulative").accuracy or 0.0
    one.learn(events[2200:])
    all_right = (one.prequential.figures("cumulative").accuracy or 0.0) * one.prequential.events
    assert (all_right - right * learned) / 800 > 0.7


def test_a_given_predictor_is_not_changed() -> None:
    for name in (WEIGHTS, AVERAGE, MEANS):
        one = OnlineLearner(
            learner().settings.model_copy(update={"serving": ServingSettings(predictor=name)})
        )
        one.learn(labeled(150))
        assert one.serving.name == name
        x = np.stack([event.x for event in labeled(30, seed=5)])
        assert np.array_equal(one.numbers(x), one.candidates(x)[name])


def test_bulk_answers_are_those_of_predict() -> None:
    one = learner()
    one.learn(labeled(150))
    asked = labeled(77, seed=3)
    labels = [one.classes.labels[number] for number in one.numbers(np.stack([e.x for e in asked]))]
    assert labels == [answer.label for answer in one.predict(asked)]


def test_bulk_answers_change_nothing() -> None:
    one = learner()
    one.learn(labeled(100))
    before = bits(one.snapshot(full=True))
    one.candidates(np.stack([event.x for event in labeled(40)]))
    assert bits(one.snapshot(full=True)) == before


def test_nothing_known_is_said_by_minus_one() -> None:
    assert learner().numbers(np.zeros((3, 5))).tolist() == [-1, -1, -1]


@pytest.mark.parametrize(
    ("memory", "given", "share", "capacity"),
    [
        (2000, {}, 0.02, 200),
        (501, {}, 0.02, 100),
        (500, {}, 0.0, 0),
        (500, {"held_out": 0.1}, 0.1, 100),
        (500, {"held_out": 0.1, "capacity": 7}, 0.1, 7),
        (5000, {"held_out": 0}, 0.0, 0),
    ],
)
def test_how_much_is_held_out_follows_the_memory(
    memory: int, given: dict[str, object], share: float, capacity: int
) -> None:
    settings = CoreSettings(
        memory=MemorySettings(capacity=memory), evaluation=EvaluationSettings.model_validate(given)
    )
    settled = settings.settled_evaluation()
    assert (settled.held_out, settled.capacity) == (share, capacity)
