"""Where a run reads, writes and keeps its state, and what its files say of it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
OBJECT = re.compile(r"\d{6}-[0-9a-f]{8}")


@dataclass(frozen=True)
class Place:
    """Where a run reads, writes and keeps its state."""

    events: Path
    folder: Path
    stdin: bool
    format: str
    options: tuple[str, ...]

    @property
    def predictions(self) -> Path:
        return self.folder / "out.jsonl"

    @property
    def dead_letters(self) -> Path:
        return self.folder / "dead.jsonl"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    def words(self) -> list[str]:
        """What `streamlearn` is told."""
        source = ["--source.path", "-" if self.stdin else str(self.events)]
        source += ["--source.format", self.format.removesuffix(".gz")]
        sink = ["--sink.predictions", str(self.predictions), "--sink.dead_letters", str(self.dead_letters)]
        state = ["--checkpoint.folder", str(self.state), "--exporter.port", "0"]
        return ["run", *source, *sink, *state, *self.options]

    def size(self) -> int:
        """Bytes of the predictions and dead letters so far."""
        return sum(path.stat().st_size for path in (self.predictions, self.dead_letters) if path.exists())

    def epochs(self) -> list[int]:
        return sorted(int(e.name) for e in scan(self.state) if e.name.isdigit())

    def newest(self) -> dict[str, Any]:
        """The newest manifest, {} without one."""
        paths = sorted(self.state.glob("[0-9]*/*.json"))
        found: dict[str, Any] = json.loads(paths[-1].read_bytes()) if paths else {}
        return found

    def durable(self) -> int:
        """C: the next record's offset in the newest manifest."""
        offsets = self.newest().get("position", {}).get("offsets", {})
        return sum(int(offset) for by in offsets.values() for offset in by.values())


def scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def evidence(own: Path, adopted: Collection[str]) -> tuple[str, list[str]]:
    """What was being written to an epoch's folder when its process was killed, and the files that say so.

    adopted: names of memory packs that older epochs have left to this one.
    """
    names = sorted(entry.name for entry in scan(own))
    temporary = [name for name in names if name.endswith(".tmp")]
    if temporary:
        return temporary[0].partition(".")[2], temporary
    manifests = {name.partition(".")[0] for name in names if name.endswith(".json")}
    packs = {pack for stem in manifests for pack in json.loads((own / f"{stem}.json").read_bytes())["packs"]}
    orphans = []
    for name in names:
        stem, _, kind = name.partition(".")
        needed = stem in manifests or (kind == "memory" and (stem in packs or name in adopted))
        if OBJECT.fullmatch(stem) and not needed:
            orphans.append(name)
    newest = max(manifests, default="")[:6]
    newer = [name for name in orphans if name[:6] > newest]
    if newer:
        return "between files", newer
    return ("pruning", orphans) if orphans else ("", [])
