"""The codec under whatever hypothesis draws: it never raises, and keeps its promises."""

from __future__ import annotations

import base64
import io
import json
import math
from typing import Any

import msgpack
import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from streamlearn.codec import Codec, encode_dead_letter
from streamlearn.config import CodecSettings
from streamlearn.events import Event, Item, Position, Record, Rejection
from streamlearn.parsing import proves_unique_keys
from streamlearn.schema import LARGEST, within_float32
from tests.decoding import HERE, decode, event, reason

# Nothing makes it raise

plain = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=8)
names = st.sampled_from(["id", "x", "y", "ts", "task", "dtype", "shape", "data", "a:b", ""]) | st.text(
    max_size=3
)
json_like = st.recursive(
    plain, lambda s: st.lists(s, max_size=4) | st.dictionaries(names, s, max_size=4), max_leaves=12
)
msgpack_like = st.recursive(
    plain | st.binary(max_size=12),
    lambda s: st.lists(s, max_size=4) | st.dictionaries(names, s, max_size=4),
    max_leaves=12,
)
SETTINGS = (
    CodecSettings(hash_dim=16),
    CodecSettings(features=["x", "y"], id="x.id", label="x.0", max_depth=3),
)


def sound(result: Item) -> None:
    if isinstance(result, Rejection):
        reason(result)
        return
    assert isinstance(result, Event)
    assert result.id
    assert result.y is None or isinstance(result.y, str)
    assert result.task is None or isinstance(result.task, str)
    assert result.ts is None or math.isfinite(result.ts)
    assert result.x.dtype in (np.float64, np.float32, np.uint8)
    assert result.x.ndim in (1, 3)
    assert result.x.size
    assert result.x.flags.c_contiguous
    assert result.x.flags.writeable
    assert np.isfinite(result.x).all()
    orjson.dumps([result.id, result.y, result.task])


def all_sound(values: list[bytes]) -> None:
    for chosen in SETTINGS:
        results = Codec(chosen).decode([Record(v, Position("t", 0, n)) for n, v in enumerate(values)])
        assert [r.position.offset for r in results] == list(range(len(values)))
        for result in results:
            sound(result)


@settings(deadline=None)  # a loaded machine is no failure
@given(
    st.lists(
        st.binary(max_size=64) | st.binary(max_size=32).map(lambda tail: b"\x82\xa1x" + tail), max_size=4
    )
)
def test_any_bytes(values: list[bytes]) -> None:
    all_sound(values)


@settings(deadline=None)  # a loaded machine is no failure
@given(st.dictionaries(names, json_like, max_size=5), st.integers(0, 80))
def test_any_json(value: dict[str, Any], cut: int) -> None:
    text = json.dumps(value).encode()
    all_sound([text, text[:cut], orjson.dumps(value)])


@settings(deadline=None)  # a loaded machine is no failure
@given(st.dictionaries(names, msgpack_like, max_size=5), st.integers(0, 80))
def test_any_msgpack(value: dict[str, Any], cut: int) -> None:
    packed = msgpack.packb(value)
    all_sound([packed, packed[:cut]])


@given(
    st.lists(st.floats(width=64) | st.sampled_from([LARGEST, -LARGEST, 3.5e38]), min_size=1, max_size=70),
    st.sampled_from(["float32", "float64"]),
)
def test_within_float32_is_every_number(values: list[float], dtype: str) -> None:
    with np.errstate(over="ignore"):
        x = np.array(values).astype(dtype)
    assert within_float32(x) == all(math.isfinite(v) and abs(v) <= LARGEST for v in x.tolist())


surrogates = st.text(st.characters(codec=None, min_codepoint=0xD7F0, max_codepoint=0xE00F), max_size=3)
cells = (
    plain
    | surrogates
    | st.integers()
    | st.binary(max_size=4)
    | st.builds(object)
    | st.lists(plain, max_size=3)
)
arrays = st.lists(st.floats() | st.text(max_size=2), max_size=3).map(np.array)


@settings(deadline=None)  # a loaded machine is no failure
@given(st.dictionaries(st.none() | st.integers() | names | surrogates, cells | arrays, max_size=5))
def test_any_row(row: dict[Any, Any]) -> None:
    for chosen in SETTINGS:
        (result,) = Codec(chosen).decode([Record(b"", HERE, fields=row)])
        sound(result)


@settings(deadline=None)  # a loaded machine is no failure
@given(st.integers(0, 400), st.integers(0, 255), st.sampled_from(["PNG", "JPEG", "WEBP"]))
def test_any_damaged_image(place: int, byte: int, kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (9, 7), (200, 30, 90)).save(file, kind)
    data = bytearray(file.getvalue())
    data[place % len(data)] = byte
    all_sound([msgpack.packb({"x": bytes(data)}), msgpack.packb({"x": bytes(data[: place % len(data)])})])


# Raw bytes are finished all of a kind at once


