"""Records from a file or from standard input."""

from __future__ import annotations

import hashlib
import logging
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping
from itertools import repeat
from typing import Any, Protocol

from connectors.csv_rows import Rows
from connectors.formats import Cutter, Frames, Lines, Objects
from connectors.inputs import SAME, UNLEARNED, Input, remaining
from connectors.npz import SCALARS, NpzReader
from streamlearn.events import Position, Record, Resume, StateMismatch, Unreachable, UsageError

log = logging.getLogger(__name__)

AT_ONCE = 16 * 1024 * 1024
"""A poll gives about so many bytes of content at most (one record at least), and reads no further ahead."""

SLACK = 0.2
"""Seconds beyond its time that a poll may read on for a first record that is large."""

SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".msgpack": "msgpack",
    ".mp": "msgpack",
    ".csv": "csv",
    ".npz": "npz",
}
CUTTERS: dict[str, Callable[[str], Cutter]] = {
    "jsonl": lambda name: Lines(),
    "msgpack": lambda name: Objects(),
    "csv": Rows,
}


class Reader(Protocol):
    """An opened file in one format."""

    broken: str | None

    @property
    def doubt(self) -> str | None:
        """Which of the records that were taken may be wrong, once `broken`; None: none of them."""

    @property
    def ready(self) -> int: ...

    @property
    def ended(self) -> bool: ...

    def resume(self, cursor: int, resume: Resume, patience: float) -> None: ...

    def fill(self, count: int, timeout: float) -> None: ...

    def take(self, count: int) -> Frames: ...

    def fingerprint(self, cursor: int) -> dict[str, Any]: ...


def _number(options: Mapping[str, Any], name: str, default: float, most: float = 2.0**63) -> float:
    """An option that is a number up to `most`; where it is absent or 0, the default. Raises UsageError."""
    given = options.get(name) or default
    try:
        if 0 <= float(given) <= most:
            return float(given)
    except (ValueError, TypeError, OverflowError):
        pass
    raise UsageError(f"source.options.{name} is {given!r}: it must be a number from 0 to {most:g}")


