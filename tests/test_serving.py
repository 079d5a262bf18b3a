"""What predicts: the average against its recursion, class means against a loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from streamlearn import average as average_module
from streamlearn import serving as serving_module
from streamlearn.arithmetic import unit
from streamlearn.average import Average
from streamlearn.config import ServingSettings
from streamlearn.model import Model
from streamlearn.serving import AVERAGE, MEAN_RATE, MEANS, WEIGHTS, ClassMeans, Serving
from tests.steps import IMAGE, inputs, make, make_memory, make_model, mixture, rows_of

RATE = 0.1


def disturb(model: Model, step: int) -> None:
    """A step of training, as far as an average sees it."""
    generator = torch.Generator().manual_seed(step)
    model.flat += 0.02 * torch.randn(model.flat.shape, generator=generator)
    model.rows[: model.classes] += torch.randn(model.classes, model.rows.shape[1], generator=generator)
    for name, buffer in model.buffers().items():
        if name.endswith("running_var"):
            buffer += 0.1 * torch.rand(buffer.shape, generator=generator)
        elif name.endswith("running_mean"):
            buffer += 0.01 * torch.randn(buffer.shape, generator=generator)
        else:
            buffer += 1


def recursion(values: list[Tensor], rate: float = RATE) -> Tensor:
    """e <- e + max(rate, 1 / (age + 1)) (theta - e), the first theta taken whole."""
    e = torch.zeros_like(values[0])
    for age, value in enumerate(values):
        e = e + max(rate, 1 / (age + 1)) * (value - e)
    return e


@pytest.mark.parametrize("steps", [1, 5, 30])
@pytest.mark.parametrize(("shape", "net"), [((5,), "mlp"), ((2, 8, 8), "resnet18")])
def test_the_average_is_its_recursion_row_by_row(steps: int, shape: tuple[int, ...], net: str) -> None:
    """Classes 2 and 3 come at step 3, up to 20 at step 5, where the storage grows: each has its own age."""
    model = make_model(shape, classes=2, net=net, width=2)
    average = Average(model, RATE)
    flats: list[Tensor] = []
    rows: dict[int, list[Tensor]] = {}
    buffers: dict[str, list[Tensor]] = {name: [] for name in model.buffers()}
    for step in range(steps):
        if step in (3, 5):
            before = average.rows[: average.classes].clone()
            model.grow(4 if step == 3 else 21, torch.Generator().manual_seed(step))
            average.grow(model)
            assert torch.equal(average.rows[: len(before)], before), "growth changes no row that was there"
        disturb(model, step)
        average.update(model)
        flats.append(model.flat.clone())
        for number in range(model.classes):
            rows.setdefault(number, []).append(model.rows[number].clone())
        for name, buffer in model.buffers().items():
            buffers[name].append(buffer.clone())
    assert torch.allclose(average.flat, recursion(flats), atol=1e-5)
    for number, values in rows.items():
        assert torch.allclose(average.rows[number], recursion(values), atol=1e-5), number
    for name, buffer in average.encoder.named_buffers():
        values = buffers[name]
        expected = recursion(values) if buffer.is_floating_point() else values[-1]
        assert torch.allclose(buffer, expected, atol=1e-5), name


def test_the_average_predicts_with_its_own_weights_and_statistics() -> None:
    model, other = (make_model((2, 8, 8), net="resnet18", width=2) for _ in range(2))
    average = Average(model, RATE)
    for step in range(4):
        disturb(model, step)
        average.update(model)
    with torch.no_grad():
        other.flat.copy_(average.flat)
        other.rows[:4] = average.rows[:4]
        for name, buffer in average.encoder.named_buffers():
            other.buffers()[name].copy_(buffer)
        x = inputs(3, (2, 8, 8))
        assert np.allclose(average.logits(model, x.numpy()), other(x), atol=1e-5)
        assert other(x).abs().min() > 0
        assert not torch.allclose(model(x), other(x), atol=1e-3)


def test_an_average_goes_on_where_its_state_was() -> None:
    model = make_model((2, 8, 8), net="resnet18", width=2)
    one, two = Average(model, RATE), Average(model, RATE)
    for step in range(6):
        disturb(model, step)
        one.update(model)
        if step == 2:
            two.load(one.part())
        if step > 2:
            two.update(model)
    for name, tensor in one.part().tensors.items():
        assert torch.equal(tensor, two.part().tensors[name]), name
    assert one.part().values == two.part().values


def test_class_means_are_the_loop_over_steps() -> None:
    model, rng = make_model(classes=3), np.random.default_rng(0)
    means = ClassMeans(model)
    expected: dict[int, np.ndarray] = {}
    for step in range(12):
        classes = 3 if step < 6 else 18
        if classes > model.classes:
            model.grow(classes, torch.Generator().manual_seed(0))
            means.grow(model)
        y = torch.from_numpy(rng.integers(0, classes, 9))
        h = inputs(9, (model.features,), seed=step)
        means.update(h, y, classes)
        for number in set(y.tolist()):
            of_class = np.array(
                [f / np.linalg.norm(f) for f, label in zip(h.numpy(), y, strict=True) if label == number]
            )
            mean = of_class.mean(axis=0)
            old = expected.get(number)
            share = 1 - (1 - MEAN_RATE) ** len(of_class)
            expected[number] = mean if old is None else old + share * (mean - old)
    for number in range(18):
        assert np.allclose(means.rows[number].numpy(), expected.get(number, 0.0), atol=1e-5), number
    h = inputs(4, (model.features,))
    cosines = [
        [
            float(f @ expected[c]) / np.linalg.norm(f) / np.linalg.norm(expected[c]) if c in expected else 0.0
            for c in range(18)
        ]
        for f in h.numpy()
    ]
    assert np.allclose(
        means.logits(model, h.numpy()), np.array(cosines) / model.settings.temperature, atol=1e-4
    )


def formula(rows: Tensor, features: Tensor, y: Tensor, classes: int) -> None:
    """One step of the class means, of all classes at once and in place."""
    sums = torch.zeros(classes, features.shape[1]).index_add_(0, y, unit(features))
    counts = torch.bincount(y, minlength=classes).float()[:, None]
    mine = rows[:classes]
    young = (mine == 0).all(dim=1, keepdim=True)
    share = torch.where(young, (counts > 0).float(), 1 - torch.pow(1 - MEAN_RATE, counts))
    mine.add_((sums / counts.clamp_min(1) - mine) * share)


@pytest.mark.parametrize("on_host", [True, False])
@pytest.mark.parametrize("late", [1, 30, serving_module.LATE])
def test_how_many_steps_have_waited_changes_no_bit_of_the_class_means(
    late: int, on_host: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of steps of one row to forty, with classes that grow past the storage, rows of zeros among them.

    on_host false: the tensors are left as on a device whose memory numpy can't read.
    """
    monkeypatch.setattr(serving_module, "LATE", late)
    if not on_host:
        monkeypatch.setattr(serving_module, "host", lambda tensor: tensor)
    model, rng = make_model(classes=3), np.random.default_rng(1)
    asked, unasked = ClassMeans(model), ClassMeans(model)
    expected = torch.zeros(80, model.features)
    for step in range(60):
        classes = 3 + step
        model.grow(classes, torch.Generator().manual_seed(step))
        y = torch.from_numpy(rng.integers(0, classes, rng.integers(1, 41)))
        h = inputs(len(y), (model.features,), seed=step) * torch.from_numpy(rng.random(len(y)) < 0.8)[:, None]
        if step == 20:
            h *= 0  # all that is seen of some class for the first time has no direction
        formula(expected, h, y, classes)
        for means in (asked, unasked):
            means.grow(model)
            means.update(h, y, classes)
        assert torch.equal(asked.rows[:classes], expected[:classes]), step
    assert torch.equal(unasked.rows[:classes], expected[:classes])


