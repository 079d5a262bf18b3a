"""A source and a sink in lists, for tests and notebooks, with the contract of all others."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from streamlearn.events import (
    Output,
    Position,
    Prediction,
    Record,
    Rejection,
    Resume,
    StateMismatch,
    UsageError,
)


class MemorySource:
    """Delivers the given records: a list, or options with `records` and `topic` (default "memory").

    A record is a `Record`, bytes (its value) or a mapping (its fields). Bytes and mappings get the offsets
    of partition 0; Records keep theirs, which may begin anywhere and must then grow by one in each
    partition; partitions may be interleaved. The cursor is the next offset.
    """

    def __init__(self, records: Sequence[Record | bytes | Mapping[str, Any]] | Mapping[str, Any]) -> None:
        options = records if isinstance(records, Mapping) else {"records": records}
        given = list(options.get("records") or ())
        topics = {record.position.topic for record in given if isinstance(record, Record)}
        if len(topics) > 1:
            raise UsageError(f"the records are of several topics: {', '.join(sorted(topics))}")
        self.topic = str(options.get("topic") or next(iter(topics), "memory"))
        self._records: list[Record] = []
        self._next: dict[int, int] = {}
        for record in given:
            self._add(record)
        self._waiting: list[Record] = []
        self._at = 0

    def _add(self, given: Record | bytes | Mapping[str, Any]) -> None:
        if isinstance(given, Record):
            record = given
        elif isinstance(given, bytes):
            record = Record(given, Position(self.topic, 0, self._next.get(0, 0)))
        else:
            value = json.dumps(given, default=repr).encode()
            record = Record(value, Position(self.topic, 0, self._next.get(0, 0)), fields=given)
        _, partition, offset = record.position
        if offset != self._next.get(partition, offset):
            raise UsageError(f"partition {partition} has offset {offset} after {self._next[partition] - 1}")
        self._next[partition] = offset + 1
        self._records.append(replace(record, cursor=offset + 1))

    def open(self, resume: Resume) -> None:
        """Go to `resume`, partition by partition; the order across partitions stays that of the list."""
        for partition, offset in resume.offsets.items():
            if offset > self._next.get(partition, 0):
                raise StateMismatch(f"{self.topic} has no record {offset - 1} in partition {partition}")
        if resume.fingerprint and dict(resume.fingerprint) != self.fingerprint(resume.cursors):
            raise StateMismatch(f"{self.topic} doesn't hold the records that this state has learned from")
        self._waiting = [
            record
            for record in self._records
            if record.position.offset >= resume.offsets.get(record.position.partition, 0)
        ]
        self._at = 0

    def poll(self, max_records: int, timeout: float) -> list[Record]:
        records = self._waiting[self._at : self._at + max_records]
        self._at += len(records)
        return records

    @property
    def ended(self) -> bool:
        return self._at == len(self._waiting)

    def fingerprint(self, cursors: Mapping[int, int]) -> dict[str, Any]:
        digest = hashlib.sha256()
        for record in self._records:
            _, partition, offset = record.position
            if offset < cursors.get(partition, 0):
                digest.update(b"%d %d %d " % (partition, offset, len(record.value)) + record.value)
        return {"records_sha256": digest.hexdigest()}

    def close(self) -> None:
        self._waiting, self._at = [], 0


class MemorySink:
    """Keeps what was flushed in `predictions` and `dead_letters`; the marks count what `write` was given.

    Opened again with marks, it goes on as a file would: what was only written is gone, what was flushed
    above the marks stays and isn't taken again. Options: none.
    """

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        self.predictions: list[Prediction] = []
        self.dead_letters: list[Rejection] = []
        self._waiting: list[Output] = []
        self._seen: set[Position] = set()
        self._ahead: dict[str, deque[tuple[int, Output]]] = {}
        self._passed: dict[tuple[str, int], int] = {}

    def open(self, marks: Mapping[str, int] | None, epoch: int) -> None:
        self._waiting, self._seen, self._passed = [], set(), {}
        for name, there in (("predictions", self.predictions), ("dead_letters", self.dead_letters)):
            mark = len(there) if marks is None else marks.get(name, len(there))
            if len(there) < mark:
                raise StateMismatch(f"{name} holds {len(there)} outputs, the checkpoint was taken at {mark}")
            self._ahead[name] = deque(enumerate(there[mark:], mark))
            self._seen |= {output.position for output in there[mark:]}

    def answered(self, marks: Mapping[str, int]) -> bool:
        """See `Sink`."""
        there = {"predictions": len(self.predictions), "dead_letters": len(self.dead_letters)}
        return any(there[name] > mark for name, mark in marks.items())

    def write(self, outputs: Sequence[Output]) -> None:
        self._waiting += [output for output in outputs if output.position not in self._seen]
        self._passed |= {output.position[:2]: output.position.offset for output in outputs}

    def flush(self) -> dict[str, int]:
        for output in self._waiting:
            if isinstance(output, Prediction):
                self.predictions.append(output)
            elif isinstance(output, Rejection):
                self.dead_letters.append(output)
        self._waiting = []
        return {
            "predictions": self._mark("predictions", len(self.predictions)),
            "dead_letters": self._mark("dead_letters", len(self.dead_letters)),
        }

    def _mark(self, name: str, length: int) -> int:
        """Before what was found above the old mark and has not come again."""
        ahead = self._ahead[name]
        while ahead and ahead[0][1].position.offset <= self._passed.get(ahead[0][1].position[:2], -1):
            ahead.popleft()
        return ahead[0][0] if ahead else length

    def sync(self) -> None: ...

    def close(self) -> None:
        self._waiting = []
