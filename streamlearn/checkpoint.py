"""Checkpoints on disk: the folder that the state lives in.

    FOLDER/lock
    FOLDER/000003/000017-9f3a1c2b.json     manifest of checkpoint 000003-000017-9f3a1c2b, written last
    FOLDER/000003/000017-9f3a1c2b.parts    model, optimiser, generators, … one after another
    FOLDER/000003/000017-9f3a1c2b.memory   segments of the replay memory (see `packs`)
    FOLDER/cuts.jsonl                      places of decisions that the records don't hold (see `cuts`)

Where an id was forgotten, the files that are there still hold its examples. The next checkpoint then shares
none with them (`CheckpointStore.forget`); its manifest and all later ones name it (`clean`), and once one of
them is the one to start from, what is older goes (`erase`).

A start of the worker is an epoch with a folder of its own. Every chunk is addressed by its SHA-256; the
part's own hash is that of its chunks' hashes. A manifest names the memory packs that its segments lie in;
packs of an older epoch are hard-linked into the newer one, so that every epoch stands alone.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from streamlearn import parts
from streamlearn.packs import Chain
from streamlearn.parts import Aside, Chunk, Damaged, Locked, WrongFormat, decode_part, encode_part
from streamlearn.state import Part, SegmentedPart, Snapshot

FORMAT = 6
NAME = re.compile(r"(\d{6,})-(\d{6,})-([0-9a-f]{8})")
EPOCH = re.compile(r"\d{6,}")
"""Our folders: what else lies beside them is not ours to count, read or clear."""
_NEXT = "next"


class NothingWhole(Exception):
    """The folder holds checkpoints, and not one of them is whole."""


class Withdrawn(Exception):
    """The checkpoint is older than one with which an id was forgotten."""


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint's JSON file holds; `path` is where it lies."""

    path: Path
    body: Mapping[str, Any]

    @property
    def id(self) -> str:
        return str(self.body["id"])

    @property
    def epoch(self) -> int:
        return int(self.body["epoch"])

    @property
    def number(self) -> int:
        return int(self.body["number"])


