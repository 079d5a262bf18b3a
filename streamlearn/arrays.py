"""Numbers as numpy arrays: from nested lists, from arrays, from raw bytes with a dtype and a shape.

Every result is C-contiguous, owns its memory, has 1 dimension or 3 (C x H x W), is uint8, float32 or
float64, is finite, and within the range of float32. What float32 can't hold exactly (a time in seconds since
1970, say) stays float64 until the learner has taken an offset off it.
"""

from __future__ import annotations

import binascii
import struct
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlearn.events import Array
from streamlearn.reasons import Refusal, abbreviate
from streamlearn.schema import within_float32

_PLAIN = frozenset((int, float))
_RAW_KEYS = frozenset(("dtype", "shape", "data"))


def _little_endian(name: str) -> np.dtype[Any]:
    # On most machines the same as numpy's own, for which it has shorter ways.
    dtype = np.dtype(name).newbyteorder("<")
    return np.dtype(name) if dtype.isnative else dtype


_NAMES = (
    *("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("float16", "float32", "float64"),
)
# Also as numpy's dtype.str spells them: <f4, |u1; and those with the larger bytes first, >f4.
_RAW_DTYPES = {name: _little_endian(name) for name in _NAMES}
_RAW_DTYPES |= {np.dtype(name).newbyteorder("<").str: _little_endian(name) for name in _NAMES}
_RAW_DTYPES |= {np.dtype(name).newbyteorder(">").str: np.dtype(name).newbyteorder(">") for name in _NAMES[2:]}


def vector(values: Sequence[float]) -> NDArray[np.float64]:
    """Plain numbers as float64 [len(values)]. Refusal not_finite for NaN, infinity, too large for float32."""
    x = np.empty(len(values))
    try:
        # Several times faster than np.array, and an overflow is an exception instead of a warning.
        struct.pack_into(f"{len(values)}d", x.data, 0, *values)
    except (OverflowError, struct.error):  # the latter for integers beyond float64
        raise Refusal("not_finite", "a number is too large for float32") from None
    return _refuse_not_finite(x)


def from_list(values: Sequence[Any], max_values: int) -> Array:
    """A list of numbers, or of equally long lists of them, down to 3 levels, as float64."""
    shape = [len(values)]
    while True:
        if not values:
            raise Refusal("bad_features", "the features are an empty list")
        if shape[0] * (shape[1] if len(shape) > 1 else 1) > max_values or len(values) > max_values:
            raise _too_many(len(values), max_values)
        kinds = set(map(type, values))
        if kinds <= _PLAIN:
            return _planes(vector(values).reshape(shape))
        if kinds != {list}:
            odd = next(v for v in values if type(v) not in (_PLAIN if kinds & _PLAIN else {list}))
            raise Refusal("bad_features", f"the features hold {abbreviate(odd)} where a number was expected")
        if len(shape) == 3:
            raise Refusal("bad_features", "the features have more than 3 dimensions")
        widths = set(map(len, values))
        if len(widths) > 1:
            raise Refusal("bad_features", f"rows of x differ in length: {abbreviate(sorted(widths))}")
        shape.append(widths.pop())
        values = list(chain.from_iterable(values))


def from_array(array: Array, max_values: int) -> Array:
    """A copy of `array` as an x: uint8 or a float that holds its values; [H,W] becomes [1,H,W]."""
    kind = array.dtype.kind
    if kind not in "iuf":
        raise Refusal("bad_features", f"the features are an array of {array.dtype}, numbers were expected")
    if not 1 <= array.ndim <= 3 or not array.size:
        raise Refusal(
            "bad_features", f"the features have shape {list(array.shape)}, 1 to 3 dimensions were expected"
        )
    if array.size > max_values:
        raise _too_many(array.size, max_values)
    return _as_x(array)


def _as_x(array: Array) -> Array:
    """The same, of an array of numbers that may be one by its shape."""
    return _planes(_exact(array))


def _exact(array: Array) -> Array:
    """A copy as uint8, or as the float that holds its values."""
    dtype = array.dtype
    if dtype == np.uint8:
        return np.array(array, np.uint8, order="C")
    exact = np.float32 if dtype.itemsize <= (4 if dtype.kind == "f" else 2) else np.float64
    if dtype.itemsize <= 8:
        return _refuse_not_finite(np.array(array, exact, order="C"))
    with np.errstate(over="ignore"):  # of wider floats than float64; refused below
        x = np.array(array, exact, order="C")
    return _refuse_not_finite(x)


def is_raw(value: Mapping[str, Any]) -> bool:
    """True for {"dtype", "shape", "data"}: raw bytes, not an object of named features."""
    return len(value) == 3 and value.keys() == _RAW_KEYS


def from_raw(value: Mapping[str, Any], max_values: int) -> Array:
    """{"dtype", "shape", "data"}: bytes (base64 in JSON) as a read-only view of them. They are little-endian
    unless the dtype says otherwise (">f4").

    What is still to be done is `finish`: of many at once it costs a fifth.
    """
    name, shape, data = value["dtype"], value["shape"], value["data"]
    dtype = _RAW_DTYPES.get(name) if type(name) is str else None
    if dtype is None:
        raise Refusal(
            "bad_features",
            f"dtype is {abbreviate(name)}, one of {', '.join(_NAMES)} expected (or as numpy writes it: <f4)",
        )
    if type(data) is str:
        data = from_base64(data, "bad_features")
    if type(data) is not bytes:
        raise Refusal("bad_features", f"data is {abbreviate(data)}, bytes or base64 were expected")
    if type(shape) is not list or not 1 <= len(shape) <= 3:
        raise Refusal("bad_features", f"shape is {abbreviate(shape)}, a list of 1 to 3 integers was expected")
    size = 1
    for length in shape:
        if type(length) is not int or length < 1:
            raise Refusal("bad_features", f"shape is {abbreviate(shape)}, positive integers were expected")
        size *= length
    if size * dtype.itemsize != len(data):
        raise Refusal(
            "bad_features", f"{len(data)} bytes of data are not {name} of shape {abbreviate(shape)}"
        )
    if size > max_values:
        raise _too_many(size, max_values)
    x = np.frombuffer(data, dtype)
    return x if len(shape) == 1 else x.reshape(shape)


def finish(views: Sequence[Array]) -> list[Array]:
    """Views of one dtype and shape, from `from_raw`, as x's (see `from_array`). Refusal not_finite: of any.

    They are rows of one array: none may be kept for long unless all are.
    """
    return finish_rows(np.concatenate(views).reshape(len(views), *views[0].shape))


def finish_rows(rows: Array) -> list[Array]:
    """The same of the rows of one array."""
    exact = _exact(rows)
    return list(exact[:, np.newaxis] if exact.ndim == 3 else exact)


def from_base64(text: str, reason: str) -> bytes:
    """The bytes of strict base64 (RFC 4648, with padding); a Refusal of `reason` otherwise."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise Refusal(reason, f"not base64: {error}") from None


def _planes(x: Array) -> Array:
    return x[np.newaxis] if x.ndim == 2 else x


def _refuse_not_finite(x: Array) -> Array:
    if not within_float32(x):
        raise Refusal("not_finite", "the features hold NaN, an infinity, or a number too large for float32")
    return x


def _too_many(size: int, max_values: int) -> Refusal:
    return Refusal("too_large", f"the features are {size} numbers, codec.max_values is {max_values}")
