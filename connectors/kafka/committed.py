"""What a group has committed: P of every partition, and the checkpoint that the commit names."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import for_code
from kafka import KafkaAdminClient, errors

from connectors.kafka.boxes import Place
from connectors.kafka.errors import explain
from connectors.kafka.options import Options
from connectors.kafka.refusals import is_other
from streamlearn.events import StateMismatch, Unreachable

RETRY_SECONDS = 0.5
TRY_MS = 10_000
MOST_EPOCHS = 1 << 31
"""With one every second, those of 68 years."""


@dataclass(frozen=True)
class Committed:
    """published: P by partition, where there is one. checkpoint, epoch: of the metadata. gaps: offsets
    between which there was no record, as known (see `Gaps`). ids: of the topics that these are offsets of,
    where the commit says it. records: how many were answered between the checkpoint's C and P, where that is
    known (see `Tally`)."""

    published: Mapping[Place, int] = field(default_factory=dict)
    checkpoint: str | None = None
    epoch: int = 0
    gaps: Mapping[Place, tuple[int, int]] = field(default_factory=dict)
    ids: Mapping[Place, str] = field(default_factory=dict)
    records: Mapping[Place, int] = field(default_factory=dict)

    def among(self, ids: Mapping[str, str]) -> Committed:
        """Without what is of topics that have other `ids` now: deleted, and made anew."""
        gone = {place for place, id in self.ids.items() if is_other(id, ids.get(place[0], ""))}
        published = {place: offset for place, offset in self.published.items() if place not in gone}
        return replace(self, published=published, gaps={p: g for p, g in self.gaps.items() if p not in gone})


class Asker:
    """Asks about the group, over one connection for all the times. Belongs to the loop.

    Its questions raise what the client does.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._admin: AIOKafkaAdminClient | None = None

    async def committed(self) -> Mapping[Any, Any]:
        """Offset and metadata by partition."""
        group = str(self._options.group)
        found: Mapping[Any, Any] = await self._ask(lambda admin: admin.list_consumer_group_offsets(group))
        return found

    async def members(self) -> dict[str, Any]:
        """The group as the broker describes it: state, protocol_type, protocol, members."""
        group = str(self._options.group)
        (answer,) = await self._ask(lambda admin: admin.describe_consumer_groups([group]))
        (found,) = answer.to_object()["groups"]
        if found["error_code"]:
            raise for_code(found["error_code"])
        return dict(found)

    async def _ask(self, question: Callable[[AIOKafkaAdminClient], Awaitable[Any]]) -> Any:
        kept = self._admin is not None
        try:
            return await self._once(question)
        except Exception:
            if not kept:
                raise
            # The broker may have been away since the last time, and be back.
            return await self._once(question)

    async def _once(self, question: Callable[[AIOKafkaAdminClient], Awaitable[Any]]) -> Any:
        try:
            if self._admin is None:
                self._admin = AIOKafkaAdminClient(**self._options.connection)
                await self._admin.start()
            return await question(self._admin)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """The next question takes a new connection."""
        admin, self._admin = self._admin, None
        if admin is not None:
            await admin.close()


async def read_committed(
    options: Options, topic: str, strict: bool = True, asker: Asker | None = None
) -> Committed:
    """Ask the broker. topic: of the events, whose commits name the checkpoint. asker: who goes on to ask.

    Raises Unreachable; if `strict` StateMismatch where the commits disagree or aren't ours, else the
    checkpoint is the newest that any of them names, and offsets that name none are left out: they say nothing
    of what was published.
    """
    asking = asker or Asker(options)
    try:
        answer = await asking.committed()
    except Exception as error:
        # A new broker's coordinator comes with the first question for it, a moment later.
        if not getattr(error, "retriable", False):
            raise explain(error, options.where) from error
        answer = {}
    finally:
        if asker is None:
            await asking.close()
    found = {(tp.topic, tp.partition): (at.offset, at.metadata) for tp, at in answer.items()}
    if not found:
        found = await _surely(options)
    found = {place: at for place, at in found.items() if at[0] >= 0}
    if strict:
        return interpret(str(options.group), topic, found)
    said = {place: _parse(metadata) for place, (_, metadata) in found.items()}
    names = [at for place, at in said.items() if place[0] == topic]
    named, epoch = max(((name or "", epoch) for name, epoch in names), default=("", 0))
    ours = {place: at[0] for place, at in found.items() if said[place][0] is not None}
    return Committed(ours, named or None, epoch, gaps_of(found), ids_of(found))


