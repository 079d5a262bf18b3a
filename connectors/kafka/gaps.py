"""Offsets behind the last record that hold none: marks of transactions, records of aborted ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from aiokafka import TopicPartition

from connectors.kafka.boxes import Place, beyond


class Gaps:
    """The last such stretch of every partition. It stays true, so that `over` may be asked at any time.

    Who stood before one for ever would ask, after a rebalance or at the next start, for an offset that
    retention may have deleted, though it has read every record. So commits say it too, for whoever is killed
    before a checkpoint behind it.
    """

    def __init__(self) -> None:
        self._gaps: dict[Place, tuple[int, int]] = {}

    def learn(self, known: Mapping[Place, tuple[int, int]]) -> None:
        """Of those that a worker before this one has seen."""
        self._gaps |= known

    async def look(
        self, consumer: Any, reads: MutableMapping[Place, int], reading: Callable[[], bool]
    ) -> None:
        """Move what is read on (`reads`, handed over so far) to where the client is, which hands out records
        alone. reading: whether the partitions are ours, and sought."""
        for place in reads if reading() else ():
            position = await consumer.position(TopicPartition(*place))
            if reading() and position > reads[place]:
                self.passed(place, reads[place], position)
                reads[place] = position

    def passed(self, place: Place, at: int, to: int) -> None:
        """From `at`, behind the last record that was handed over or the last gap, to `to` there is none."""
        begin, end = self._gaps.get(place, (at, at))
        self._gaps[place] = (begin if end == at else at, to)

    def last(self, place: Place) -> tuple[int, int] | None:
        """Where it begins and ends, if there is one. From any thread."""
        return self._gaps.get(place)

    def over(self, place: Place, offset: int) -> int:
        """Where whoever has everything below `offset` may go on as well. From any thread."""
        return beyond(self._gaps.get(place), offset)