class FileSource:
    """JSON lines, msgpack, CSV (with a header) or NPZ, plain or gzip, from a path or standard input.

    The topic is the path as first given, the partition 0, the offset the record's number from 0, the cursor
    the byte behind the record in the uncompressed content (NPZ: the row). A regular file ends where it ends
    now, a stream when its writer closes it; a stream's records are delivered as soon as they are whole.
    What may be half a record at the end of a regular file that isn't compressed is left for the next start,
    with a warning: its writer may still be at it. That is a last line without a newline (a whole JSON object
    is taken all the same) or a cut msgpack object. Elsewhere it is a record like others. What a format makes
    of odd content is said in `formats`, `csv_rows` and `npz`.

    Resuming seeks where it can; a gzip file or a stream is read again from its start, which must be given
    again, and whose fingerprint is compared. `Resume.stopped` ends that within a fraction of a second.

    The checksums of a gzip file are compared before a record of it is delivered, as a member's stands behind
    its content; a last member that was cut has none yet. A stream can't be read twice: where it proves
    damaged, the error says which of the records that were delivered may be wrong.

    Options: `path` ("-", the default: standard input), `format` (jsonl / msgpack / csv / npz; default: by
    the suffix, for "-" jsonl), `fd` (the descriptor that "-" reads, default 0), `patience` (seconds that
    a stream may keep still while it is read again, default 60), `max_npz_bytes` (what an NPZ file may hold,
    uncompressed; default 8 GiB), `scalars` and `features` (columns that the codec reads, see `npz`).

    A poll gives about 16 MiB at most (one record at least), however many records it may give.

    `poll` raises Unreachable where the file can't be read on, after it has delivered every record before
    that; nothing of a torn record is delivered.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        path = options.get("path")
        self._path = "-" if path is None else str(path)
        self.topic = self._path
        self._format = format_of(self._path, options.get("format"))
        self._fd = int(_number(options, "fd", 0, 2**31 - 1))
        self._patience = _number(options, "patience", 60)
        self._max_npz_bytes = int(_number(options, "max_npz_bytes", 8 << 30))
        self._columns = options.get("scalars") or SCALARS, options.get("features") or ()
        self._input: Input | None = None
        self._reader: Reader | None = None
        self._offset = 0

    def open(self, resume: Resume) -> None:
        """Go to `resume`; also raises UsageError for a header or arrays that can't be used."""
        self.close()
        self.topic = resume.topic or self._path
        self._offset = resume.offsets.get(0, 0)
        cursor = resume.cursors.get(0, 0)
        if self._offset and not cursor:
            raise StateMismatch(
                f"the state goes on at record {self._offset} of {self._path} but doesn't say where that is: "
                "it was taken of another kind of source; start with another --checkpoint.folder"
            )
        self._input = Input(self._path, self._fd)
        if self._format == "npz":
            self._reader = NpzReader(self._input, self._max_npz_bytes, *self._columns)
        else:
            self._reader = ByteReader(self._input, CUTTERS[self._format](self._input.name))
        try:
            self._reader.resume(cursor, resume, self._patience)
        except BaseException:
            self.close()
            raise

    def poll(self, max_records: int, timeout: float) -> list[Record]:
        reader = self._opened()
        reader.fill(max_records, timeout)
        frames = reader.take(max_records)
        if not frames.values and reader.broken:
            what = f"{self._opened_input().name} {reader.broken}: record {self._offset} can't be read whole"
            if reader.doubt is None:
                raise Unreachable(f"{what} (every record before it was delivered); give the whole file")
            raise Unreachable(
                f"{what}. Nor need those be right that came {reader.doubt}: they stand before the checksum "
                "that failed, and the state has learned them. Go back to a checkpoint of before them "
                "(`streamlearn checkpoints list`, then `use`), or start anew with another "
                "--checkpoint.folder; and give an intact input (one that is read from its path is verified "
                "before it is learned from)"
            )
        first = self._offset
        self._offset += len(frames.values)
        # What Position(...) does, without a Python frame for every record.
        positions: Any = map(
            tuple.__new__, repeat(Position), zip(repeat(self.topic), repeat(0), range(first, self._offset))
        )
        if frames.fields is None:
            return list(map(Record, frames.values, positions, frames.ends))
        return [
            Record(value, position, end, None, (), fields)
            for value, position, end, fields in zip(
                frames.values, positions, frames.ends, frames.fields, strict=True
            )
        ]

    @property
    def ended(self) -> bool:
        return self._reader is not None and self._reader.ended and not self._reader.ready

    def fingerprint(self, cursors: Mapping[int, int]) -> dict[str, Any]:
        """What the content up to the cursor was: for bytes, hashes of its head and of its last 4 KiB.

        Before the first record it is of the head that is there, as answers may leave before the next
        checkpoint; a stream has none then.
        Right for every cursor of a regular file that isn't compressed; otherwise for cursors not below
        the one of the previous call. There, the tail's hash is None, and isn't compared, for a cursor
        more than 32 MiB behind what was read.
        """
        return self._opened().fingerprint(cursors.get(0, 0))

    def close(self) -> None:
        """May be called again, and `open` after it; standard input stays open."""
        if self._input is not None:
            self._input.close()
        self._input = self._reader = None

    def _opened(self) -> Reader:
        if self._reader is None:
            raise ValueError("the source isn't open")
        return self._reader

    def _opened_input(self) -> Input:
        assert self._input is not None
        return self._input


