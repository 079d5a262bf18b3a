"""Partitions merged by the time of their records, so that reading them again gives the same order.

The next record is the oldest of the partitions' next records (equal times: the lowest partition). So a
partition whose next record is not known holds up all others, and one that has none to come must be left
out: it is *idle*. What becomes idle and what comes back is decided by the clock, and therefore kept: the
worker takes a checkpoint that holds the decision before it reads on (`decide`).
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from connectors.kafka.boxes import Inbox, Place, size_of, sizes_of
from connectors.kafka.options import Options
from streamlearn.events import Record


def inbox_of(options: Options, emptier: Callable[[], object]) -> Inbox:
    """The inbox that the options ask for."""
    if options.merge_idle is None:
        return Inbox(options.inbox_bytes, emptier)
    return MergedInbox(options.inbox_bytes, emptier, options.merge_idle)


class MergedInbox(Inbox):
    """An inbox that keeps partitions apart, each bounded by its share of the limit.

    idle_seconds: for so long must nothing have come of a partition that is read to its end.
    """

    def __init__(self, limit: int, emptier: Callable[[], object], idle_seconds: float) -> None:
        super().__init__(limit, emptier)
        self._idle_seconds = idle_seconds
        self._waiting: dict[Place, deque[tuple[int, Record]]] = {}
        self._sizes: dict[Place, int] = {}
        self._cursors: dict[Place, int] = {}
        self._published: dict[Place, int] = {}
        self._active: set[Place] = set()
        self.over: Callable[[Place, int], int] = lambda _, offset: offset
        """Behind offsets that hold no records."""

    def begin(
        self, cursors: Mapping[Place, int], idle: Collection[Place], published: Mapping[Place, int]
    ) -> None:
        """Before anything is put. cursors: where each partition is read on. published: P."""
        with self._changed:
            self._waiting = {place: deque() for place in cursors}
            self._sizes = dict.fromkeys(cursors, 0)
            self._cursors, self._published = dict(cursors), dict(published)
            self._active = set(cursors) - set(idle)

    def join(self, place: Place) -> None:
        """A new partition, idle until its first record comes."""
        with self._changed:
            self._waiting[place], self._sizes[place], self._cursors[place] = deque(), 0, 0

    def put(self, records: Sequence[Record], times: Iterable[int] = ()) -> None:
        if not records:
            return
        place = records[0].position[:2]
        size = sizes_of(records)
        with self._changed:
            self._waiting[place].extend(zip(times, records, strict=True))
            self._sizes[place] += size
            self._changed.notify()

    def take(self, most: int, timeout: float) -> list[Record]:
        with self._changed:
            self.taken_at = time.monotonic()
            if self._starved() and self._failure is None:
                self._changed.wait(timeout)
            before = self.full
            taken = [] if self._starved() else self._merge(most)
            if not taken and self._failure is not None:
                raise self._failure
            room = before and not self.full
        if room:
            self._emptier()
        return taken

    def _starved(self) -> bool:
        """Is there a partition that counts, whose next record is not known?"""
        return not self._active or any(not self._waiting[place] for place in self._active)

    def _merge(self, most: int) -> list[Record]:
        waiting, taken = self._waiting, list[Record]()
        heads = [(waiting[place][0][0], place) for place in self._active]
        heapq.heapify(heads)
        while len(taken) < most:
            _, place = heads[0]
            queue = waiting[place]
            record = queue.popleft()[1]
            taken.append(record)
            self._sizes[place] -= size_of(record)
            self._cursors[place] = record.position.offset + 1
            if not queue:
                break
            heapq.heapreplace(heads, (queue[0][0], place))
        return taken

    def decide(self, drained: Mapping[Place, float]) -> bool:
        """Which partitions count from now on? True if that has changed: it must be kept before more is taken.

        drained: since when each partition that is read to its end has been. Belongs to the learner.
        """
        with self._changed:
            waiting = self._waiting
            empty = {place for place in self._active if not waiting[place]}
            held_up = any(waiting.values())
            before = time.monotonic() - self._idle_seconds
            idle = {place for place in empty if held_up and drained.get(place, before + 1) <= before}
            # What was published was so without the idle ones: none comes back before all of it is read again.
            # (But below its own P it must be read: `checkpoints use` has gone back beyond a decision.)
            again = any(
                self._below(place) and (waiting[place] or place not in drained) for place in self._active
            )
            back = {
                place
                for place in waiting.keys() - self._active
                if waiting[place] and (not again or self._below(place))
            }
            self._active = self._active - idle | back
            if back:
                self._changed.notify()
        return bool(idle or back)

    def _below(self, place: Place) -> bool:
        """Has its next record been published before?"""
        return self.over(place, self._cursors[place]) < self._published.get(place, 0)

    @property
    def idle(self) -> list[Place]:
        """Partitions that don't count now."""
        return sorted(self._waiting.keys() - self._active)

    @property
    def active(self) -> list[Place]:
        """Those that do; none before `begin`."""
        return sorted(self._active)

    @property
    def wanted(self) -> list[Place]:
        """Partitions that there is room for."""
        share = self._limit // max(1, len(self._sizes))
        return [place for place, size in self._sizes.items() if size < share]

    @property
    def full(self) -> bool:
        return not self.wanted

    @property
    def depth(self) -> int:
        return sum(map(len, self._waiting.values()))
