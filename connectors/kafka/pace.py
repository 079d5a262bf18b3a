"""How fast events are sent, and at which time Kafka says that they happened."""

from __future__ import annotations

import logging
import time

from connectors.kafka.cluster import Topic
from connectors.kafka.messages import Message

log = logging.getLogger(__name__)

BURST = 1.0
"""Seconds of the rate that are caught up after a wait, at most."""
HOUR, WEEK = 3_600_000, 7 * 24 * 3_600_000
"""Milliseconds: Kafka's defaults of message.timestamp.after.max.ms and retention.ms."""
SAFE = 0.9
"""So much of what the topic allows is made use of: its clock isn't ours, and reading takes time."""


class Pace:
    """At most `rate` events a second, evenly; 0: as fast as it goes. Times are monotonic seconds."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._allowed = 1.0
        self._seen: float | None = None

    def room(self, now: float, most: int) -> int:
        """How many events may be sent at `now`, `most` of them at most."""
        if not self._rate:
            return most
        if self._seen is not None:
            most_allowed = max(1.0, self._rate * BURST)
            self._allowed = min(most_allowed, self._allowed + (now - self._seen) * self._rate)
        self._seen = now
        return min(most, int(self._allowed))

    def spend(self, events: int) -> None:
        self._allowed -= events


class Times:
    """The Kafka timestamps of messages: the event's own time where the topic keeps a record of that time.

    A broker refuses what lies too far ahead (or back, where it is set up so), and deletes what is older than
    the topic's retention, however new it is there: such an event gets the clock's time, and is counted.
    """

    def __init__(self, topic: Topic) -> None:
        def limit(name: str, default: int) -> int:
            found = topic.number(name)
            return default if found is None else found

        self.clocked = 0
        self._by_broker = topic.configs.get("message.timestamp.type") == "LogAppendTime"
        back = limit("message.timestamp.before.max.ms", 2**62)
        retention = limit("retention.ms", WEEK)
        if retention >= 0 and "delete" in topic.configs.get("cleanup.policy", "delete"):
            back = min(back, retention)
        self._back = back * SAFE
        self._ahead = limit("message.timestamp.after.max.ms", HOUR) * SAFE
        self._name = topic.name

    def stamp(self, message: Message, now: float | None = None) -> int | None:
        """Milliseconds since 1970; None: the clock's time. now: for tests."""
        if message.seconds is None or self._by_broker:
            return None
        milliseconds = message.seconds * 1000
        at = (time.time() if now is None else now) * 1000
        if milliseconds >= 0 and at - self._back <= milliseconds <= at + self._ahead:
            return int(milliseconds)
        if not self.clocked:
            when = "longer ago than" if milliseconds < at else "further ahead than"
            log.warning(
                "an event's time (%.16g) is %s topic %s keeps or takes records (retention.ms, "
                "message.timestamp.*.max.ms): such events get the present time as Kafka timestamp",
                *(message.seconds, when, self._name),
            )
        self.clocked += 1
        return None
