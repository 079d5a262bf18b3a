"""From records to events. Nothing that is in a record makes it raise.

The settings say where a record's id, label, time and features are; what is accepted there, and what
every refusal is called, is in `REASONS` and in the functions below. An own codec (Avro, Protobuf, a schema
registry) is any class with this constructor and this `decode`, named by `codec.connector`.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from streamlearn.alike import apart, plain_texts
from streamlearn.arrays import finish
from streamlearn.config import CodecSettings
from streamlearn.encoding import (
    dump,
    encode_dead_letter,
    encode_prediction,
    encode_predictions,
    encode_too_large,
    original,
)
from streamlearn.events import Array, Event, Item, Position, Record, Rejection, Row, Tombstone
from streamlearn.features import FeatureReader
from streamlearn.hashing import parse_number
from streamlearn.parsing import exactly, parse
from streamlearn.reasons import REASONS, Refusal, abbreviate, printable

__all__ = [
    "REASONS",
    "Codec",
    "encode_dead_letter",
    "encode_prediction",
    "encode_predictions",
    "encode_too_large",
    "one_of_many",
    "original",
]

_MISSING: Any = object()
TOGETHER, FEW, UNTRIED = 256, 4, 7
"""So many records are decoded together, at most; fewer than FEW are sooner done one by one. After some that
can't be, so many times it isn't tried: where all differ, to find that out takes a fifth of the decoding."""
_DEFAULT_FEATURES = CodecSettings.model_fields["features"].default


class Codec:
    """Decodes records by `settings`. What they become depends on nothing else, not on order or batching."""

    def __init__(self, settings: CodecSettings) -> None:
        self._settings = settings
        self._id = _Path(settings.id)
        self._label = _Path(settings.label)
        self._time = _Path(settings.time)
        self._task = _Path(settings.task)
        self._scalars = self._id, self._label, self._time, self._task
        paths = settings.features
        self._features = _Path(paths) if isinstance(paths, str) else [_Path(path) for path in paths]
        self._all_columns = paths == _DEFAULT_FEATURES
        self._may_be_one_of_many = self._all_columns and "features" not in settings.model_fields_set
        self._first: Mapping[Any, Any] = {}
        self._is_one_of_many = False
        # A table that lacks one of these was most likely meant to have it: a name is mistyped.
        self._named_columns = {
            path.name: f"codec.{key}"
            for key, path in (
                ("id", self._id),
                ("label", self._label),
                ("time", self._time),
                ("task", self._task),
            )
            if path.name != CodecSettings.model_fields[key].default
        }
        self._not_features = {settings.id, settings.label, settings.time, settings.task}
        self._reader = FeatureReader(settings)
        self._untried = 0

    def decode(self, records: Sequence[Record]) -> list[Item]:
        """One event, rejection or tombstone per record, in the same order. Never raises.

        A rejected record that came as `fields` alone gets their JSON as its `value`, so that its dead
        letter has a content.
        """
        items: list[Item] = []
        for start in range(0, len(records), TOGETHER):
            some = records[start : start + TOGETHER]
            events = None
            if self._untried:
                self._untried -= 1
            elif len(some) >= FEW and (events := self._alike(some)) is None:
                self._untried = UNTRIED
            items += events or self._one_by_one(some)
        return items

    def _alike(self, records: Sequence[Record]) -> list[Event] | None:
        """What decoding one by one gives, in a fraction of the time; None where it isn't known to be that."""
        of = self._settings
        if isinstance(self._features, list) or any(record.fields is not None for record in records):
            return None
        features = self._features.name
        values = [record.value for record in records]
        found = apart(values, features, of.max_bytes, of.max_depth, of.max_values)
        if found is None:
            return None
        columns, xs = found
        names = {*columns, features}
        if any(path.name == features or path.inside_of(names) for path in self._scalars):
            return None
        absent: Sequence[Any] = [_MISSING] * len(records)
        ids, labels, times, tasks = (columns.get(path.name, absent) for path in self._scalars)
        positions = [record.position for record in records]
        try:
            if not plain_texts(ids, of.max_id_length):
                ids = [self._read_id(id, False, at) for id, at in zip(ids, positions, strict=True)]
            if not plain_texts(labels, of.max_label_length):
                labels = [self._read_label(label, False) for label in labels]
            times = [None if time is _MISSING else _read_time(time, False) for time in times]
            tasks = [None if task is _MISSING else self._read_task(task, False) for task in tasks]
        except Refusal:
            return None
        return list(map(Event, ids, xs, labels, times, positions, records, tasks))

    def _one_by_one(self, records: Sequence[Record]) -> list[Item]:
        items = [self._event_or_rejection(record) for record in records]
        self._finish(items)
        return items

    def _event_or_rejection(self, record: Record) -> Item:
        try:
            if record.tombstone and self._settings.tombstones == "forget":
                return self._tombstone(record)
            return self._event(record)
        except Refusal as refusal:
            reason, detail = refusal.reason, refusal.detail
        except Exception as error:  # a fault of ours, or an object in `fields` that we never thought of
            reason, detail = "undecodable", printable(f"{type(error).__name__}: {error}")
        return _rejection(reason, detail, record)

    def _finish(self, items: list[Item]) -> None:
        """Make x's of views of raw bytes, all of a kind at once: one by one that is a third of decoding."""
        kinds: dict[tuple[Any, ...], list[tuple[int, Event]]] = {}
        for place, item in enumerate(items):
            if type(item) is Event and not item.x.flags.writeable:
                kinds.setdefault((item.x.dtype, item.x.shape), []).append((place, item))
        for events in kinds.values():
            try:
                for (_, event), x in zip(events, finish([event.x for _, event in events]), strict=True):
                    event.x = x
            except Refusal:
                for place, event in events:
                    self._finish_alone(place, event, items)

    def _finish_alone(self, place: int, event: Event, items: list[Item]) -> None:
        try:
            (event.x,) = finish([event.x])
        except Refusal as refusal:
            assert event.record is not None
            items[place] = _rejection(refusal.reason, refusal.detail, event.record)

    def _tombstone(self, record: Record) -> Tombstone:
        try:
            key = (record.key or b"").decode()
        except UnicodeDecodeError as error:
            raise Refusal("bad_id", f"the tombstone's key is no UTF-8 ({error.reason})") from None
        if not key:
            raise Refusal("bad_id", "the tombstone has no key that could name an example")
        return Tombstone(self._read_id(key, False, record.position), record)

    def _event(self, record: Record) -> Event:
        size = len(record.value) or record.size
        if size > self._settings.max_bytes:
            raise Refusal(
                "too_large", f"the record has {size} bytes, codec.max_bytes is {self._settings.max_bytes}"
            )
        fields = record.fields
        table = fields is not None
        values: Mapping[str, Any]
        if fields is None:
            values = parse(record.value, self._settings.max_depth)
        else:
            values = _checked_row(fields)
            if self._named_columns:
                self._check_columns(values)
        key, label, task = self._id.find(values), self._label.find(values), self._task.find(values)
        if not table and float in (type(key), type(label), type(task)):
            exact = exactly(record.value, values, (key, label, task))
            key, label, task = self._id.find(exact), self._label.find(exact), self._task.find(exact)
        return Event(
            self._read_id(key, table, record.position),
            self._read_features(values, table),
            self._read_label(label, table),
            _read_time(self._time.find(values), table),
            record.position,
            record,
            self._read_task(task, table),
        )

    def _check_columns(self, values: Mapping[str, Any]) -> None:
        for name, setting in self._named_columns.items():
            if name not in values and _Path(name).find(values) is _MISSING:
                raise _no_column(name, setting, values)

    def _read_id(self, value: Any, table: bool, position: Position) -> str:
        if type(value) is str and 0 < len(value) <= self._settings.max_id_length and value.isascii():
            return value  # what nearly all are, before anything slower is asked
        value = _plain(value, table)
        if value is None:
            # printable: a path that is no UTF-8 reaches us with lone surrogates in it
            topic = position.topic if position.topic.isascii() else printable(position.topic)
            return f"{topic}:{position.partition}:{position.offset}"
        if isinstance(value, int) and not isinstance(value, bool):
            value = _digits(value, "bad_id")
        if not isinstance(value, str) or not value or not _encodable(value):
            raise Refusal("bad_id", f"the id is {abbreviate(value)}, a string or an integer was expected")
        if len(value) > self._settings.max_id_length:
            limit = self._settings.max_id_length
            raise Refusal("bad_id", f"the id has {len(value)} characters, codec.max_id_length is {limit}")
        return value

    def _read_label(self, value: Any, table: bool) -> str | None:
        if type(value) is str and 0 < len(value) <= self._settings.max_label_length and value.isascii():
            return value
        value = _plain(value, table)
        if value is None:
            return None
        if isinstance(value, int) and not isinstance(value, bool):
            value = _digits(value, "bad_label")
        if not isinstance(value, str) or not value or not _encodable(value):
            raise Refusal(
                "bad_label", f"the label is {abbreviate(value)}, a string or an integer was expected"
            )
        if len(value) > self._settings.max_label_length:
            limit = self._settings.max_label_length
            raise Refusal(
                "label_too_long", f"the label has {len(value)} characters, codec.max_label_length is {limit}"
            )
        return value

    def _read_task(self, value: Any, table: bool) -> str | None:
        """The task, None for anything that can't be one: no event is lost for a detail of the measuring."""
        if value is _MISSING:
            return None
        value = _plain(value, table)
        try:
            if isinstance(value, int) and not isinstance(value, bool):
                value = _digits(value, "")
        except Refusal:
            return None
        if not isinstance(value, str) or not 0 < len(value) <= self._settings.max_label_length:
            return None
        return value if _encodable(value) else None

    def _read_features(self, values: Mapping[str, Any], table: bool) -> Array:
        if isinstance(self._features, list):
            named = {path.name: path.find(values) for path in self._features}
            absent = [name for name, value in named.items() if value is _MISSING]
            if absent and table:
                raise _no_column(absent[0], "codec.features", values)
            if absent:
                raise Refusal("missing_features", f"the record has no {abbreviate(absent[0])}")
            return self._reader.read_named(named, table)
        value = self._features.find(values)
        if table and self._all_columns and (value is _MISSING or self._is_a_column(values)):
            named = {name: cell for name, cell in values.items() if name not in self._not_features}
            if not named:
                raise Refusal("missing_features", "every column is an id, a label, a time or a task")
            return self._reader.read_named(named, table)
        if value is None or value is _MISSING:
            raise Refusal("missing_features", f"the record has no {abbreviate(self._features.name)}")
        return self._reader.read(value, table)

    def _is_a_column(self, row: Mapping[Any, Any]) -> bool:
        """Whether the features that nobody named are no column of all of them, by the table's first row."""
        if not self._may_be_one_of_many:
            return False
        first = row.first if type(row) is Row else row
        if first is not self._first:
            self._first = first
            self._is_one_of_many = one_of_many(first, _DEFAULT_FEATURES, self._not_features)
        return self._is_one_of_many


