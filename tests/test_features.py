"""Features in every form: lists, arrays, raw bytes, images, hashed objects."""

from __future__ import annotations

import base64
import io
import json
import warnings
import zlib
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from sklearn.feature_extraction import FeatureHasher

from streamlearn.arrays import finish, from_array, from_list, from_raw
from streamlearn.codec import Codec
from streamlearn.config import CodecSettings
from streamlearn.events import Array, Event, Position, Record, Rejection, Tombstone
from streamlearn.features import FeatureReader
from streamlearn.hashing import ObjectHasher
from streamlearn.images import decode_image, image_format
from streamlearn.reasons import Refusal
from streamlearn.words import composed, is_text, words

MANY = 1 << 22


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(Refusal) as caught:
        call()
    return caught.value.reason


# Lists and arrays


@pytest.mark.parametrize(
    ("values", "shape"),
    [
        ([1, 2.5], (2,)),
        ([[1, 2, 3], [4, 5, 6]], (1, 2, 3)),
        ([[[1], [2]], [[3], [4]], [[5], [6]]], (3, 2, 1)),
    ],
)
def test_lists(values: list[Any], shape: tuple[int, ...]) -> None:
    x = from_list(values, MANY)
    assert x.dtype == np.float64
    assert x.shape == shape
    np.testing.assert_array_equal(x, np.array(values, np.float64).reshape(shape))


@settings(deadline=None)  # a loaded machine is no failure
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_a_list_of_floats_is_exact(values: list[float]) -> None:
    assert from_list(values, MANY).tolist() == values


def test_too_many_values_are_refused_before_they_are_copied() -> None:
    row = [0.0] * 1000
    assert refused(lambda: from_list([row] * 5000, MANY)) == "too_large"
    assert refused(lambda: from_list([[row] * 1000] * 5, MANY)) == "too_large"
    assert (
        refused(lambda: from_array(np.broadcast_to(np.float32(0), (1 << 12, 1 << 12)), MANY)) == "too_large"
    )


@pytest.mark.parametrize(
    "dtype", ["u1", "i1", "u2", "i2", "i4", "u8", "i8", "f2", "f4", "f8", ">f4", ">i2", "g"]
)
def test_arrays_are_copied_as_what_holds_them(dtype: str) -> None:
    given_array = np.arange(24).reshape(4, 3, 2).astype(dtype).transpose(2, 1, 0)
    x = from_array(given_array, MANY)
    wide = dtype in ("i4", "u8", "i8", "f8", "g")
    assert x.dtype == (np.uint8 if dtype == "u1" else np.float64 if wide else np.float32)
    assert x.flags.c_contiguous
    assert not np.shares_memory(x, given_array)
    np.testing.assert_array_equal(x, given_array.astype(x.dtype))


RAW_DTYPES = [
    "uint8",
    "int8",
    "uint16",
    "int16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "float16",
    "float32",
    "float64",
]


@settings(deadline=None)  # a loaded machine is no failure
@given(st.data())
def test_raw_bytes_round_trip(data: st.DataObject) -> None:
    dtype = np.dtype(data.draw(st.sampled_from(RAW_DTYPES)))
    shape = data.draw(hnp.array_shapes(max_dims=3, max_side=4))
    # any bits at all, signalling NaN included
    content = data.draw(
        st.binary(
            min_size=int(np.prod(shape)) * dtype.itemsize, max_size=int(np.prod(shape)) * dtype.itemsize
        )
    )
    array = np.frombuffer(content, dtype).reshape(shape)
    in_json = data.draw(st.booleans())
    value = {
        "dtype": str(dtype),
        "shape": list(shape),
        "data": base64.b64encode(content).decode() if in_json else content,
    }
    value = msgpack.unpackb(msgpack.packb(value))
    with np.errstate(all="ignore"):
        narrow = array if dtype == np.uint8 else array.astype(np.float32)
    expected = array if dtype.itemsize > 2 else narrow
    if not np.isfinite(narrow).all():
        assert refused(lambda: finish([from_raw(value, MANY)])[0]) == "not_finite"
        return
    (x,) = finish([from_raw(value, MANY)])
    np.testing.assert_array_equal(x, expected[np.newaxis] if len(shape) == 2 else expected)
    assert x.flags.writeable


