"""Records of one layout, taken apart as one array: what a producer of raw bytes sends by the thousand.

Two msgpack records have one layout if they are equally long and differ only within ASCII texts, floats and
the raw bytes of x. The first one is read byte by byte, of the others it is compared that all the rest is the
same. Whatever doesn't fit makes None of all: so nothing here finds anything in a record that decoding it by
itself doesn't.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack
import numpy as np

from streamlearn.arrays import finish_rows, from_raw
from streamlearn.events import Array
from streamlearn.reasons import Refusal

GROUP = 32
"""So many records of each length are worth the looking, on average."""
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_HEADS = {0xC4: 1, 0xC5: 2, 0xC6: 4}
"""Bytes that say how long raw bytes are."""
_INTEGERS = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}

Apart = tuple[dict[str, Sequence[Any]], list[Array]]
"""The fields by name [records], without x; and the x's."""


class _Other(Exception):
    """It has no layout that is known here."""


@dataclass
class _Layout:
    """Of one record: where what may vary begins and ends."""

    texts: dict[str, slice] = field(default_factory=dict)
    floats: dict[str, slice] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    data: slice | None = None
    x: Array = field(default_factory=lambda: np.empty(0))
    """The first x, as a view."""

    def fixed(self, size: int) -> Array:
        """Places of the bytes that all records have in common [n]."""
        same = np.ones(size, dtype=bool)
        for span in (*self.texts.values(), *self.floats.values(), self.data):
            same[span] = False
        return np.flatnonzero(same)


def apart(values: Sequence[bytes], features: str, most_bytes: int, max_values: int) -> Apart | None:
    """Their fields and x's; None if they aren't of a few layouts. features: the name of x."""
    lengths = set(map(len, values))
    if min(lengths) == 0 or max(lengths) > most_bytes or len(lengths) > max(1, len(values) // GROUP):
        return None
    try:
        if len(lengths) == 1:
            return _apart(values, features, max_values)
        groups: dict[int, list[int]] = {}
        for place, value in enumerate(values):
            groups.setdefault(len(value), []).append(place)
        return _together(
            [
                (places, _apart([values[place] for place in places], features, max_values))
                for places in groups.values()
            ]
        )
    except (_Other, Refusal):
        return None


def _together(groups: Sequence[tuple[Sequence[int], Apart]]) -> Apart:
    names = groups[0][1][0].keys()
    count = sum(len(places) for places, _ in groups)
    columns: dict[str, list[Any]] = {name: [None] * count for name in names}
    xs: list[Any] = [None] * count
    for places, (found, rows) in groups:
        if found.keys() != names:
            raise _Other
        for into, column in ((xs, rows), *((columns[name], found[name]) for name in names)):
            for place, value in zip(places, column, strict=True):
                into[place] = value
    return dict(columns), xs


def _apart(values: Sequence[bytes], features: str, max_values: int) -> Apart:
    """Of records of one length. Raises _Other, Refusal."""
    layout = _layout(values[0], features, max_values)
    rows = np.frombuffer(b"".join(values), np.uint8).reshape(len(values), -1)
    fixed = rows[:, layout.fixed(rows.shape[1])]
    if (fixed != fixed[0]).any():
        raise _Other
    columns: dict[str, Sequence[Any]] = {}
    for name, span in layout.texts.items():
        text, width = _ascii(rows[:, span].tobytes()), span.stop - span.start
        columns[name] = [text[at * width : (at + 1) * width] for at in range(len(values))]
    for name, span in layout.floats.items():
        columns[name] = np.ascontiguousarray(rows[:, span]).view(">f8").ravel().tolist()
    for name, value in layout.constants.items():
        columns[name] = [value] * len(values)
    assert layout.data is not None
    x = np.ascontiguousarray(rows[:, layout.data]).view(layout.x.dtype)
    return columns, finish_rows(x.reshape(len(values), *layout.x.shape))


def _ascii(content: bytes) -> str:
    if not content.isascii():
        raise _Other
    return content.decode("ascii")


def _layout(value: bytes, features: str, max_values: int) -> _Layout:
    """Of one record. Raises _Other, Refusal."""
    layout = _Layout()
    try:
        at = 1
        for _ in range(_count(value[0], 0x80)):
            name, at = _name(value, at)
            if name in layout.texts or name in layout.floats or name in layout.constants:
                raise _Other
            code = value[at]
            if name == features:
                if layout.data is not None:
                    raise _Other
                begin, (layout.data, at) = at, _raw(value, at)
                layout.x = from_raw(_unpacked(value[begin:at]), max_values)
            elif code in _CONSTANTS:
                layout.constants[name], at = _CONSTANTS[code], at + 1
            elif code == 0xCB:
                layout.floats[name], at = slice(at + 1, at + 9), at + 9
            else:
                layout.texts[name] = span = _text(value, at)
                at = span.stop
    except IndexError:
        raise _Other from None
    if layout.data is None or at != len(value):
        raise _Other
    return layout


def _unpacked(content: bytes) -> dict[str, Any]:
    try:
        found: dict[str, Any] = msgpack.unpackb(content)
        return found
    except Exception:  # whatever msgpack raises for bytes that it doesn't understand
        raise _Other from None


def _raw(value: bytes, at: int) -> tuple[slice, int]:
    """Of {"dtype", "shape", "data"} where the data are, and where it ends."""
    if _count(value[at], 0x80) != 3:
        raise _Other
    at += 1
    spans = {}
    for _ in range(3):
        name, at = _name(value, at)
        if name == "data":
            head = _HEADS.get(value[at])
            if head is None:
                raise _Other
            begin = at + 1 + head
            spans[name] = slice(begin, begin + int.from_bytes(value[at + 1 : begin], "big"))
        elif name == "dtype":
            spans[name] = _text(value, at)
        elif name == "shape":
            end = at + 1
            for _ in range(_count(value[at], 0x90)):
                end += 1 if value[end] < 0x80 else 1 + _INTEGERS.get(value[end], len(value))
            spans[name] = slice(at, end)
        else:
            raise _Other
        at = spans[name].stop
    if len(spans) < 3 or at > len(value):
        raise _Other
    return spans["data"], at


def _count(code: int, kind: int) -> int:
    """Of a short map (kind 0x80) or array (0x90)."""
    if code & 0xF0 != kind:
        raise _Other
    return code & 0x0F


def _text(value: bytes, at: int) -> slice:
    code = value[at]
    if code & 0xE0 == 0xA0:
        return slice(at + 1, at + 1 + (code & 0x1F))
    if code == 0xD9:
        return slice(at + 2, at + 2 + value[at + 1])
    raise _Other


def _name(value: bytes, at: int) -> tuple[str, int]:
    span = _text(value, at)
    return _ascii(value[span]), span.stop
