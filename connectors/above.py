"""What stands in an output file above the mark of a checkpoint: outputs of ours, or something else."""

from __future__ import annotations

import json
import os
import re
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from streamlearn.events import StateMismatch

CHUNK = 1024 * 1024
LONGEST = 128 * 1024 * 1024
"""No line of ours is longer: a dead letter holds 64 MiB in base64."""
AGAIN = "give the file that the state has written, or start with another --checkpoint.folder"
BEGINNINGS = b'{"id":', b'{"reason":'
"""How the lines of predictions and of dead letters begin."""
SHOWN = 60
"""So many bytes of what isn't ours are shown."""

Key = tuple[str, int]
"""Topic and partition."""


class Found(NamedTuple):
    """A whole line of an output file: whose output it is, and where it stands."""

    key: Key
    offset: int
    start: int
    end: int


class Runs:
    """A set of offsets that mostly come one after another: kept as first and last of each run."""

    def __init__(self) -> None:
        self._firsts, self._lasts = array("q"), array("q")

    def __contains__(self, offset: int) -> bool:
        run = bisect_right(self._firsts, offset) - 1
        return run >= 0 and offset <= self._lasts[run]

    @property
    def last(self) -> int:
        return self._lasts[-1]

    def add(self, offset: int) -> None:
        firsts, lasts = self._firsts, self._lasts
        if lasts and lasts[-1] + 1 == offset:
            lasts[-1] = offset
            return
        run = bisect_right(firsts, offset)
        if run and offset <= lasts[run - 1]:
            return
        joins = bool(run) and lasts[run - 1] + 1 == offset
        if run < len(firsts) and firsts[run] == offset + 1:
            firsts[run] = offset
            if joins:
                lasts[run - 1] = lasts[run]
                del firsts[run], lasts[run]
        elif joins:
            lasts[run - 1] = offset
        else:
            firsts.insert(run, offset)
            lasts.insert(run, offset)


class Above:
    """What one file holds above a mark, read once: outputs of ours up to `end`, and what is behind them.

    mark: None for an output that has none; then nothing that the file holds is ours. Changes nothing.
    Raises StateMismatch for what neither is ours nor comes of a crash.
    """

    def __init__(self, fd: int, name: str, mark: int | None) -> None:
        self.start = self.end = start_of(fd, name, mark)
        self.length = os.fstat(fd).st_size
        self.seen: dict[Key, Runs] = {}
        for found in lines(fd, self.start, self.length):
            self.seen.setdefault(found.key, Runs()).add(found.offset)
            self.end = found.end
        self.damage = damage(fd, name, self.start, self.end, self.length)
        """A sentence on what a power loss has left from `end` on; None for the rest of a torn line."""


def start_of(fd: int, name: str, mark: int | None) -> int:
    """Where outputs are to go on: at the mark, or (None) at the end. Raises StateMismatch."""
    length = os.fstat(fd).st_size
    if mark is None:
        mark = length
    if length < mark:
        raise shorter(name, length, mark)
    if mark and os.pread(fd, 1, mark - 1) != b"\n":
        raise StateMismatch(
            f"{name} has no line that ends at byte {mark}, where outputs are to go: {AGAIN} "
            "or, if this is a first start, name a new file or end this one's last line"
        )
    return mark


def shorter(name: str, length: int, mark: int) -> StateMismatch:
    return StateMismatch(
        f"{name} has {length} bytes, but the checkpoint was taken when it had {mark}: {AGAIN}"
    )


def lines(fd: int, start: int, stop: int) -> Iterator[Found]:
    """The whole lines between two places of the file, read as they are asked for, while they are ours."""
    rest = b""
    while data := os.pread(fd, min(CHUNK, stop - start - len(rest)), start + len(rest)):
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            end = start + len(line) + 1
            found = _parsed(line, start, end)
            if found is None:
                return
            yield found
            start = end
        if rest and (not rest.startswith(b"{") or len(rest) > LONGEST or b"\0" in rest):
            return


def damage(fd: int, name: str, mark: int, start: int, stop: int) -> str | None:
    """A sentence on what a power loss has left behind the last of our lines; none on one that a crash tore.

    Both begin as a line of ours does; in the one NUL bytes come before its end, in the other the file's end.
    Raises StateMismatch for anything else: somebody wrote it, and nobody could make it again.
    """
    if start == stop:
        return None
    line, ends_with = _first_line(fd, start, stop)
    ours = any(line[: len(words)] == words[: len(line)] for words in BEGINNINGS)
    if ours and ends_with == b"\0":
        return (
            f"{name}: what stands at byte {start}, above the mark of the checkpoint, is no output of "
            "streamlearn, but holds NUL bytes (a power loss leaves such things)"
        )
    if ours and not ends_with and len(line) <= LONGEST and _torn(line):
        return None
    remedy = "name a new file" if not mark else AGAIN
    raise StateMismatch(
        f"{name}: what stands at byte {start}, above the mark of the checkpoint (byte {mark}), is no output "
        f"of streamlearn: {line[:SHOWN]!r}. It would have to be cut, and it could not be made again: move "
        f"what stands from there on elsewhere, or {remedy}"
    )


def _first_line(fd: int, start: int, stop: int) -> tuple[bytes, bytes]:
    """What stands there up to a newline or a NUL byte, and which of them it is; none at the end.

    Of a line that is longer than any of ours, so much that one can see that.
    """
    line = bytearray()
    while len(line) <= LONGEST and (
        data := os.pread(fd, min(CHUNK, stop - start - len(line)), start + len(line))
    ):
        if (end := re.search(b"[\n\0]", data)) is not None:
            return bytes(line + data[: end.start()]), end.group()
        line += data
    return bytes(line), b""


def _torn(line: bytes) -> bool:
    """Is the file's last line, without its end, one of ours? A whole object of somebody else isn't."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return True
    return _parsed(line, 0, 0) is not None


def _parsed(line: bytes, at: int, end: int) -> Found | None:
    try:
        source = json.loads(line)["source"]
        topic, partition, offset = source
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    ours = [*map(type, (source, topic, partition, offset))] == [list, str, int, int]
    return Found((topic, partition), offset, at, end) if ours and 0 <= offset < 2**63 else None