async def _surely(options: Options) -> dict[Place, tuple[int, str]]:
    """The same by kafka-python: aiokafka's answer is empty too where the coordinator has refused to give one.

    (It has moved, or still loads: that must not pass for a group that has committed nothing.)
    """
    deadline = time.monotonic() + options.deadline
    while True:
        try:
            return await asyncio.to_thread(_ask, options.connection, str(options.group))
        except errors.KafkaError as error:
            if not error.retriable or time.monotonic() + RETRY_SECONDS > deadline:
                raise Unreachable(
                    f"{options.where}: it doesn't say what group {options.group} has committed ({error})"
                ) from error
        await asyncio.sleep(RETRY_SECONDS)


def _ask(connection: dict[str, Any], group: str) -> dict[Place, tuple[int, str]]:
    limits = {"bootstrap_timeout_ms": TRY_MS, "request_timeout_ms": TRY_MS}
    admin = KafkaAdminClient(**connection, **limits)
    try:
        answer = admin.list_group_offsets(group)[group]
    finally:
        admin.close()
    return {(tp.topic, tp.partition): (at.offset, at.metadata) for tp, at in answer.items()}


def interpret(group: str, topic: str, found: Mapping[Place, tuple[int, str]]) -> Committed:
    """found: offset and metadata by partition.

    That of the commands has no say: there were times, maybe, when they were off or in another topic.
    """
    named: dict[tuple[str | None, int], list[str]] = {}
    for (of, partition), (_, metadata) in sorted(found.items()):
        if of == topic:
            named.setdefault(_parse(metadata), []).append(f"{topic}:{partition}")
    if not named:
        return Committed()
    if len(named) > 1:
        said = "; ".join(f"{', '.join(places)}: {name}" for (name, _), places in named.items())
        raise StateMismatch(
            f"the offsets of group {group} name different checkpoints ({said}): they were set by hand, or "
            "by something else. `streamlearn checkpoints use ID` (with these settings) names one for all, or "
            "start with another source.group_id and checkpoint.folder"
        )
    ((checkpoint, epoch),) = named
    if checkpoint is None:
        raise StateMismatch(
            f"group {group} has committed offsets that name no checkpoint: another consumer uses the group, "
            "or they were reset by hand. `streamlearn checkpoints use ID` (with these settings) puts them "
            "right, or start with another source.group_id and checkpoint.folder"
        )
    published = {place: offset for place, (offset, _) in found.items()}
    return Committed(published, checkpoint, epoch, gaps_of(found), ids_of(found), records_of(found))


def metadata_of(
    checkpoint: str | None,
    epoch: int,
    gap: tuple[int, int] | None,
    topic_id: str | None = None,
    records: int | None = None,
) -> str:
    """What stands beside a committed offset. topic_id: see `Options.id_beside`; records: see `Tally`."""
    more = {"gap": gap, "topic_id": topic_id or None, "records": records}
    body = {"checkpoint": checkpoint, "epoch": epoch} | {k: v for k, v in more.items() if v is not None}
    return json.dumps(body, separators=(",", ":"))


def ids_of(found: Mapping[Place, tuple[int, str]]) -> dict[Place, str]:
    """Those that the metadata name."""
    return {place: str(body["topic_id"]) for place, body in _ours(found) if "topic_id" in body}


def gaps_of(found: Mapping[Place, tuple[int, str]]) -> dict[Place, tuple[int, int]]:
    """Those that the metadata name."""
    gaps = {}
    for place, body in _ours(found):
        match body.get("gap"):
            case [int(begin), int(end)] if 0 <= begin < end:
                gaps[place] = begin, end
    return gaps


def records_of(found: Mapping[Place, tuple[int, str]]) -> dict[Place, int]:
    """The numbers of records that the metadata name."""
    said = {place: body.get("records") for place, body in _ours(found)}
    return {place: count for place, count in said.items() if type(count) is int and count >= 0}


def _ours(found: Mapping[Place, tuple[int, str]]) -> Iterator[tuple[Place, dict[str, Any]]]:
    """What the metadata say that are of ours."""
    for place, (_, metadata) in found.items():
        if _parse(metadata)[0] is not None:
            yield place, json.loads(metadata)


def _parse(metadata: str) -> tuple[str | None, int]:
    """The checkpoint that it names, and its epoch; None and 0 where it isn't of ours."""
    try:
        body = json.loads(metadata)
        name, epoch = body["checkpoint"], body["epoch"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None, 0
    good = isinstance(name, str) and name and type(epoch) is int and 0 <= epoch < MOST_EPOCHS
    return (name, epoch) if good else (None, 0)
