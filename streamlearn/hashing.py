"""Objects of named numbers, categories and text as vectors, by the hashing trick.

    Weinberger et al., "Feature hashing for large scale multitask learning", ICML 2009.

A vector of `dim` numbers has two regions, so that large numbers and tokens never share a place:

- the first dim // 4 hold numbers: x[|h| mod n] += sign(h) * value, with h = murmurhash3(name), signed;
- the rest hold tokens, with h = murmurhash3("name=token"):
  a string without white space is a category: one token, "name=value", weight 1; so are true and false;
  a list of strings is several categories;
  a string with white space, or with letters of a script that has none between words (Chinese), is text: its
  words (`streamlearn.words`) and their pairs of neighbours, each with weight 1 / sqrt(number of tokens), so
  that long and short texts weigh about the same.

It is the convention of scikit-learn's FeatureHasher(alternate_sign=True); a test compares the two.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise

import mmh3
import numpy as np
from numpy.typing import NDArray

from streamlearn.arrays import vector
from streamlearn.reasons import Refusal, abbreviate
from streamlearn.words import composed, is_text, words


class ObjectHasher:
    """Hashes objects to float64 [dim]. A function of its arguments: it keeps nothing of what it saw."""

    def __init__(self, dim: int, max_depth: int) -> None:
        self.dim = dim
        self.max_depth = max_depth
        self._numbers = dim // 4
        self._tokens = dim - self._numbers

    def __call__(self, values: Mapping[str, object], table: bool = False) -> NDArray[np.float64]:
        """`values` as a vector; null is skipped, nested objects get dotted names.

        table: the values are cells of a table, where numbers may be strings and "" is null.

        Raises:
            Refusal: bad_features, not_finite, too_deep, missing_features (nothing of use in it).
        """
        sums: dict[int, float] = {}
        for name, value in _leaves(values, "", self.max_depth):
            if isinstance(value, np.generic):
                value = value.item()
            if table and isinstance(value, str):
                if not value:
                    continue
                number = parse_number(value)
                value = value if number is None else number
            try:
                if isinstance(value, bool):
                    self._add_token(sums, name, "true" if value else "false", 1.0)
                elif isinstance(value, (int, float)):
                    self._add_number(sums, name, value)
                elif isinstance(value, str):
                    self._add_string(sums, name, value)
                elif isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
                    for category in value:
                        self._add_token(sums, name, category, 1.0)
                else:
                    raise Refusal(
                        "bad_features",
                        f"the feature {name[:40]!r} is {abbreviate(value)}, "
                        "a number, a string or a list of strings was expected",
                    )
            except UnicodeEncodeError:
                raise Refusal("bad_features", f"the feature {name[:40]!r} is not valid Unicode") from None
        if not sums:
            raise Refusal("missing_features", "the object of features holds no number, category or word")
        x = np.zeros(self.dim)
        x[list(sums)] = vector(list(sums.values()))
        return x

    def _add_number(self, sums: dict[int, float], name: str, value: float) -> None:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise Refusal("not_finite", f"the feature {name[:40]!r} is {abbreviate(value)}")
        _add(sums, name, number, 0, self._numbers)

    def _add_token(self, sums: dict[int, float], name: str, token: str, weight: float) -> None:
        _add(sums, f"{name}={composed(token)}", weight, self._numbers, self._tokens)

    def _add_string(self, sums: dict[int, float], name: str, value: str) -> None:
        if not is_text(value):
            self._add_token(sums, name, value, 1.0)
            return
        tokens = words(value)
        tokens += [f"{a} {b}" for a, b in pairwise(tokens)]
        weight = 1.0 / math.sqrt(len(tokens)) if tokens else 0.0
        for token in tokens:
            _add(sums, f"{name}={token}", weight, self._numbers, self._tokens)


def parse_number(text: str) -> float | None:
    """The number that a cell of a table spells, None if it spells none. NaN and infinities are numbers."""
    try:
        return None if "_" in text else float(text)  # Python reads 1_000 as a number, no other tool does
    except ValueError:
        return None


def _add(sums: dict[int, float], name: str, value: float, start: int, size: int) -> None:
    # Encoded here and not by mmh3: mmh3 5.3.1 crashes the process on a string with a lone surrogate.
    code = mmh3.hash(name.encode(), signed=True)
    place = start + abs(code) % size
    sums[place] = sums.get(place, 0.0) + (value if code >= 0 else -value)


def _leaves(values: Mapping[str, object], prefix: str, room: int) -> Iterator[tuple[str, object]]:
    """Name and value of everything in `values` that is neither an object nor null."""
    if room == 0:
        raise Refusal("too_deep", "the features are nested deeper than codec.max_depth")
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.", room - 1)
        elif value is not None:
            yield f"{prefix}{name}", value
