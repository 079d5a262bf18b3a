"""Parts of a checkpoint as bytes: chunks addressed by SHA-256, safetensors for tensors, else msgpack."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Protocol

import msgpack
import numpy as np
import safetensors
import safetensors.torch

from streamlearn.events import Array
from streamlearn.state import Part, SegmentedPart

SEGMENT = np.dtype([("sha256", "V32"), ("pack", "<u4"), ("offset", "<u8"), ("length", "<u4")])
"""One row a segment of the replay memory: which pack (by its place in the manifest's list), and where."""


class WrongFormat(Exception):
    """A checkpoint of another version of the format."""


class Locked(Exception):
    """Another process works in this folder."""


class Damaged(Exception):
    """A file of a checkpoint is missing, cut or changed; the message names it."""


class Writable(Protocol):
    """What chunks are appended to."""

    def write(self, data: Any, /) -> int: ...

    def tell(self) -> int: ...


@dataclass(frozen=True)
class Chunk:
    """A run of bytes in a file, known by its SHA-256."""

    offset: int
    length: int
    digest: str

    @classmethod
    def write(cls, file: Writable, *pieces: Any) -> Chunk:
        """Append `pieces` (bytes-like) to `file`."""
        offset, length, digest = file.tell(), 0, sha256()
        for piece in pieces:
            digest.update(piece)
            length += file.write(piece)
        return cls(offset, length, digest.hexdigest())

    def read(self, path: Path, part: str) -> bytes:
        """The bytes. Raises Damaged if they aren't there or aren't the ones that were written."""
        try:
            with open(path, "rb") as file:
                file.seek(self.offset)
                raw = file.read(self.length)
        except OSError as error:
            raise Damaged(f"{path}: {error.strerror} (part {part})") from error
        return self.check(raw, path, part)

    def check(self, raw: bytes, path: Path, part: str) -> bytes:
        if len(raw) < self.length:
            raise Damaged(f"{path}: cut at byte {self.offset + len(raw)} (part {part})")
        if sha256(raw).hexdigest() != self.digest:
            end = self.offset + self.length
            raise Damaged(f"{path}: bytes {self.offset} to {end} are not those written (part {part})")
        return raw

    def read_segments(self, path: Path, part: str) -> Array:
        return np.frombuffer(self.read(path, part), dtype=SEGMENT).copy()

    def as_segment(self, pack: int) -> tuple[np.void, int, int, int]:
        return np.void(bytes.fromhex(self.digest)), pack, self.offset, self.length

    def plain(self) -> list[Any]:
        return [self.offset, self.length, self.digest]


class Aside:
    """A file that is written under another name, made durable, and renamed when the block ends well."""

    def __init__(self, path: Path, written: list[Path]) -> None:
        self.path, self.written = path, written
        self.temporary = path.with_name(path.name + ".tmp")

    def __enter__(self) -> IO[bytes]:
        self.written.append(self.temporary)
        self.file = open(self.temporary, "wb")
        return self.file

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.file.flush()
                os.fsync(self.file.fileno())
        finally:
            self.file.close()
        if kind is None:
            os.rename(self.temporary, self.path)
            self.written[-1] = self.path


def link(source: Path, target: Path) -> None:
    """Hard-link, or copy where the file system has no links."""
    if target.exists():
        return
    try:
        os.link(source, target)
    except OSError:
        with open(source, "rb") as old, Aside(target, []) as new:
            shutil.copyfileobj(old, new)


def sync_folder(folder: Path) -> None:
    """Make what was created, renamed and deleted in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def part_hash(digests: Sequence[str]) -> str:
    """A part's hash: the SHA-256 of its chunks' hashes."""
    return sha256("".join(digests).encode()).hexdigest()


def encode_part(file: IO[bytes], part: Part | SegmentedPart, segments: Array) -> dict[str, Any]:
    """Write a part; returns its entry in the manifest. A segmented part's rows are in `segments`."""
    values = Chunk.write(file, msgpack.packb(_sorted(part.values)))
    if isinstance(part, Part):
        tensors = Chunk.write(file, safetensors.torch.save(dict(sorted(part.tensors.items()))))
        digests = [values.digest, tensors.digest]
        return {"sha256": part_hash(digests), "values": values.plain(), "tensors": tensors.plain()}
    # Where a segment lies is not part of the state: only its hash counts for the part's.
    digests = [values.digest, *(row.tobytes().hex() for row in segments["sha256"])]
    index = Chunk.write(file, segments.tobytes())
    return {"sha256": part_hash(digests), "values": values.plain(), "segments": index.plain()}


def decode_part(
    name: str, entry: Mapping[str, Any], source: Path, packs: Sequence[Path]
) -> Part | SegmentedPart:
    """Read a part back. Raises Damaged naming the file."""
    values = msgpack.unpackb(Chunk(*entry["values"]).read(source, name), strict_map_key=False)
    if "tensors" in entry:
        return Part(safetensors.torch.load(Chunk(*entry["tensors"]).read(source, name)), values)
    segments = Chunk(*entry["segments"]).read_segments(source, name)
    changed: dict[int, tuple[Array, ...]] = {}
    for pack, path in enumerate(packs):
        rows = np.flatnonzero(segments["pack"] == pack)
        try:
            with open(path, "rb") as file:
                for number in rows[np.argsort(segments["offset"][rows])]:
                    at = segments[number]
                    chunk = Chunk(int(at["offset"]), int(at["length"]), at["sha256"].tobytes().hex())
                    file.seek(chunk.offset)
                    raw = chunk.check(file.read(chunk.length), path, name)
                    changed[int(number)] = (np.frombuffer(raw, dtype=np.uint8),)
        except OSError as error:
            raise Damaged(f"{path}: {error.strerror} (part {name})") from error
    return SegmentedPart(values, len(segments), changed)


def _sorted(value: Any) -> Any:
    """The same value with every mapping in the order of its keys: equal values, equal bytes."""
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list | tuple) else value


def seal(body: Mapping[str, Any]) -> str:
    """The SHA-256 that a manifest ends with."""
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return sha256(canonical.encode()).hexdigest()


def sealed(body: Mapping[str, Any]) -> bytes:
    """A manifest's file."""
    return json.dumps({**body, "sha256": seal(body)}, indent=1).encode()


def locked(folder: Path, shared: bool) -> IO[str]:
    """The file whose lock holds a state folder, for as long as it is open. Raises Locked, OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = open(folder / "lock", "a+")  # noqa: SIM115  # held open as long as the lock
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.seek(0)
        owner = handle.read().strip() or "unknown"
        handle.close()
        raise Locked(f"process {owner} already works in {folder}") from None
    handle.truncate(0)
    handle.write(f"{os.getpid()}\n")
    handle.flush()
    return handle
