"""Between the learner's thread and the Kafka loop: records in, outputs out, bounded in bytes."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from streamlearn.events import ConnectorError, Record, Stalled

OVERHEAD = 100
"""Bytes that a record or an output is counted for beside its value and key."""

Place = tuple[str, int]
"""Topic and partition."""


class Message(NamedTuple):
    """An output as it is to be produced."""

    place: Place
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()


class Named(NamedTuple):
    """A durable checkpoint and its C."""

    checkpoint: str
    offsets: Mapping[Place, int]


@dataclass
class Parcel:
    """What one commit carries: outputs, P behind them, and the checkpoints that became durable."""

    messages: list[Message] = field(default_factory=list)
    published: dict[Place, int] = field(default_factory=dict)
    named: list[Named] = field(default_factory=list)
    bytes: int = 0


class Inbox:
    """Records on their way to the learner, who calls `take`; the rest belongs to the loop."""

    def __init__(self, limit: int, emptier: Callable[[], object]) -> None:
        self._limit, self._emptier = limit, emptier
        self._changed = threading.Condition()
        self._records: deque[Record] = deque()
        self._bytes = 0
        self._failure: ConnectorError | None = None
        self.taken_at = time.monotonic()
        """When the learner came last."""
        self.ahead = 0
        """Of the records that were taken those that the learner has not come for yet."""

    def put(self, records: Sequence[Record], times: Iterable[int] = ()) -> None:
        """Records of one partition, and when each was made (ms), for an inbox to which that matters."""
        size = sizes_of(records)
        with self._changed:
            self._records.extend(records)
            self._bytes += size
            self._changed.notify()

    def take(self, most: int, timeout: float) -> list[Record]:
        """Up to `most` records, waiting for the first. Raises what the loop failed of, after the last."""
        with self._changed:
            self.taken_at = time.monotonic()
            if not self._records and self._failure is None:
                self._changed.wait(timeout)
            waiting = self._records
            taken = [waiting.popleft() for _ in range(min(most, len(waiting)))]
            was_full = self._bytes >= self._limit
            self._bytes -= sizes_of(taken)
            if not taken and self._failure is not None:
                raise self._failure
            room = was_full and self._bytes < self._limit
        if room:
            self._emptier()
        return taken

    def fail(self, failure: ConnectorError) -> None:
        with self._changed:
            self._failure = self._failure or failure
            self._changed.notify_all()

    @property
    def full(self) -> bool:
        return self._bytes >= self._limit

    @property
    def depth(self) -> int:
        return len(self._records)


class Outbox:
    """Outputs on their way out. `swap`, `sent` and `fail` belong to the loop, the rest to the learner.

    waker: called when there is something to swap and there was nothing before.
    """

    def __init__(self, limit: int, waker: Callable[[], object]) -> None:
        self._limit, self._waker = limit, waker
        self._changed = threading.Condition()
        self._parcel = Parcel()
        self._under_way = 0
        self._handed = self._sent = 0
        self._failure: ConnectorError | None = None
        self.waited_at = time.monotonic()
        """When the learner last came to wait for room, or a commit: it doesn't hang then."""
        self.hurry = False
        """The learner waits for the next commit."""

    def put(self, messages: Sequence[Message], published: Mapping[Place, int]) -> None:
        """Hand over outputs, and P behind them."""
        size = OVERHEAD * len(messages) + sum([len(m.value or b"") + len(m.key or b"") for m in messages])
        size += sum([_size_of_headers(m.headers) for m in messages if m.headers])
        self._hand(Parcel(list(messages), dict(published), [], size))

    def name(
        self, named: Named, messages: Sequence[Message] = (), published: Mapping[Place, int] | None = None
    ) -> None:
        """A checkpoint has become durable; `messages` leave in the commit that names it."""
        size = sum(OVERHEAD + len(m.value or b"") for m in messages)
        self._hand(Parcel(list(messages), dict(published or {}), [named], size))
        self.hurry = self.hurry or bool(messages)  # somebody waits for an answer

    def _hand(self, more: Parcel) -> None:
        with self._changed:
            self._raise()
            parcel = self._parcel
            first = not self.waiting
            parcel.messages += more.messages
            parcel.published |= more.published
            parcel.named += more.named
            parcel.bytes += more.bytes
            self._handed += 1
        # Whoever swaps takes it all: more of it is no news, and waking another thread has its price.
        if first:
            self._waker()

    def wait(self, timeout: float) -> None:
        """Until there is room. Raises Stalled after `timeout` seconds, and what the loop failed of."""
        with self._changed:
            self.waited_at = time.monotonic()
            self.hurry = not self._room()
            room = self._changed.wait_for(lambda: self._failure is not None or self._room(), timeout)
            self._raise()
        if not room:
            raise Stalled("the broker takes no outputs at the moment")

    def wait_sent(self, timeout: float) -> bool:
        """Until all that was handed over is committed; False after `timeout` seconds."""
        with self._changed:
            handed, self.waited_at = self._handed, time.monotonic()
            self.hurry = self._sent < handed
            done = self._changed.wait_for(lambda: self._failure is not None or self._sent >= handed, timeout)
            self._raise()
        return done

    def swap(self) -> tuple[Parcel, int] | None:
        """All that waits, and up to which call of `put` and `name` that is; None if nothing does."""
        with self._changed:
            parcel = self._parcel
            if not (parcel.messages or parcel.published or parcel.named):
                return None
            self._parcel = Parcel()
            self._under_way = parcel.bytes
            return parcel, self._handed

    def sent(self, handed: int) -> None:
        with self._changed:
            self._under_way, self._sent = 0, handed
            self.hurry = self.hurry and self.waiting
            self._changed.notify_all()

    def fail(self, failure: ConnectorError) -> None:
        with self._changed:
            self._failure = self._failure or failure
            self._changed.notify_all()

    @property
    def waiting(self) -> bool:
        parcel = self._parcel
        return bool(parcel.messages or parcel.published or parcel.named)

    @property
    def depth(self) -> int:
        return len(self._parcel.messages)

    def _room(self) -> bool:
        return self._parcel.bytes + self._under_way < self._limit

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure


def beyond(gap: Sequence[int] | None, offset: int) -> int:
    """The end of a gap, for whoever has everything below `offset` and stands in it; else `offset`."""
    begin, end = gap or (offset, offset)
    return end if begin <= offset < end else offset


def size_of(record: Record) -> int:
    """Bytes that a record is counted for."""
    size = OVERHEAD + len(record.value) + (len(record.key) if record.key else 0)
    return size + _size_of_headers(record.headers) if record.headers else size


def sizes_of(records: Sequence[Record]) -> int:
    """The same of all of them: every record passes here twice, so not by a call for each."""
    values = sum([len(record.value) for record in records])
    keys = sum([len(record.key) for record in records if record.key])
    headers = sum([_size_of_headers(record.headers) for record in records if record.headers])
    return OVERHEAD * len(records) + values + keys + headers


def _size_of_headers(headers: Sequence[tuple[str, bytes | None]]) -> int:
    return sum(OVERHEAD + len(name) + len(value or b"") for name, value in headers)