# Images


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decoded(data: bytes, max_pixels: int = 1 << 20, max_values: int = MANY) -> Array:
    kind = image_format(data)
    assert kind is not None
    return decode_image(data, kind, max_pixels, max_values)


def noise(*shape: int) -> Array:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_lossless_colour_images_are_exact(kind: str, options: dict[str, Any]) -> None:
    pixels = noise(5, 7, 3)
    x = decoded(encoded(Image.fromarray(pixels), kind, **options))
    assert (x.dtype.name, x.shape, x.flags.c_contiguous, x.flags.writeable) == (
        "uint8",
        (3, 5, 7),
        True,
        True,
    )
    np.testing.assert_array_equal(x, pixels.transpose(2, 0, 1))


def test_grey_images_have_one_channel() -> None:
    pixels = noise(5, 7)
    grey = Image.fromarray(pixels)
    np.testing.assert_array_equal(decoded(encoded(grey, "PNG")), pixels[np.newaxis])
    np.testing.assert_array_equal(decoded(encoded(grey.convert("LA"), "PNG")), pixels[np.newaxis])
    assert decoded(encoded(grey, "JPEG")).shape == (1, 5, 7)
    assert set(np.unique(decoded(encoded(grey.convert("1"), "PNG")))) == {0, 255}
    wide = pixels.astype(np.uint16) << 8 | 7
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(wide), "PNG")), pixels[np.newaxis])


def test_other_modes_become_rgb() -> None:
    colour = Image.fromarray(noise(5, 7, 3))
    assert decoded(encoded(colour.convert("CMYK"), "JPEG")).shape == (3, 5, 7)
    assert decoded(encoded(colour.convert("RGBA"), "PNG")).shape == (3, 5, 7)
    palette = colour.convert("P")
    assert decoded(encoded(palette, "PNG")).shape == (3, 5, 7)
    assert decoded(encoded(palette, "PNG", transparency=bytes(range(200)))).shape == (3, 5, 7)


@pytest.mark.parametrize("options", [{"lossless": True}, {"lossless": False}, {"exif": b"Exif\0\0junk"}])
def test_webp_that_is_too_large_is_seen_in_its_header(options: dict[str, Any]) -> None:
    data = encoded(Image.new("RGB", (70, 30)), "WEBP", **options)
    assert refused(lambda: decoded(data, 2099)) == "image_too_large"
    assert decoded(data, 2100).shape == (3, 30, 70)
    header_only = data[:30]  # no pixel is there to be decoded
    assert refused(lambda: decoded(header_only, 2099)) == "image_too_large"
    assert refused(lambda: decoded(header_only, 2100)) == "truncated_image"


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_images_that_are_too_large(kind: str) -> None:
    data = encoded(Image.new("RGB", (70, 30)), kind)
    assert refused(lambda: decoded(data, 2099)) == "image_too_large"
    assert refused(lambda: decoded(data, 2100, 6299)) == "too_large"
    assert decoded(data, 2100, 6300).size == 6300


