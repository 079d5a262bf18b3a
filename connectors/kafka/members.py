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


class Strangers:
    """Members that learn another topic: they are refused, once they have outlasted a session.

    Before, it may be our own predecessor, which read that topic and was killed. All methods belong to the
    loop.
    """

    def __init__(self, options: Options, topic: str) -> None:
        self._options, self._topic = options, topic
        self._since: float | None = None
        self._said = False

    async def look(self, asker: Asker) -> bool:
        """Are there any? Raises UsageError where they stay, or are no workers of streamlearn."""
        try:
            group = await asker.members()
        except Exception as error:
            # Only a question: whoever must know whether a broker is there asks for the commits.
            self._say_denied(error)
            return False
        if group["protocol_type"] == "consumer" and group["protocol"] not in ("", ASSIGNOR):
            raise explain(InconsistentGroupProtocolError(), self._options.where)
        if group["members"] and group["state"] != STABLE:
            return self._since is not None
        found = strangers(group["members"], self._topic)
        if not found:
            self._since = None
            return False
        self._weigh(found)
        return True

    async def outlast(self, asker: Asker) -> None:
        """Wait until there are none. Raises as `look`."""
        while await self.look(asker):
            await asyncio.sleep(PAUSE_SECONDS)

    def _weigh(self, found: Mapping[str, Iterable[str]]) -> None:
        options = self._options
        client = CONSUMER | dict(options.consumer)
        session = float(client["session_timeout_ms"]) / 1000 + MORE_SECONDS
        host, topics = next(iter(found.items()))
        reads = ", ".join(topics)
        if self._since is None:
            self._since = time.monotonic()
            log.warning(
                "group %s has a member at %s that reads %s, not %s: waiting for %.0f s whether it goes",
                *(options.group, host, reads, self._topic, session),
            )
        elif time.monotonic() - self._since > session:
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
        await Strangers(options, topic).outlast(asker)
    finally:
        await asker.close()
    return committed


def strangers(members: Iterable[Mapping[str, Any]], topic: str) -> dict[str, list[str]]:
    """What they read, by host: of those members that have been given something, but nothing of `topic`.

    One that was given nothing stands by: it sees for itself that it is in the wrong group.
    """
    found = {}
    for member in members:
        try:
            assigned = ConsumerProtocolMemberAssignment.decode(member["member_assignment"])
        except Exception:
            continue  # whoever is told in words that we don't know isn't one of ours
        topics = {of for of, _ in assigned.assignment}
        if topics and topic not in topics:
            found[str(member["client_host"]).lstrip("/")] = sorted(topics)
    return found
