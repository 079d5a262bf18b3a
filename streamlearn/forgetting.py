"""Forgetting an id: what was found of it, and the block that keeps unread records from bringing it back.

An id is known by the 128 bits of its hash (murmurhash3): `identity`. The block compares all of them. An
example carries 64 of them, in the replay memory the first half, in the held-out sets the second. So what is
to go is always found, and an example of another id goes with it with odds of examples / 2^64: with a
million of them, once in 2 * 10^13 forgotten ids. (Not so for ids made to collide: the hash is no secret one.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mmh3

from streamlearn.events import Event, Position
from streamlearn.state import Part

Identity = tuple[int, int]
"""Both halves of an id's hash, signed integers of 64 bits."""


def identity(id: str) -> Identity:
    first, second = mmh3.hash64(id.encode(errors="surrogatepass"))
    return first, second


@dataclass(frozen=True)
class Forgotten:
    """What was taken out, in examples; all 0 for an id that nothing was kept of.

    memory: of the replay memory. held_out: of the held-out sets. waiting: labeled events that had been
    answered, or held until the shape of x is settled, and not been learned. step: the learner's, then.

    Weights, optimiser moments, averages, class means, normaliser and figures keep what they took from it.
    """

    memory: int
    held_out: int
    waiting: int
    step: int


class Blocked:
    """Ids that must not come back by reading on: for each, and by partition, below which offset.

    An id's block in a partition ends with the first record that shows that the partition has been read up
    to there; once it has ended in all of them nothing is left of the id. A function of the records in order.
    """

    def __init__(self) -> None:
        self._ends: dict[int, dict[Identity, int]] = {}
        # The lowest end of every partition: most records end nothing.
        self._next: dict[int, int] = {}

    def __bool__(self) -> bool:
        return bool(self._ends)

    def __len__(self) -> int:
        return len({who for ends in self._ends.values() for who in ends})

    def add(self, who: Identity, until: Mapping[int, int]) -> None:
        """Block an id below these offsets, by partition; where it is blocked already the higher counts."""
        for partition, end in until.items():
            if end > 0:
                ends = self._ends.setdefault(partition, {})
                ends[who] = max(end, ends.get(who, 0))
                self._next[partition] = min(ends.values())

    def holds(self, event: Event) -> bool:
        """Whether an event of this id at this place is blocked."""
        ends = self._ends.get(event.position.partition)
        end = ends.get(identity(event.id)) if ends else None
        return end is not None and event.position.offset < end

    def passes(self, position: Position) -> None:
        """The record at `position` has been taken, and with it everything before it in its partition."""
        partition, reached = position.partition, position.offset + 1
        if reached < self._next.get(partition, reached + 1):
            return
        left = {who: end for who, end in self._ends[partition].items() if end > reached}
        if left:
            self._ends[partition], self._next[partition] = left, min(left.values())
        else:
            del self._ends[partition], self._next[partition]

    def part(self) -> Part:
        rows = sorted(
            [partition, *who, end] for partition, ends in self._ends.items() for who, end in ends.items()
        )
        return Part(values={"ends": rows})

    def load(self, part: Part) -> None:
        """Take the state in `part`."""
        self._ends, self._next = {}, {}
        for partition, first, second, end in part.values["ends"]:
            self._ends.setdefault(partition, {})[first, second] = end
        self._next = {partition: min(ends.values()) for partition, ends in self._ends.items()}
