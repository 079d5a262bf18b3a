"""What went into the topic of events and what came out of it, as any client on this machine reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka.errors import KafkaError

from ops.compose.shell import Failed, until
from ops.harness.compare import Check
from ops.harness.outputs import Expected, Output, Position, answered, epochs, ledger, predictions
from ops.harness.topics import Message, publish, read

EVENTS, PREDICTIONS, DEAD_LETTERS = "events", "events.predictions", "events.dead_letters"
OURS = b"check"
"""The key of the events that we sent; those of the publisher have none."""
SETTLE_SECONDS = 120.0


@dataclass(frozen=True)
class Account:
    """The topics at one moment. sent: so many of the events must be ours."""

    sent: int
    events: Sequence[Message]
    outputs: Sequence[Output]
    dead: Sequence[Message]

    @property
    def ours(self) -> int:
        return sum(event.key == OURS for event in self.events)

    @property
    def complete(self) -> bool:
        """Is everything there that will be?"""
        return self.ours >= self.sent and self.positions <= {output.of for output in self.outputs}

    @property
    def positions(self) -> frozenset[Position]:
        return frozenset((event.partition, event.offset) for event in self.events)

    def checks(self, when: str) -> list[Check]:
        """Every event has one prediction, none is a dead letter, nothing went back to an older model."""
        wanted = self.positions
        mine = [output for output in self.outputs if output.of in wanted]
        once = answered(mine, wanted, "", once=True)
        order = epochs(self.outputs)
        return [
            Check(f"{when}: no event lost", self.ours == self.sent, f"{self.ours} of {self.sent} sent by us"),
            Check(f"{when}: one prediction per event", once.kept, f"{len(wanted)} events, {once.detail}"),
            Check(f"{when}: no dead letters", not self.dead, f"{len(self.dead)}"),
            Check(f"{when}: epochs never go back", order.kept, order.detail),
        ]


class Books:
    """Reads and writes the topics of a broker at `address`."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._sent = 0
        self._sample: list[Message] = []

    def events(self) -> list[Message]:
        found: list[Message] = _patiently("the events can be read", lambda: read(self.address, EVENTS, 1))
        return found

    def send(self, count: int) -> None:
        """As many events again as the publisher sent first, under a key of ours. Raises Failed."""
        if not self._sample:
            self._sample = [event for event in self.events() if event.key != OURS]
        some = [self._sample[i % len(self._sample)] for i in range(count)]
        messages = [Message(0, event.value, OURS, event.headers) for event in some]
        try:
            publish(self.address, EVENTS, messages)
        except (KafkaError, TimeoutError) as error:
            raise Failed(f"events can't be sent: {type(error).__name__}: {error}") from error
        self._sent += count

    def settled(self, seconds: float = SETTLE_SECONDS) -> Account:
        """Once all of ours can be read, and every event that is there then is answered.

        As it is in the end, if that takes too long. Raises Failed if the topics can't be read.
        """
        found: list[Account] = []

        def look() -> bool:
            # More events come while we wait: those that we wait for are settled once ours are among them.
            settled = found and found[-1].ours >= self._sent
            events = found[-1].events if settled else read(self.address, EVENTS, 1)
            outputs = predictions(read(self.address, PREDICTIONS, 1))
            found.append(Account(self._sent, events, outputs, read(self.address, DEAD_LETTERS, 1)))
            return found[-1].complete

        try:
            _patiently("every event has its prediction", look, seconds)
        except Failed:
            if not found:
                raise
        return found[-1]


def published_once(events: Sequence[Message], count: int) -> Check:
    """The publisher's stream is there once, although it was killed."""
    theirs = Counter(event.value for event in events if event.key != OURS)
    twice = sum(many - 1 for many in theirs.values())
    detail = f"{len(theirs)} of {count} events of the demo's stream, {twice} repeated"
    return Check("publisher: each event sent once", len(theirs) == count and not twice, detail)


def learned_once(shown: Mapping[str, Any], account: Account) -> Check:
    """By the ledger in the state: count and checksum of the events learned, held out and waiting."""
    messages = {(event.partition, event.offset): event for event in account.events}
    everything = account.positions
    found = ledger(shown, Expected(messages, everything, frozenset(), everything), "worker")
    return Check("worker: each event learned or held out once", found.kept, found.detail)


def _patiently(what: str, look: Any, seconds: float = 60.0) -> Any:
    def ask() -> Any:
        try:
            return look()
        except (KafkaError, TimeoutError) as error:
            raise Failed(f"{type(error).__name__}: {error}") from error

    return until(what, seconds, ask)
