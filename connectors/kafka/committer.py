"""The way out: outputs in small transactions, each with P of every partition and a checkpoint's name."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import CommitFailedError, KafkaError, KafkaTimeoutError
from aiokafka.structs import OffsetAndMetadata

from connectors.kafka.boxes import Named, Outbox, Parcel, Place
from connectors.kafka.committed import Committed, metadata_of, read_committed
from connectors.kafka.consumer import session_of
from connectors.kafka.errors import SHARED
from connectors.kafka.options import Options
from connectors.kafka.patience import attempt
from connectors.kafka.records import BATCH_BYTES, batches
from connectors.kafka.tally import Tally
from streamlearn.events import Fenced

log = logging.getLogger(__name__)

RETRY_SECONDS = HURRY_SECONDS = 0.1
RARELY_SECONDS = 0.5
BEHIND = 0.25
"""Of the time for which records wait for the learner anyway: so long their outputs may wait for a commit."""
REQUEST_MS = 30_000
STOP_SECONDS, GIVEN_UP_SECONDS = 5.0, 1.0
"""For a client to say goodbye; and for one that has failed."""
IDLE_SECONDS = 3600.0
"""After so long without anything to say the last commit is made again: brokers forget whoever is silent, a
transactional id after seven days (transactional.id.expiration.ms), committed offsets after as long
(offsets.retention.minutes). Some are set to a day, or to hours; and a commit costs five requests."""
PROVEN = 0.5
"""Of a session: for so long after the broker has taken a member's commit nobody else learns, with time left
for what is sent then to arrive."""


Offsets = dict[TopicPartition, OffsetAndMetadata]


def interval_of(given: float, waits: float) -> float:
    """Seconds from one commit to the next; `waits`: what a record spends in our queue, at the present rate.

    A commit costs five requests and, on a machine that the broker shares, a tenth of the learner's time.
    Where whoever wants an answer waits for seconds, since many others come first, that buys nothing.
    """
    return min(max(given, BEHIND * waits), max(given, RARELY_SECONDS))


class Committer:
    """Owns the producer, and commits what comes into the outbox. All methods belong to the loop.

    answered: called after every commit. owning: returns once the partitions are this member's. behind: how
    many records wait for the learner. gap: see `Gaps.last`.
    """

    def __init__(
        self,
        options: Options,
        outbox: Outbox,
        handed: asyncio.Event,
        answered: Callable[[], None],
        owning: Callable[[], Awaitable[object]],
        behind: Callable[[], int],
        gap: Callable[[Place], tuple[int, int] | None] = lambda place: None,
    ) -> None:
        self.options, self.outbox = options, outbox
        self._handed, self._answered, self._owning, self._behind = handed, answered, owning, behind
        self._gap = gap
        self.producer: AIOKafkaProducer | None = None
        self.consumer: AIOKafkaConsumer | None = None
        """Whose commits go beside the outputs where they can't go with them."""
        self.doubtful = False
        """Whether there was a rebalance since the last commit: another worker may have committed."""
        self.ended = False
        """Nothing is committed any more."""
        self.epoch = 0
        self.published: dict[Place, int] = {}
        self.named: str | None = None
        """The checkpoint that the newest commit names."""
        self._begins: Mapping[Place, int] = {}
        """Its C."""
        self.tally = Tally()
        self._proven = 0.0
        self._durable: list[Named] = []
        self._since: float | None = None

    @property
    def takes(self) -> float:
        """Seconds that the commit under way has taken; 0 for none."""
        return time.monotonic() - self._since if self._since is not None else 0.0

    def claimed(self, committed: Committed) -> None:
        """Whose work this one goes on with, an epoch later."""
        self.epoch = committed.epoch + 1
        self.tally.claimed(committed, self.options.topic)

    async def start(self, transactional: bool) -> None:
        """Start the producer. A transactional one fences its predecessor and settles what that left open."""
        options = self.options
        patience = int(options.patience * 1000)
        settings: dict[str, Any] = {
            "acks": "all",
            "enable_idempotence": True,
            "max_batch_size": BATCH_BYTES,
            # As the consumer's: so soon new partitions are found.
            "metadata_max_age_ms": 30_000,
            # A connection that died unseen is given up after this, and the request sent again.
            "request_timeout_ms": min(patience, REQUEST_MS),
        }
        if transactional:
            settings |= {"transactional_id": options.transactional_id, "transaction_timeout_ms": patience}
        settings |= options.more_of_producer
        try:
            self.producer = AIOKafkaProducer(**options.connection, **settings)
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            raise options.mistaken("sink.client", error) from error
        await attempt(options, self.producer.start)

    async def run(self) -> None:
        """A commit an interval, while there is something to say."""
        last = time.monotonic()
        while True:
            busy = self._handed.is_set()
            await self._wait()
            if self.ended:
                return
            self._handed.clear()
            begun = time.monotonic()
            swapped = self.outbox.swap()
            if swapped is None:
                continue
            parcel, handed = swapped
            await self._commit_in_time(parcel)
            self.outbox.sent(handed)
            if self.outbox.waiting:
                self._handed.set()
            # What came after a silence says nothing of the rate.
            waits = (
                self._behind() * (begun - last) / len(parcel.messages) if busy and parcel.messages else 0.0
            )
            await self._pause(begun + interval_of(self.options.commit_interval, waits))
            last = begun

    async def _wait(self) -> None:
        """Until there is something to say; meanwhile see to it that the broker doesn't forget us."""
        while not self._handed.is_set():
            try:
                await asyncio.wait_for(self._handed.wait(), IDLE_SECONDS)
            except TimeoutError:
                if self.ended:
                    return
                if self.named is not None and self.options.group is not None:
                    await self._commit_in_time(Parcel())

    async def _commit_in_time(self, parcel: Parcel) -> None:
        """Commit, which a broker has answered then. Raises TimeoutError after source.patience."""
        self._since = time.monotonic()
        await asyncio.wait_for(self._commit(parcel), self.options.patience)
        self._since = None
        self._answered()

    async def _pause(self, until: float) -> None:
        """Until the next commit is due, or somebody waits for it."""
        while not self.outbox.hurry and (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, HURRY_SECONDS))

    async def _commit(self, parcel: Parcel) -> None:
        published = self.published | parcel.published
        self._durable += parcel.named
        fitting = [n for n in self._durable if all(published.get(p, -1) >= o for p, o in n.offsets.items())]
        named = fitting[-1] if fitting else None
        name, begins = self.named, self._begins
        if named is not None:
            if self.named is None:
                self.tally.begin(named.checkpoint)
            name, begins = named.checkpoint, named.offsets
        offsets = self._offsets(published, name, begins)
        if self.options.exactly_once:
            await self._transaction(parcel, offsets)
        else:
            await self._flush(parcel, offsets)
        self.published, self.named, self._begins = published, name, begins
        if named is not None:
            self.tally.forget(begins)
            self._durable = self._durable[self._durable.index(named) + 1 :]

    async def _transaction(self, parcel: Parcel, offsets: Offsets) -> None:
        producer, group = self.producer, self.options.group
        assert producer is not None and group is not None
        await producer.begin_transaction()
        try:
            await self._send(parcel)
            await producer.send_offsets_to_transaction(offsets, group)
        except BaseException:
            # Readers needn't wait for the next start to see that nothing came of this.
            await self._abort()
            raise
        await producer.commit_transaction()

    async def _abort(self) -> None:
        assert self.producer is not None
        try:
            await asyncio.wait_for(self.producer.abort_transaction(), 5.0)
        except (KafkaError, TimeoutError, AssertionError):
            log.debug("the transaction is left to the next start")

    async def _flush(self, parcel: Parcel, offsets: Offsets) -> None:
        await self._send(parcel)
        if self.options.group is not None and self.consumer is not None:
            await self._commit_beside(offsets)

    async def _prove(self) -> None:
        """Before anything is sent that no transaction hides: is this still the one that learns?

        A process that was stopped for longer than its session finds others at work when it goes on, and what
        it sends then comes after theirs. So the broker is asked, by making the last commit again, which it
        takes of a member alone. What the client had been given at the stop goes out: of a partition a batch
        on its way, one that is next and one that waits to be.
        """
        if self.options.exactly_once or self.consumer is None or self.named is None:
            return
        if time.monotonic() - self._proven > PROVEN * session_of(self.options):
            await self._commit_beside(self._offsets(self.published, self.named, self._begins))

    async def _commit_beside(self, offsets: Offsets) -> None:
        """Commit without a transaction. Raises Fenced once another worker has committed."""
        assert self.consumer is not None
        while not self.ended:
            # Outside of a membership, or in another's place, the broker would take it from whoever asks.
            await self._owning()
            if self.doubtful:
                self.doubtful = False
                await self._refuse_successor()
                continue
            asked = time.monotonic()
            try:
                await self.consumer.commit(offsets)
                self._proven = asked
                return
            except CommitFailedError:
                # A worker that joins is enough for that. If the partitions go to it, the plane ends us.
                self.doubtful = True
                await asyncio.sleep(RETRY_SECONDS)
        raise Fenced(f"{self.options.where}: ended before the commit was taken")

    async def _refuse_successor(self) -> None:
        """No transaction fences here: whoever was away may find that others have gone on. Raises Fenced."""
        if (await read_committed(self.options, self.options.topic, strict=False)).epoch > self.epoch:
            raise Fenced(
                f"{self.options.where}: another worker of group {self.options.group} has gone on meanwhile: "
                f"a new start goes on from its last commit{SHARED}"
            )

    async def _send(self, parcel: Parcel) -> None:
        """Send and see every send's result: a commit would not fail for one that failed."""
        producer = self.producer
        assert producer is not None
        sends = []
        for place, batch in batches(producer, parcel.messages, self.options.limits):
            await self._prove()
            sends.append(await self._enqueue(producer, place, batch))
        if sends:
            await asyncio.gather(*sends)

    @staticmethod
    async def _enqueue(producer: AIOKafkaProducer, place: Place, batch: Any) -> asyncio.Future[Any]:
        """The result to come. Waits while the batch before it isn't taken: patience is the caller's."""
        topic, partition = place
        while True:
            try:
                result: asyncio.Future[Any] = await producer.send_batch(batch, topic, partition=partition)
                return result
            except KafkaTimeoutError:
                log.debug("%s:%d takes nothing yet", topic, partition)

    def _offsets(
        self, published: Mapping[Place, int], name: str | None, begins: Mapping[Place, int]
    ) -> Offsets:
        """begins: C of checkpoint `name`."""
        offsets = {}
        for place, offset in published.items():
            counted = place[0] == self.options.topic and place in begins
            records = self.tally.between(place, begins[place], offset) if counted else None
            topic_id = self.options.id_beside(place[0])
            metadata = metadata_of(name, self.epoch, self._gap(place), topic_id, records)
            offsets[TopicPartition(*place)] = OffsetAndMetadata(offset, metadata)
        return offsets

    async def stop(self) -> None:
        if self.producer is not None:
            with suppress(KafkaError, TimeoutError, AssertionError):
                # It waits for what it has taken; where something has failed nothing will come of that.
                await asyncio.wait_for(self.producer.stop(), GIVEN_UP_SECONDS if self.ended else STOP_SECONDS)
            self.producer = None