class CheckpointStore:
    """Reads and writes the checkpoints of one folder. One thread at a time."""

    def __init__(self, folder: Path | str, keep: int = 3) -> None:
        self.folder = Path(folder)
        self.keep = keep
        self.epoch = 0
        self.number = 0
        # The two copies of the memory: that of the newest durable checkpoint first.
        self._chains = (Chain(), Chain())
        self._damaged: set[str] = set()
        self.pinned: set[str] = set()
        """Ids of checkpoints that are not deleted, however old they are."""
        # The first checkpoint since the last `forget`: "" if there was none, _NEXT if it is to be written.
        self._clean = ""
        self._lock: IO[str] | None = None

    def lock(self, shared: bool = False) -> None:
        """Hold the folder until `unlock` or the process ends; makes it if need be. Raises Locked, OSError.

        shared: with others that do so too (workers of a group); never with one that holds it alone.
        """
        self._lock = parts.locked(self.folder, shared)

    def unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def names(self) -> list[str]:
        """Ids of all checkpoints, newest first, damaged ones included."""
        found = []
        for folder in self._folders():
            for path in folder.glob("*.json"):
                match = NAME.fullmatch(f"{folder.name}-{path.stem}")
                if match is not None:
                    found.append((int(match[1]), int(match[2]), match[0]))
        return [name for *_, name in sorted(found, reverse=True)]

    def _folders(self) -> list[Path]:
        """The epochs' folders."""
        if not self.folder.is_dir():
            return []
        return [p for p in self.folder.iterdir() if EPOCH.fullmatch(p.name) and p.is_dir()]

    def read(self, name: str) -> Manifest:
        """The manifest of one checkpoint. Raises Damaged (also if there is none of that id)."""
        path = self._path(name)
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise Damaged(f"{path}: {error.strerror}") from error
        try:
            body = json.loads(raw)
            given = body.pop("sha256")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise Damaged(f"{path}: not a whole manifest ({error})") from error
        if given != parts.seal(body):
            raise Damaged(f"{path}: its SHA-256 is not the one that it names")
        if body["format"] != FORMAT:
            raise WrongFormat(
                f"{path}: format {body['format']}, this version reads {FORMAT}: run the version that wrote it"
            )
        return Manifest(path, body)

    def load(self, manifest: Manifest) -> Snapshot:
        """All parts of a checkpoint, every chunk checked. Raises Damaged naming file and part."""
        parts: dict[str, Part | SegmentedPart] = {}
        folder = manifest.path.parent
        packs = [folder / f"{pack}.memory" for pack in manifest.body["packs"]]
        source = manifest.path.with_suffix(".parts")
        for name, entry in manifest.body["parts"].items():
            parts[name] = decode_part(name, entry, source, packs)
        return parts

    def verify(self, name: str) -> Manifest:
        """The manifest, after reading all that the state needs of the checkpoint. Raises Damaged."""
        manifest = self.read(name)
        self.load(manifest)
        return manifest

    def newest(self, complain: Callable[[str], None]) -> tuple[Manifest, Snapshot] | None:
        """The newest whole checkpoint; None in an empty folder. Damaged ones are named to `complain`.

        Raises NothingWhole if there are checkpoints and none is whole.
        """
        names = self.names()
        damage = ""
        for name in names:
            try:
                manifest = self.read(name)
                return manifest, self.load(manifest)
            except Damaged as error:
                damage = str(error)
                self._damaged.add(name)
                complain(f"checkpoint {name} is damaged: {error}")
        if names:
            raise NothingWhole(f"none of the {len(names)} checkpoints in {self.folder} is whole; {damage}")
        return None

    def next_epoch(self) -> int:
        """The number that `begin` will give."""
        return 1 + max((int(path.name) for path in self._folders()), default=0)

    def begin(self, manifest: Manifest | None, epoch: int | None = None) -> int:
        """Start a new epoch that goes on from `manifest`; returns its number. Clears half-written files.

        epoch: its number, at least that of `next_epoch`, which is the default.
        """
        for folder in self._folders():
            for rest in folder.glob("*.tmp"):
                rest.unlink()
        self.epoch, self.number = epoch or self.next_epoch(), 0
        if manifest is not None:
            entry = manifest.body["parts"].get("memory")
            if entry is not None:
                source = manifest.path.with_suffix(".parts")
                table = Chunk(*entry["segments"]).read_segments(source, "memory")
                # The other copy is made anew, from this one: on an older one damage may have gone unseen.
                body = manifest.body
                self._chains = (Chain(tuple(body["packs"]), table, tuple(body["pack_sha256"])), Chain())
            self._adopt(manifest.path.parent, manifest.body["packs"])
            self._clean = manifest.body.get("clean", "")
        return self.epoch

    def write(
        self, snapshot: Snapshot, about: Mapping[str, Any], before_manifest: Callable[[], None] | None = None
    ) -> Manifest:
        """Write a checkpoint; it counts from the moment its manifest is renamed into place.

        about: what the manifest says beside the parts. before_manifest: makes durable what must be there
        before (outputs). Raises OSError, or Damaged if an older pack that segments are to be moved out of
        isn't whole any more; the store then stands as before, and the changed segments of `snapshot` are
        still unwritten.
        """
        token = secrets.token_hex(4)
        stem = f"{self.number:06d}-{token}"
        folder = self._epoch_folder(self.epoch)
        folder.mkdir(parents=True, exist_ok=True)
        written: list[Path] = []
        try:
            latest, chain = self._chains
            memory = snapshot.get("memory")
            if isinstance(memory, SegmentedPart):
                chain = chain.write(folder, stem, memory, latest, written)
            entries: dict[str, Any] = {}
            path = folder / f"{stem}.parts"
            with Aside(path, written) as file:
                for name in sorted(snapshot):
                    entries[name] = encode_part(file, snapshot[name], chain.segments)
            if before_manifest is not None:
                before_manifest()
            name = f"{self.epoch:06d}-{stem}"
            clean = name if self._clean == _NEXT else self._clean
            body = {
                "format": FORMAT,
                "id": name,
                "epoch": self.epoch,
                "number": self.number,
                "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
                **about,
                **({"clean": clean} if clean else {}),
                "packs": list(chain.packs),
                "pack_sha256": list(chain.digests),
                "parts": entries,
            }
            manifest = self._write_manifest(folder / f"{stem}.json", body, written)
        except (OSError, Damaged) as error:
            for path in reversed(written):
                with contextlib.suppress(OSError):
                    path.unlink()
            if isinstance(error, Damaged):
                # What lies on the disk can't be trusted: both copies are to be made anew.
                self._chains = (Chain(), Chain())
            raise
        self._chains, self._clean = (chain, latest), clean
        self.number += 1
        # The checkpoint stands. What can't be deleted now is tried again after the next one.
        with contextlib.suppress(OSError):
            self._prune()
        return manifest

    def forget(self) -> None:
        """The learner has forgotten an id: the next checkpoint is to share no file with those there are.

        Its snapshot must hold all of the memory (see `Memory.mark_all_changed`).
        """
        self._chains = (Chain(), Chain())
        self._clean = _NEXT

    def erase(self, manifest: Manifest) -> list[str]:
        """`manifest` is the one to start from: delete the checkpoints that hold what it has forgotten.

        They are those, of this and older epochs, from before the first that was written after the last
        `forget` that it knows of, and all files that no other checkpoint needs. Where nothing was forgotten
        nothing happens. Returns the ids of those that had to stay because they are pinned. Raises OSError
        if some could not be deleted. What is left is deleted by the next call, with this manifest or a later.
        """
        clean = manifest.body.get("clean", "")
        if not clean:
            return []
        old = [name for name in self.names() if age(name) < age(clean)]
        for name in set(old) - self.pinned:
            self._path(name).unlink(missing_ok=True)
        self._sweep()
        for folder in (self.folder, *self._folders()):
            parts.sync_folder(folder)
        return [name for name in old if name in self.pinned]

    def use(self, name: str, least: int = 0, position: Mapping[str, Any] | None = None) -> Manifest:
        """Make checkpoint `name` the newest: a copy of it opens a new epoch, `least` or later.

        position: in place of its own, for a copy that goes on elsewhere.
        Raises Damaged, OSError, and Withdrawn where a newer one has forgotten an id.
        """
        chosen = self.verify(name)
        for other in self.names():
            with contextlib.suppress(Damaged, WrongFormat):
                clean = self.read(other).body.get("clean", name)
                if age(name) < age(clean):
                    raise Withdrawn(
                        f"checkpoint {name} is older than {clean}, with which an id was forgotten: it would "
                        "bring its examples back, and is deleted by the next start"
                    )
        self.begin(chosen, max(least, self.next_epoch()))
        folder = self._epoch_folder(self.epoch)
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"{self.number:06d}-{secrets.token_hex(4)}"
        parts.link(chosen.path.with_suffix(".parts"), folder / f"{stem}.parts")
        body = dict(chosen.body)
        body |= {"id": f"{self.epoch:06d}-{stem}", "epoch": self.epoch, "number": 0, "copy_of": chosen.id}
        if position is not None:
            body["position"] = position
        return self._write_manifest(folder / f"{stem}.json", body, [])

    def size(self, manifest: Manifest) -> int:
        """Bytes of the files that a checkpoint consists of."""
        paths = [manifest.path, manifest.path.with_suffix(".parts")]
        paths += [manifest.path.parent / f"{pack}.memory" for pack in manifest.body["packs"]]
        return sum(path.stat().st_size for path in paths if path.exists())

    # -- how it is done

    def _path(self, name: str) -> Path:
        age(name)
        epoch, _, stem = name.partition("-")
        return self.folder / epoch / f"{stem}.json"

    def _epoch_folder(self, epoch: int) -> Path:
        return self.folder / f"{epoch:06d}"

    def _adopt(self, source: Path, packs: list[str]) -> None:
        """Hard-link packs into this epoch's folder."""
        folder = self._epoch_folder(self.epoch)
        folder.mkdir(parents=True, exist_ok=True)
        for pack in packs:
            parts.link(source / f"{pack}.memory", folder / f"{pack}.memory")

    def _write_manifest(self, path: Path, body: dict[str, Any], written: list[Path]) -> Manifest:
        with Aside(path, written) as file:
            file.write(parts.sealed(body))
        parts.sync_folder(path.parent)
        parts.sync_folder(self.folder)
        return Manifest(path, body)

    def _prune(self) -> None:
        """Drop all but the newest `keep` checkpoints, manifests first, then what nothing names any more."""
        names = self.names()
        whole = [name for name in names if name not in self._damaged]
        for name in set(names) - set(whole[: self.keep]):
            if int(name.partition("-")[0]) <= self.epoch and name not in self.pinned:
                self._path(name).unlink(missing_ok=True)
        self._sweep()

    def _sweep(self) -> None:
        """Delete, in this and older epochs, what no manifest names any more."""
        for folder in self._folders():
            if int(folder.name) > self.epoch:
                continue
            needed = {path.with_suffix(".parts").name for path in folder.glob("*.json")}
            if int(folder.name) == self.epoch:
                # With keep = 1 no manifest names the other copy, which the next checkpoint builds on.
                needed.update(f"{pack}.memory" for chain in self._chains for pack in chain.packs)
            for path in folder.glob("*.json"):
                try:
                    packs = self.read(f"{folder.name}-{path.stem}").body["packs"]
                except Damaged:
                    continue
                except WrongFormat:  # another version's: which files it needs is not ours to say
                    needed.update(file.name for file in folder.iterdir())
                else:
                    needed.update(f"{pack}.memory" for pack in packs)
            for path in [*folder.glob("*.parts"), *folder.glob("*.memory")]:
                if path.name not in needed:
                    path.unlink()
            if int(folder.name) < self.epoch:
                with contextlib.suppress(OSError):
                    folder.rmdir()


def is_id(name: str) -> bool:
    return NAME.fullmatch(name) is not None


def age(name: str) -> tuple[int, int]:
    """Epoch and number of a checkpoint's id: a newer one's are greater. Raises Damaged for what is no id."""
    if not is_id(name):
        raise Damaged(f"{name!r} is no checkpoint id (they look like 000001-000004-9f3a1c2b)")
    epoch, number, _ = name.split("-")
    return int(epoch), int(number)


__all__ = [
    "FORMAT",
    "CheckpointStore",
    "Damaged",
    "Locked",
    "Manifest",
    "NothingWhole",
    "Withdrawn",
    "WrongFormat",
    "age",
    "is_id",
]