@settings(deadline=None)  # a loaded machine is no failure
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["uint8", "int16", "float16", "float32", "float64", "int64"]),
            st.sampled_from([[2], [1, 2], [2, 1], [1, 1, 2]]),
            st.sampled_from([b"\0" * 8, b"\1\2\3\4\5\6\7\0", b"\xff" * 8, b"\0\x7c" * 4]),
            st.sampled_from(["a", None, True]),
        ),
        max_size=8,
    )
)
def test_what_is_decoded_together_is_what_is_decoded_alone(
    given_records: list[tuple[str, list[int], bytes, Any]],
) -> None:
    records = []
    for number, (dtype, shape, content, label) in enumerate(given_records):
        data = (content * 2)[: 2 * np.dtype(dtype).itemsize]
        raw = {"dtype": dtype, "shape": shape, "data": data}
        records.append(Record(msgpack.packb({"x": raw, "y": label}), Position("t", 0, number)))
    codec = Codec(CodecSettings())
    together = codec.decode(records)
    for record, found in zip(records, together, strict=True):
        (alone,) = codec.decode([record])
        sound(found)
        if isinstance(alone, Event):
            assert isinstance(found, Event)
            assert (found.x.dtype, found.x.shape) == (alone.x.dtype, alone.x.shape)
            assert found.x.tobytes() == alone.x.tobytes()
            assert (found.id, found.y, found.record) == (alone.id, alone.y, alone.record)
        else:
            assert found == alone
    xs = [item.x for item in together if isinstance(item, Event)]
    for x in xs:
        x[...] = 7  # of no other's memory
    assert all((x == 7).all() for x in xs)


# The proof that no key occurs twice, against the slow way


def slow_unique(text: str) -> bool:
    seen_twice = False

    def hook(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal seen_twice
        seen_twice |= len(dict(pairs)) != len(pairs)
        return dict(pairs)

    json.loads(text, object_pairs_hook=hook)
    return not seen_twice


strings = st.sampled_from(
    ["a", "b", "a:", ":", "::", "\\u003a", "\\u003A\\u003a", "\\\\u003a", "\\u0061"]
).map('"{}"'.format)
json_text = st.recursive(
    strings | st.just("1"),
    lambda s: (
        st.lists(st.tuples(strings, s), max_size=3).map(
            lambda p: "{" + ", ".join(f"{k}: {v}" for k, v in p) + "}"
        )
        | st.lists(s, max_size=3).map(lambda items: "[" + ",".join(items) + "]")
    ),
    max_leaves=8,
)


@settings(deadline=None)  # a loaded machine is no failure
@given(
    st.lists(st.tuples(strings, json_text), max_size=4).map(
        lambda p: "{" + ",".join(f"{k}:{v}" for k, v in p) + "}"
    )
)
def test_duplicate_keys_are_found_as_the_slow_way_finds_them(text: str) -> None:
    value = text.encode()
    unique = slow_unique(text)
    if proves_unique_keys(value, orjson.loads(value)):
        assert unique
    result = decode(value, max_depth=64)
    found = isinstance(result, Rejection) and result.reason == "duplicate_key"
    assert found is not unique


@pytest.mark.parametrize(
    "value", [b'{"a": 1, "b": {"c": "12:30"}}', b'{"x": "data:image/png;base64,AA"}', b"{}"]
)
def test_the_proof_is_not_idle(value: bytes) -> None:
    assert proves_unique_keys(value, orjson.loads(value))


@settings(deadline=None)  # a loaded machine is no failure
@given(st.binary(), st.none() | st.binary())
def test_encode_dead_letter(value: bytes, key: bytes | None) -> None:
    letter = orjson.loads(encode_dead_letter(Rejection("empty", "why", Record(value, HERE, key=key))))
    assert base64.b64decode(letter.pop("value")) == value
    assert (base64.b64decode(letter.pop("key")) if key is not None else None) == key
    assert letter == {"reason": "empty", "detail": "why", "source": ["topic", 3, 14]}


LARGE = 10**300


@settings(deadline=None)  # a loaded machine is no failure
@given(st.integers(-LARGE, LARGE) | st.integers(2**62, 2**66) | st.integers(-(2**66), -(2**62)))
def test_integers_of_any_size_are_ids_labels_and_tasks(number: int) -> None:
    of = {"max_id_length": 400, "max_label_length": 400}
    for name in ("id", "y", "task"):
        text = f'{{"x": [1, 2.5], "{name}": {number}, "z": "\\u00e9"}}'
        found = event(decode(text.encode(), **of))
        assert {"id": found.id, "y": found.y, "task": found.task}[name] == str(number)
        assert found.x.tolist() == [1, 2.5]
        written_as_float = decode(text.replace(f"{number},", f"{number}.0,").encode(), **of)
        assert not isinstance(written_as_float, Event) or (name == "task" and written_as_float.task is None)
    below = event(decode(f'{{"in": {{"id": {number}}}, "x": [1]}}'.encode(), id="in.id", **of))
    assert below.id == str(number)
