"""Records of files and data sets as Kafka messages, which a worker decodes to the very same events.

What came as bytes goes out as it is. A row of a table goes out as one object with the column names: JSON, or
msgpack where it holds arrays, bytes or numbers that JSON doesn't have (NaN).
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgpack
import numpy as np
import orjson

from streamlearn.events import Array, Record

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")
_MSGPACK_MAP = frozenset((*range(0x80, 0x90), 0xDE, 0xDF))
_MISSING: Any = object()


class Message(NamedTuple):
    """What is sent. seconds: the event's time since 1970, None if it has none."""

    value: bytes
    key: bytes | None
    seconds: float | None


class Encoder:
    """Makes messages of records.

    codec: the paths `id`, `label`, `time`, `task` and `features` of the settings. key: path of the field that
    becomes the key, None for no keys. format: json or msgpack for rows; None: whichever holds them.
    """

    def __init__(self, codec: Mapping[str, Any], key: str | None = None, format: str | None = None) -> None:
        self._key, self._format = key, format
        self._time = str(codec["time"])
        self._texts = {codec[name] for name in ("id", "label", "task")}
        self._features = codec["features"]
        # Bytes without this in them hold no such field (JSON may spell it with \u: then it isn't found).
        self._sign = self._time.partition(".")[0].encode()

    def message(self, record: Record) -> Message:
        """Never raises for what is in a record."""
        row = None if record.fields is None else self._cells(record.fields)
        if row is not None:
            return self._message(self._row(row, record.value), row)
        wanted = self._key is not None or self._sign in record.value
        return self._message(record.value, _parsed(record.value) if wanted else None)

    def _message(self, value: bytes, fields: Mapping[Any, Any] | None) -> Message:
        if fields is None:
            return Message(value, None, None)
        key = None if self._key is None else _key(find(fields, self._key))
        seconds = find(fields, self._time)
        good = isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and _finite(seconds)
        return Message(value, key, float(seconds) if good else None)

    def _cells(self, fields: Mapping[Any, Any]) -> dict[str, Any] | None:
        """The row with its texts as what the codec reads in them: numbers, lists, nothing.

        None for one that the codec would refuse (cells too many or too few, say): its bytes are sent.
        """
        if any(name is None or value is None for name, value in fields.items()):
            return None
        try:
            return {name: self._cell(name, value) for name, value in fields.items()}
        except orjson.JSONDecodeError:
            return None

    def _cell(self, name: str, value: Any) -> Any:
        if not isinstance(value, str):
            return value.item() if isinstance(value, np.generic) and value.dtype.kind in "biufU" else value
        if not value:
            return None
        if name in self._texts:
            return value
        if name == self._features and value.startswith("["):
            return orjson.loads(value)
        return _number(value)

    def _row(self, fields: Mapping[str, Any], original: bytes) -> bytes:
        if self._format == "msgpack" or (self._format is None and not all(map(_for_json, fields.values()))):
            try:
                packed: bytes = msgpack.packb(fields, default=_for_msgpack)
                return packed
            except (ValueError, OverflowError, TypeError):
                return original
        try:
            return orjson.dumps(fields, default=_json)
        except TypeError:
            return original


def find(fields: Mapping[Any, Any], path: str) -> Any:
    """The value at a path as the codec finds it: the exact key, else a.b for b inside a. None: none."""
    found = fields.get(path, _MISSING)
    if found is not _MISSING:
        return found
    if "." not in path:
        return None
    found = fields
    for part in path.split("."):
        if isinstance(found, Mapping):
            found = found.get(part)
        elif isinstance(found, list) and part.isascii() and part.isdigit() and int(part) < len(found):
            found = found[int(part)]
        else:
            return None
    return found


def _parsed(value: bytes) -> Mapping[Any, Any] | None:
    """The object in `value`, None if there is none: the worker will say what is wrong with it."""
    try:
        if value[:1] and value[0] in _MSGPACK_MAP:
            found = msgpack.unpackb(value, strict_map_key=True)
        else:
            found = orjson.loads(value)
    except Exception:  # whatever msgpack raises for bytes that it doesn't understand
        return None
    return found if isinstance(found, dict) else None


def _key(value: Any) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    try:
        return orjson.dumps(value, default=_json)
    except TypeError:
        return str(value).encode()


def _number(text: str) -> Any:
    """The number that a cell spells, as the codec reads it; the text itself if it spells none."""
    if _INTEGER.fullmatch(text):
        return int(text)
    try:
        return text if "_" in text else float(text)
    except ValueError:
        return text


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def _for_json(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, (np.ndarray, bytes))


def _for_msgpack(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _raw(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no place in msgpack")


def _json(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        raw = _raw(value)
        return raw | {"data": base64.b64encode(raw["data"]).decode()}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(f"{type(value).__name__} has no place in JSON")


def _raw(array: Array) -> dict[str, Any]:
    """{"dtype", "shape", "data"}, little-endian, as the codec takes it."""
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    return {"dtype": array.dtype.name, "shape": list(array.shape), "data": data}
