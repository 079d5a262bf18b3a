"""Piles of slots of which the largest is known at any time: what gives way when there is no room."""

from __future__ import annotations

import heapq
from collections import deque


class Piles:
    """Slots in piles, one a cell, and which pile is the largest: of equals that of the highest cell."""

    def __init__(self) -> None:
        self.slots: list[deque[int]] = []
        # (-size, -cell), also outdated ones: a pile's entry is true if it has that size now.
        self._heap: list[tuple[int, int]] = []

    def open(self, cell: int) -> None:
        """Make an empty pile for `cell`, the next one, if there is none."""
        if cell == len(self.slots):
            self.slots.append(deque())

    def push(self, cell: int, slot: int) -> None:
        self.open(cell)
        self.slots[cell].append(slot)
        self._changed(cell)

    def pop_newest(self, cell: int) -> int:
        slot = self.slots[cell].pop()
        self._changed(cell)
        return slot

    def pop_oldest(self, cell: int) -> int:
        slot = self.slots[cell].popleft()
        self._changed(cell)
        return slot

    def largest(self) -> tuple[int, int]:
        """Size and cell of the largest pile; (0, -1) where all are empty."""
        heap = self._heap
        while heap:
            size, cell = -heap[0][0], -heap[0][1]
            if size == len(self.slots[cell]):
                return size, cell
            heapq.heappop(heap)
        return 0, -1

    def _changed(self, cell: int) -> None:
        if len(self._heap) > 2 * len(self.slots) + 64:
            self._heap = [(-len(pile), -i) for i, pile in enumerate(self.slots) if pile]
            heapq.heapify(self._heap)
        elif self.slots[cell]:
            heapq.heappush(self._heap, (-len(self.slots[cell]), -cell))
