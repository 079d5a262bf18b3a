"""A worker's part in a group: whose turn it is, and which checkpoint the group's commits name.

A worker that is alone (files) has no group: there the newest whole checkpoint is the truth.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from streamlearn.checkpoint import CheckpointStore, Manifest
from streamlearn.commands import Command, parse_command
from streamlearn.events import (
    Claim,
    GroupSink,
    GroupSource,
    Sink,
    Source,
    StateMismatch,
    Traffic,
    Unreachable,
)
from streamlearn.keeper import Keeper
from streamlearn.observe import STARTING, Vitals
from streamlearn.settings import Settings, commands_topic
from streamlearn.standby import Found, StandBy

log = logging.getLogger(__name__)


def _nothing(offsets: Mapping[int, int]) -> None:
    """What a file says of its traffic."""


class Alone:
    """No group: nothing to claim, to name or to wait for.

    source, sink: such as may say more than they must (see `GroupSource.traffic`, `Sink`).
    """

    def __init__(self, source: Any = None, sink: Any = None) -> None:
        self._alone = source
        self._repeats: Callable[[Mapping[int, int]], bool] = getattr(sink, "repeats", lambda offsets: False)
        self._sink = sink
        self.commands_id = ""
        """Of the topic of commands, once `commands_at` is known: made anew it has another one."""

    def __bool__(self) -> bool:
        return False

    def claim(self, vitals: Vitals, stopped: Callable[[], bool]) -> Claim | None:
        """Stand by until it is this worker's turn; `vitals` is told while it does. Raises Stopped."""
        return None

    def survey(self) -> Claim | None:
        """What `claim` would give now; changes nothing."""
        return None

    def found(self, claim: Claim) -> Found | None:
        """The checkpoint to go on from (see `StandBy.found`)."""
        raise NotImplementedError

    def commands_at(self, claim: Claim, found: Found | None, topic: str) -> int | None:
        """Where commands are read on: at the checkpoint's C; if it knows no such topic, at P; if it knows one
        that was deleted and made anew since, at the beginning of the new one.

        Raises StateMismatch.
        """
        return None

    def name(self, manifest: Manifest | None, command: Command | None = None, answer: bytes = b"") -> None:
        """Let the next commit name a checkpoint that is durable now, and carry the answer to `command`."""

    def commands(self) -> list[Command]:
        """What has been asked for since the last call."""
        return []

    def traffic(self, offsets: Mapping[int, int]) -> Traffic | None:
        """Of the source, as of now, from any thread. offsets: how far the learner is."""
        ask: Callable[[Mapping[int, int]], Traffic | None] = getattr(self._alone, "traffic", _nothing)
        return ask(offsets)

    def queues(self) -> dict[str, int]:
        """Outputs that wait in memory for whoever takes them. From any thread."""
        waiting: int | None = getattr(self._sink, "waiting", None)
        return {} if waiting is None else {"outputs": waiting}

    def silence(self) -> float:
        """Seconds for which the thread that reads has given no sign of life. From any thread."""
        return float(getattr(self._alone, "silence", 0.0))

    def threads(self) -> Sequence[Any]:
        """Where the threads are of a process that talks to the brokers (see `watchdog.Place`). From any."""
        ask: Callable[[], Sequence[Any]] = getattr(self._alone, "threads", list)
        return ask()

    def answered_at(self) -> float | None:
        """When a broker last answered, in seconds since 1970 (see `Observation`). From any thread."""
        return getattr(self._alone, "answered_at", None)

    def away(self) -> str | None:
        """That no broker has answered since the start, in words. From any thread."""
        return getattr(self._alone, "away", None)

    def ages(self) -> list[tuple[float, int]]:
        """Of answers that became visible since the last call: seconds since their records' time, how many."""
        return []

    def advance(self, offsets: dict[int, int], cursors: dict[int, int], keeper: Keeper) -> None:
        """Move C, and P, past offsets behind the last answered record that hold none."""

    def advance_commands(self, at: int | None, keeper: Keeper) -> int | None:
        """The same of the commands, whose C is `at` (None: they are off): C as it is now."""
        return at

    def unread(self, offsets: Mapping[int, int]) -> dict[int, int]:
        """Of the partitions that are not read to their end, the end as it is now."""
        return {}

    def repeats(self, offsets: Mapping[int, int]) -> bool:
        """Are records read again whose outputs the worker before has published?"""
        return self._repeats(offsets)

    def confirm(self, keeper: Keeper) -> None:
        """Tell the keeper which checkpoint a commit names by now."""

    def pin(self) -> None:
        """Before a checkpoint is written: keep what a commit names, or may name."""

    def settle(self, stopped: Callable[[], bool], seconds: float | None = None) -> None:
        """Wait until all that was flushed and named is committed. Raises Unreachable after `seconds`."""


