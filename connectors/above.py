"""What stands in an output file above the mark of a checkpoint: outputs of ours, or something else."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import NamedTuple

from streamlearn.events import StateMismatch

CHUNK = 1024 * 1024
LONGEST = 128 * 1024 * 1024
"""No line of ours is longer: a dead letter holds 64 MiB in base64."""
AGAIN = "give the file that the state has written, or start with another --checkpoint.folder"


class Found(NamedTuple):
    """A whole line of an output file: whose output it is, and where it stands."""

    key: tuple[str, int]
    offset: int
    start: int
    end: int


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
        if rest and (not rest.startswith(b"{") or len(rest) > LONGEST):
            return


def foreign(fd: int, name: str, start: int, stop: int) -> str | None:
    """A sentence on what is behind the last of our lines; none on one that a crash has torn."""
    if start == stop:
        return None
    torn = os.pread(fd, 1, start) == b"{" and not _has_newline(fd, start, stop)
    if torn and stop - start <= LONGEST:
        return None
    return (
        f"{name}: what stands at byte {start}, above the mark of the checkpoint, is no output of "
        "streamlearn (a power loss leaves such things)"
    )


def _has_newline(fd: int, start: int, stop: int) -> bool:
    places = range(start, min(stop, start + LONGEST), CHUNK)
    return any(b"\n" in os.pread(fd, min(CHUNK, stop - place), place) for place in places)


def _parsed(line: bytes, at: int, end: int) -> Found | None:
    try:
        topic, partition, offset = json.loads(line)["source"]
        return Found((str(topic), int(partition)), int(offset), at, end)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
