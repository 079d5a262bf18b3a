"""The features of a record, in whichever form they come, as one array x."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from streamlearn.arrays import from_array, from_base64, from_list, from_raw, is_raw, vector
from streamlearn.config import CodecSettings
from streamlearn.events import Array
from streamlearn.hashing import ObjectHasher, parse_number
from streamlearn.images import decode_image, image_format
from streamlearn.reasons import Refusal, abbreviate

_DATA_URL = re.compile(r"data:image/[^,]{0,100};base64,")
LONGEST_WORD = 64
"""ASCII without a space that is longer is data of some kind (base64, say), and no text to be hashed."""


class FeatureReader:
    """Turns the value found at `codec.features` into x: uint8, float32 or float64, [n] or [C,H,W], finite.

    The form is known from the value alone:
    a list, nested or not, or a numpy array; {"dtype", "shape", "data"}; an encoded image (bytes, or a
    string "data:image/...;base64,..."); any other object, and any other string, as a text: hashed.
    """

    def __init__(self, settings: CodecSettings) -> None:
        self._max_values = settings.max_values
        self._max_pixels = settings.max_pixels
        self._named = settings.named
        self._hash = ObjectHasher(settings.hash_dim, settings.max_depth)

    def read(self, value: Any, table: bool) -> Array:
        """x of the one value that holds all features. Raises Refusal. `table`: it is a cell of a table.

        Of raw bytes it is a read-only view, which `arrays.finish` checks and makes an x of.
        """
        kind = type(value)
        if kind is list:
            return self._list(value, table)
        if kind is dict:
            return from_raw(value, self._max_values) if is_raw(value) else self._hash(value, table)
        if kind is bytes:
            return self._image(value)
        if isinstance(value, str):
            return self._string(value, table)
        if isinstance(value, np.ndarray):
            return from_array(value, self._max_values)
        if table and isinstance(value, Mapping):
            return self._hash(value, table)
        if table and isinstance(value, tuple):
            return self._list(list(value), table)
        raise Refusal(
            "bad_features",
            f"the features are {abbreviate(value)}, a list, an image or an object was expected "
            "(codec.features may be a list of paths)",
        )

    def read_named(self, values: Mapping[str, Any], table: bool) -> Array:
        """x of several named values: all numbers make float64 [len(values)] in order, others are hashed."""
        if self._named == "hashed":
            return self._hash(values, table)
        numbers = self._numbers(list(values.values()), table)
        if numbers is None:
            if self._named == "vector":
                self._refuse_first(values, table)
            return self._hash(values, table)
        if len(numbers) > self._max_values:
            raise Refusal(
                "too_large",
                f"the features are {len(numbers)} numbers, codec.max_values is {self._max_values}",
            )
        return vector(numbers)

    def _refuse_first(self, values: Mapping[str, Any], table: bool) -> None:
        """Name the first of the features that is no number."""
        for name, value in values.items():
            if self._numbers([value], table) is None:
                reason = "missing_features" if value in (None, "") else "bad_features"
                raise Refusal(reason, f"{name} is {abbreviate(value)}, codec.named = vector wants a number")

    @staticmethod
    def _numbers(values: list[Any], table: bool) -> list[float] | None:
        """`values` as numbers, None if one of them is none."""
        numbers: list[float] = []
        for value in values:
            if table and isinstance(value, str):
                number = parse_number(value)
                if number is None:
                    return None
                numbers.append(number)
            elif isinstance(value, (int, float, np.integer, np.floating)) and type(value) is not bool:
                numbers.append(value if isinstance(value, (int, float)) else value.item())
            else:
                return None
        return numbers

    def _list(self, value: list[Any], table: bool) -> Array:
        # Rows of tables and data sets may hold numpy scalars, arrays and tuples in their lists.
        if table and not {int, float, list, bool, str, type(None)}.issuperset(map(type, value)):
            try:
                return from_array(np.asarray(value), self._max_values)
            except ValueError as error:
                raise Refusal("bad_features", f"the features are no array: {error}") from None
        return from_list(value, self._max_values)

    def _string(self, value: str, table: bool) -> Array:
        url = _DATA_URL.match(value)
        if url:
            return self._image(from_base64(value[url.end() :], "bad_image"), "bad_image")
        if table and value.startswith("["):
            try:
                return self._list(orjson.loads(value), table)
            except orjson.JSONDecodeError as error:
                raise Refusal("bad_features", f"the features start like a JSON list: {error}") from None
        if value.startswith("data:"):
            raise Refusal("bad_features", f"{abbreviate(value)} is no data:image/...;base64, URL")
        if not value.strip():
            raise Refusal("missing_features", "the text of the features is empty")
        if table and parse_number(value) is not None:
            raise Refusal(
                "bad_features",
                f"the cell of the features is {abbreviate(value)}; columns of numbers are named like "
                "--codec.features a,b,c, one alone like '[\"a\"]'",
            )
        if len(value) > LONGEST_WORD and value.isascii() and not any(map(str.isspace, value)):
            raise Refusal(
                "bad_features",
                f"{abbreviate(value)} is no text; an image wants data:image/png;base64, before it",
            )
        return self._hash({"text": value}, table)

    def _image(self, data: bytes, reason: str = "bad_features") -> Array:
        kind = image_format(data)
        if kind is None:
            raise Refusal(reason, f"{abbreviate(data)} is no PNG, JPEG or WebP image")
        return decode_image(data, kind, self._max_pixels, self._max_values)