def test_an_average_is_the_same_where_numpy_can_not_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    states = []
    for on_host in (True, False):
        if not on_host:
            monkeypatch.setattr(average_module, "host", lambda tensor: tensor)
        model = make_model(classes=2)
        average = Average(model, RATE, power=0.7, restart=3)
        for step in range(40):
            if step in (4, 9):
                model.grow(9 if step == 4 else 40, torch.Generator().manual_seed(step))
                average.grow(model)
            disturb(model, step)
            average.update(model)
        states.append(average.part())
    assert states[0].values == states[1].values
    for name, tensor in states[0].tensors.items():
        assert torch.equal(tensor, states[1].tensors[name]), name


@pytest.mark.parametrize("predictor", ["auto", WEIGHTS, AVERAGE, MEANS])
def test_what_is_kept_and_what_answers(predictor: str) -> None:
    model = make_model(IMAGE, width=2)
    serving = Serving(ServingSettings(rate=RATE), predictor, model, mirrors=False)
    assert serving.name == (AVERAGE if predictor == "auto" else predictor)
    kept = {WEIGHTS, AVERAGE, MEANS} if predictor == "auto" else {WEIGHTS, predictor}
    assert set(serving.names) == kept
    method = make("er", shape=IMAGE)
    draw = mixture([0, 1, 2], [0, 1, 0], [1.0, 1.0, 0.5])
    rows = rows_of(method, [1, 3], make_memory([0, 1, 2], IMAGE), draw)
    with torch.no_grad():
        rows.features(model)
    disturb(model, 0)
    serving.after_step(rows)
    disturb(model, 1)
    x = inputs(4, IMAGE).numpy()
    with torch.no_grad():
        candidates = serving.candidates(x, serving.names)
        assert set(candidates) == kept
        assert np.array_equal(serving.logits(x), candidates[serving.name])
        assert np.array_equal(candidates[WEIGHTS], model(torch.from_numpy(x)))
    if serving.means is not None:
        # classes 0 and 1 and 3 were seen whole; class 2 only in a mixture, which is nobody's mean
        assert (serving.means.rows[:4] != 0).any(dim=1).tolist() == [True, True, False, True]
        of_row = unit(rows.features(model).detach())[rows.y == 3]
        assert torch.allclose(serving.means.rows[3], of_row[0], atol=1e-6)
