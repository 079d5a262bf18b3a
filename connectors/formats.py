"""Cutting a stream of bytes into records: JSON lines and msgpack objects (CSV: `csv_rows`).

A cutter takes bytes in pieces of any size (`feed`, then `finish` at the end) and hands out records as
columns (`take`). Where the pieces were cut changes nothing about the records.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

import msgpack

from connectors.skipper import Skipper

LIMIT = 64 * 1024 * 1024
"""The largest record, bytes."""
CHUNK = 1024 * 1024
"""Bytes that can't be told apart into msgpack objects are handed out in pieces of this size."""
BOM = b"\xef\xbb\xbf"

NO_OBJECT = "has no line end and is no whole JSON object"
END_IT = " (end it with a newline to have it learned)"

Fields = Mapping[Any, Any] | None


class Frames(NamedTuple):
    """Records as columns of equal length: bytes, cursor behind each, named values (None: only bytes)."""

    values: list[bytes]
    ends: list[int]
    fields: list[Fields] | None


class Left(NamedTuple):
    """What stands at the end of a content that may grow, and may be half a record: it is not handed out.

    start, size: in bytes of the content. what: a line, a row or an object. why: how one can tell. remedy:
    what a user can do who knows that it is whole.
    """

    start: int
    size: int
    what: str
    why: str
    remedy: str = ""


class Cutter(Protocol):
    """What every format does."""

    @property
    def ready(self) -> int:
        """How many records `take` has."""

    @property
    def ready_bytes(self) -> int:
        """How many bytes of the content these records are, at least."""

    def within(self, count: int, size: int) -> int:
        """How many of the next `count` records are `size` bytes at most together; one at least."""

    @property
    def wants_start(self) -> bool:
        """Whether it must be fed from the content's start, wherever reading goes on (CSV's first rows)."""

    @property
    def corrupt_from(self) -> int | None:
        """Where the content stopped making sense, if records can't be found behind that any more."""

    def jump(self, cursor: int, last: bytes, corrupt_from: int | None) -> None:
        """Go on at `cursor`, behind the byte `last`; `corrupt_from` as it was known at that cursor."""

    def feed(self, data: bytes) -> None: ...

    def finish(self, may_grow: bool = False) -> Left | None:
        """The content has ended; one that `may_grow` until it is read again needn't end with a whole record.

        Returns the record that was left because it may be half-written.
        """

    def take(self, count: int) -> Frames:
        """Up to `count` records, in order, each once."""


class Queue:
    """The records found and not yet taken."""

    wants_start = False
    corrupt_from: int | None = None

    def __init__(self) -> None:
        self._values: list[bytes] = []
        self._ends: list[int] = []
        self._fields: list[Fields] | None = None
        self._taken = 0
        self._taken_to = 0

    @property
    def ready(self) -> int:
        return len(self._values) - self._taken

    @property
    def ready_bytes(self) -> int:
        return self._ends[-1] - self._taken_to if self._ends else 0

    def within(self, count: int, size: int) -> int:
        first = self._taken
        last = min(first + count, len(self._ends))
        return max(min(1, last - first), bisect_right(self._ends, self._taken_to + size, first, last) - first)

    def take(self, count: int) -> Frames:
        window = slice(self._taken, self._taken + count)
        fields = None if self._fields is None else self._fields[window]
        frames = Frames(self._values[window], self._ends[window], fields)
        self._taken += len(frames.values)
        if frames.ends:
            self._taken_to = frames.ends[-1]
        if self._taken == len(self._values):
            self._clear(self._taken_to)
        elif 2 * self._taken >= len(self._values):
            # Reading ahead, the two hardly ever meet: without this, what was taken would stay for long.
            self._drop_taken()
        return frames

    def _drop_taken(self) -> None:
        del self._values[: self._taken], self._ends[: self._taken]
        if self._fields is not None:
            del self._fields[: self._taken]
        self._taken = 0

    def _clear(self, position: int) -> None:
        self._values, self._ends, self._taken, self._taken_to = [], [], 0, position
        if self._fields is not None:
            self._fields = []