class ByteReader:
    """A format of which a record can be cut out of a stream of bytes."""

    def __init__(self, input: Input, cutter: Cutter) -> None:
        self._input = input
        self._cutter = cutter
        self._done = False
        self._bytes = 0
        self._fruitless = True
        """No record has come of it, neither now nor before the cursor."""
        self.broken: str | None = None
        self._number = 0
        self._doubtful: tuple[int | None, str] = None, ""
        """The newest gzip member that a record was taken of: where it begins, and what to say of those."""

    @property
    def doubt(self) -> str | None:
        member, which = self._doubtful
        return which if self._input.damaged and member == self._input.member else None

    @property
    def ready(self) -> int:
        return self._cutter.ready

    @property
    def ended(self) -> bool:
        return self._done and self.broken is None

    def resume(self, cursor: int, resume: Resume, patience: float) -> None:
        self._number = resume.offsets.get(0, 0)
        if not cursor:
            self._input.verify(resume.stopped)
            if self._input.regular:
                start = self._input.start(resume.fingerprint.get("head_bytes", 0))
                compare(self._input.name, resume.fingerprint, fingerprint_of(start, b""), cursor)
            # A header that can't be used is better refused now; a stream's may be long in coming.
            while self._input.regular and self._cutter.wants_start and not (self._cutter.ready or self._done):
                self._pull()
            return
        self._fruitless = False
        if not self._input.seekable:
            log.info("%s is read again to byte %d, where the state goes on", self._input.name, cursor)
        self._input.skip(cursor, patience, self._header, resume.stopped)
        head, tail = self._input.prefix(cursor)
        compare(self._input.name, resume.fingerprint, fingerprint_of(head, tail), cursor)
        self._cutter.jump(cursor, (tail or b"")[-1:], resume.fingerprint.get("corrupt_from"))
        member = self._input.member
        if member is not None and member < cursor:
            self._doubtful = member, f"from before record {self._number} on" if member else "from record 0 on"
        self._input.verify(resume.stopped)

    def fill(self, count: int, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while self._cutter.ready < count and self._cutter.ready_bytes < AT_ONCE and not self._done:
            if not self._input.wait(0 if self._cutter.ready else remaining(deadline)):
                return
            self._pull()
            if not self._cutter.ready and time.monotonic() > deadline + SLACK:
                return

    def take(self, count: int) -> Frames:
        frames = self._cutter.take(self._cutter.within(count, AT_ONCE))
        member = self._input.member
        if member is not None and frames.ends and frames.ends[-1] > member != self._doubtful[0]:
            self._doubtful = member, f"from record {self._number + bisect_right(frames.ends, member)} on"
        self._number += len(frames.values)
        self._fruitless = self._fruitless and not frames.values
        return frames

    def fingerprint(self, cursor: int) -> dict[str, Any]:
        known = fingerprint_of(*self._input.prefix(cursor) if cursor else (self._input.start(), b""))
        self._input.release(cursor)
        corrupt_from = self._cutter.corrupt_from
        if corrupt_from is not None and cursor > corrupt_from:
            # Read again from here, the rest could look like records: it must stay what it was.
            known["corrupt_from"] = corrupt_from
        return known

    def _header(self, data: bytes) -> bool:
        if data:
            self._cutter.feed(data)
        return self._cutter.wants_start

    def _pull(self) -> None:
        data = self._input.read()
        if data:
            self._bytes += len(data)
            self._cutter.feed(data)
        self.broken = self._input.broken
        if self.broken:
            self._done = True
        elif self._input.ended:
            self._finish()

    def _finish(self) -> None:
        self._done = True
        left = self._cutter.finish(may_grow=self._input.seekable)
        if left is not None:
            log.warning(
                "%s: the last %s, %d bytes at byte %d, %s, so it may still be being written: it is left for "
                "the next start%s",
                *(self._input.name, left.what, left.size, left.start, left.why),
                left.remedy,
            )
        elif self._fruitless and self._bytes and not self._cutter.ready:
            log.warning(
                "%s holds %d bytes, but no record (in CSV the first row is the header)",
                *(self._input.name, self._bytes),
            )


def format_of(path: str, given: str | None) -> str:
    """The format of a path; raises UsageError if neither `given` nor the suffix names one."""
    if given:
        if given not in SUFFIXES.values():
            raise UsageError(f"source.format is {given!r}: it must be one of jsonl, msgpack, csv, npz")
        return str(given)
    if path == "-":
        return "jsonl"
    plain = path.lower().removesuffix(".gz").removesuffix(".gzip")
    for suffix, format in SUFFIXES.items():
        if plain.endswith(suffix):
            return format
    raise UsageError(f"the name {path} doesn't say which format it holds: set source.format")


def fingerprint_of(head: bytes, tail: bytes | None) -> dict[str, Any]:
    """The fingerprint of a consumed prefix; `tail` is None where it wasn't kept, and then not compared."""
    return {
        "head_bytes": len(head),
        "head_sha256": hashlib.sha256(head).hexdigest(),
        "tail_sha256": None if tail is None else hashlib.sha256(tail).hexdigest(),
    }


def compare(name: str, stored: Mapping[str, Any], found: Mapping[str, Any], cursor: int) -> None:
    """Raises StateMismatch if `found`, the fingerprint at `cursor`, isn't the `stored` one."""
    what = None
    if "head_sha256" not in stored:
        what = "it was another kind of source" if stored else None
    elif any(stored[key] != found[key] for key in ("head_bytes", "head_sha256")):
        what = f"its first {stored['head_bytes']} bytes differ"
    elif len({stored["tail_sha256"], found["tail_sha256"]} - {None}) == 2:
        what = f"the bytes before byte {cursor} differ"
    if what:
        if not cursor:
            raise StateMismatch(f"{name} is not the input that was answered ({what}): {UNLEARNED}")
        raise StateMismatch(f"{name} is not the input this state has learned from ({what}): {SAME}")
