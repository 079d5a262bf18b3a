"""The shape and dtype of x: settled once, by the settings or by the majority of the first events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from streamlearn.events import Array, Event

LARGEST = float(np.finfo(np.float32).max)
"""What float32 can hold; a larger number is no input."""

FLOAT32 = np.dtype(np.float32)
"""Made once: a comparison with the type alone would make it anew."""


@dataclass(frozen=True)
class Schema:
    """What an input must be: its shape, and whether it is kept as uint8 (images, raw bytes) or float32."""

    shape: tuple[int, ...]
    dtype: str

    def fits(self, x: Array) -> bool:
        """Whether x surely fits: a quick answer for what nearly every event of a stream of floats is."""
        if x.dtype != FLOAT32 or x.shape != self.shape or self.dtype == "uint8" or x.ndim != 1:
            return False
        # Of numbers that are none the product is none; of very large ones as well, and a look decides.
        return isfinite(x.dot(x))

    def misfit(self, x: Array) -> tuple[str, str] | None:
        """(reason, detail) if x doesn't fit. Whole numbers in 0..255 fit uint8, uint8 fits float32."""
        if x.shape != self.shape:
            return "wrong_shape", f"x has shape {list(x.shape)}, this stream has {list(self.shape)}"
        if x.dtype == np.uint8:
            return None
        if x.dtype.kind not in "iuf":
            return "wrong_dtype", f"x has dtype {x.dtype}, numbers were expected"
        if not within_float32(x):
            return "not_finite", "x holds NaN, an infinity, or a number too large for float32"
        if self.dtype == "uint8" and not _are_bytes(x):
            return "wrong_dtype", "x holds other numbers than 0..255, this stream has bytes (uint8)"
        return None

    def plain(self) -> dict[str, Any]:
        return {"shape": list(self.shape), "dtype": self.dtype}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Schema:
        return cls(tuple(values["shape"]), values["dtype"])


def within_float32(x: Array) -> bool:
    """Whether every number in `x` is finite, and within the range of float32."""
    if x.dtype == FLOAT32:
        # Half the price of the comparison below, and of float32 values the same.
        return bool(np.count_nonzero(np.isfinite(x)) == x.size)
    # NaN compares as false: one comparison finds all three.
    return bool(np.count_nonzero(np.abs(x) <= LARGEST) == x.size)


def _are_bytes(x: Array) -> bool:
    return bool(((x >= 0) & (x <= 255) & (x == np.floor(x))).all())


def blank(x: Array) -> Array:
    """An input of the shape and dtype of `x` and nothing else of it: it fits where `x` fits, only there."""
    if x.dtype.kind not in "iuf":
        return np.zeros_like(x)
    if x.dtype.kind == "f" and not within_float32(x):
        return np.full_like(x, np.nan)
    return np.full_like(x, 0 if _are_bytes(x) else 256 if x.dtype.kind == "u" else -1)


def settle(voters: Sequence[Event], dtype: str | None) -> Schema:
    """The shape that most of `voters` have (the earlier one of equals), and the dtype most of those have."""
    shape = Counter(event.x.shape for event in voters).most_common(1)[0][0]
    if dtype is None:
        kinds = ["uint8" if e.x.dtype == np.uint8 else "float32" for e in voters if e.x.shape == shape]
        dtype = Counter(kinds).most_common(1)[0][0]
    return Schema(shape, dtype)