class Lines(Queue):
    """A record is a line without its newline and the carriage return before that; a last one may lack both.

    In a content that may grow, a last line without newline is a record only if it is `whole`. A blank line
    is a record. Of a line beyond LIMIT the first LIMIT bytes are the record. A byte order
    mark at the start of the content belongs to no record.
    """

    def __init__(self, keep_return: bool = False, whole: Callable[[bytes], bool] | None = None) -> None:
        super().__init__()
        self._keep_return = keep_return
        self._whole = whole or is_whole
        self._position = 0
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._drop_blank = False

    @property
    def held(self) -> bytes:
        """The last line as far as it has come, of one beyond LIMIT the first LIMIT bytes."""
        return b"".join(self._held)

    def jump(self, cursor: int, last: bytes, corrupt_from: int | None) -> None:
        self._clear(cursor)
        self._position, self._held, self._held_bytes = cursor, [], 0
        # A last line without newline was a record; if the file has grown since, its newline comes now.
        self._drop_blank = cursor > 0 and last != b"\n"

    def feed(self, data: bytes) -> None:
        if self._held:
            first, newline, rest = data.partition(b"\n")
            self._hold(first)
            if not newline:
                return
            self._release(1)
            data = rest
        lines = data.split(b"\n")
        last = lines.pop()
        if lines:
            ends = list(accumulate([len(line) + 1 for line in lines], initial=self._position))
            self._position = ends[-1]
            self._emit(lines, ends[1:], ends[0] == 0, b"\r" in data)
        if last:
            self._hold(last)

    def finish(self, may_grow: bool = False) -> Left | None:
        if self._held and may_grow and not self._whole(self.held):
            return Left(self._position, self._held_bytes, "line", NO_OBJECT, END_IT)
        if self._held:
            self._release(0)
        return None

    def _hold(self, piece: bytes) -> None:
        room = LIMIT - self._held_bytes
        if room > 0:
            self._held.append(piece[:room])
        self._held_bytes += len(piece)

    def _release(self, newline: int) -> None:
        line, start = b"".join(self._held), self._position
        self._position += self._held_bytes + newline
        self._held, self._held_bytes = [], 0
        self._emit([line], [self._position], start == 0, True)

    def _emit(self, lines: list[bytes], ends: list[int], start: bool, returns: bool) -> None:
        if start:
            lines[0] = lines[0].removeprefix(BOM)
        if returns and not self._keep_return:
            lines = [line[:-1] if line.endswith(b"\r") else line for line in lines]
        if self._drop_blank:
            self._drop_blank = False
            if lines[0] in (b"", b"\r"):
                lines, ends = lines[1:], ends[1:]
        self._values += lines
        self._ends += ends


def is_whole(line: bytes) -> bool:
    """Whether a line can't be the start of a longer one: it holds whole JSON that ends with a bracket."""
    try:
        # What is refused for its content only (bytes that are no UTF-8, say) is whole all the same.
        text = line.removeprefix(BOM).decode(errors="replace")
        json.loads(text, strict=False, parse_int=float)
    except (ValueError, RecursionError):
        return False
    return line.rstrip().endswith((b"}", b"]"))


class Objects(Queue):
    """A record is one msgpack object, as its bytes, however deep; of one beyond LIMIT the first LIMIT bytes.

    Behind a byte that msgpack never uses the next object can't be found: from that byte's object on
    everything comes as records of CHUNK bytes. An object that the end of the content cuts is a record too,
    unless the content may grow.
    """

    def __init__(self) -> None:
        super().__init__()
        self.jump(0, b"", None)

    def jump(self, cursor: int, last: bytes, corrupt_from: int | None) -> None:
        self._clear(cursor)
        self.corrupt_from = corrupt_from
        self._position = cursor
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._start()

    def feed(self, data: bytes) -> None:
        while data:
            if self.corrupt_from is not None:
                data = self._chunks(data)
            elif self._skipper is not None:
                data = self._skip(self._skipper, data)
            else:
                data = self._objects(data)

    def finish(self, may_grow: bool = False) -> Left | None:
        if self._held_bytes and may_grow and self.corrupt_from is None:
            return Left(self._position, self._held_bytes, "object", "is cut")
        if self._held_bytes:
            self._cut([self._position + self._held_bytes])
        return None

    def _start(self) -> None:
        """An object begins at the position, and nothing is held."""
        self._base = self._position
        self._unpacker: Any = msgpack.Unpacker(max_buffer_size=0)
        self._skipper: Skipper | None = None

    # The three take bytes and return those that another one has to take.

    def _objects(self, data: bytes) -> bytes:
        self._held.append(data)
        self._held_bytes += len(data)
        ends: list[int] = []
        odd = False
        skip, tell, base = self._unpacker.skip, self._unpacker.tell, self._base
        try:
            self._unpacker.feed(data)
            while True:
                skip()
                ends.append(base + tell())
        except msgpack.OutOfData:
            pass
        except (ValueError, msgpack.UnpackException):  # too deep for msgpack, or corrupt
            odd = True
        if ends:
            self._cut(ends)
        if not odd and self._held_bytes <= LIMIT:
            return b""
        self._unpacker, self._skipper = None, Skipper()
        return self._let_go()

    def _skip(self, skipper: Skipper, data: bytes) -> bytes:
        used = skipper.feed(data)
        room = LIMIT - self._held_bytes
        if room > 0:
            self._held.append(data[: min(room, used)])
        self._held_bytes += used
        rest = data[used:]
        if skipper.corrupt:
            if self._held_bytes > LIMIT:
                self._cut([self._position + self._held_bytes])
            self.corrupt_from = self._position
            return self._let_go() + rest
        if skipper.done:
            self._cut([self._position + self._held_bytes])
            self._start()
        return rest

    def _chunks(self, data: bytes) -> bytes:
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes >= CHUNK:
            whole = self._held_bytes // CHUNK * CHUNK
            self._cut([*range(self._position + CHUNK, self._position + whole + 1, CHUNK)])
        return b""

    def _let_go(self) -> bytes:
        data, self._held, self._held_bytes = b"".join(self._held), [], 0
        return data

    def _cut(self, ends: list[int]) -> None:
        data, start = b"".join(self._held), self._position
        stop = start + self._held_bytes
        first = start
        for end in ends:
            self._values.append(data[first - start : min(end, first + LIMIT) - start])
            first = end
        self._ends += ends
        rest = data[first - start :]
        self._held, self._held_bytes = [rest] if rest else [], stop - first
        self._position = first
