"""Who waits for a broker, a disk or a learner: for how long, holding how much, and not passing for dead."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from connectors.kafka import committed, committer, options, plane
from connectors.kafka.boxes import Message, Outbox, Parcel
from connectors.kafka.committer import Committer
from connectors.kafka.options import Options
from connectors.kafka.source import KafkaSource
from ops.kafka.broker import Broker
from streamlearn.checkpoint import CheckpointStore
from streamlearn.events import Fenced, Stopped, Unreachable
from tests.kafka_worker import new_place
from tests.streams import vectors
from tests.test_kafka_plane import Read

EVENTS = vectors(60)
FULL = "STREAMLEARN_TEST_FULL"


# ---- commands


@dataclass
class Client:
    """Records without end in one partition, commands in another."""

    at: dict[TopicPartition, int]
    stopped: set[TopicPartition] = field(default_factory=set)

    def assignment(self) -> set[TopicPartition]:
        return set(self.at)

    def paused(self) -> set[TopicPartition]:
        return set(self.stopped)

    def pause(self, *places: TopicPartition) -> None:
        self.stopped |= set(places)

    def resume(self, *places: TopicPartition) -> None:
        self.stopped -= set(places)

    def seek(self, place: TopicPartition, offset: int) -> None:
        self.at[place] = offset

    async def position(self, place: TopicPartition) -> int:
        return self.at[place]

    async def getmany(self, *_: TopicPartition, **__: Any) -> dict[TopicPartition, list[Read]]:
        await asyncio.sleep(0)
        found = {}
        for place in self.assignment() - self.stopped:
            start = self.at[place]
            self.at[place] += 500
            found[place] = [Read(offset, b"x" * 900) for offset in range(start, start + 500)]
        return found


def test_commands_that_nobody_takes_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """And they are read on once they are taken, also while no record is."""
    monkeypatch.setattr(plane, "HOLD_SECONDS", 0.001)
    events, commands = TopicPartition("t", 0), TopicPartition("c", 0)
    block = 500 * 1000

    async def read() -> None:
        one = plane.DataPlane(Options({}, "nowhere", "group", inbox_bytes=8 * block))
        one.commands_topic = "c"
        client = Client({events: 0, commands: 0})
        one.consumer = client
        one.given(frozenset(client.at))
        one._owned = frozenset(client.at)
        one.next = {("t", 0): 0, ("c", 0): 0}
        one._seek()
        pump = asyncio.create_task(one._pump())
        taken: list[int] = []
        for _ in range(5):
            async with asyncio.timeout(30):
                while client.stopped != {events, commands}:
                    assert not pump.done()
                    await asyncio.sleep(0)
            assert one.commands.depth * 1000 <= plane.COMMANDS_BYTES + block
            while some := one.take_commands():
                assert len(some) <= plane.COMMANDS_AT_ONCE, "there is learning between them"
                taken += [record.position.offset for record in some]
            async with asyncio.timeout(30):
                while client.at[commands] == len(taken):
                    await asyncio.sleep(0)
        assert client.at[events] <= 9 * 500
        assert taken == list(range(len(taken)))
        pump.cancel()

    asyncio.run(read())


# ---- the group's offsets


class Admin:
    """One connection; `broken`: those that are lost. `made`: how many there were."""

    made = 0
    broken: set[int] = set()
    open: set[int] = set()

    def __init__(self, **_: object) -> None:
        Admin.made += 1
        self.number = Admin.made

    async def start(self) -> None:
        Admin.open.add(self.number)

    async def list_consumer_group_offsets(self, group: str) -> dict[TopicPartition, Any]:
        if self.number in Admin.broken:
            raise KafkaError("gone")
        at = committed_at(7, json.dumps({"checkpoint": group, "epoch": 3}))
        return {TopicPartition("t", 0): at}

    async def close(self) -> None:
        Admin.open.discard(self.number)


@dataclass
class committed_at:  # noqa: N801
    offset: int
    metadata: str


def test_one_connection_serves_a_standby_until_it_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committed, "AIOKafkaAdminClient", Admin)
    monkeypatch.setattr(Admin, "made", 0)
    monkeypatch.setattr(Admin, "broken", set())

    async def ask() -> None:
        given = Options({}, "nowhere", "g")
        asker = committed.Asker(given)

        async def asked() -> str | None:
            return (await committed.read_committed(given, "t", asker=asker)).checkpoint

        assert [await asked() for _ in range(5)] == ["g"] * 5
        assert Admin.made == 1
        Admin.broken = {1}  # an old connection: another one may do
        assert await asked() == "g"
        assert Admin.open == {2}
        Admin.broken = {2, 3}
        with pytest.raises(Unreachable):
            await asked()
        assert Admin.open == set()
        assert await asked() == "g"
        assert Admin.open == {4}
        await asker.close()
        await asker.close()
        assert await committed.read_committed(given, "t") == committed.Committed({("t", 0): 7}, "g", 3)
        assert Admin.open == set()

    asyncio.run(ask())


# ---- the ends of a topic


@dataclass
class Link:
    """Of a cluster in which a partition has no leader for `failures` questions."""

    failures: int
    plane: Any
    asked: int = 0

    def call(self, work: Callable[[], Any], stopped: Callable[[], bool]) -> Any:
        if stopped():
            raise Stopped("stopped while waiting")
        self.asked += 1
        if self.asked <= self.failures:
            raise Unreachable("no answer in time")
        return {}, {("t", 0): 5, ("t", 1): 7, ("c", 0): 1}


class Plane:
    failure: Exception | None = None

    class inbox:  # noqa: N801
        taken_at = 0.0

    bounds = None


def source(failures: int, **more: Any) -> tuple[KafkaSource, Link]:
    made = KafkaSource({"topic": "t", "bootstrap_servers": "a:1", **more})
    link = Link(failures, Plane())
    made._link = link  # type: ignore[assignment]
    return made, link


def test_a_partition_without_a_leader_is_waited_for() -> None:
    """`forget` asks how far the topic goes."""
    waiting, link = source(3)
    assert waiting.ends() == {0: 5, 1: 7}
    assert link.asked == 4
    assert link.plane.inbox.taken_at > 0, "the learner doesn't hang"


def test_such_waiting_ends() -> None:
    waiting, link = source(1 << 30, patience=0.01)
    with pytest.raises(Unreachable, match="no answer in time"):
        waiting.ends()
    assert link.asked > 1
    waiting, link = source(1 << 30)
    link.plane.failure = Fenced("another took over")
    with pytest.raises(Fenced):
        waiting.ends()
    waiting, link = source(1 << 30)
    # The link looks for a stop while it waits; it doesn't wait for what fails at once.
    waiting._stopped = lambda: link.asked > 2
    with pytest.raises(Stopped):
        waiting.ends()
    assert link.asked == 3


# ---- commits


def test_after_a_silence_commits_are_as_frequent_as_in_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only while outputs come without a pause does the time between them say how long a record waits."""
    pauses: list[float] = []
    more = {3: 5, 4: 5}

    class One(Committer):
        async def _commit(self, parcel: Parcel) -> None:
            pass

        async def _pause(self, until: float) -> None:
            pauses.append(round(until - now[0], 3))
            now[0] += 0.1
            if count := more.pop(len(pauses) + 1, 0):
                self.outbox.put([Message(("p", 0), None, b"")] * count, {})
            elif len(pauses) == 4:
                self.ended = True
                self._handed.set()

    now = [1000.0]
    monkeypatch.setattr(committer, "time", SimpleNamespace(monotonic=lambda: now[0]))

    async def run() -> None:
        handed = asyncio.Event()
        outbox = Outbox(1 << 20, handed.set)
        one = One(Options({}, "nowhere"), outbox, handed, lambda: None, asyncio.Event().wait, lambda: 100)
        task = asyncio.create_task(one.run())
        for commits in (1, 2):
            now[0] += 60
            outbox.put([Message(("p", 0), None, b"")] * 5, {})
            async with asyncio.timeout(30):
                while len(pauses) < commits:
                    await asyncio.sleep(0)
        await task

    asyncio.run(run())
    # 100 records wait, and 5 are done in .1 s: two seconds, of which a quarter.
    assert pauses == [0.1, 0.1, 0.5, 0.5]


