"""Records decoded together become what each becomes alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamlearn.alike import columns_of, raw_rows
from streamlearn.codec import FEW, TOGETHER, UNTRIED, Codec
from streamlearn.config import CodecSettings
from streamlearn.events import Event, Item, Position, Record, Rejection


def raw(x: Any, dtype: str = "float32", **more: Any) -> dict[str, Any]:
    data = np.array(x).astype(dtype)
    return {"dtype": dtype, "shape": list(data.shape), "data": data.tobytes()} | more


def values(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"id": f"e{i}", "x": raw([i, 0.5]), "y": f"c{i % 3}"} | more for i in range(count)]


def content(item: Item) -> tuple[Any, ...]:
    if isinstance(item, Event):
        x = (item.x.dtype, item.x.shape, item.x.tobytes(), item.x.flags.writeable, item.x.flags.c_contiguous)
        return item.id, item.y, item.ts, item.task, item.position, item.record, x
    assert isinstance(item, Rejection)
    return item.reason, item.detail, item.record


def same(contents: Sequence[bytes], **of: Any) -> list[Item]:
    """Decodes them together, and compares to each by itself; the last is one that nothing is wrong with."""
    codec, other = Codec(CodecSettings(**of)), Codec(CodecSettings(**of))
    records = [Record(value, Position("t", 0, at), at + 1) for at, value in enumerate(contents)]
    together = codec.decode(records)
    alone = [item for record in records for item in other.decode([record])]
    assert list(map(content, together)) == list(map(content, alone))
    return together


def packed(some: Sequence[Any]) -> list[bytes]:
    return list(map(msgpack.packb, some))


@pytest.mark.parametrize("name", ["uint8", "int8", "uint16", "int64", "float16", "float32", "float64"])
@pytest.mark.parametrize("order", "<>")
def test_dtypes_as_numpy_writes_them(name: str, order: str) -> None:
    """<f4 and |u1 are what they are by name; >f4 is the same numbers, of other bytes."""
    dtype = np.dtype(name).newbyteorder(">" if order == ">" else "<")
    rows = np.arange(2 * FEW).reshape(FEW, 2).astype(dtype)
    of = {"shape": [2], "dtype": dtype.str}
    contents = packed([{"id": str(i), "x": of | {"data": row.tobytes()}} for i, row in enumerate(rows)])
    assert are_alike(contents)
    (*named,) = Codec(CodecSettings()).decode(
        [
            Record(value, Position("t", 0, at), at + 1)
            for at, value in enumerate(
                packed([{"id": str(i), "x": raw(row, name)} for i, row in enumerate(rows)])
            )
        ]
    )
    for found, known in zip(same(contents), named, strict=True):
        assert isinstance(found, Event) and isinstance(known, Event)
        assert found.x.dtype == known.x.dtype and found.x.tobytes() == known.x.tobytes()


def are_alike(contents: Sequence[bytes]) -> bool:
    columns = columns_of(contents, "x", 1000)
    return columns is not None and raw_rows(columns["x"], 1000) is not None


@pytest.mark.parametrize("count", [FEW - 1, FEW, TOGETHER, TOGETHER + 1, 2 * TOGETHER + FEW])
def test_as_many_as_one_likes(count: int) -> None:
    assert are_alike(packed(values(count)))
    assert all(isinstance(item, Event) for item in same(packed(values(count))))


@pytest.mark.parametrize(
    "more",
    [
        {"ts": 1.5, "task": "a"},
        {"ts": None, "task": 7},
        {"id": 5, "y": -3, "more": [], "ts": 7},
        {"id": None, "y": None, "more": b"x"},
        {"id": "é", "y": "ü" * 300},
        {"x": raw([[1.0, 2.0], [3.0, 4.0]], "uint8")},
        {"x": raw([[[1.0, 2.0]]], "int64"), "more": True},
        {"x": raw([1e39], "float64")},
        {"x": raw([np.nan])},
        {"x": raw([1.0], "float16")},
        {"id": 2**64 - 1},
        {"ts": float("nan")},
        {"id": ""},
        {"id": True},
        {"a.b": 1},
    ],
)
def test_whatever_it_is(more: dict[str, Any]) -> None:
    same(packed(values(FEW, **more)))
    same(packed([*values(FEW, **more), *values(FEW)]))
    same(packed(values(FEW, **more)), id="a.b", max_bytes=90)


@pytest.mark.parametrize(
    "odd",
    [
        b"",
        b"\xc1",
        b'{"id": "e", "x": [1, 2], "y": "a"}',
        *packed(
            [
                values(1)[0] | {"x": raw([1.0], shape=[1.0])},
                values(1)[0] | {"x": raw([1.0], shape=[True])},
                values(1)[0] | {"x": raw([1.0], shape=[1, 1])},
                values(1)[0] | {"x": raw([1.0], shape=[-1])},
                values(1)[0] | {"x": raw([1.0], shape=[])},
                values(1)[0] | {"x": raw([1.0], shape=4)},
                values(1)[0] | {"x": raw([1.0], data="AAAA")},
                values(1)[0] | {"x": raw([1.0]) | {"dtype": "S4"}},
                values(1)[0] | {"x": raw([1.0]) | {"dtype": "<U1"}},
                values(1)[0] | {"x": raw([np.nan]) | {"dtype": "<f4"}},
                values(1)[0] | {"x": raw([1.0]) | {"dtype": ">f4"}},
                values(1)[0] | {"x": raw([1.0]) | {"dtype": "<f4"}},
                values(1)[0] | {"x": raw([1.0]) | {"dtype": ["float32"]}},
                values(1)[0] | {"x": raw([1.0], more=1)},
                values(1)[0] | {"x": [["dtype", "float32"], ["shape", [1]], ["data", b"0000"]]},
                values(1)[0] | {"x": [1.0, 2.0]},
                values(1)[0] | {"x": {"a": 1.0}},
                values(1)[0] | {"y": msgpack.ExtType(5, b"")},
                values(1)[0] | {"y": msgpack.Timestamp(1)},
                values(1)[0] | {"y": {"a": [[]]}},
                {"x": raw([1.0, 2.0]), "id": "e", "y": "c"},
                {"x": raw([1.0, 2.0]), "id": "e"},
                {},
            ]
        ),
        # A key twice, one that is no text, and bytes behind the end.
        b"\x83" + b"".join(packed(["x", raw([1.0]), "y", "a", "y", "b"])),
        b"\x83" + b"".join(packed(["id", "e", "x", raw([1.0]), b"y", "a"])),
        msgpack.packb(values(1)[0]) + b"\xc0",
        msgpack.packb(values(1)[0])[:-1],
    ],
)
def test_one_odd_record(odd: bytes) -> None:
    good = packed(values(FEW))
    same([*good, odd])
    same([odd, *good])
    same([odd] * FEW)
    same([odd] * FEW, max_depth=2)


def test_what_follows_an_odd_one() -> None:
    odd, good = packed(values(1, x=1)), packed(values(TOGETHER))
    same([*odd, *good * (UNTRIED + 3), *odd])


def test_what_is_told_only_by_the_record() -> None:
    codec = Codec(CodecSettings(tombstones="forget"))
    records = [Record(b"", Position("t", 0, at), key=b"k", tombstone=True) for at in range(FEW)]
    assert len({type(item) for item in codec.decode(records)}) == 1
    rows = [Record(b"", Position("t", 0, at), fields={"x": [at], "id": "a"}) for at in range(FEW)]
    assert all(isinstance(item, Event) for item in codec.decode(rows))


plain = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=3)
keys = st.sampled_from(["id", "x", "y", "ts", "task", "x.id"])
shapes = st.sampled_from([[2], [1, 2], [1, 2, 1], [1], [True, 2], 2, "2"])
x = st.builds(lambda shape, data: raw([0.0]) | {"shape": shape, "data": data}, shapes, st.binary(max_size=8))
some = st.dictionaries(keys, plain | x | st.just(raw([1.0, 2.0])), max_size=5)


@settings(deadline=None)  # a loaded machine is no failure
@given(some, st.lists(st.tuples(keys, plain | x), max_size=2), st.integers(FEW, 6))
def test_whatever_is_drawn(one: dict[str, Any], changes: list[tuple[str, Any]], count: int) -> None:
    records = [dict(one) for _ in range(count)]
    for place, (name, value) in enumerate(changes):
        records[place][name] = value
    same(packed(records), id="x.id", label="y", max_id_length=2)
    same(packed(records))
