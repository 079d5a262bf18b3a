"""Views: they keep the label's evidence, leave the raw input alone, and are a function of the generator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from streamlearn.rows import Draw, make_rows
from streamlearn.views import RAW, STANDARD, STRONG, WEAK, Views, look_up
from tests.steps import IMAGE, VECTOR, inputs, make_memory, make_views, mixture

STRENGTHS = (RAW, STANDARD, WEAK, STRONG)
COLOUR, GRAY = (3, 8, 8), (1, 8, 8)


def words(count: int = 200, size: int = 64) -> Tensor:
    """Sparse rows: a dozen words each."""
    rng = np.random.default_rng(0)
    rows = np.zeros((count, size), dtype=np.float32)
    for row in rows:
        row[rng.choice(size, 12, replace=False)] = rng.normal(size=12) + 3
    return torch.from_numpy(rows)


@pytest.mark.parametrize("shape", [VECTOR, IMAGE, COLOUR, GRAY, (64,)], ids=str)
@pytest.mark.parametrize("strength", STRENGTHS)
def test_views_have_the_shape_of_the_inputs_and_leave_them_alone(
    shape: tuple[int, ...], strength: str
) -> None:
    for kind in (torch.float32, torch.uint8):
        raw = (50 * inputs(7, shape).abs()).to(kind)
        before = raw.clone()
        view = make_views(shape)(raw, strength)
        assert view.shape == raw.shape and view.dtype == torch.float32 and torch.isfinite(view).all()
        assert torch.equal(raw, before)
        assert make_views(shape)(raw[:0], strength).shape == (0, *shape)


@pytest.mark.parametrize("shape", [VECTOR, COLOUR, GRAY], ids=str)
@pytest.mark.parametrize("strength", [WEAK, STRONG])
def test_views_are_a_function_of_the_generator(shape: tuple[int, ...], strength: str) -> None:
    raw = inputs(9, shape)
    views = make_views(shape, seed=1)
    first, second = views(raw, strength), views(raw, strength)
    assert torch.equal(make_views(shape, seed=1)(raw, strength), first)
    assert not torch.equal(first, second)
    assert not torch.equal(make_views(shape, seed=2)(raw, strength), first)


@pytest.mark.parametrize("shape", [VECTOR, COLOUR, GRAY], ids=str)
def test_strong_views_stray_further_than_weak_ones(shape: tuple[int, ...]) -> None:
    raw = inputs(400, shape)
    if len(shape) == 3:
        # smooth images: a crop of noise is noise, however small it is
        raw = torch.nn.functional.avg_pool2d(raw, 5, stride=1, padding=2, count_include_pad=False)
    views = make_views(shape)
    away = [float((views(raw, strength) - views(raw, RAW)).square().mean()) for strength in STRENGTHS]
    raw_way, standard, weak, strong = away
    assert raw_way == 0.0
    assert 0 < weak < strong
    assert standard == pytest.approx(weak, rel=0.2) if len(shape) == 3 else standard == 0.0


def pointed(shape: tuple[int, ...]) -> Tensor:
    """Images that are bright on the left."""
    raw = torch.zeros(300, *shape)
    raw[..., : shape[2] // 2] = 2.0
    return raw


def right_share(view: Tensor) -> float:
    """The share of images that are brighter on the right."""
    half = view.shape[3] // 2
    return float((view[..., half:].mean((1, 2, 3)) > view[..., :half].mean((1, 2, 3))).float().mean())


def test_images_are_mirrored_only_where_that_is_said_or_they_have_colours() -> None:
    for shape, flip, share in (
        (COLOUR, None, 0.5),
        (COLOUR, False, 0.0),
        (GRAY, None, 0.0),
        (GRAY, True, 0.5),
    ):
        for strength in (WEAK, STRONG):
            # without light, which may turn an image's contrast to almost none; a hole may still do it
            views = make_views(shape, flip=flip, light=0.0)
            assert right_share(views(pointed(shape), strength)) == pytest.approx(share, abs=0.1)


def test_without_reach_a_weak_view_is_the_raw_one() -> None:
    views = make_views(COLOUR, crop=1.0, shift=0.0, flip=False, light=0.0)
    raw = inputs(5, COLOUR)
    assert torch.allclose(views(raw, WEAK), views(raw, RAW), atol=1e-5)


def test_places_to_look_at_are_those_of_an_affine_map() -> None:
    x = torch.zeros(5, 3, 11, 7)
    side, centre = torch.rand(5, 2) + 0.1, torch.rand(5, 2) - 0.5
    side[2:, 0] *= -1
    theta = torch.zeros(5, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = side[:, 0], side[:, 1], centre
    expected = functional.affine_grid(theta, list(x.shape), align_corners=False)
    torch.testing.assert_close(look_up(x, side, centre), expected)


def test_a_strong_view_has_a_square_hole_of_at_most_half_the_side() -> None:
    view = make_views(COLOUR, shift=0.0, light=0.0)(torch.full((40, *COLOUR), 3.0), STRONG)
    hole = (view - 3.0).abs() > 1e-3
    assert hole.any() and not view[hole].any()
    for image in hole.any(dim=1).numpy():
        # each side of 8 pixels: at most 4, and it may lie partly outside
        tall, wide = np.count_nonzero(image.any(axis=1)), np.count_nonzero(image.any(axis=0))
        assert np.count_nonzero(image) == tall * wide <= 16


def test_a_shift_moves_an_image_by_at_most_its_reach() -> None:
    raw = torch.zeros(200, 1, 9, 9)
    raw[:, :, 4, 4] = 5.0
    moved = make_views((1, 9, 9), shift=1 / 9, light=0.0)(raw, WEAK)
    heat = moved[:, 0].clamp_min(0)
    assert torch.allclose(heat.sum((1, 2)), torch.tensor(5.0), atol=1e-3), "nothing is lost inside"
    place = torch.arange(9.0)
    for centre in ((heat.sum(2) * place).sum(1) / 5, (heat.sum(1) * place).sum(1) / 5):
        assert float((centre - 4).abs().max()) <= 1.0 + 1e-3
        assert float((centre - 4).abs().max()) > 0.9


def test_light_is_a_share_of_what_is_not_normalised() -> None:
    made = [make_views((1, 4, 4), normalise=False, shift=0.0, light=0.2) for _ in range(2)]
    small, large = (view(half_bright() * scale, WEAK) for view, scale in zip(made, (1e-3, 255), strict=True))
    assert torch.allclose(small * 255_000, large, rtol=1e-4)
    assert float((large.mean((1, 2, 3)) / 510 - 1).abs().max()) == pytest.approx(0.2, abs=0.01)


def half_bright(away: float = 0.0) -> Tensor:
    raw = torch.full((300, 1, 4, 4), away)
    raw[..., :2] += 4.0
    return raw


def test_light_scales_brightness_and_contrast_of_bytes_within_its_reach() -> None:
    view = make_views((1, 4, 4), as_bytes=True, shift=0.0, light=0.2)(half_bright(), WEAK)
    middle, spread = view.mean((1, 2, 3)), view.amax((1, 2, 3)) - view.amin((1, 2, 3))
    assert 1.6 - 1e-3 <= float(middle.min()) < 1.8 and 2.2 < float(middle.max()) <= 2.4 + 1e-3
    assert float(spread.min()) >= 4 * 0.64 - 1e-3 and float(spread.max()) <= 4 * 1.44 + 1e-3


def far_view(away: float) -> Views:
    """Views of numbers whose mean is `away` and whose deviation is 1."""
    views = make_views((1, 4, 4), shift=0.0, light=0.2)
    views.normaliser.mean[...] = away
    views.normaliser._derive()
    return views


def test_light_moves_other_numbers_by_deviations_whatever_they_lie_around() -> None:
    views = [far_view(away)(half_bright(away), WEAK) for away in (0.0, 1000.0)]
    assert torch.allclose(views[0], views[1], atol=1e-3)
    middle, spread = views[0].mean((1, 2, 3)), views[0].amax((1, 2, 3)) - views[0].amin((1, 2, 3))
    assert 1.8 - 1e-3 <= float(middle.min()) < 1.85 and 2.15 < float(middle.max()) <= 2.2 + 1e-3
    assert float(spread.min()) >= 4 * 0.8 - 1e-3 and float(spread.max()) <= 4 * 1.2 + 1e-3


def test_sparse_vectors_only_lose_words() -> None:
    raw = words()
    views = make_views((64,))
    lost = []
    for strength in (WEAK, STRONG):
        view = views(raw, strength)
        untouched = view == raw
        assert (untouched | (view == 0)).all()
        lost.append(float((~untouched).sum() / (raw != 0).sum()))
    assert lost == pytest.approx([0.1, 0.2], abs=0.03)
    silent = make_views((64,), dropout=0.0)
    assert torch.equal(silent(raw, STRONG), raw)


def test_dense_vectors_get_noise_and_lose_features() -> None:
    raw = inputs(500, (20,)) + 30
    views = make_views((20,), noise=0.1, dropout=0.25)
    views.normaliser.update(raw.numpy())
    plain = views(raw, RAW)
    for strength, factor in ((WEAK, 1.0), (STRONG, 2.0)):
        view = views(raw, strength)
        gone = view == 0
        assert float(gone.float().mean()) == pytest.approx(0.25 * factor, abs=0.02)
        assert float((view - plain)[~gone].std()) == pytest.approx(0.1 * factor, rel=0.05)


def test_dense_and_sparse_rows_of_one_batch_are_told_apart() -> None:
    raw = torch.cat([words(3), inputs(3, (64,))])
    view = make_views((64,))(raw, WEAK)
    sparse, dense = view[:3], view[3:]
    assert ((sparse == raw[:3]) | (sparse == 0)).all()
    assert not ((dense == raw[3:]) | (dense == 0)).all()


def test_rows_lie_view_after_view_with_their_labels() -> None:
    memory, stream, y = make_memory([3, 4, 5]), inputs(2, seed=8).numpy(), np.array([1, 2])
    rows = make_rows(stream, y, memory, Draw(np.array([2, 0])), make_views(), (RAW, WEAK, WEAK), (WEAK, RAW))
    assert rows.y.tolist() == [1, 2] * 3 + [5, 3] * 2
    assert rows.stream == 6 and len(rows.x) == 10
    assert np.array_equal(rows.inputs[rows.of_stream(0)], stream)
    assert torch.equal(rows.x[rows.of_memory(1)], memory.x[[2, 0]])
    assert rows.pure.all()
    empty = make_rows(stream, y, memory, Draw(np.empty(0, np.int64)), make_views(), (RAW,), (RAW, WEAK))
    assert len(empty.y) == 2 and not len(empty.y[empty.of_memory(0)])


def test_mixed_rows_are_mixtures_of_the_stored_inputs_in_every_view() -> None:
    memory, stream = make_memory([3, 4, 5]), inputs(2, seed=8).numpy()
    drawn = mixture([0, 1], [2, 1], [0.25, 1.0])
    rows = make_rows(stream, np.array([1, 2]), memory, drawn, make_views(), (RAW,), (RAW, RAW))
    expected = torch.stack([0.25 * memory.x[0] + 0.75 * memory.x[2], memory.x[1]])
    for view in range(2):
        assert torch.allclose(rows.x[rows.of_memory(view)], expected)
    assert rows.y.tolist() == [1, 2, 3, 4, 3, 4]
    assert rows.other is not None and rows.other.tolist() == [1, 2, 5, 4, 5, 4]
    assert rows.pure.tolist() == [True, True, False, True, False, True]
