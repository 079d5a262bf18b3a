"""Which events were learned, as a count and a checksum by partition: small, and it can't be fooled by luck.

The checksum is a sum of one 64-bit hash per event, so that it doesn't depend on the order. An event that was
learned twice or never changes it, and the count too unless both happened; the odds that it does not are
2^-64. It is state like the rest and goes back with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mmh3

from streamlearn.events import Position
from streamlearn.state import Part

MODULUS = 1 << 64


@dataclass
class Tally:
    """Of the events of one partition: how many, and the sum of their hashes."""

    count: int = 0
    sum: int = 0

    def add(self, partition: int, offset: int) -> None:
        self.count += 1
        self.sum = (self.sum + mmh3.hash64(f"{partition}:{offset}", signed=False)[0]) % MODULUS

    def plain(self) -> list[Any]:
        """Count, and sum in hexadecimal: msgpack and JSON hold no unsigned 64 bits for certain."""
        return [self.count, f"{self.sum:016x}"]


Tallies = dict[int, Tally]


def tally(positions: Iterable[tuple[int, int]]) -> Tallies:
    """Of (partition, offset) pairs, by partition: what a ledger of just these must say."""
    found: Tallies = {}
    for partition, offset in positions:
        found.setdefault(partition, Tally()).add(partition, offset)
    return found


def together(*several: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Tallies as `Ledger.plain` has them, added up."""
    found: Tallies = {}
    for tallies in several:
        for partition, (count, total) in tallies.items():
            mine = found.setdefault(int(partition), Tally())
            mine.count += count
            mine.sum = (mine.sum + int(total, 16)) % MODULUS
    return plain(found)


def plain(tallies: Tallies) -> dict[str, list[Any]]:
    return {str(partition): tallies[partition].plain() for partition in sorted(tallies)}


@dataclass
class Ledger:
    """Of one learner: events that were part of a step, events held out, and events that wait for their step.

    An event that waits is in neither tally: one that is lost while it waits is missed.
    """

    learned: Tallies = field(default_factory=dict)
    held_out: Tallies = field(default_factory=dict)
    waiting: list[tuple[int, int]] = field(default_factory=list)

    def hold(self, position: Position) -> None:
        """An event is held out."""
        _, partition, offset = position
        self.held_out.setdefault(partition, Tally()).add(partition, offset)

    def wait(self, position: Position) -> None:
        """An event waits for its step."""
        self.waiting.append(position[1:])

    def drop(self, stays: Sequence[bool]) -> None:
        """Of those that wait some were forgotten: which are still there, in order."""
        self.waiting = [place for place, stay in zip(self.waiting, stays, strict=True) if stay]

    def step(self) -> None:
        """All that waited were learned."""
        for partition, offset in self.waiting:
            self.learned.setdefault(partition, Tally()).add(partition, offset)
        self.waiting.clear()

    def plain(self) -> dict[str, Any]:
        """In types that msgpack and JSON hold."""
        return {
            "learned": plain(self.learned),
            "held_out": plain(self.held_out),
            "waiting": plain(tally(self.waiting)),
        }

    def part(self) -> Part:
        values = self.plain()
        return Part(values=values | {"waiting": [list(position) for position in self.waiting]})

    def load(self, part: Part) -> None:
        values = part.values
        self.learned, self.held_out = _tallies(values["learned"]), _tallies(values["held_out"])
        self.waiting = [(partition, offset) for partition, offset in values["waiting"]]


def _tallies(values: Mapping[str, list[Any]]) -> Tallies:
    return {int(partition): Tally(count, int(total, 16)) for partition, (count, total) in values.items()}
