"""Rows of the arrays in an NPZ file."""

from __future__ import annotations

import hashlib
import io
import logging
import math
import time
import zipfile
from collections.abc import Mapping, Sequence
from typing import IO, Any, BinaryIO

import numpy as np

from connectors.formats import Frames
from connectors.inputs import HEAD, SAME, UNLEARNED, Input, remaining
from streamlearn.events import Array, ConnectorError, Resume, StateMismatch, Unreachable, UsageError

log = logging.getLogger(__name__)

HASHED_AT_ONCE = 4 * 1024 * 1024
"""Bytes of rows that are copied for hashing, at most (one row at least)."""
SCALARS = ("id", "y", "ts", "task")
"""Columns with one value a row, where nothing says what they are called."""
MAGIC = b"\x93NUMPY"
AT_ONCE = 16 * 1024 * 1024
"""Bytes of rows that are handed out together, at most (one row at least)."""


class NpzReader:
    """A record is one row of the arrays x, y (may be absent) and any other of the same length.

    What has another length is no column and left out, with a line in the log; unless it is one of `scalars`
    and `features`, which the codec reads. A column of `scalars` may have the shape [rows, 1]. Bytes are text
    where they are UTF-8, truth values in an array of features the numbers 0 and 1 (uint8).

    The arrays are held in memory whole, and so is the file itself where it is compressed or a stream (its
    first record comes when it has ended). Fields hold `x` as an array (read-only views, [1] where a row is
    a single number), one-dimensional columns as Python values. There is no `value`: a row has no bytes of
    its own.

    The file may have more rows at the next start, and longer strings in them; those up to the cursor must be
    what they were.

    Raises Unreachable for what isn't a whole NPZ file, or holds more than `most` bytes uncompressed, and
    UsageError for arrays that make no rows.
    """

    doubt: str | None = None
    """No row is handed out before all has been read, checksums and all."""

    def __init__(
        self,
        input: Input,
        most: int = 8 << 30,
        scalars: Sequence[str] = SCALARS,
        features: Sequence[str] = (),
    ) -> None:
        self._input = input
        self._most = most
        self._scalars = scalars
        self._wanted = {"x", "y", *scalars, *features}
        self._read: list[bytes] = []
        self._read_bytes = 0
        self._arrays: dict[str, Array] | None = None
        self._row = 0
        self._hashes: dict[str, Any] = {}
        self._hashed = 0
        self.broken: str | None = None

    @property
    def ready(self) -> int:
        return 0 if self._arrays is None else len(self._arrays["x"]) - self._row

    @property
    def ended(self) -> bool:
        return self._arrays is not None

    def resume(self, cursor: int, resume: Resume, patience: float) -> None:
        if self._input.seekable:
            with self._input.whole() as file:
                self._load(file)
        if not cursor:
            self._recognise(resume, patience)
            return
        while self._arrays is None and self.broken is None:
            if not self._input.wait_long(patience, resume.stopped):
                break
            self._pull()
        if self._arrays is None:
            raise Unreachable(f"{self._input.name} {self.broken or 'has not come to its end'}")
        if cursor > len(self._arrays["x"]):
            self._refuse(f"it has {len(self._arrays['x'])} rows, the state has learned {cursor}")
        why = difference(resume.fingerprint, self.fingerprint(cursor)) if resume.fingerprint else None
        if why:
            self._refuse(why)
        self._row = cursor

    def fill(self, count: int, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while self._arrays is None and self.broken is None and self._input.wait(remaining(deadline)):
            self._pull()

    def take(self, count: int) -> Frames:
        if self._arrays is None or count <= 0:
            return Frames([], [], [])
        row_bytes = sum(array.nbytes // len(array) for array in self._arrays.values() if len(array))
        count = min(count, max(1, AT_ONCE // max(1, row_bytes)))
        first, end = self._row, min(self._row + count, len(self._arrays["x"]))
        self._row = end
        columns = {name: self._column(name, array[first:end]) for name, array in self._arrays.items()}
        rows = zip(*columns.values(), strict=True)
        return Frames(
            [b""] * (end - first),
            list(range(first + 1, end + 1)),
            [dict(zip(columns, row, strict=True)) for row in rows],
        )

    def _column(self, name: str, rows: Array) -> list[Any]:
        if name in self._scalars and rows.shape[1:] == (1,):
            rows = rows[:, 0]
        if name == "x" or rows.ndim > 1:
            return list(rows.view(np.uint8) if rows.dtype.kind == "b" else rows)
        return list(map(_text, rows.tolist())) if rows.dtype.kind == "S" else rows.tolist()

    def _recognise(self, resume: Resume, patience: float) -> None:
        """Nothing was learned of it, but something may have been answered. Raises StateMismatch."""
        while self._input.regular and self._arrays is None and self.broken is None:
            self._input.wait_long(patience, resume.stopped)
            self._pull()
        if self._input.regular and self.broken is None and resume.fingerprint:
            first = self._first_rows(resume.fingerprint.get("head_rows", 0))
            why = difference(resume.fingerprint, first)
            if why:
                raise StateMismatch(
                    f"{self._input.name} is not the input that was answered ({why}): {UNLEARNED}"
                )

    def _first_rows(self, count: int | None = None) -> dict[str, Any]:
        """The fingerprint at row 0: of so many first rows, by default of those that fit into HEAD, or of one.

        Of a stream nothing: its arrays may not be here yet.
        """
        arrays = (self._arrays or {}) if self._input.regular else {}
        if count is None and arrays:
            rows, size = len(arrays["x"]), sum(array.nbytes for array in arrays.values())
            count = min(rows, max(1, HEAD * rows // max(1, size)))
        if not count:
            return {"rows": 0, "arrays": {}}
        return {
            "rows": 0,
            "head_rows": count,
            "arrays": {
                name: [
                    kind_of(array),
                    list(array.shape[1:]),
                    hashlib.sha256(content_of(array[:count])).hexdigest(),
                ]
                for name, array in arrays.items()
            },
        }

    def fingerprint(self, cursor: int) -> dict[str, Any]:
        """What all rows up to the cursor were. Costs time for those that are new since the previous call."""
        if not cursor:
            return self._first_rows()
        arrays = self._arrays or {}
        if cursor < self._hashed or not self._hashes:
            self._hashes, self._hashed = {name: hashlib.sha256() for name in arrays}, 0
        for name, array in arrays.items():
            step = max(1, HASHED_AT_ONCE * len(array) // max(1, array.nbytes))
            for first in range(self._hashed, cursor, step):
                self._hashes[name].update(content_of(array[first : min(first + step, cursor)]))
        self._hashed = cursor
        return {
            "rows": cursor,
            "arrays": {
                name: [kind_of(array), list(array.shape[1:]), self._hashes[name].hexdigest()]
                for name, array in arrays.items()
            },
        }

    def _pull(self) -> None:
        self._read.append(self._input.read())
        self._read_bytes += len(self._read[-1])
        if self._read_bytes > self._most:
            raise self._too_large(f"at least {self._read_bytes}")
        self.broken = self._input.broken
        if self._input.ended and not self.broken:
            content, self._read = io.BytesIO(b"".join(self._read)), []
            self._load(content)

    def _load(self, file: BinaryIO) -> None:
        name = self._input.name
        arrays: dict[str, Array] = {}
        try:
            if not zipfile.is_zipfile(file):
                raise Unreachable(f"{name} is not a whole NPZ file")
            file.seek(0)
            self._check_sizes(file)
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                for key in archive.files:
                    arrays[key] = archive[key]
        except ConnectorError:
            raise
        except MemoryError as error:
            raise Unreachable(f"{name} can't be read as NPZ: the memory doesn't hold it: {error}") from None
        except Exception as error:
            # Whatever zipfile, zlib, lzma and numpy raise for bytes that they don't understand.
            if "Object arrays" in str(error):
                raise UsageError(
                    f"{name} holds an array of Python objects, which only pickle could read: "
                    "save numbers or strings with a plain dtype"
                ) from None
            raise Unreachable(f"{name} can't be read as NPZ: {type(error).__name__}: {error}") from None
        self._arrays = self._checked(arrays)

    def _check_sizes(self, file: BinaryIO) -> None:
        """Refuse what claims to be larger than it is, or than it may be, before memory is asked for it."""
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > self._most:
                raise self._too_large(str(sum(member.file_size for member in members)))
            for member in members:
                with archive.open(member) as content:
                    claimed = claimed_bytes(content)
                    there = member.file_size - content.tell()
                if claimed > there:
                    raise Unreachable(
                        f"{self._input.name} can't be read as NPZ: the header of {member.filename} claims "
                        f"{claimed} bytes, but there are {there}"
                    )

    def _too_large(self, size: str) -> Unreachable:
        return Unreachable(
            f"{self._input.name} holds {size} bytes, source.options.max_npz_bytes is {self._most}: "
            "split the file, or set that higher if the memory holds it"
        )

    def _checked(self, arrays: dict[str, Array]) -> dict[str, Array]:
        name = self._input.name
        for key, array in arrays.items():
            if not isinstance(array, np.ndarray):
                raise UsageError(f"{name}: {key} is not an array")
        if "x" not in arrays or arrays["x"].ndim == 0:
            raise UsageError(
                f"{name} has no array x with a row for each record (it has: {', '.join(arrays)})"
            )
        if arrays["x"].ndim == 1:
            arrays["x"] = arrays["x"][:, None]
        others: list[str] = []
        for key, array in arrays.items():
            if array.ndim == 0 or len(array) != len(arrays["x"]):
                length = "no rows" if array.ndim == 0 else f"{len(array)} rows"
                # A path a.b may mean b inside of the column a.
                if any(key in (wanted, wanted.partition(".")[0]) for wanted in self._wanted):
                    raise UsageError(f"{name}: x has {len(arrays['x'])} rows but {key} has {length}")
                others.append(f"{key} ({length})")
            array.flags.writeable = False
        if others:
            log.info("%s: x has %d rows; left out: %s", name, len(arrays["x"]), ", ".join(others))
            arrays = {k: v for k, v in arrays.items() if v.ndim and len(v) == len(arrays["x"])}
        if not len(arrays["x"]):
            log.warning("%s holds arrays, but no record: they have no rows", name)
        return arrays

    def _refuse(self, why: str) -> None:
        raise StateMismatch(
            f"{self._input.name} is not the input this state has learned from ({why}): {SAME}"
        )


def _text(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value  # the codec says what is wrong with it


def kind_of(array: Array) -> str:
    """The dtype; of strings without their length, which is that of the longest one in the file."""
    return array.dtype.kind if array.dtype.kind in "US" else array.dtype.str


def content_of(rows: Array) -> bytes:
    """What is hashed of some rows: the same whatever the length of the longest string elsewhere."""
    if rows.dtype.kind == "U":
        return "".join([f"{text}\0" for text in rows.ravel().tolist()]).encode("utf-8", "surrogatepass")
    if rows.dtype.kind == "S":
        return b"".join([text + b"\0" for text in rows.ravel().tolist()])
    return rows.tobytes()


def difference(stored: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    """In which way the arrays aren't those of which the state has stored a fingerprint; None if they are."""
    if stored.keys() != found.keys():
        return "it was another kind of source, or read by another version"
    was, now = stored["arrays"], found["arrays"]
    if was.keys() != now.keys():
        return f"it has the arrays {', '.join(now)}, the state has learned from {', '.join(was)}"
    for name, (kind, shape, digest) in now.items():
        if was[name][:2] != [kind, shape]:
            return f"a row of {name} is {kind} {shape}, it was {' '.join(map(str, was[name][:2]))}"
        if was[name][2] != digest:
            return f"the first {found['rows'] or found['head_rows']} rows of {name} differ"
    return None


def claimed_bytes(content: IO[bytes]) -> int:
    """How large the array of an NPY file must be by its header (0: no NPY, or its objects are pickled).

    Reads the header, no more.
    """
    if content.read(len(MAGIC)) != MAGIC:
        return 0
    content.seek(0)
    version = np.lib.format.read_magic(content)
    # Version 3 differs from 2 in how the names of columns are written, and in no size.
    wide = version != (1, 0)
    read = np.lib.format.read_array_header_2_0 if wide else np.lib.format.read_array_header_1_0
    shape, _, dtype = read(content)
    return 0 if dtype.hasobject else math.prod(shape) * dtype.itemsize
