"""Records that are alike, taken apart together: what one producer sends by the thousand.

Alike are msgpack maps with the same keys in the same order, all unique. Whatever is odd in one of them makes
None of all: then each is decoded by itself, and the odd one gets its refusal there. So nothing here may find
anything in a record that decoding it by itself does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any

import msgpack
import numpy as np

from streamlearn import layouts
from streamlearn.arrays import finish_rows, from_raw
from streamlearn.events import Array
from streamlearn.layouts import Apart
from streamlearn.parsing import MSGPACK_MAP
from streamlearn.reasons import Refusal

DEPTH = 3
"""Levels of a record: itself, its features, their shape."""
_RAW = {"dtype", "shape", "data"}
_SCALARS = {str, int, float, bool, bytes, type(None)}

# A map becomes a tuple of its pairs: so a key that occurs twice is seen, and no list is taken for a map.
_unpack = partial(msgpack.unpackb, object_pairs_hook=tuple)


def apart(
    values: Sequence[bytes], features: str, most_bytes: int, max_depth: int, max_values: int
) -> Apart | None:
    """The fields by name [records], and the x's; None if the records aren't alike."""
    if max_depth < DEPTH:
        return None
    if (found := layouts.apart(values, features, most_bytes, max_values)) is not None:
        return found
    columns = columns_of(values, features, most_bytes)
    xs = raw_rows(columns[features], max_values) if columns is not None else None
    return (columns, xs) if columns is not None and xs is not None else None


def columns_of(values: Sequence[bytes], features: str, most_bytes: int) -> dict[str, Sequence[Any]] | None:
    """The fields by name [records]: scalars, but for the features; a map is a tuple of pairs there.

    None if the records aren't alike.
    """
    sizes = set(map(len, values))
    if min(sizes) == 0 or max(sizes) > most_bytes:
        return None
    if not MSGPACK_MAP.issuperset([value[0] for value in values]):
        return None
    try:
        maps = list(map(_unpack, values))
    except Exception:  # whatever msgpack raises for bytes that it doesn't understand
        return None
    columns = _columns(maps)
    if columns is None or features not in columns:
        return None
    others = [column for name, column in columns.items() if name != features]
    # What is nested may be so too deeply, or hold what no record may.
    return columns if _SCALARS.issuperset(map(type, chain.from_iterable(others))) else None


def raw_rows(maps: Sequence[Any], max_values: int) -> list[Array] | None:
    """x's of {"dtype", "shape", "data"}, all of one dtype and shape; None if they aren't that."""
    if set(map(type, maps)) != {tuple} or (fields := _columns(maps)) is None or fields.keys() != _RAW:
        return None
    names, shapes, contents = fields["dtype"], fields["shape"], fields["data"]
    if not (_equal(names) and _equal(shapes) and type(shapes[0]) is list):
        return None
    # (Of equal ones one may hold True, or 1.0, for 1.)
    if not _all_of(int, chain.from_iterable(shapes)):
        return None
    if not _all_of(bytes, contents) or len(set(map(len, contents))) > 1:
        return None
    try:
        first = from_raw({name: column[0] for name, column in fields.items()}, max_values)
        rows = np.frombuffer(b"".join(contents), first.dtype)
        return finish_rows(rows.reshape(len(maps), *first.shape))
    except Refusal:
        return None


def plain_texts(column: Sequence[Any], most: int) -> bool:
    """Are all of them what ids and labels mostly are: ASCII, not empty, of at most `most` characters?"""
    if not _all_of(str, column) or not all(map(str.isascii, column)):
        return False
    sizes = set(map(len, column))
    return min(sizes) > 0 and max(sizes) <= most


def _columns(maps: Sequence[Any]) -> dict[str, Sequence[Any]] | None:
    """Of maps as tuples of pairs."""
    columns: dict[str, Sequence[Any]] = {}
    if len(set(map(len, maps))) > 1:
        return None
    for pairs in zip(*maps, strict=True):
        names, column = zip(*pairs, strict=True)
        if type(names[0]) is not str or not _equal(names) or names[0] in columns:
            return None
        columns[names[0]] = column
    return columns


def _equal(column: Sequence[Any]) -> bool:
    return column.count(column[0]) == len(column)


def _all_of(kind: type, values: Any) -> bool:
    return set(map(type, values)) == {kind}