class Group(Alone):
    """Of the workers of a group one learns; a commit says which checkpoint is the truth."""

    def __init__(
        self, source: GroupSource, sink: GroupSink, store: CheckpointStore, settings: Settings
    ) -> None:
        super().__init__(source, sink)
        self._source, self._sink, self._store, self.commands_id = source, sink, store, ""
        self._standing_by = StandBy(store, settings)
        self._commands = commands_topic(settings)
        self._handed: dict[str, Manifest] = {}
        self._confirmed: str | None = None
        self._published: dict[int, int] = {}
        """P of the partitions that were not read that far when last asked."""
        self._claimed: set[str] = set()
        """The checkpoint that a predecessor's commit names, as long as none of ours is committed."""

    def __bool__(self) -> bool:
        return True

    def claim(self, vitals: Vitals, stopped: Callable[[], bool]) -> Claim | None:
        def stand_by() -> None:
            standing = self._source.standing()
            with vitals.inside("reading the checkpoint that the group's commit names"):
                self._standing_by.look(standing)
            # While the group merely forms, or a dead learner is remembered, it may be this one's turn soon.
            if standing.elsewhere:
                vitals.play("standby")

        with vitals.inside("taking a name in the state folder"):
            name = self._standing_by.member()
        with vitals.inside("joining the group"):
            claim = self._source.claim(name, stand_by, stopped)
        vitals.play(STARTING)
        with vitals.inside("looking whose the state folder is"):
            self._standing_by.own(self._source.fingerprint({}))
        self._published = dict(claim.published)
        return claim

    def survey(self) -> Claim | None:
        return self._source.survey()

    def found(self, claim: Claim) -> Found | None:
        self._claimed = {claim.checkpoint} if claim.checkpoint is not None else set()
        return self._standing_by.found(claim, self._source.fingerprint({}))

    def commands_at(self, claim: Claim, found: Found | None, topic: str) -> int | None:
        place = {} if found is None else found[0].body["position"]
        at = place["offsets"][topic]["0"] if place.get("commands") == topic else None
        self.commands_id = claim.commands_id
        if claim.commands is None and place.get("paused"):
            log.warning(
                "a command has paused the worker, and commands are off: nothing is read, and nothing can end "
                "the pause. `streamlearn topics` makes topic %s; then start again, and `streamlearn tell "
                "resume`",
                topic,
            )
        if claim.commands is None or at is None:
            return claim.commands
        if self._anew(place):
            log.warning(
                "topic %s was deleted and made anew: its commands are carried out from its beginning, offset "
                "%d; what had not been carried out of the old one's, from offset %d on, is gone with it",
                *(topic, claim.commands_begin, at),
            )
            return claim.commands_begin
        if claim.commands < at:
            raise StateMismatch(
                f"the group's offset of {topic} is {claim.commands}, below {at}, where checkpoint "
                f"{found[0].id if found else None} goes on: it was set back by hand. `streamlearn "
                "checkpoints use ID` (with these settings) puts it right"
            )
        return int(at)

    def _anew(self, place: Mapping[str, Any]) -> bool:
        """Was the topic of commands made anew since a manifest's `position`? Then its C is of no topic."""
        known = place.get("commands_id", "")
        return known != self.commands_id and "" not in (known, self.commands_id)

    def name(self, manifest: Manifest | None, command: Command | None = None, answer: bytes = b"") -> None:
        if manifest is None or manifest.id in self._handed:
            return
        self._handed[manifest.id] = manifest
        place = manifest.body["position"]
        offsets = {
            topic: {int(partition): offset for partition, offset in part.items()}
            for topic, part in place["offsets"].items()
            if topic != place.get("commands") or not self._anew(place)
        }
        self._sink.name(manifest.id, offsets, command.position if command is not None else None, answer)

    def commands(self) -> list[Command]:
        return [parse_command(record) for record in self._source.commands()]

    def ages(self) -> list[tuple[float, int]]:
        return self._source.ages()

    def advance(self, offsets: dict[int, int], cursors: dict[int, int], keeper: Keeper) -> None:
        for partition, offset in self._source.passed(offsets).items():
            self._sink.passed((self._source.topic, partition), offset)
            offsets[partition] = cursors[partition] = offset
            keeper.moved()

    def advance_commands(self, at: int | None, keeper: Keeper) -> int | None:
        to = self._source.commands_passed(at) if at is not None else at
        if to is not None and to != at:
            self._sink.passed((self._commands, 0), to)
            keeper.moved()
        return to

    def unread(self, offsets: Mapping[int, int]) -> dict[int, int]:
        return {p: end for p, end in self._source.ends().items() if offsets.get(p, 0) < end}

    def repeats(self, offsets: Mapping[int, int]) -> bool:
        traffic = self._source.traffic(offsets)
        lag: Mapping[int, int] = traffic.lag if traffic is not None else {}
        # P may lie behind the last record, at the end of the log, and never be reached: then nothing lags.
        self._published = {
            p: end for p, end in self._published.items() if offsets.get(p, 0) < end and lag.get(p, 1)
        }
        return bool(self._published)

    def confirm(self, keeper: Keeper) -> None:
        named = self._sink.named
        if named is not None and named != self._confirmed and named in self._handed:
            self._pin(named)
            self._confirmed = named
            keeper.confirm(self._handed[named])

    def pin(self) -> None:
        self._pin(self._sink.named)

    def _pin(self, named: str | None) -> None:
        # Of those that came after the one that is named, any may be named by now.
        ids = list(self._handed)
        if named in self._handed:
            self._claimed.clear()
            for name in ids[: ids.index(named)]:
                del self._handed[name]
        self._store.pinned = self._claimed | set(self._handed)

    def settle(self, stopped: Callable[[], bool], seconds: float | None = None) -> None:
        deadline = time.monotonic() + seconds if seconds is not None else None
        while not self._sink.settle(0.2):
            if time.monotonic() > deadline if deadline is not None else stopped():
                raise Unreachable(
                    "stopped, but the broker has not taken the last outputs: nothing is lost, a new start "
                    "goes on from the last commit and makes them again"
                )


def group_of(source: Source, sink: Sink, store: CheckpointStore, settings: Settings) -> Alone:
    """The group of a source and a sink that have one."""
    if not getattr(sink, "grouped", False):
        return Alone(source, sink)
    return Group(cast(GroupSource, source), cast(GroupSink, sink), store, settings)
