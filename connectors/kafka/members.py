"""Who else is in the group. While one learns another topic a worker would stand by for ever."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import GroupAuthorizationFailedError, InconsistentGroupProtocolError

from connectors.kafka.assignor import ASSIGNOR
from connectors.kafka.committed import Asker, Committed, read_committed
from connectors.kafka.consumer import CONSUMER
from connectors.kafka.errors import explain
from connectors.kafka.options import Options
from streamlearn.events import UsageError

log = logging.getLogger(__name__)

PAUSE_SECONDS = 0.5
MORE_SECONDS = 1.0
"""So much later than its session's end the broker may forget a member that is dead."""
STABLE = "Stable"
"""Amid a rebalance the broker doesn't say what members read."""


class Members:
    """The member that learns, as others see it: of another topic it is refused, once it has outlasted a
    session.

    Before, it may be our own predecessor, which was killed. All methods belong to the loop.
    """

    def __init__(self, options: Options, topic: str) -> None:
        self._options, self._topic = options, topic
        self._strange: float | None = None
        self._ours: float | None = None
        """Since when another topic, or ours, is learned (monotonic seconds)."""
        self.led = False
        """Whether another one learns our topic, and lives."""
        self._said = self._warned = False

    async def look(self, asker: Asker) -> bool:
        """Is another topic learned? Raises UsageError where that stays so, or the members are no workers of
        streamlearn."""
        try:
            group = await asker.members()
        except Exception as error:
            # Only a question: whoever must know whether a broker is there asks for the commits.
            self._say_denied(error)
            return False
        if group["protocol_type"] == "consumer" and group["protocol"] not in ("", ASSIGNOR):
            raise explain(InconsistentGroupProtocolError(), self._options.where)
        if group["members"] and group["state"] != STABLE:
            self._ours, self.led = None, False
            return self._strange is not None
        now, found = time.monotonic(), learning(group["members"])
        ours = any(self._topic in topics for topics in found.values())
        self._ours = (self._ours or now) if ours else None
        self.led = self._ours is not None and now - self._ours > self._session
        strange = next((each for each in found.items() if self._topic not in each[1]), None)
        self._strange = (self._strange or now) if strange is not None else None
        if strange is not None:
            self._weigh(*strange)
        return strange is not None

    @property
    def _session(self) -> float:
        """Seconds: who has stayed for longer lives."""
        given = (CONSUMER | dict(self._options.consumer))["session_timeout_ms"]
        return float(given) / 1000 + MORE_SECONDS

    async def outlast(self, asker: Asker) -> None:
        """Wait until there are none. Raises as `look`."""
        while await self.look(asker):
            await asyncio.sleep(PAUSE_SECONDS)

    def _weigh(self, host: str, topics: Iterable[str]) -> None:
        options, reads = self._options, ", ".join(topics)
        stayed = time.monotonic() - (self._strange or 0.0)
        if not self._warned:
            self._warned = True
            log.warning(
                "group %s has a member at %s that reads %s, not %s: waiting for %.0f s whether it goes",
                *(options.group, host, reads, self._topic, self._session),
            )
        elif stayed > self._session:
            raise UsageError(
                f"{options.where}: a worker of another topic is in group {options.group}: it is at {host} "
                f"and reads {reads}, not {self._topic}. One worker of a group learns, so this one would "
                "wait for ever: set another source.group_id and checkpoint.folder for this topic"
            )

    def _say_denied(self, error: Exception) -> None:
        if isinstance(error, GroupAuthorizationFailedError) and not self._said:
            self._said = True
            log.warning(
                "the broker doesn't say who is in group %s: whether a worker of another topic is there isn't "
                "seen (its ACLs must allow DESCRIBE on the group)",
                self._options.group,
            )


async def surveyed(options: Options, topic: str) -> Committed:
    """What the group has committed, for one who doesn't join it. Raises as `read_committed`, and UsageError
    where a worker of another topic is in the group."""
    asker = Asker(options)
    try:
        committed = await read_committed(options, topic, asker=asker)
        await Members(options, topic).outlast(asker)
    finally:
        await asker.close()
    return committed


def learning(members: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """What is read, by host: by those members that have been given something.

    One that was given nothing stands by: it sees for itself whether it is in the wrong group.
    """
    found: dict[str, list[str]] = {}
    for member in members:
        try:
            assigned = ConsumerProtocolMemberAssignment.decode(member["member_assignment"])
        except Exception:
            continue  # whoever is told in words that we don't know isn't one of ours
        if assigned.assignment:
            host = str(member["client_host"]).lstrip("/")
            found.setdefault(host, []).extend(sorted({of for of, _ in assigned.assignment}))
    return found
