"""The default method's loss and plan, and the mirror images that have a say in its answers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from streamlearn.buffers import Memory
from streamlearn.config import CoreSettings, MemorySettings, ModelSettings
from streamlearn.events import Array, Event
from streamlearn.learner import OnlineLearner
from streamlearn.methods.prototype_replay import RECENT, WORN, PrototypeReplay
from streamlearn.model import Model
from streamlearn.rows import Rows
from streamlearn.tape import Explicit
from streamlearn.views import RAW, STANDARD, WEAK
from tests.streams import images, vectors


def rows_of(y: np.ndarray) -> Rows:
    return Rows(np.zeros((len(y), 1), np.float32), y, len(y), 1, 1, None)  # type: ignore[arg-type]


def test_views_and_examples_follow_the_budget() -> None:
    method = PrototypeReplay(PrototypeReplay.Params())
    # images an event: examples replayed while the memory is young; then views of an event, examples
    planned = {2.0: (10, 1, 10), 3.9: (29, 1, 29), 4.0: (10, 2, 10), 6.0: (20, 3, 15), 8.0: (30, 4, 20)}
    planned |= {16.0: (70, 8, 40), 32.0: (150, 8, 120)}
    memory = Memory(MemorySettings(capacity=200), (1,), torch.float32, torch.device("cpu"))
    rng = np.random.default_rng(0)
    method.plan(10, 80)
    assert not len(method.draw(memory, 30, rng).slots)
    assert method.stream_views == (RAW, WEAK), "an empty memory is a young one"
    memory.insert(torch.zeros(200, 1), np.zeros(200, np.int64), np.arange(200), rng)
    for budget, (young, views, examples) in planned.items():
        count = method.plan(10, 10 * budget)
        # So many events that each example has been replayed WORN times, or just not.
        enough = WORN * 200 / count * 10 * 2
        for memory.seen, old in ((200, False), (math.ceil(enough) - 1, False), (math.ceil(enough), True)):
            assert len(method.draw(memory, count, rng).slots) == (examples if old else young)
            kept = views if old else min(views, 2)
            assert method.stream_views == ((STANDARD,) if budget < 4 else (RAW, *(WEAK,) * (kept - 1)))
            assert method.memory_views == ((STANDARD,) if budget < 4 else (RAW, WEAK))
        assert count == young


def test_an_ageing_memory_is_as_old_as_its_horizon() -> None:
    settings = MemorySettings(capacity=10, policy="ageing", horizon=1000)
    memory = Memory(settings, (1,), torch.float32, torch.device("cpu"))
    for memory.seen, age in ((100, 50), (2000, 1000), (10**9, 1000)):
        assert memory.age == age


def test_a_number_of_examples_that_is_given_stays() -> None:
    made = learner(memory={"capacity": 20}, learning={"memory_batch": 7})
    made.learn(images(600))
    made.flush()
    assert made.trainer.method.stream_views == (RAW, WEAK)
    assert made.counts.images == 2 * 10 + (made.counts.steps - 1) * 2 * (10 + 7)


def test_modifiers_follow_the_views_that_a_step_chooses() -> None:
    found = [
        learner(*names, memory={"capacity": 20}) for names in ((), ("momentum_teacher",), ("view_batch",))
    ]
    for one in found:
        one.learn(images(600))
        one.flush()
        assert len(one.trainer.method.stream_views) == 4
    assert found[0].counts.images == found[1].counts.images


def drawn(method: PrototypeReplay, labels: list[int], count: int, times: int = 400) -> Array:
    """How often every class is drawn, of a memory with these labels."""
    memory = Memory(MemorySettings(capacity=len(labels)), (1,), torch.float32, torch.device("cpu"))
    rng = np.random.default_rng(0)
    memory.insert(torch.zeros(len(labels), 1), np.array(labels), np.arange(len(labels)), rng)
    counts = np.zeros(max(labels) + 1)
    for _ in range(times):
        slots = method.draw(memory, count, rng).slots
        assert len(slots) == len(set(slots.tolist())) == min(count, len(labels))
        counts += np.bincount(memory.labels[slots], minlength=len(counts))
    return counts / times


def test_classes_near_each_other_are_replayed_more() -> None:
    method = PrototypeReplay(PrototypeReplay.Params(feedback=0.5))
    model = Model(ModelSettings(width=2), (3,), 0, torch.device("cpu"))
    model.grow(3, torch.Generator().manual_seed(0))
    model.rows[:3] = torch.tensor([[1.0, 0.0], [2.0, 0.2], [-1.0, 0.0]])
    method.grow(model)
    labels = [0, 1, 2] * 40
    uniform = drawn(PrototypeReplay(PrototypeReplay.Params(feedback=0)), labels, 12)
    near = drawn(method, labels, 12)
    np.testing.assert_allclose(uniform, [4, 4, 4], atol=0.4)
    np.testing.assert_allclose(near, [5, 5, 2], atol=0.4)


def test_feedback_needs_two_classes_and_enough_examples() -> None:
    method = PrototypeReplay(PrototypeReplay.Params(feedback=1.0))
    model = Model(ModelSettings(width=2), (3,), 0, torch.device("cpu"))
    model.grow(1, torch.Generator().manual_seed(0))
    method.grow(model)
    assert drawn(method, [0, 0, 0], 2, times=1).tolist() == [2]
    model.grow(3, torch.Generator().manual_seed(0))
    method.grow(model)
    assert drawn(method, [0, 1], 5, times=1).tolist() == [1, 1]


def test_a_class_competes_for_some_steps_after_its_last_event() -> None:
    """Of three classes the step has rows of one: the gradient by the others' logits says who competes."""
    method = PrototypeReplay(PrototypeReplay.Params())
    model = Model(ModelSettings(width=2), (1,), 0, torch.device("cpu"))

    def competing(method: PrototypeReplay) -> list[int]:
        model.begin()
        (loss,) = method.loss(model, rows_of(np.array([0, 0]))).values()
        assert isinstance(loss, Explicit)
        return np.flatnonzero(np.abs(loss.gradient).sum(0)).tolist()

    def step(*labels: int) -> None:
        method.after_step(model, rows_of(np.array(labels)))

    model.grow(2, torch.Generator().manual_seed(0))
    method.grow(model)
    assert competing(method) == [], "of a single class there is nothing to tell apart"
    step(0, 1)
    model.grow(3, torch.Generator().manual_seed(0))
    method.grow(model)
    assert competing(method) == [0, 1], "a class that comes now has not been there"
    step(2)
    for _ in range(RECENT - 2):
        step(0)
    assert competing(method) == [0, 1, 2]
    again = PrototypeReplay(PrototypeReplay.Params())
    again.load(method.part(), model)
    step(0)
    assert competing(method) == [0, 2] and competing(again) == [0, 1, 2]
    again.after_step(model, rows_of(np.array([0])))
    assert torch.equal(again.part().tensors["left"], method.part().tensors["left"])
    step(0)
    assert competing(method) == []


