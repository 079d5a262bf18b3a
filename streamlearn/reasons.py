"""Why a record is refused: the names that count in metrics and stand in dead letters, and the exception."""

from __future__ import annotations

import reprlib
from typing import Any

import numpy as np

REASONS: dict[str, str] = {
    "empty": "The record has no value, or only white space.",
    "too_large": "The record has more bytes than codec.max_bytes, or x more numbers than codec.max_values.",
    "undecodable": "The value is neither JSON nor msgpack: cut, malformed or not UTF-8.",
    "not_an_object": "The value is valid JSON or msgpack, but a list, a number or a string, not an object.",
    "duplicate_key": "An object names the same key twice.",
    "too_deep": "Objects and lists are nested deeper than codec.max_depth.",
    "msgpack_extension": "The value holds a msgpack extension type, a timestamp for example.",
    "bad_row": "A table's row has more or fewer cells than columns, lacks a named column, or is not UTF-8.",
    "bad_id": "The id is not a string or an integer, is empty, or is longer than codec.max_id_length.",
    "bad_label": "The label is not a non-empty string or an integer.",
    "label_too_long": "The label is longer than codec.max_label_length.",
    "bad_time": "The time is not a finite number.",
    "missing_features": "The record has no features where the settings say they are.",
    "bad_features": "The features are in none of the forms that the codec knows.",
    "not_finite": "A number is NaN, infinite, or too large for float32.",
    "image_too_large": "The encoded image has more pixels than codec.max_pixels.",
    "truncated_image": "The encoded image ends early.",
    "bad_image": "The encoded image is not a readable PNG, JPEG or WebP.",
    "wrong_shape": "The features have another shape than the model's input.",
    "wrong_dtype": "The features hold other numbers than 0..255 where the model's input is bytes.",
    "too_many_classes": "The label is new and codec.max_classes labels are known already.",
}
"""Reason -> its meaning. The codec gives all but the last three, which later stages give."""

_LONGEST_VALUE = 72
_LONGEST_DETAIL = 200


class Refusal(Exception):
    """Raised inside the codec to refuse the record at hand; `reason` is a key of REASONS."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = printable(detail)


def printable(text: str) -> str:
    """`text`, cut to what a header carries, with lone surrogates escaped: it can always be encoded."""
    if len(text) > _LONGEST_DETAIL:
        text = text[: _LONGEST_DETAIL - 1] + "…"
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


class _Short(reprlib.Repr):
    """repr of at most a line, at a cost that does not grow with the value.

    Nothing of it may differ from run to run (no addresses): a dead letter is a function of the record.
    """

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxlist, self.maxtuple, self.maxdict = 2, 4, 4, 3
        self.maxstring = self.maxlong = _LONGEST_VALUE

    def repr_bytes(self, x: bytes, level: int) -> str:
        return repr(x) if len(x) <= 16 else f"{x[:16]!r}… ({len(x)} bytes)"

    def repr_int(self, x: int, level: int) -> str:
        # repr of an integer of more than 4300 digits raises
        return repr(x) if x.bit_length() <= 128 else f"an integer of {x.bit_length()} bits"

    def repr_ndarray(self, x: np.ndarray[Any, Any], level: int) -> str:
        return f"an array of {x.dtype}, shape {list(x.shape)}"

    def repr_instance(self, x: object, level: int) -> str:
        if x is None or isinstance(x, (bool, float, str, np.generic)):
            return repr(x)
        return f"a {type(x).__name__}"


_SHORT = _Short()


def abbreviate(value: object) -> str:
    """`value` in one short line, for a `detail`."""
    text = _SHORT.repr(value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"
