"""A worker of a group before it learns: its name, the checkpoint it keeps at hand, which one counts."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from streamlearn.checkpoint import (
    CheckpointStore,
    Damaged,
    Locked,
    Manifest,
    NothingWhole,
    WrongFormat,
    age,
    is_id,
)
from streamlearn.durable import Disagreement, check_settings, resume_of, untouched
from streamlearn.events import Claim, Standing, StateMismatch
from streamlearn.settings import Settings
from streamlearn.state import Snapshot

log = logging.getLogger(__name__)

MACHINE = Path("/etc/machine-id")

Found = tuple[Manifest, Snapshot]


class StandBy:
    """Looks into the state folder on behalf of a group's commits."""

    def __init__(self, store: CheckpointStore, settings: Settings) -> None:
        self._store, self._settings = store, settings
        self._at_hand: Found | None = None
        self._compared: str | None = None
        """The checkpoint whose settings are ours."""
        self._held: IO[str] | None = None
        self._of: IO[str] | None = None

    def member(self) -> str:
        """A name for this worker in its group, which it has again after a restart, and no other has.

        The first free one of FOLDER/workers: held by a lock that goes with the process, so that a worker
        that was killed finds its name free at once, and one that is merely stopped keeps it. Raises OSError.
        """
        folder = self._store.folder / "workers"
        folder.mkdir(parents=True, exist_ok=True)
        number = 0
        while True:
            handle = open(folder / f"{number}", "a+")  # noqa: SIM115  # held as long as the process
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.close()
                number += 1
                continue
            self._held = handle
            handle.seek(0)
            name, _, of = handle.read().strip().partition(" ")
            file = f"{_machine()}{os.fstat(handle.fileno()).st_ino}"
            if of != file:
                # New, or a copy: two of one name would throw each other out of the group.
                name = f"streamlearn-{number}-{secrets.token_hex(4)}"
                handle.truncate(0)
                handle.write(f"{name} {file}\n")
                handle.flush()
            return name

    def own(self, whose: Mapping[str, Any]) -> None:
        """Before anything is written: a worker of another group or topic would delete what ours needs.

        Raises Locked, OSError.
        """
        said = " ".join(str(value) for _, value in sorted(whose.items()))
        handle = open(self._store.folder / "workers" / "of", "a+")  # noqa: SIM115  # held as the name is
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            handle.truncate(0)
            handle.write(said)
            handle.flush()
        except BlockingIOError:
            pass  # somebody is at work: of ours?
        fcntl.flock(handle, fcntl.LOCK_SH)
        handle.seek(0)
        if handle.read() != said:
            raise Locked(
                f"a worker of another group or topic is at work in {self._store.folder}: each would delete "
                "the other's checkpoints; set another --checkpoint.folder"
            )
        self._of = handle

    def look(self, standing: Standing) -> None:
        """Have the checkpoint that the group's commit names at hand, read and checked.

        Raises Disagreement: who could not go on from it doesn't stand by, and isn't taken for one that can.
        """
        checkpoint = standing.checkpoint
        if checkpoint is None:
            return
        if self._at_hand is not None and self._at_hand[0].id == checkpoint:
            self._compare(self._at_hand[0], standing)
            return
        try:
            manifest = self._store.read(checkpoint)
            self._compare(manifest, standing)
            self._at_hand = manifest, self._store.load(manifest)
        except (Damaged, WrongFormat) as error:
            log.warning("standing by, checkpoint %s can't be read: %s", checkpoint, error)
        else:
            log.info("standing by with checkpoint %s", checkpoint)

    def _compare(self, manifest: Manifest, standing: Standing) -> None:
        """Raises Disagreement where the group's learner has other settings than ours.

        From a checkpoint before the first record somebody with others may still begin, and every start stands
        by for a moment: unless something was answered since, or the learner of that checkpoint lives.
        """
        if manifest.id == self._compared:
            return
        if standing.led or not untouched(manifest, standing.published):
            check_settings(self._settings, manifest)
            self._compared = manifest.id

    def found(self, claim: Claim, fingerprint: Mapping[str, Any]) -> Found | None:
        """The checkpoint to go on from; None for a first start.

        That is the one that the commit names; where it is damaged, the newest older whole one of this source
        (`fingerprint`): exact all the same, more is read again. Raises Disagreement, StateMismatch,
        NothingWhole.
        """
        if claim.checkpoint is None:
            self._refuse_learned()
            return None
        if self._at_hand is not None and self._at_hand[0].id == claim.checkpoint:
            found = self._at_hand
        else:
            found = self._read(claim.checkpoint, fingerprint)
        self._at_hand = None
        for partition, offset in resume_of(found[0]).offsets.items():
            published = claim.published.get(partition)
            if published is None or published < offset:
                raise StateMismatch(
                    f"the group's offset of partition {partition} is {published}, below {offset}, where "
                    f"checkpoint {found[0].id} goes on: it was set back by hand. Records are not learned "
                    "twice: `streamlearn checkpoints use ID` goes back on purpose, or start with another "
                    "source.group_id and checkpoint.folder"
                )
        return found

    def _refuse_learned(self) -> None:
        """Without a commit, a folder in which something was learned is not a first start's."""
        for name in self._store.names():
            try:
                manifest = self._store.read(name)
            except Damaged as error:
                what = f"checkpoint {name}, which is damaged ({error})"
            else:
                if untouched(manifest):
                    continue
                what = f"checkpoint {name}, which has learned"
            raise Disagreement(
                f"the group has committed nothing, but {self._store.folder} holds {what}: the committed "
                "offsets have expired, or group, brokers or folder are not the ones they were. `streamlearn "
                "checkpoints use ID` (with these settings) commits one; another --checkpoint.folder begins "
                "anew"
            )

    def _read(self, checkpoint: str, fingerprint: Mapping[str, Any]) -> Found:
        names = self._store.names()
        folder = Path(self._store.folder).absolute()
        try:
            manifest = self._store.read(checkpoint)
            return manifest, self._store.load(manifest)
        except Damaged as error:
            problem = f"is damaged: {error}" if checkpoint in names else f"is not in {folder}"
        log.error("checkpoint %s, which the group's commit names, %s", checkpoint, problem)
        known = is_id(checkpoint)
        for name in [name for name in names if known and age(name) < age(checkpoint)]:
            try:
                manifest = self._store.read(name)
                found = manifest, self._store.load(manifest)
            except Damaged as error:
                log.error("checkpoint %s is damaged: %s", name, error)
                continue
            known = manifest.body.get("position", {}).get("fingerprint", {})
            if any(known.get(name) != value for name, value in fingerprint.items()):
                log.error("checkpoint %s is of another topic or group", name)
                continue
            log.error(
                "going on from the older checkpoint %s: what was learned since is read and learned again",
                name,
            )
            return found
        raise NothingWhole(
            f"checkpoint {checkpoint}, which the group's commit names, {problem}; and no older one there is "
            "whole and of this topic and group. Is checkpoint.folder right? (Workers on several machines "
            "need it on shared storage.) If it is lost, bring it back from a backup, or start with another "
            "source.group_id and checkpoint.folder"
        )


def _machine() -> str:
    """What this machine is called by, where it has such a name: containers often have none."""
    try:
        return f"{MACHINE.read_text('ascii', 'replace').strip()}/"
    except OSError:
        return ""