# ---- a full disk


def fill() -> None:
    """In the worker's process: no checkpoint can be written while the file FULL is there."""
    write, flag = CheckpointStore.write, Path(os.environ[FULL])

    def full(self: CheckpointStore, *given: Any) -> Any:
        if flag.exists():
            print("TRIED", file=sys.stderr, flush=True)
            raise OSError(errno.ENOSPC, "No space left on device", str(self.folder))
        return write(self, *given)

    CheckpointStore.write = full  # type: ignore[method-assign, assignment]
    defaults = options.Options.__init__.__defaults__
    assert defaults is not None
    options.Options.__init__.__defaults__ = tuple(2.0 if each == 600.0 else each for each in defaults)


@pytest.fixture
def flag(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "full"
    yield path
    path.unlink(missing_ok=True)


def test_a_learner_that_waits_for_a_disk_does_not_hang(broker: Broker, tmp_path: Path, flag: Path) -> None:
    """For longer than one that hangs is waited for; records have come meanwhile."""
    place = new_place(broker, tmp_path)
    place.send(EVENTS[:50])
    with place.run(before=fill, env={FULL: str(flag)}) as run:
        place.until_kept(run, 50)
        flag.touch()
        place.send([b'{"command": "resume", "request": "r"}'], ".commands")
        run.says("TRIED")
        place.send(EVENTS[50:])
        run.until(lambda: run.said.count("TRIED") > 7, "seven seconds")
        flag.unlink()
        place.until_answered(run, 60)
        assert run.stops() == 0
    assert "hangs" not in run.said
