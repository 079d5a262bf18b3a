"""The replay memory on disk: two copies of it, brought up to date in turn.

Successive checkpoints share most segments of the memory. Were there one copy of each, a single damaged byte
could make every checkpoint unusable. So checkpoints belong to two chains in turn, which share no file: what
the newest one lies in, the one before it does not.

Where segments of a pack were superseded, its file still holds them. No state needs those bytes; the file's
hash, which a manifest names beside it, is for who reads every byte all the same (`checkpoints verify`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import file_digest, sha256
from pathlib import Path
from typing import IO, Any

import numpy as np

from streamlearn.events import Array
from streamlearn.parts import SEGMENT, Aside, Chunk, Damaged
from streamlearn.state import SegmentedPart

MOST_PACKS = 64
"""Packs of one chain before the smallest are merged."""
SPARSE = 0.5
"""A pack is rewritten when less than this share of it is still in use."""
MOST_REWRITTEN = 64 << 20
"""Bytes of old segments moved in one checkpoint: compaction is spread over several."""


@dataclass(frozen=True)
class Chain:
    """One copy of the memory: the names of its packs, and where in them each segment lies."""

    packs: tuple[str, ...] = ()
    segments: Array = field(default_factory=lambda: np.zeros(0, dtype=SEGMENT))
    digests: tuple[str, ...] = ()
    """The SHA-256 of every pack's file."""

    def write(
        self, folder: Path, stem: str, memory: SegmentedPart, latest: Chain, written: list[Path]
    ) -> Chain:
        """This copy as of `memory`, whose unchanged segments are those of `latest`, the other copy.

        Writes one pack: the changed segments, those that this copy holds an older version of, and those
        out of packs that aren't worth keeping. Raises OSError, or Damaged if a segment to be copied isn't
        whole any more.
        """
        segments = np.zeros(memory.count, dtype=SEGMENT)
        known = min(len(self.segments), memory.count)
        segments[:known] = self.segments[:known]
        stays = np.ones(memory.count, dtype=bool)
        stays[np.fromiter(memory.changed, dtype=np.int64, count=len(memory.changed))] = False
        stale = np.flatnonzero(stays & ~_same(segments, latest.segments))
        stays[stale] = False
        moved = self._to_move(folder, segments, stays)
        packs, digests = (*self.packs, stem), (*self.digests, "")
        if len(memory.changed) or len(stale) or len(moved):
            with Aside(folder / f"{stem}.memory", written) as aside:
                file = Summed(aside)
                for number, arrays in memory.changed.items():
                    chunk = Chunk.write(file, *(np.ascontiguousarray(array).data for array in arrays))
                    segments[number] = chunk.as_segment(len(packs) - 1)
                for chain, numbers in ((latest, stale), (self, moved)):
                    for number in numbers.tolist():
                        raw = chain.read(folder, number)
                        segments[number] = Chunk.write(file, raw).as_segment(len(packs) - 1)
            digests = (*self.digests, file.digest.hexdigest())
        used, segments["pack"] = np.unique(segments["pack"], return_inverse=True)
        return Chain(tuple(packs[i] for i in used), segments, tuple(digests[i] for i in used))

    def read(self, folder: Path, number: int) -> bytes:
        """The bytes of one segment. Raises Damaged."""
        at = self.segments[number]
        chunk = Chunk(int(at["offset"]), int(at["length"]), at["sha256"].tobytes().hex())
        return chunk.read(folder / f"{self.packs[at['pack']]}.memory", "memory")

    def _to_move(self, folder: Path, segments: Array, stays: Array) -> Array:
        """Numbers of unchanged segments whose pack is sparse, or one of too many small ones."""
        held = np.flatnonzero(stays)
        if not len(held):
            return held
        pack_of = segments["pack"][held]
        live = np.bincount(pack_of, weights=segments["length"][held], minlength=len(self.packs))
        try:
            sizes = np.array([(folder / f"{pack}.memory").stat().st_size for pack in self.packs])
        except FileNotFoundError as error:
            raise Damaged(f"{error.filename}: {error.strerror} (part memory)") from error
        smallest = np.argsort(live, kind="stable")
        crowded = np.zeros(len(sizes), dtype=bool)
        crowded[smallest[: max(0, len(sizes) - MOST_PACKS // 2)]] = len(sizes) >= MOST_PACKS
        going = (live < SPARSE * sizes) | crowded
        going &= np.isin(np.arange(len(sizes)), _within(live, smallest, MOST_REWRITTEN))
        moved: Array = held[going[pack_of]]
        return moved


class Summed:
    """A file that is written from its start, and the SHA-256 of all of it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.digest = file, sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()


def check(path: Path, digest: str) -> None:
    """Read every byte of a pack. Raises Damaged."""
    try:
        with open(path, "rb") as file:
            found = file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Damaged(f"{path}: {error.strerror} (part memory)") from error
    if found != digest:
        raise Damaged(f"{path}: its SHA-256 is not the one that the manifest names (part memory)")


def _same(mine: Array, theirs: Array) -> Array:
    """Which of the segments have equal contents in both tables [segments] bool."""
    equal = np.zeros(len(mine), dtype=bool)
    both = min(len(mine), len(theirs))
    hashes = [np.ascontiguousarray(table["sha256"][:both]).view(np.uint8) for table in (mine, theirs)]
    equal[:both] = (hashes[0] == hashes[1]).reshape(both, 32).all(axis=1)
    return equal


def _within(sizes: Array, order: Array, limit: int) -> Array:
    """Those of `order` whose sizes add up to at most `limit`, at least one."""
    count = int(np.searchsorted(np.cumsum(sizes[order]), limit, side="right"))
    chosen: Array = order[: max(1, count)]
    return chosen
