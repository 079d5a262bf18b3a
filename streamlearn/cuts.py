"""Where partial batches were learned: kept beside the checkpoints, for whoever reads the records again.

That a finite source ended at some place once, or that a clock's patience did, the records don't say. Whoever
goes on from an older checkpoint (the newest was damaged, or one was chosen) would learn the same events in
other batches, once the source has grown.

    FOLDER/cuts.jsonl       a cut a line, sealed with its own SHA-256; all of it is replaced at every change
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from streamlearn import parts
from streamlearn.checkpoint import CheckpointStore, Damaged, Manifest, WrongFormat
from streamlearn.durable import Disagreement, by_partition, check_settings, offsets_of
from streamlearn.events import Position, Record
from streamlearn.parts import Aside
from streamlearn.settings import Settings

log = logging.getLogger(__name__)

NAME = "cuts.jsonl"


@dataclass(frozen=True)
class Cut:
    """One place; `body` is that of a manifest's `position`."""

    body: Mapping[str, Any]

    @property
    def topic(self) -> str:
        return str(self.body["topic"])

    @property
    def offsets(self) -> dict[int, int]:
        """The first offset behind it, by partition."""
        return offsets_of(self.body)

    @property
    def cursors(self) -> dict[int, int]:
        return by_partition(self.body["cursors"])

    def before(self, position: Position) -> bool:
        """Does it lie before this record?"""
        return position.offset >= self.offsets.get(position.partition, 0)

    def passed(self, offsets: Mapping[int, int]) -> bool:
        """Does whoever goes on at `offsets` read no record before it again?"""
        own = self.offsets
        return any(offset > own.get(partition, 0) for partition, offset in offsets.items())

    def reached(self, offsets: Mapping[int, int]) -> bool:
        """Have all records before it been applied?"""
        return all(offsets.get(partition, 0) >= offset for partition, offset in self.offsets.items())

    def fits(self, fingerprint: Mapping[str, Any]) -> bool:
        """Is the source up to here the one that was cut? What either side doesn't know is not compared."""
        stored = self.body["fingerprint"]
        found = _plain(fingerprint)
        if "topic_id" in stored:  # Kafka's: what else it says is what the worker has decided
            return bool(stored["topic_id"] == found.get("topic_id"))
        return stored.keys() == found.keys() and all(
            found[key] == value or None in (found[key], value) for key, value in stored.items()
        )


class Cuts:
    """The cuts of one state folder. `keep` belongs to the checkpoint writer's thread, all else to the
    learner's; what both use is replaced as a whole, or grows."""

    def __init__(self, store: CheckpointStore, settings: Settings) -> None:
        self._store, self._settings = store, settings
        self._path = store.folder / NAME
        self._kept: tuple[Cut, ...] = ()
        """What the file holds."""
        self._new: list[Cut] = []
        """What it doesn't hold yet."""
        self._ahead: list[Cut] = []
        """Those whose records are, or may be, read again, in their order."""

    def begin(self, manifest: Manifest | None, topic: str, offsets: Mapping[int, int]) -> None:
        """manifest: the checkpoint that there was at the start, None for none; the worker goes on at
        `offsets` of `topic`, which may be its start. Raises OSError.
        """
        self._aside.unlink(missing_ok=True)
        if manifest is None or self._another_run(manifest):
            self._path.unlink(missing_ok=True)
            return
        self._kept = tuple(cut for cut in read(self._store, _say) if cut.topic == topic)
        ahead = [cut for cut in self._kept if not cut.passed(offsets)]
        # Offsets only grow from one to the next; where the folder was gone back in, the lines needn't.
        self._ahead = sorted(ahead, key=lambda cut: sum(cut.offsets.values()))

    def add(self, place: Mapping[str, Any]) -> None:
        """The partial batch was learned at `place` (a manifest's `position`): the next `keep` keeps that."""
        cut = Cut(_plain(place))
        if cut not in (*self._kept, *self._new):
            self._new.append(cut)

    def pieces(self, records: Sequence[Record]) -> Iterator[tuple[Sequence[Record], Cut | None]]:
        """The records in pieces, each with the cut that lies behind it, if there is one."""
        while self._ahead:
            cut = self._ahead[0]
            at = next((i for i, record in enumerate(records) if cut.before(record.position)), None)
            if at is None:
                break
            del self._ahead[0]
            yield records[:at], cut
            records = records[at:]
        yield records, None

    def repeats(self, offsets: Mapping[int, int]) -> bool:
        """Are records read again that have been cut somewhere ahead? offsets: how far the learner is."""
        return any(not cut.reached(offsets) for cut in self._ahead)

    def keep(self) -> None:
        """Make durable what was added. Before the checkpoint that holds it. Raises OSError."""
        new = tuple(self._new)
        if not new:
            return
        kept = (*self._needed(), *new)
        written: list[Any] = []
        try:
            with Aside(self._path, written) as file:
                file.write(b"".join(_line(cut, at, len(kept)) for at, cut in enumerate(kept)))
            parts.sync_folder(self._path.parent)
        except OSError:
            with contextlib.suppress(OSError):
                self._aside.unlink(missing_ok=True)
            raise
        self._kept = kept
        del self._new[: len(new)]

    @property
    def _aside(self) -> Any:
        return self._path.with_name(f"{NAME}.tmp")

    def _another_run(self, manifest: Manifest) -> bool:
        """At checkpoint 0 a start is a first one, with whatever settings: then these cuts are none of its."""
        try:
            check_settings(self._settings, manifest)
        except Disagreement:
            return True
        return False

    def _needed(self) -> Iterator[Cut]:
        """Those that a checkpoint lies before, so that it would read them again."""
        places = []
        for name in self._store.names():
            with contextlib.suppress(Damaged, WrongFormat):
                places.append(self._store.read(name).body.get("position"))
        for cut in self._kept:
            if any(p and p["topic"] == cut.topic and not cut.passed(offsets_of(p)) for p in places):
                yield cut


def read(store: CheckpointStore, complain: Callable[[str], None]) -> list[Cut]:
    """The cuts of a folder; each line that isn't whole is named to `complain`. Raises OSError."""
    path = store.folder / NAME
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    cuts, count = [], None
    for number, raw in enumerate(lines[:-1], 1):
        try:
            body = json.loads(raw)
            whole = body.pop("sha256") == parts.seal(body) and body.pop("line") == number
            count = body.pop("lines")
            cut = Cut(body["place"])
        except (ValueError, KeyError, AttributeError, TypeError):
            whole = False
        if whole and _line(cut, number - 1, count) == raw + b"\n":
            cuts.append(cut)
        else:
            complain(f"{path}: line {number} is not the one that was written")
    if lines[-1] or count != len(lines) - 1:
        complain(f"{path}: cut, or its last lines are not those that were written")
    return cuts


def _say(damage: str) -> None:
    log.error("%s: records from there on that are read again may be learned in other batches", damage)


def _line(cut: Cut, at: int, count: int | None) -> bytes:
    body = {"line": at + 1, "lines": count, "place": cut.body}
    return json.dumps({**body, "sha256": parts.seal(body)}).encode() + b"\n"


def _plain(value: Mapping[str, Any]) -> Any:
    """As it comes back from JSON."""
    return json.loads(json.dumps(value))
