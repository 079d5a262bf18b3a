"""Records and outputs as columns of plain values, which msgpack packs in a fraction of what objects take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby, repeat
from operator import attrgetter
from typing import Any

from streamlearn.events import Output, Position, Prediction, Record, Rejection, Tombstone

Columns = Sequence[Any]
"""What is packed; lists and tuples may have changed places when it has been unpacked."""

_place = attrgetter("position.topic", "position.partition")
_parts = attrgetter("value", "position.offset", "cursor", "key", "headers", "tombstone")
_answer = attrgetter("id", "label", "scores", "known_classes", "model_step", "position", "record")


def columns_of_records(records: Iterable[Record]) -> list[Columns]:
    """A run of records of one partition each: topic, partition, and the columns. `fields`, which Kafka's
    records don't have, are left out."""
    runs: list[Columns] = []
    for (topic, partition), some in groupby(records, _place):
        values, offsets, cursors, keys, headers, tombstones = zip(*map(_parts, some), strict=True)
        runs.append((topic, partition, values, offsets, cursors, _any(keys), _any(headers), _any(tombstones)))
    return runs


def records_of_columns(runs: Iterable[Columns]) -> list[Record]:
    """The records again."""
    new: Any = tuple.__new__  # what Position(...) calls, without its Python frame
    found: list[Record] = []
    for topic, partition, values, offsets, cursors, keys, headers, tombstones in runs:
        places = zip(repeat(topic), repeat(partition), offsets)
        found += map(
            Record,
            values,
            map(new, repeat(Position), places),
            cursors,
            repeat(None) if keys is None else keys,
            repeat(()) if headers is None else map(_headers, headers),
            repeat(None),
            repeat(False) if tombstones is None else tombstones,
        )
    return found


def columns_of_outputs(outputs: Iterable[Output]) -> list[Columns]:
    """A run of outputs of one kind each: P, R or T, and the columns.

    Of a prediction all that is published, and of its record what goes on to its message: key and headers.
    """
    runs: list[Columns] = []
    for kind, some in groupby(outputs, type):
        if kind is Prediction:
            ids, labels, scores, known, steps, positions, records = zip(*map(_answer, some), strict=True)
            topics, partitions, offsets = zip(*positions, strict=True)
            keys = _any([record.key if record is not None else None for record in records])
            headers = _any([record.headers if record is not None else () for record in records])
            places = _one(topics), _one(partitions), offsets
            runs.append(("P", ids, labels, scores, known, steps, *places, keys, headers))
        elif kind is Rejection:
            rejections: Any = list(some)
            said = [(each.reason, each.detail) for each in rejections]
            runs.append(("R", said, columns_of_records(each.record for each in rejections)))
        else:
            tombstones: Any = list(some)
            ids = tuple(each.id for each in tombstones)
            runs.append(("T", ids, columns_of_records(each.record for each in tombstones)))
    return runs


def outputs_of_columns(runs: Iterable[Columns]) -> list[Output]:
    """The outputs again, as far as they are published."""
    found: list[Output] = []
    for kind, *columns in runs:
        if kind == "P":
            found += _predictions(*columns)
        elif kind == "R":
            said, records = columns
            found += map(Rejection, *zip(*said, strict=True), records_of_columns(records))
        else:
            ids, records = columns
            found += map(Tombstone, ids, records_of_columns(records))
    return found


def _predictions(
    ids: Any, labels: Any, scores: Any, known: Any, steps: Any, topics: Any, partitions: Any, offsets: Any,
    keys: Any, headers: Any,
) -> Iterable[Prediction]:  # fmt: skip
    positions = list(map(Position, _every(topics), _every(partitions), offsets))
    records = map(
        Record,
        repeat(b""),
        positions,
        repeat(0),
        repeat(None) if keys is None else keys,
        repeat(()) if headers is None else map(_headers, headers),
    )
    return map(Prediction, ids, labels, scores, known, steps, positions, repeat(None), records)


def _headers(pairs: Iterable[Any]) -> tuple[tuple[str, bytes | None], ...]:
    return tuple([(name, value) for name, value in pairs])


def _any(column: Sequence[Any]) -> Sequence[Any] | None:
    """The column; None for one that says nothing."""
    return column if column.count(column[0]) < len(column) or column[0] not in (None, (), False) else None


def _one(column: Sequence[Any]) -> Any:
    """The column, or the value that it has throughout."""
    return column[0] if column.count(column[0]) == len(column) else column


def _every(column: Any) -> Iterable[Any]:
    return column if isinstance(column, list | tuple) else repeat(column)
