"""The data plane against a consumer that does what aiokafka does at the worst moment; no broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiokafka import TopicPartition

from connectors.kafka.boxes import Message
from connectors.kafka.gaps import Gaps
from connectors.kafka.options import Options
from connectors.kafka.plane import DataPlane
from connectors.kafka.records import HEADER, batches, bytes_of

PLACE = TopicPartition("t", 0)


@dataclass
class Read:
    offset: int
    value: bytes = b"{}"
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass
class Client:
    """A log of 1000 records; `meanwhile` runs while records are waited for, by call."""

    meanwhile: dict[int, Callable[[], None]]
    at: int = -1
    calls: int = 0
    seeks: list[int] = field(default_factory=list)

    def seek(self, place: TopicPartition, offset: int) -> None:
        self.at = offset
        self.seeks.append(offset)

    async def getmany(self, **_: Any) -> dict[TopicPartition, list[Read]]:
        await asyncio.sleep(0)
        self.calls += 1
        self.meanwhile.pop(self.calls, lambda: None)()
        start = self.at
        self.at = min(1000, start + 10)
        if self.at == 1000 and start < 1000:
            self.at += 2  # marks of transactions
        return {PLACE: [Read(offset) for offset in range(start, min(1000, self.at))]} if start < 1000 else {}

    async def position(self, place: TopicPartition) -> int:
        return self.at


def test_records_that_come_across_a_rebalance_are_read_again() -> None:
    """A rebalance begins and ends within one call of the client, which then returns from behind our seek."""

    async def read() -> list[int]:
        plane = DataPlane(Options({}, "nowhere", "group"))
        everything = frozenset([PLACE])

        def rebalance() -> None:
            plane.revoked()
            plane.given(everything)

        def begins() -> None:
            plane.revoked()
            client.meanwhile[client.calls + 1] = ends
            plane.given(everything)

        def ends() -> None:
            plane.revoked()
            plane.given(everything)

        client = Client({3: rebalance, 5: begins, 20: rebalance})
        plane.consumer = client
        plane.given(everything)
        plane._owned = everything
        plane.next = {("t", 0): 7}
        plane._seek()
        pump = asyncio.create_task(plane._pump())
        found: list[int] = []
        while not found or found[-1] < 999:
            await asyncio.sleep(0)
            assert not pump.done()
            found += [record.position.offset for record in plane.inbox.take(100, 0)]
        while plane.next["t", 0] < 1002:
            await asyncio.sleep(0)
            assert not pump.done()
        pump.cancel()
        assert plane.gaps.over(("t", 0), 1000) == 1002
        assert plane.gaps.over(("t", 0), 999) == 999
        assert len(client.seeks) > 4
        return found

    assert asyncio.run(asyncio.wait_for(read(), 60)) == list(range(7, 1000))


def test_what_was_given_up_is_not_read_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that has lost its partitions to another one reads nothing more."""

    async def all_there(_: Options) -> None:
        pass

    async def lost() -> None:
        plane = DataPlane(Options({}, "nowhere", "group"))
        client = Client({})
        plane.consumer = client
        plane.given(frozenset([PLACE]))
        plane._owned, plane.next = frozenset([PLACE]), {("t", 0): 7}
        plane._seek()
        assert plane._gate.is_set()
        plane.revoked()
        plane.given(frozenset())
        plane._seek()
        assert not plane._gate.is_set()
        while plane.failure is None:
            await asyncio.sleep(0)
        assert "another worker of group group got the partitions" in str(plane.failure)

    monkeypatch.setattr("connectors.kafka.plane.refuse_gone", all_there)
    asyncio.run(asyncio.wait_for(lost(), 60))


def test_gaps_end_where_records_begin() -> None:
    gaps, place = Gaps(), ("t", 0)
    gaps.passed(place, 50, 51)
    gaps.passed(place, 51, 53)  # no record between: one gap
    assert [gaps.over(place, at) for at in (49, 50, 52, 53)] == [49, 53, 53, 53]
    gaps.passed(place, 60, 61)
    assert [gaps.over(place, at) for at in (50, 59, 60, 61)] == [50, 59, 61, 61]
    assert gaps.over(("t", 1), 60) == 60


class Builder:
    """As aiokafka's: takes the first message whatever its size."""

    def __init__(self) -> None:
        self.bytes = 61
        self.values: list[bytes] = []

    def size(self) -> int:
        return self.bytes

    def append(self, value: bytes, **_: object) -> object:
        self.bytes += len(value) + 12
        self.values.append(value)
        return self


class Producer:
    create_batch = Builder


def test_batches_keep_to_what_their_topic_takes() -> None:
    """In order, every message once, and alone where it is large."""
    sizes = [100, 300, 50, 900, 20, 20, 1000, 10]
    messages = [
        Message((topic, 0), None, bytes([n]) * size)
        for n, size in enumerate(sizes)
        for topic in ("small", "large")
    ]
    found: dict[str, list[bytes]] = {"small": [], "large": []}
    limits = {"small": max(map(bytes_of, messages)) + HEADER, "large": 1 << 20}
    count = {"small": 0, "large": 0}
    for (topic, _), batch in batches(Producer(), messages, limits):
        assert batch.size() <= limits[topic]
        found[topic] += batch.values
        count[topic] += 1
    for topic, values in found.items():
        assert values == [message.value for message in messages if message.place[0] == topic]
    assert count["large"] == 1
    assert 3 <= count["small"] <= 5