class _Path:
    """A place in a record: the exact key if there is one, else a.b for b inside a (integers index lists)."""

    __slots__ = ("_parts", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._parts = name.split(".") if "." in name else None

    def find(self, values: Mapping[str, Any]) -> Any:
        """The value at this path, _MISSING if there is none."""
        found = values.get(self.name, _MISSING)
        if found is not _MISSING or self._parts is None:
            return found
        found = values
        for part in self._parts:
            if isinstance(found, Mapping):
                found = found.get(part, _MISSING)
            elif isinstance(found, list) and part.isascii() and part.isdigit() and int(part) < len(found):
                found = found[int(part)]
            else:
                return _MISSING
        return found

    def inside_of(self, names: Container[str]) -> bool:
        """May what it names lie inside of another field, where these are the fields?"""
        return self._parts is not None and self.name not in names


def one_of_many(row: Mapping[Any, Any], name: str, others: Container[str]) -> bool:
    """Whether the cell of `name` is a number as it stands, and there are more features beside it: columns
    that are in the row and none of `others`."""
    cell = row.get(name)
    # What else a cell may be is told by its start: to try for a number goes through all of an image.
    if not isinstance(cell, str) or cell.startswith(("[", "data:")) or parse_number(cell) is None:
        return False
    return any(isinstance(column, str) and column != name and column not in others for column in row)


def _rejection(reason: str, detail: str, record: Record) -> Rejection:
    if record.fields is not None and not record.value:
        record.value = dump(record.fields)
    return Rejection(reason, detail, record)


def _no_column(name: str, setting: str, values: Mapping[str, Any]) -> Refusal:
    there = ", ".join(islice(values, 20))
    return Refusal("bad_row", f"the row has no column {abbreviate(name)} ({setting}); it has {there}")


def _checked_row(fields: Mapping[Any, Any]) -> Mapping[str, Any]:
    """`fields`, unless the row was broken: csv.DictReader gives surplus cells the key None, and missing
    ones the value None. A sentence under None says why there are no cells at all."""
    for name, value in fields.items():
        if value is None:
            raise Refusal("bad_row", f"the row has no cell for the column {abbreviate(name)}")
        if name is None and isinstance(value, str) and value:
            raise Refusal("bad_row", value)
        if not isinstance(name, str):
            raise Refusal("bad_row", f"the row has cells without a column: {abbreviate(value)}")
    return fields


def _read_time(value: Any, table: bool) -> float | None:
    if value is _MISSING:
        return None
    if type(value) is float and math.isfinite(value):
        return value
    value = _plain(value, table)
    if value is None:
        return None
    number = parse_number(value) if table and isinstance(value, str) else value
    if isinstance(number, (int, float)) and not isinstance(number, bool):
        try:
            seconds = float(number)
        except OverflowError:
            seconds = math.inf
        if math.isfinite(seconds):
            return seconds
    raise Refusal("bad_time", f"the time is {abbreviate(value)}, seconds as a finite number were expected")


def _plain(value: Any, table: bool) -> Any:
    """`value` as Python's own type; None if it is absent, or an empty cell of a table."""
    if value is _MISSING or (table and isinstance(value, str) and not value):
        return None
    if not table:
        return value
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    # Only these: item() of a datetime64 is an integer, which would pass for a label.
    if isinstance(value, np.generic) and value.dtype.kind in "biufU":
        return value.item()
    return value


def _digits(value: int, reason: str) -> str:
    try:
        return str(value)
    except ValueError:  # Python refuses to print more than 4300 digits
        raise Refusal(reason, f"the value is {abbreviate(value)}") from None


def _encodable(text: str) -> bool:
    """False if `text` holds a lone surrogate (tables may): it could be neither stored nor published."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
