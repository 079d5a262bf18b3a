"""OnPro: its terms against loops over rows, what it draws, what it costs, and its limits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from streamlearn.arithmetic import Numbers
from streamlearn.config import CoreSettings, LearningSettings, MethodSettings
from streamlearn.events import Event
from streamlearn.flags import load_settings
from streamlearn.learner import OnlineLearner
from streamlearn.method import make_method
from streamlearn.methods.onpro import OnlinePrototypes
from streamlearn.model import Model
from streamlearn.prototypes import pair_odds
from streamlearn.rows import Draw, Rows
from streamlearn.tape import Node, value_of
from streamlearn.views import turned
from tests.steps import IMAGE, VECTOR, make_memory, make_model, mixture, rows_of
from tests.streams import bits, vectors

ALL = {"cross_entropy": 1.0, "instance": 1.0, "stream_prototypes": 1.0, "memory_prototypes": 1.0}
OFF = dict.fromkeys(ALL, 0.0) | {"feedback": 0.0}
STREAM = [1, 3, 3]
MEMORY = [0, 1, 2, 1, 0]
MIXED = mixture([0, 1, 2, 3, 4], [0, 1, 2, 0, 3], [1.0, 1.0, 1.0, 0.25, 0.6])


def onpro(params: Mapping[str, object] = {}, shape: Sequence[int] = VECTOR) -> OnlinePrototypes:
    method = make_method(MethodSettings(name="onpro", onpro={**ALL, **params}), shape)
    assert isinstance(method, OnlinePrototypes)
    method.plan(10, 80)
    return method


def values(method: OnlinePrototypes, model: Model, rows: Rows) -> dict[str, float]:
    return {name: value_of(loss) for name, loss in method.loss(model, rows).items()}


def direction(v: np.ndarray) -> np.ndarray:
    unit: np.ndarray = v / np.linalg.norm(v)
    return unit


def instance_by_loops(
    h: Tensor, w: Tensor, names: list[tuple[object, object]], start: int, twins: bool
) -> float:
    """The contrast of rows with features h; names: (class and turn, example and turn) of each row."""
    z = [direction(w.numpy() @ f) for f in h.numpy()]
    f = [direction(v)[start : start + len(w)] for v in h.numpy()]
    total = 0.0
    for i, (label, example) in enumerate(names):
        others = [j for j in range(len(names)) if j != i]
        s = {j: float(z[i][: len(f[j])] @ f[j] + z[i] @ z[j]) / 0.07 for j in others}
        below = sum(math.exp(v) for v in s.values())
        log_p = {j: math.log(math.exp(v) / below) for j, v in s.items()}
        same = [log_p[j] for j in others if names[j][0] == label]
        total -= (2 if twins else 1) * sum(same) / max(1, len(same))
        twin = [log_p[j] for j in others if names[j][1] == example]
        total -= sum(twin) / max(1, len(twin)) if twins else 0.0
    return total / len(names)


@pytest.mark.parametrize("draw", [None, MIXED], ids=["pure", "mixed"])
@pytest.mark.parametrize(("shape", "turns"), [(VECTOR, 1), (IMAGE, 1), (IMAGE, 4), (IMAGE, 16)])
@pytest.mark.parametrize("narrow", [False, True], ids=["narrow features", "window"])
def test_the_contrast_is_the_loop_over_rows(
    shape: tuple[int, ...], turns: int, draw: Draw | None, narrow: bool
) -> None:
    method = onpro({**OFF, "instance": 1.0, "rotations": turns}, shape)
    model = make_model(shape, projector=3 if narrow else 128, width=2 if len(shape) == 3 else 8)
    assert model.projector is not None
    rows = rows_of(method, STREAM, make_memory(MEMORY, shape), draw)
    with torch.no_grad():
        every = torch.cat([rows.x, turned(rows.x, method.turns)]).chunk(method.turns)
        features = [model.encode(x) for x in every]
    # the generator is where the loss will find it: the same windows are drawn
    generator, starts = torch.Generator(), [0, 0]
    generator.set_state(rows.views.generator.get_state())
    if narrow:
        starts = [int(torch.randint(model.features - 3 + 1, (1,), generator=generator)) for _ in range(2)]
    expected = 0.0
    share = torch.ones(len(rows.y)) if rows.share is None else rows.share
    for block, start in zip((range(6), range(6, 16)), starts, strict=True):
        own = len(block) // 2
        names: list[tuple[object, object]] = []
        for turn in range(method.turns):
            for i in block:
                example = (i - block.start) % own
                label = int(rows.y[i]) if share[i] == 1 else f"mixture {example}"
                names.append(((label, turn), (example, turn)))
        h = torch.cat([f[block.start : block.stop] for f in features])
        expected += instance_by_loops(h, model.projector.detach(), names, start, twins=block.start == 0)
    assert method.turns == turns
    assert values(method, model, rows) == pytest.approx({"instance": expected}, rel=1e-4)


@pytest.mark.parametrize("draw", [None, MIXED], ids=["pure", "mixed"])
def test_the_prototypes_are_those_of_the_projections(draw: Draw | None) -> None:
    method, model = (
        onpro({**OFF, "stream_prototypes": 0.5, "memory_prototypes": 2.0}),
        make_model(projector=128),
    )
    assert model.projector is not None
    rows = rows_of(method, STREAM, make_memory(MEMORY), draw)
    z = [direction(model.projector.detach().numpy() @ h) for h in rows.features(model).detach().numpy()]
    expected = []
    pure = range(5) if draw is None else range(3)
    for first, size, kept in ((0, 3, range(3)), (6, 5, pure)):
        views: list[dict[int, np.ndarray]] = []
        for view in range(2):
            by_class: dict[int, list[np.ndarray]] = {}
            for i in kept:
                by_class.setdefault(int(rows.y[first + i]), []).append(z[first + view * size + i])
            views.append({c: direction(np.mean(v, axis=0)) for c, v in by_class.items()})
        u = [(view, c, p) for view in range(2) for c, p in views[view].items()]
        total = 0.0
        for view, c, p in u:
            below = sum(math.exp(p @ q / 0.5) for w, d, q in u if (w, d) != (view, c))
            total -= math.log(math.exp(p @ views[1 - view][c] / 0.5) / below)
        expected.append(total / len(u))
    found = values(method, model, rows)
    assert found == pytest.approx(
        {"stream_prototypes": 0.5 * expected[0], "memory_prototypes": 2.0 * expected[1]}, rel=1e-4
    )
    assert not len(method.classes), "noted only once the step is taken"
    method.after_step(model, rows)
    assert method.classes.tolist() == sorted(views[0])
    means = [(views[0][c] + views[1][c]) / 2 for c in sorted(views[0])]
    assert np.allclose(method.prototypes.numpy(), means, atol=1e-6)


def test_cross_entropy_takes_all_rows_or_the_memory_once_there_is_one() -> None:
    model = make_model(projector=128)
    for classify, first in (("all", 0), ("memory", 6)):
        method = onpro({**OFF, "cross_entropy": 1.0, "classify": classify})
        rows = rows_of(method, STREAM, make_memory(MEMORY))
        s = rows.logits(model)
        expected = torch.nn.functional.cross_entropy(s[first:], rows.y[first:])
        assert values(method, model, rows) == pytest.approx({"cross_entropy": float(expected.detach())})
        rows = rows_of(method, STREAM, make_memory([]))
        expected = torch.nn.functional.cross_entropy(rows.logits(model), rows.y)
        assert values(method, model, rows) == pytest.approx({"cross_entropy": float(expected.detach())})


@pytest.mark.parametrize("count", [4, 16])
def test_turned_images_are_all_different_and_hold_the_same_pixels(count: int) -> None:
    x = torch.arange(2 * 2 * 5 * 5.0).view(2, 2, 5, 5)
    variants = [x, *torch.chunk(turned(x, count), count - 1)]
    assert len(variants) == count
    assert len({variant.numpy().tobytes() for variant in variants}) == count
    for variant in variants:
        assert torch.equal(variant.flatten(2).sort().values, x.flatten(2))
    for turn in range(4):
        assert np.array_equal(variants[turn].numpy(), np.rot90(x.numpy(), turn, (2, 3)))
    assert not len(turned(x, 1))


class Counted:
    """Counts the rows that go through an encoder."""

    def __init__(self, model: Model) -> None:
        self.rows = 0
        self._encoded = model.encoded
        model.encoded = self._count  # type: ignore[method-assign]

    def _count(self, x: Numbers) -> Node:
        self.rows += len(x)
        return self._encoded(x)


@pytest.mark.parametrize(
    ("shape", "params", "per_event"),
    [
        (IMAGE, {}, 8.0),
        (IMAGE, {"rotations": 4}, 16.0),
        (IMAGE, {"rotations": 16, "instance": 0.0}, 8.0),
        (IMAGE, {}, 64.0),
        (IMAGE, {}, 2.0),
        ((2, 6, 4), {"rotations": 16}, 64.0),
        (VECTOR, {"rotations": 16}, 8.0),
    ],
)
def test_the_images_that_it_counts_are_those_that_pass_the_encoder(
    shape: tuple[int, ...], params: dict[str, object], per_event: float
) -> None:
    method = onpro(params, shape)
    replayed = method.plan(10, 10 * per_event)
    model = make_model(shape, projector=128)
    counted = Counted(model)
    rows = rows_of(method, [0, 1] * 5, make_memory([0, 1] * replayed, shape), Draw(np.arange(replayed)))
    method.loss(model, rows)
    assert counted.rows == method.images(len(rows.y))
    assert counted.rows == pytest.approx(10 * per_event, abs=method.turns)


def test_the_paper_s_budget_and_the_smaller_ones() -> None:
    image = (3, 32, 32)
    for images, turns, replayed in ((2560, 16, 70), (640, 4, 70), (80, 1, 30), (40, 1, 10)):
        method = onpro(shape=image)
        assert (method.plan(10, images), method.turns) == (replayed, turns)
        assert method.images(2 * (10 + replayed)) == images
    assert onpro({"rotations": 16}, image).plan(10, 2560) == 70
    method = onpro(shape=image)
    assert method.plan(10, 20) == 10 and method.stream_views == method.memory_views == ("weak",)


def test_what_is_off_asks_for_nothing() -> None:
    method = onpro({**OFF, "cross_entropy": 1.0})
    assert method.projector == 0
    rows = rows_of(method, STREAM, make_memory(MEMORY))
    assert set(method.loss(make_model(), rows)) == {"cross_entropy"}
    method.after_step(make_model(), rows)
    assert not len(method.classes)
    with pytest.raises(ValueError, match=r"method\.onpro: .*nothing to learn"):
        onpro(OFF)


def test_feedback_alone_finds_near_classes_among_the_features() -> None:
    method, model = onpro({**OFF, "cross_entropy": 1.0, "feedback": 0.5}), make_model()
    rows = rows_of(method, STREAM, make_memory(MEMORY))
    assert set(method.loss(model, rows)) == {"cross_entropy"}
    method.after_step(model, rows)
    assert method.classes.tolist() == [0, 1, 2] and method.prototypes.shape == (3, model.features)


@pytest.mark.parametrize("rotations", [1, 4])
@pytest.mark.parametrize(
    ("stream", "memory", "draw"),
    [
        ([2, 2, 2], [0, 1], None),
        ([0, 1], [3, 3, 3], None),
        ([0, 1], [], None),
        ([2, 2], [2, 2], None),
        ([1], [1], None),
        ([1], [], None),
        ([0, 1], [0, 1], mixture([0, 1], [1, 0], [0.5, 0.5])),
    ],
    ids="one_class memory_of_one_class empty_memory one_label one_row_each one_row all_mixed".split(),
)
def test_the_limits_are_finite_with_finite_gradients(
    stream: list[int], memory: list[int], draw: Draw | None, rotations: int
) -> None:
    method, model = onpro({"rotations": rotations}, IMAGE), make_model(IMAGE, projector=128)
    for views in (2, 1):
        method.stream_views = method.memory_views = ("raw", "weak")[-views:]
        rows = rows_of(method, stream, make_memory(memory, IMAGE), draw)
        losses = method.loss(model, rows)
        assert set(losses) == set(ALL)
        model.backward(losses.values())
        assert torch.isfinite(model.flat_grad).all() and torch.isfinite(model.rows_grad).all()
        method.after_step(model, rows)
        known = sorted(set(memory)) if draw is None else []
        assert method.classes.tolist() == known and len(method.prototypes) == len(known)
        if len(set(stream)) == 1:
            assert value_of(losses["stream_prototypes"]) == 0.0


def test_equal_inputs_have_finite_gradients() -> None:
    """All projections in one place: no distance to divide by, no direction to prefer."""
    method, model = onpro(), make_model(projector=128)
    rows = rows_of(method, STREAM, make_memory(MEMORY))
    rows.x.fill_(0.0)
    model.backward(method.loss(model, rows).values())
    assert torch.isfinite(model.flat_grad).all()
    method.after_step(model, rows)
    assert np.isfinite(pair_odds(method.prototypes)).all()


def test_a_loss_that_is_not_a_number_changes_neither_weights_nor_prototypes() -> None:
    learner = OnlineLearner(CoreSettings(method=MethodSettings(name="onpro")))
    learner.learn(vectors(40, unlabeled=0.0))
    method = learner.trainer.method
    assert isinstance(method, OnlinePrototypes)
    classes, prototypes = method.classes.copy(), method.prototypes.clone()
    learner.model.rows[0, 0] = torch.nan
    before = learner.model.flat.clone()
    learner.learn(vectors(20, seed=4, unlabeled=0.0))
    assert learner.counts.skipped_steps > 0
    assert torch.equal(learner.model.flat, before)
    assert torch.equal(method.prototypes, prototypes) and np.array_equal(method.classes, classes)


def test_the_full_form_learns_images_in_small() -> None:
    """16 rotations, batch norm, few images: the step as on a GPU, and two runs of it are equal."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 255, (24, 3, 8, 8)).astype(np.uint8)
    events = [Event(str(i), x[i], str(i % 3)) for i in range(24)]
    settings = CoreSettings(
        method=MethodSettings(name="onpro", onpro={**ALL, "rotations": 16, "classify": "memory"}),
        learning=LearningSettings(stream_batch=4, images_per_event=64.0),
    )
    settings = settings.model_copy(
        update={"model": settings.model.model_copy(update={"net": "resnet18", "width": 2})}
    )
    runs = []
    for _ in range(2):
        learner = OnlineLearner(settings)
        learner.learn(events)
        learner.flush()
        assert learner.counts.skipped_steps == 0
        runs.append(bits(learner.snapshot(full=True)))
    assert learner.counts.images > 24 * 32
    assert runs[0] == runs[1]


def test_the_settings_file_of_the_full_form() -> None:
    file = Path(__file__).resolve().parent.parent / "ops" / "settings" / "onpro_gpu.toml"
    settings = load_settings(["--config", str(file)], {})
    method = make_method(settings.method, (3, 32, 32))
    batch, per_event = settings.learning.stream_batch, settings.learning.images_per_event
    assert per_event is not None
    assert (method.plan(batch, batch * per_event), method.images(160)) == (70, 2560)
    assert settings.memory.capacity >= 70
