"""How old records are when their answers become visible: from Kafka's timestamp to the commit."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence

from connectors.kafka.boxes import Place
from connectors.kafka.records import Fetched

STRIDE = 64
"""So many records, one after another, count as old as the first of them: a record costs next to nothing."""
MOST = 10_000
"""Of such groups that nobody asked about yet."""


class Ages:
    """Belongs to the Kafka loop; `take` to whoever wants to know."""

    def __init__(self) -> None:
        self._waiting: dict[Place, deque[tuple[int, int, int]]] = {}
        self._found: deque[tuple[float, int]] = deque(maxlen=MOST)

    def came(self, place: Place, messages: Sequence[Fetched], published: int) -> None:
        """Records of one partition, in order, that are handed to the learner; below `published`: again."""
        waiting = self._waiting.setdefault(place, deque())
        for start in range(0, len(messages), STRIDE):
            last = min(start + STRIDE, len(messages)) - 1
            if messages[last].offset >= published:
                waiting.append((messages[last].offset, messages[start].timestamp, last + 1 - start))

    def visible(self, published: Mapping[Place, int]) -> None:
        """A commit was taken: outputs of all records below these offsets can be read."""
        now = time.time()
        for place, waiting in self._waiting.items():
            upto = published.get(place, 0)
            while waiting and waiting[0][0] < upto:
                _, milliseconds, count = waiting.popleft()
                if milliseconds >= 0:
                    self._found.append((max(0.0, now - milliseconds / 1000), count))

    def take(self) -> list[tuple[float, int]]:
        """Seconds and how many records were so old, since the last call."""
        return [self._found.popleft() for _ in range(len(self._found))]