def learner(*modifiers: str, **sections: object) -> OnlineLearner:
    method = {"name": "prototype_replay", "modifiers": modifiers}
    return OnlineLearner(CoreSettings(method=method, **sections))


@pytest.mark.parametrize(
    ("kind", "replayed", "per_event", "name"), [(images, 30, 8, "average"), (vectors, 10, 2, "weights")]
)
def test_images_have_eight_a_step_and_the_average_vectors_two_and_the_weights(
    kind: Callable[[int], list[Event]], replayed: int, per_event: int, name: str
) -> None:
    made = learner()
    made.learn(kind(200))
    made.flush()
    assert made.trainer.replay_batch == replayed
    assert made.counts.images / made.counts.learned == pytest.approx(per_event, abs=0.8)
    assert made.serving.name == name


def colour(count: int) -> list[Event]:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (count, 3, 12, 12), dtype=np.uint8)
    return [Event(f"c{i}", x[i], str(i % 3)) for i in range(count)]


def test_an_image_and_its_mirror_image_get_the_same_answer() -> None:
    made = learner()
    made.learn(colour(60))
    x = np.stack([event.x for event in colour(9)])
    assert made.serving.mirrors
    straight, mirrored = (made.trainer.forward(side) for side in (x, x[..., ::-1].copy()))
    assert np.allclose(straight, mirrored, atol=1e-6)
    plain = learner(serving={"mirror": False})
    plain.learn(colour(60))
    assert not np.allclose(plain.trainer.forward(x), plain.trainer.forward(x[..., ::-1].copy()))


def test_what_may_not_be_mirrored_is_not() -> None:
    for sections in ({"views": {"flip": False}}, {"serving": {"mirror": False}}):
        made = learner(**sections)
        made.learn(colour(20))
        assert not made.serving.mirrors


@pytest.mark.parametrize(
    ("budget", "name"), [(None, "prototype_replay"), (8, "prototype_replay"), (64, "onpro")]
)
def test_the_default_follows_the_budget(budget: float | None, name: str) -> None:
    learning = {} if budget is None else {"images_per_event": budget}
    assert CoreSettings.model_validate({"learning": learning}).method.name == name
    named = {"learning": learning, "method": {"name": "pcr"}}
    assert CoreSettings.model_validate(named).method.name == "pcr"
