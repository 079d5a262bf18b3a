"""The data plane: a Faust service that owns the consumer and the transactional producer.

It runs on the Kafka loop. Records go into the inbox, outputs come from the outbox; a commit carries the
outputs, P of every partition and the name of the newest durable checkpoint whose C is not above it.
Faust's own consumer is not used: it acknowledges what failed, and its recovery overwrites our seeks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CorruptRecordException, KafkaError
from mode import Service

from connectors.kafka.ages import Ages
from connectors.kafka.assignor import Listener
from connectors.kafka.boxes import Inbox, Outbox, Place
from connectors.kafka.committed import Asker, Committed, read_committed
from connectors.kafka.committer import STOP_SECONDS, Committer
from connectors.kafka.consumer import consumer_of
from connectors.kafka.errors import explain
from connectors.kafka.gaps import Gaps
from connectors.kafka.merge import MergedInbox, inbox_of
from connectors.kafka.names import read_any, unreadable
from connectors.kafka.options import Options
from connectors.kafka.patience import attempt, explained, refuse_gone
from connectors.kafka.records import Records, records_of
from connectors.kafka.watch import Watch
from streamlearn.events import ConnectorError, Fenced, Record, Unreachable, UsageError

log = logging.getLogger(__name__)

AT_ONCE = 2000
"""Records that one fetch hands over at most."""
FETCH_MS = 200
HOLD_SECONDS = 2.0
"""A learner that is behind for longer gets its partitions paused; before, nothing is fetched."""
ASK_SECONDS = 0.2
COMMANDS_BYTES = 1 << 20
"""Of commands that wait; each may take a checkpoint."""
COMMANDS_AT_ONCE = 8


class DataPlane(Service):
    """Consumer, producer and what passes between them and the boxes. All methods belong to the loop."""

    logger = logging.getLogger("faust")

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.options = options
        loop = asyncio.get_running_loop()
        self._room, self._handed = asyncio.Event(), asyncio.Event()
        self.inbox = inbox_of(options, lambda: loop.call_soon_threadsafe(self._room.set))
        self.outbox = Outbox(options.outbox_bytes, lambda: loop.call_soon_threadsafe(self._handed.set))
        self.consumer: AIOKafkaConsumer | None = None
        self._assigned, self._gate = asyncio.Event(), asyncio.Event()
        self.gaps = Gaps()
        answered, owning, gap = self._answered, self._assigned.wait, self.gaps.last
        self.committer = Committer(
            options, self.outbox, self._handed, answered, owning, lambda: self.inbox.depth, gap
        )
        self.watch = Watch(options, self.inbox, self.outbox, self.committer, self._gate.is_set)
        self.standby = Asker(options)
        """What asks, while another one learns, for what that has committed."""
        self.ages = Ages()
        self.counts = {"rebalances": 0, "fetch_pauses": 0, "commits": 0}
        self.failure: ConnectorError | None = None
        self.commands_topic = ""
        self.commands = Inbox(COMMANDS_BYTES, lambda: loop.call_soon_threadsafe(self._room.set))
        self.next: dict[Place, int] = {}
        """The record after the last one that went into the inbox, or the end of the gap behind that."""
        self._owned: frozenset[TopicPartition] = frozenset()
        self._assignment: frozenset[TopicPartition] = frozenset()
        self.elsewhere = False
        """Has the group, when it last formed, given the partitions to another member?"""
        self._incomplete_since: float | None = None
        self._turn, self._stopping = 0, False
        self.held = self._gate.is_set
        """Are the partitions this member's, sought and read?"""

    # -- start

    async def connect(self, topics: Mapping[str, int]) -> None:
        """Start the consumer. With a group it joins that; without one it gets every partition.

        topics: their partition counts.
        """
        options = self.options
        self.consumer = consumer_of(options, topics, lambda: self.committer.epoch if self._owned else 0)
        await attempt(options, self.consumer.start)
        if options.group is not None:
            self.consumer.subscribe(list(topics), listener=Listener(self.revoked, self.given))
            return
        self._assignment = frozenset(TopicPartition(t, p) for t, n in topics.items() for p in range(n))
        self.consumer.assign(list(self._assignment))
        self._assigned.set()

    async def assigned(self, timeout: float) -> bool:
        """Has this member got the partitions? Waits about `timeout` seconds. Raises what keeps it away."""
        assert self.consumer is not None
        with suppress(TimeoutError):
            await asyncio.wait_for(self._assigned.wait(), timeout)
        if self.failure is not None:
            raise self.failure
        if not self._assigned.is_set():
            try:
                # Only who asks for records is told what is wrong with the group, and stays a member of it.
                await asyncio.wait_for(self.consumer.getmany(), ASK_SECONDS)
            except TimeoutError:
                pass  # a rebalance is going on
            except KafkaError as error:
                raise explain(error, self.options.where) from error
        return self._assigned.is_set()

    async def whole(self, topics: Mapping[str, int]) -> bool:
        """Are all partitions assigned that there are (`topics`: their counts)? If not, join the group again.

        A member that was restarted soon, and is known by its name, gets what it had, whatever has grown: the
        broker asks nobody anew. Where another member hands out, that one sees what has grown a moment later.
        """
        assert self.consumer is not None
        if self._assignment == {TopicPartition(t, p) for t, count in topics.items() for p in range(count)}:
            return True
        if self._incomplete_since is None:
            self._incomplete_since = time.monotonic()
            self._assigned.clear()
            self.consumer.subscribe(list(topics), listener=Listener(self.revoked, self.given))
        elif time.monotonic() - self._incomplete_since > self.options.deadline:
            log.warning("the group doesn't hand out all partitions yet: those that are missing come later")
            return True
        await asyncio.sleep(ASK_SECONDS)
        return False

    async def claim(self, topic: str, strict: bool = True) -> tuple[Committed, bool]:
        """Fence whoever was the learner before, and read what the group has committed (`read_committed`).

        Only behind the fence are committed offsets final. Also says whether the membership has outlasted it.
        """
        assert self.consumer is not None
        turn = self._turn
        if self.options.exactly_once:
            await self.committer.start(transactional=True)
        committed = await self._asked(read_committed(self.options, topic, strict))
        await self.standby.close()
        still = self._assigned.is_set() and self._turn == turn
        if not still:
            await self.committer.stop()
        elif not self.options.exactly_once:
            self.committer.consumer = self.consumer
            await self.committer.start(transactional=False)
        self._owned = self._assignment if still else frozenset()
        # Whoever joins while the checkpoint is being loaded must find a learner here.
        self.committer.claimed(committed)
        if still:
            self.add_future(self._guarded(lambda: self.watch.begin(self.consumer, self.places, self.next)))
        return committed, still

    async def _asked(self, question: Awaitable[Any]) -> Any:
        try:
            return await asyncio.wait_for(question, self.options.deadline)
        except Exception as error:
            raise explain(error, self.options.where) from error

    @property
    def places(self) -> list[Place]:
        """Every partition that is read."""
        return sorted((tp.topic, tp.partition) for tp in self._assignment)

    async def bounds(self) -> tuple[dict[Place, int], dict[Place, int]]:
        """First and next offset of every partition."""
        assert self.consumer is not None
        asked = [TopicPartition(*place) for place in self.places]
        first = await self._asked(self.consumer.beginning_offsets(asked))
        last = await self._asked(self.consumer.end_offsets(asked))
        self.watch.ends = {(tp.topic, tp.partition): offset for tp, offset in last.items()}
        return {(tp.topic, tp.partition): offset for tp, offset in first.items()}, dict(self.watch.ends)

    def flow(self, start: Mapping[Place, int]) -> None:
        """Begin to read, at `start`."""
        consumer = self.consumer
        assert consumer is not None
        self.next |= start
        self._seek()
        self.add_future(self._guarded(self._pump))
        self.add_future(self._guarded(lambda: self.watch.run(consumer, self.next)))

    def publish(self, published: Mapping[Place, int], epoch: int) -> None:
        """Begin to send what comes into the outbox. `published`: P, `epoch`: that of all commits."""
        self.committer.published, self.committer.epoch = dict(published), epoch
        self.add_future(self._guarded(self.committer.run))

    # -- assignment

    def revoked(self) -> None:
        """A rebalance begins: nothing is read until the partitions are ours again and sought."""
        self._turn += 1
        self.counts["rebalances"] += 1
        self.committer.doubtful = True
        self._gate.clear()
        self._assigned.clear()

    def given(self, partitions: frozenset[TopicPartition]) -> None:
        """A rebalance has ended."""
        self._assignment = partitions
        if not self._owned:
            self.elsewhere = not partitions
            if partitions:
                self._assigned.set()
            return
        if not self._owned <= partitions:
            self.add_future(self._guarded(self._lost))
            return
        for tp in partitions - self._owned:
            if tp.topic == self.commands_topic:
                several = f"topic {tp.topic} has got several partitions: commands need one, in order"
                self.fail(UsageError(several))
                return
            log.warning(
                "%s has a new partition, %d: it is read from its beginning; keys may have moved to it",
                tp.topic,
                tp.partition,
            )
            self.next[tp.topic, tp.partition] = 0
            if isinstance(self.inbox, MergedInbox):
                self.inbox.join((tp.topic, tp.partition))
            self.committer.published[tp.topic, tp.partition] = 0
        self._owned = partitions
        self._assigned.set()
        if self.next:
            self._seek()

    async def _lost(self) -> None:
        await refuse_gone(self.options)
        if self._assigned.is_set():
            return  # they came back at once
        raise Fenced(
            f"{self.options.where}: another worker of group {self.options.group} got the partitions: it goes "
            "on from the last commit, nothing is lost"
        )

    def _seek(self) -> None:
        """Read on behind what was handed over; not amid a rebalance: its end comes here again."""
        assert self.consumer is not None
        if not self._assigned.is_set() or self.failure is not None:
            return
        for place, offset in self.next.items():
            self.consumer.seek(TopicPartition(*place), offset)
        self._gate.set()

    # -- in

    async def _pump(self) -> None:
        while not self._stopping:
            if not await self._open():
                continue
            if self._full:
                await self._hold()
            turn = self._turn
            self._deliver(await self._fetched(*self._wanted(), timeout_ms=FETCH_MS), turn)
            await self.gaps.look(self.consumer, self.next, self._gate.is_set)

    async def _open(self) -> bool:
        """Are the partitions ours and sought? Waits for a while. Raises what keeps the member away."""
        assert self.consumer is not None
        try:
            async with asyncio.timeout(HOLD_SECONDS):
                await self._gate.wait()
        except TimeoutError:
            # Only who asks is told that there will be no end to this rebalance.
            with suppress(TimeoutError):
                async with asyncio.timeout(ASK_SECONDS):
                    if await self._fetched():
                        self._seek()
        return self._gate.is_set()

    async def _fetched(self, *wanted: TopicPartition, timeout_ms: int = 0) -> Records:
        """What has come of these partitions; of none: of all."""
        assert self.consumer is not None
        try:
            found: Records = await self.consumer.getmany(*wanted, timeout_ms=timeout_ms, max_records=AT_ONCE)
            return found
        except (UnicodeDecodeError, CorruptRecordException) as error:
            if not unreadable(error):
                raise
            log.warning("%s: a record has a header whose name is not UTF-8: it is read", self.options.where)
            read_any()
            self._seek()
            return {}

    def _wanted(self) -> list[TopicPartition]:
        """Partitions to take records of; none: all."""
        if not isinstance(self.inbox, MergedInbox):
            return []
        wanted = {(self.commands_topic, 0), *self.inbox.wanted}
        return [tp for tp in self._assignment if (tp.topic, tp.partition) in wanted]

    def _deliver(self, found: Records, turn: int) -> None:
        """Hand over what was asked for at `turn`."""
        if turn != self._turn:
            # It may be of before the rebalance, or of after it and behind our seek: the client has moved on
            # over it either way.
            self._seek()
            return
        for tp, messages in found.items():
            self.watch.answered()
            place = tp.topic, tp.partition
            if messages[0].offset < self.next[place]:
                raise Unreachable(f"{place}: offset {messages[0].offset} came again: please report it")
            self.next[place] = messages[-1].offset + 1
            records = records_of(tp, messages)
            if tp.topic == self.commands_topic:
                self.commands.put(records)
            else:
                self.watch.drained.pop(place, None)
                if self.committer.producer is not None:
                    self.ages.came(place, messages, self.committer.published.get(place, 0))
                self.inbox.put(records, (message.timestamp for message in messages))

    def take_commands(self) -> list[Record]:
        """Some of the commands that have come: between them there is learning. Belongs to the learner."""
        return self.commands.take(COMMANDS_AT_ONCE, 0.0) if self.commands.depth else []

    @property
    def _full(self) -> bool:
        return self.inbox.full or self.commands.full

    async def _hold(self) -> None:
        """Until the learner has caught up: for short by not fetching, then by pausing the partitions.

        Commands are read on, unless they are too many.
        """
        consumer = self.consumer
        assert consumer is not None
        paused = False
        while not self._stopping:
            self._room.clear()
            if not self._full:
                break
            try:
                async with asyncio.timeout(HOLD_SECONDS):
                    await self._room.wait()
            except TimeoutError:
                if not await self._open():
                    continue
                turn, all_of_it = self._turn, self.commands.full
                held = {tp for tp in consumer.assignment() if all_of_it or tp.topic != self.commands_topic}
                if not held <= consumer.paused():
                    self.counts["fetch_pauses"] += 1
                consumer.resume(*(consumer.paused() - held))
                consumer.pause(*(held - consumer.paused()))
                paused = True
                # Asking shows the client that somebody is there.
                self._deliver(await self._fetched(timeout_ms=FETCH_MS), turn)
        if paused:
            consumer.resume(*consumer.paused())

    # -- ends

    def _answered(self) -> None:
        self.counts["commits"] += 1
        self.ages.visible(self.committer.published)
        self.watch.answered()

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if not self._stopping:
                self.fail(await explained(error, self.options))
                # Whoever reads no more must not keep others from it, however long its learner takes to end.
                await self._stop_consumer()

    def fail(self, failure: ConnectorError) -> None:
        """Say it to the learner, in both boxes; reading and sending end."""
        if self.failure is None:
            self.failure = failure
            self._gate.clear()
            self.committer.ended = True
            self.inbox.fail(failure)
            self.outbox.fail(failure)

    async def on_stop(self) -> None:
        self._stopping = True
        self._gate.set()
        self._room.set()
        await asyncio.gather(self.committer.stop(), self._stop_consumer(), self.standby.close())

    async def _stop_consumer(self) -> None:
        if self.consumer is not None:
            with suppress(KafkaError, TimeoutError, AssertionError):
                await asyncio.wait_for(self.consumer.stop(), STOP_SECONDS)
