"""How many records were answered behind a checkpoint: fewer when they are read again are records lost."""

from __future__ import annotations

import logging
import threading
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from connectors.kafka.boxes import Place
from connectors.kafka.committed import Committed
from streamlearn.events import Position

log = logging.getLogger(__name__)


@dataclass
class _Seen:
    """Of one partition: at some offsets, ascending, how many records below were answered or come again."""

    offsets: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.counts[-1] if self.counts else 0

    def at(self, offset: int) -> int:
        found = bisect_right(self.offsets, offset)
        return self.counts[found - 1] if found else 0


class Tally:
    """Counts between C and P, which a commit says of every partition of the events.

    Between the two a cleaner (cleanup.policy compact) takes out records of which the offsets tell nothing:
    they were answered, and whoever starts from C never learns them. The number alone shows it.
    The learner's thread adds, the loop asks.
    """

    def __init__(self) -> None:
        self.lost = 0
        """Records of which that was found."""
        self._lock = threading.Lock()
        self._seen: dict[Place, _Seen] = {}
        self._owed: dict[Place, tuple[int, int | None]] = {}
        """Where we are not as far as the worker before us was: its P, and its count behind our C."""
        self._claimed: str | None = None

    def claimed(self, committed: Committed, topic: str) -> None:
        """What the worker before this one has said of `topic`."""
        found = {place: (at, committed.records.get(place)) for place, at in committed.published.items()}
        with self._lock:
            self._owed = {place: at for place, at in found.items() if place[0] == topic}
            self._claimed = committed.checkpoint

    def begin(self, checkpoint: str) -> None:
        """From which checkpoint it goes on: of another one than the commit has named nothing is known."""
        with self._lock:
            if checkpoint != self._claimed:
                self._owed = {place: (at, None) for place, (at, _) in self._owed.items()}

    def add(self, positions: Sequence[Position]) -> None:
        """These were answered, in order within a partition; some of them again."""
        found: dict[Place, list[int]] = {}
        for topic, partition, offset in positions:
            place = topic, partition
            if place in found:
                found[place].append(offset)
            else:
                found[place] = [offset]
        with self._lock:
            for place, offsets in found.items():
                seen = self._seen.setdefault(place, _Seen())
                total = seen.total
                owed = self._owed.get(place)
                if owed is not None and offsets[-1] + 1 >= owed[0]:
                    self._reach(place, total + sum(offset < owed[0] for offset in offsets))
                seen.offsets.append(offsets[-1] + 1)
                seen.counts.append(total + len(offsets))

    def passed(self, place: Place, offset: int) -> None:
        """Below `offset` there are no more records than were added."""
        with self._lock:
            owed = self._owed.get(place)
            if owed is not None and offset >= owed[0]:
                self._reach(place, self._seen.setdefault(place, _Seen()).total)

    def _reach(self, place: Place, count: int) -> None:
        """So many records were there, up to where the worker before us was."""
        upto, before = self._owed.pop(place)
        seen = self._seen[place]
        seen.offsets.append(upto)
        seen.counts.append(count)
        if before is not None and count < before:
            self.lost += before - count
            log.error(
                "%s:%d: %d records that were answered are no longer in the log, below offset %d: a cleaner "
                "took them before a checkpoint held what they teach, and the model goes on without them. Set "
                "the topic's min.compaction.lag.ms longer than checkpoint.seconds and the longest downtime",
                *(*place, before - count, upto),
                extra={"fields": {"topic": place[0], "partition": place[1], "offset": upto}},
            )

    def between(self, place: Place, begin: int, end: int) -> int | None:
        """Records from `begin`, a checkpoint's C, to `end`, a P; None where nobody knows."""
        with self._lock:
            seen = self._seen.get(place, _Seen())
            if place not in self._owed:
                return seen.at(end) - seen.at(begin)
            before = self._owed[place][1]
            # Not as far yet as the commits are: what was read again up to `begin` is behind it.
            return None if before is None else max(0, before - seen.at(begin))

    def forget(self, below: Mapping[Place, int]) -> None:
        """No checkpoint below these offsets will be named any more."""
        with self._lock:
            for place, offset in below.items():
                seen = self._seen.get(place)
                if seen is not None:
                    old = max(0, bisect_right(seen.offsets, offset) - 1)
                    del seen.offsets[:old], seen.counts[:old]
