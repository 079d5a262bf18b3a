"""What the broker says of topics. Asked with kafka-python: aiokafka knows no topic ids."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kafka import KafkaAdminClient, errors
from kafka.admin import ConfigResource, ConfigResourceType

from connectors.kafka.options import Options
from connectors.kafka.reach import reach_soon
from streamlearn.events import Unreachable, UsageError

log = logging.getLogger(__name__)

RETRY_SECONDS = 0.5
TRY_SECONDS = 10.0
DENIED = errors.TopicAuthorizationFailedError.errno
LARGEST = "max.message.bytes"
POLICY = "cleanup.policy"
LAG = "min.compaction.lag.ms"
SAFE_LAG_MS = 86_400_000
"""A worker that is down for a day has been missed."""
DEFAULT_LARGEST = 1048588
"""Kafka's own default, for topics whose configuration this user may not see."""


@dataclass(frozen=True)
class Topic:
    """id: changes when a topic is deleted and made anew. largest: bytes that a batch of messages may have.

    policy: how old messages go; empty where this user may not see it. lag: milliseconds for which a message
    is not compacted.
    """

    id: str
    partitions: int
    largest: int = DEFAULT_LARGEST
    policy: str = ""
    lag: int = 0


@dataclass(frozen=True)
class Topics:
    """there: what the broker shows. denied: of which it says only that this user may not see them."""

    there: Mapping[str, Topic]
    denied: frozenset[str] = frozenset()


async def describe(options: Options, names: Sequence[str]) -> Topics:
    """What there is of the topics. Waits for a broker for at most `options.deadline`.

    Raises Unreachable: at once where a broker is there and doesn't take us.
    """
    deadline = time.monotonic() + options.deadline
    await reach_soon(options.reach, options.deadline)
    while True:
        try:
            patience = max(1.0, min(TRY_SECONDS, deadline - time.monotonic()))
            return await asyncio.to_thread(describe_once, options.connection, names, patience)
        except errors.KafkaError as error:
            if time.monotonic() + RETRY_SECONDS > deadline:
                raise Unreachable(
                    f"{options.where}: no broker answers within {options.deadline:g} s "
                    f"({type(error).__name__}): is it running, and is source.bootstrap_servers right?"
                ) from error
        await asyncio.sleep(RETRY_SECONDS)


def describe_once(connection: dict[str, Any], names: Sequence[str], patience: float) -> Topics:
    admin = KafkaAdminClient(**connection, bootstrap_timeout_ms=int(patience * 1000))
    try:
        answer = admin.describe_topics(list(names))
        found = {topic["name"]: topic for topic in answer if not topic["error_code"] and topic["partitions"]}
        denied = frozenset(topic["name"] for topic in answer if topic["error_code"] == DENIED)
        configs: dict[str, dict[str, str]] = {}
        with suppress(errors.KafkaError, KeyError):
            wanted = {LARGEST: None, POLICY: None, LAG: None}
            asked = [ConfigResource(ConfigResourceType.TOPIC, name, configs=wanted) for name in found]
            answers = admin.describe_configs(asked, config_filter="all")["topic"] if asked else {}
            configs = {name: {k: v["value"] for k, v in of.items()} for name, of in answers.items()}
        there = {}
        for name, topic in found.items():
            said = configs.get(name, {})
            largest = int(said.get(LARGEST, DEFAULT_LARGEST))
            there[name] = Topic(
                str(topic["topic_id"]),
                len(topic["partitions"]),
                largest,
                said.get(POLICY, ""),
                int(said.get(LAG, 0)),
            )
        return Topics(there, denied)
    finally:
        admin.close()


def refuse_denied(options: Options, denied: Iterable[str]) -> None:
    """Raises Unreachable where there are topics that the broker doesn't show us."""
    names = sorted(denied)
    if names:
        raise Unreachable(f"{options.where}: not authorised: {unseen(options, names)}")


def refuse_missing(options: Options, found: Topics, names: Sequence[str]) -> None:
    """Raises Unreachable where one of `names`, without which nothing goes, isn't there or isn't shown."""
    refuse_denied(options, found.denied & set(names))
    missing = [name for name in names if name not in found.there]
    if missing:
        raise Unreachable(
            f"{options.where}: there is no topic {', '.join(missing)}: `streamlearn topics` with "
            "these settings makes what is missing"
        )


def commands_of(options: Options, found: Topics, commands: str, answers: str) -> str:
    """The topic of commands; none, with a warning, where it or that of the answers can't be used.

    Raises UsageError.
    """
    missing = [name for name in (commands, answers) if name not in found.there]
    if not missing:
        if found.there[commands].partitions > 1:
            raise UsageError(f"topic {commands} has several partitions: commands need one, in order")
        return commands
    off = "commands (`streamlearn tell`) are off"
    denied = sorted(found.denied & set(missing))
    if denied:
        log.warning("%s; %s", unseen(options, denied), off)
    gone = [name for name in missing if name not in found.denied]
    if gone:
        log.warning(
            "there is no topic %s: %s; `streamlearn topics` makes it", " and no topic ".join(gone), off
        )
    return ""


def say_which_wait(commands: str, first: int, last: int, skip: bool) -> None:
    """Nothing was committed of that topic, which holds offsets `first` to `last`: what becomes of those?

    skip: on a group's first start, as they were meant for nobody, or for a group before it.
    """
    if first < last:
        what = "skipped: this is a first start" if skip else "carried out, from its beginning"
        log.log(
            logging.WARNING if skip else logging.INFO,
            "%d commands stand in %s from before (at most; marks of transactions count too): %s",
            *(last - first, commands, what),
        )


def compacted(topics: Mapping[str, Topic]) -> list[str]:
    """A sentence on each of these, which are written to, that takes no record without a key."""
    return [
        f"topic {name} has cleanup.policy {topic.policy}: the broker refuses records without a key there, "
        "which would end the worker, and keeps only the last of those with one key: set it to delete"
        for name, topic in topics.items()
        if "compact" in topic.policy
    ]


def cleaned(name: str, topic: Topic) -> list[str]:
    """A sentence on a topic of events whose cleaner may take what was answered and isn't kept yet."""
    if "compact" not in topic.policy or topic.lag >= SAFE_LAG_MS:
        return []
    return [
        f"topic {name} has cleanup.policy {topic.policy} and {LAG} {topic.lag} ({topic.lag / 1000:g} s): "
        "events that a cleaner takes after they were answered and before a checkpoint holds what they teach "
        "are not learned after a crash. Set it longer than checkpoint.seconds and the longest time without a "
        f"worker together; a day ({SAFE_LAG_MS}) or more silences this"
    ]


def unseen(options: Options, names: Sequence[str]) -> str:
    """Why topics aren't shown, and what makes that otherwise. (Of one that isn't there a broker says the
    same to whoever may not know.)"""
    rights: dict[str, list[str]] = {}
    for name in names:
        rights.setdefault("READ" if name in options.reads else "WRITE", []).append(name)
    wanted = ", and ".join(f"{right} on {', '.join(of)}" for right, of in sorted(rights.items()))
    return (
        f"the broker doesn't let {options.principal} see topic {', '.join(names)} (it may be there or not): "
        f"its ACLs must allow {wanted} (DESCRIBE goes with that)"
    )