def test_a_decompression_bomb_is_refused_whatever_max_pixels_says() -> None:
    header = bytearray(encoded(Image.new("1", (8, 8)), "PNG"))
    for side in (12_000, 60_000):  # Pillow warns of the first and raises for the second
        header[16:24] = side.to_bytes(4) * 2
        header[29:33] = zlib.crc32(header[12:29]).to_bytes(4)
        assert refused(lambda: decoded(bytes(header), 1 << 40)) == "image_too_large"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_cut_images(kind: str) -> None:
    data = encoded(Image.fromarray(noise(16, 16, 3)), kind)
    for length in (16, 24, 40, len(data) // 2, len(data) - 70):
        cut = data[:length]
        assert refused(partial(decoded, cut)) == "truncated_image"


def test_warnings_of_pillow_do_not_leak_and_filters_stay() -> None:
    # EXIF that promises more than there is: Pillow warns of it when it opens a JPEG
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x1a\0\x05\0\0\0\x01\0\0\xff\xff"
    data = encoded(Image.new("RGB", (8, 8)), "JPEG", exif=exif, dpi=(0, 0))
    before = list(warnings.filters)
    assert decoded(data).shape == (3, 8, 8)
    assert list(warnings.filters) == before


def test_data_urls() -> None:
    reader = FeatureReader(CodecSettings())
    text = base64.b64encode(encoded(Image.new("L", (3, 2), 9), "PNG")).decode()
    for head in ("data:image/png;base64,", "data:image/png;name=a;base64,"):
        assert reader.read(head + text, table=False).tolist() == [[[9, 9, 9], [9, 9, 9]]]
    assert refused(lambda: reader.read("data:text/plain;base64," + text, table=False)) == "bad_features"
    assert (
        refused(lambda: reader.read("data:image/png;base64," + text[:-20], table=False)) == "truncated_image"
    )


# Hashing

DIM = 64
hasher = ObjectHasher(DIM, max_depth=8)
number_maps = st.dictionaries(st.text(max_size=6), st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40)


@settings(deadline=None)  # a loaded machine is no failure
@given(number_maps)
def test_numbers_are_hashed_as_scikit_learn_does(values: dict[str, float]) -> None:
    expected = FeatureHasher(n_features=DIM // 4, input_type="dict").transform([values]).toarray()[0]
    x = hasher(values)
    np.testing.assert_allclose(x[: DIM // 4], expected, rtol=1e-5, atol=1e-3)
    assert not x[DIM // 4 :].any()


some_words = st.text(st.characters(exclude_categories=["Zs", "Zl", "Zp", "Cc", "Cs"]), min_size=1, max_size=6)


@settings(deadline=None)  # a loaded machine is no failure
@given(
    st.dictionaries(
        st.text(max_size=6),
        some_words.map(composed).filter(lambda word: not is_text(word)),
        min_size=1,
        max_size=40,
    )
)
def test_categories_are_hashed_as_scikit_learn_does(values: dict[str, str]) -> None:
    expected = FeatureHasher(n_features=DIM - DIM // 4, input_type="dict").transform([values]).toarray()[0]
    x = hasher(values)
    np.testing.assert_array_equal(x[DIM // 4 :], expected.astype(np.float32))
    assert not x[: DIM // 4].any()


@settings(deadline=None)  # a loaded machine is no failure
@given(st.text(max_size=6), st.lists(some_words, min_size=2, max_size=12))
def test_text_is_hashed_as_scikit_learn_does(name: str, parts: list[str]) -> None:
    text = " ".join(parts)
    found = words(text)
    tokens = [*found, *(f"{a} {b}" for a, b in pairwise(found))]
    pairs = [(f"{name}={token}", len(tokens) ** -0.5) for token in tokens]
    expected = FeatureHasher(n_features=DIM - DIM // 4, input_type="pair").transform([pairs]).toarray()[0]
    np.testing.assert_allclose(hasher({name: text})[DIM // 4 :], expected, atol=1e-6)


def test_text_of_any_length_has_the_same_norm() -> None:
    wide = ObjectHasher(1 << 18, max_depth=8)
    for text in ("two words", "a sentence of rather more words than that"):
        assert np.linalg.norm(wide({"t": text})) == pytest.approx(1.0)
    np.testing.assert_array_equal(wide({"t": "Two, WORDS."}), wide({"t": "two words"}))


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return bool((hasher(a) == hasher(b)).all())


def test_what_objects_hold() -> None:
    assert same({"a": True, "b": False}, {"a": "true", "b": "false"})
    assert same({"a": {"b": {"c": 2}}}, {"a.b.c": 2})
    assert same({"a": 1, "b": None, "c": {"d": None}, "e": []}, {"a": 1})
    assert same({"a": ["x", "y z"]}, {"a": ["y z", "x"]})
    assert same({"a": np.float32(2), "b": np.bool_(True)}, {"a": 2.0, "b": True})
    assert not same({"a": "x"}, {"a": "X"})
    assert not same({"a": "3"}, {"a": 3})
    np.testing.assert_array_equal(hasher({"a": 0}), np.zeros(DIM, np.float32))
    assert hasher({"a": 1}).dtype == np.float64


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, "missing_features"),
        ({"a": None}, "missing_features"),
        ({"a": "\t"}, "missing_features"),
        ({"a": [1, 2]}, "bad_features"),
        ({"a": ["x", None]}, "bad_features"),
        ({"a": b"x"}, "bad_features"),
        ({"a": np.zeros(2)}, "bad_features"),
        ({"a": "\ud800"}, "bad_features"),
        ({"\ud800": 1}, "bad_features"),
        ({"a": float("nan")}, "not_finite"),
        ({"a": 1e300}, "not_finite"),
        ({"a": 10**400}, "not_finite"),
        ({"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {}}}}}}}}}, "too_deep"),
    ],
)
def test_bad_objects(values: dict[str, Any], reason: str) -> None:
    assert refused(lambda: hasher(values)) == reason


def test_cells_of_tables() -> None:
    np.testing.assert_array_equal(
        hasher({"a": "3", "b": "x", "c": ""}, table=True), hasher({"a": 3, "b": "x"})
    )
    assert refused(lambda: hasher({"a": ""}, table=True)) == "missing_features"


@pytest.mark.parametrize(
    ("named", "cells", "expected"),
    [
        ("auto", {"a": "1", "b": "2.5"}, (2,)),
        ("auto", {"a": "1", "b": ""}, (64,)),
        ("auto", {"a": "1", "b": "XY"}, (64,)),
        ("hashed", {"a": "1", "b": "2.5"}, (64,)),
        ("vector", {"a": "1", "b": "2.5"}, (2,)),
        ("vector", {"a": "1", "b": ""}, "missing_features"),
        ("vector", {"a": "1", "b": "XY"}, "bad_features"),
    ],
)
def test_what_named_features_make(named: str, cells: dict[str, str], expected: object) -> None:
    settings = CodecSettings.model_validate({"named": named, "hash_dim": 64, "features": ["a", "b"]})
    record = Record(b"row", Position("t", 0, 0), fields=cells)
    (item,) = Codec(settings).decode([record])
    assert not isinstance(item, Tombstone)
    found = item.reason if isinstance(item, Rejection) else item.x.shape
    assert found == expected
    if isinstance(item, Rejection):
        assert item.detail.startswith("b is")


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        ("card was declined", (64,)),
        ("hello", (64,)),
        ("", "missing_features"),
        ("data:text/plain,hello", "bad_features"),
        ("iVBORw0KGgo" * 9, "bad_features"),
        ("这部电影非常好看" * 10, (64,)),
        ("ภาพยนตร์เรื่องนี้สนุกมาก" * 4, (64,)),
        ("...", (64,)),
        ("... !?", (64,)),
        ("— …", (64,)),
        ("😀 👍", (64,)),
    ],
)
def test_a_string_is_a_text(x: str, expected: object) -> None:
    codec = Codec(CodecSettings(hash_dim=64))
    (item,) = codec.decode([Record(json.dumps({"x": x}).encode(), Position("t", 0, 0))])
    assert not isinstance(item, Tombstone)
    assert (item.reason if isinstance(item, Rejection) else item.x.shape) == expected
    if not isinstance(item, Rejection):
        named = codec.decode([Record(json.dumps({"x": {"text": x}}).encode(), Position("t", 0, 0))])[0]
        assert isinstance(named, Event) and np.array_equal(item.x, named.x)
