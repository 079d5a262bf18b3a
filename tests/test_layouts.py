"""Records of one layout are taken apart as what each is by itself, whatever is done to their bytes."""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamlearn.codec import FEW
from streamlearn.layouts import GROUP, apart
from tests.test_alike import packed, raw, same

X = raw([1.0, 2.5])
EVENT = {"id": "e1", "x": X, "y": "a", "ts": 1.5}


def events(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"id": f"e{i:03}", "x": raw([i, 0.5]), "y": "c" + "ab"[i % 2]} | more for i in range(count)]


def test_what_producers_send_is_of_one_layout() -> None:
    found = apart(packed(events(9, ts=2.5, task=None)), "x", 1000, 10)
    assert found is not None
    columns, xs = found
    assert columns == {
        "id": [f"e{i:03}" for i in range(9)],
        "y": [*["ca", "cb"] * 4, "ca"],
        "ts": [2.5] * 9,
        "task": [None] * 9,
    }
    assert [x.tolist() for x in xs] == [[float(i), 0.5] for i in range(9)]
    assert all(x.flags.writeable for x in xs)


def test_some_lengths_together() -> None:
    """Numbers in ids get longer."""
    some = [{"id": f"e{i}", "x": raw([i, 0.5]), "y": "a"} for i in range(90, 90 + 2 * GROUP)]
    found = apart(packed(some), "x", 1000, 10)
    assert found is not None
    assert found[0]["id"] == [each["id"] for each in some]
    assert [x[0] for x in found[1]] == [*range(90, 90 + 2 * GROUP)]
    same(packed(some))
    assert apart(packed(some[: GROUP + 9]), "x", 1000, 10) is None, "too few of each"
    same(packed(some[: GROUP + 9]))
    others = [*some, {"id": "e", "x": raw([1.0, 0.5]), "z": "a"}]
    assert apart(packed(others), "x", 1000, 10) is None, "other fields"
    same(packed(others))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float16", "float32", "float64", "<f4", ">f4", ">u2"])
@pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 2, 3)])
def test_kinds_of_x(dtype: str, shape: tuple[int, ...]) -> None:
    rows = np.arange(6 * FEW).reshape(FEW, *shape).astype(dtype)
    of = {"dtype": dtype, "shape": list(shape)}
    some = packed([{"x": of | {"data": row.tobytes()}, "id": str(i)} for i, row in enumerate(rows)])
    assert apart(some, "x", 1000, 10) is not None
    same(some)
    same(some, max_values=5)
    same(some, max_bytes=len(some[0]) - 1)
    same(some, max_depth=2)
    same(some, id="x")
    same(some, label="x.dtype")


def test_odd_maps() -> None:
    one = b"\x83\xa2id\xa1a\xa1x" + msgpack.packb(X) + b"\xa2id\xa1b"
    two = b"\x83\xa2id\xa1a\xa1x" + msgpack.packb(X) + b"\xa1x" + msgpack.packb(X)
    inside = msgpack.packb(X).replace(b"\xa5shape\x91\x02", b"\xa5dtype\xa7float32")
    unreadable = msgpack.packb(X).replace(b"float32", b"\xff" * 7)
    for odd in (one, two, *(b"\x82\xa2id\xa1a\xa1x" + each for each in (inside, unreadable))):
        assert apart([odd] * FEW, "x", 1000, 10) is None
        same([odd] * FEW)


TEXTS = st.text(st.sampled_from("ab\u00e9\x00"), max_size=3) | st.just("a" * 40)
SCALARS = st.one_of(
    TEXTS, st.floats(), st.integers(-300, 300), st.none(), st.booleans(), st.binary(max_size=2)
)
XS = [X, raw([[1, 2], [3, 4]], "uint8"), raw([np.inf]), {}, X | {"more": 1}, X | {"shape": [3]}]
FIELDS = st.dictionaries(st.sampled_from(["id", "y", "ts", "task", "more", "\u00e9"]), SCALARS, max_size=4)


@given(
    fields=FIELDS,
    others=st.lists(FIELDS, max_size=2),
    x=st.sampled_from(
        [X, raw([[1, 2], [3, 4]], "uint8"), raw([np.inf]), {}, X | {"more": 1}, X | {"shape": [3]}]
    ),
    last=st.booleans(),
    changes=st.lists(st.tuples(st.integers(0, FEW), st.integers(0, 80), st.integers(0, 255)), max_size=3),
    cut=st.tuples(st.integers(0, FEW), st.integers(-2, 2)),
)
@example(fields={"id": "a", "y": "b"}, others=[], x=X, last=False, changes=[], cut=(0, 0))
def test_whatever_is_done_to_the_bytes(
    fields: dict[str, Any],
    others: list[dict[str, Any]],
    x: dict[str, Any],
    last: bool,
    changes: list[tuple[int, int, int]],
    cut: tuple[int, int],
) -> None:
    some = [fields, *[fields | other for other in others]]
    maps = [{**each, "x": x} if last else {"x": x, **each} for each in some]
    contents = [bytearray(msgpack.packb(maps[i % len(maps)])) for i in range(FEW + 1)]
    for which, place, byte in changes:
        contents[which][place % len(contents[which])] = byte
    which, by = cut
    contents[which] = contents[which][:by] if by < 0 else contents[which] + b"\xc0" * by
    same(list(map(bytes, contents)))


@given(st.lists(st.binary(max_size=12), min_size=1, max_size=4))
def test_any_bytes(contents: list[bytes]) -> None:
    apart([b"\x82\xa1x\x83" + content for content in contents], "x", 1000, 10)
    same(contents)
