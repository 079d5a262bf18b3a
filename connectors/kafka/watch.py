"""A watch over brokers and learner: how far the topics go, who has not answered for how long."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence, Sized
from contextlib import suppress

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from connectors.kafka.boxes import Inbox, Outbox, Place
from connectors.kafka.committer import Committer
from connectors.kafka.options import Options
from connectors.kafka.patience import refuse_gone, refuse_other_ids
from streamlearn.events import Fenced, Unreachable

log = logging.getLogger(__name__)

WATCH_SECONDS = 2.0
ANSWER_SECONDS = 10.0
STALE_SECONDS = 15.0
"""What was seen longer ago is not known any more."""
SAID_SECONDS = 5.0
"""A broker that is away for longer is worth a line."""
COMMIT_SECONDS = 5.0
"""A commit that takes longer may be one to a topic that is gone."""


class Watch:
    """Belongs to the Kafka loop. `reading`: whether the partitions are this member's at the moment."""

    def __init__(
        self,
        options: Options,
        inbox: Inbox,
        outbox: Outbox,
        committer: Committer,
        reading: Callable[[], bool],
    ) -> None:
        self._options, self._inbox, self._outbox = options, inbox, outbox
        self._committer, self._reading = committer, reading
        self.ends: dict[Place, int] = {}
        self.drained: dict[Place, float] = {}
        """Partitions that were read to their end at the last look, and since when (monotonic seconds). What
        something is handed over of is to be taken out."""
        self._contact = self._looked = time.monotonic()
        self._away = False

    def answered(self) -> None:
        """A broker has."""
        self._contact = time.monotonic()
        if self._away:
            self._away = False
            log.info("%s: a broker answers again", self._options.where)

    @property
    def answered_at(self) -> float:
        """When a broker did last, in seconds since 1970."""
        return time.time() - (time.monotonic() - self._contact)

    def behind(self, reads: Mapping[Place, int]) -> bool:
        """Are there records that the learner has not got, while the brokers answer? From any thread.

        reads: the next offset of everything that is read. By the consumer's positions: behind the last
        record there may be marks of transactions, which are no records.
        """
        if time.monotonic() - self._looked > STALE_SECONDS:
            return False
        ends, drained = self.ends, self.drained
        return any(place not in drained and end > reads.get(place, end) for place, end in ends.items())

    async def run(self, consumer: AIOKafkaConsumer, reads: Mapping[Place, int]) -> None:
        """Look again and again at what it `reads`. Raises Unreachable, Fenced, StateMismatch."""
        options = self._options
        # Who stood by had nothing to take: its learner's patience begins now.
        self._inbox.taken_at = time.monotonic()
        while True:
            try:
                found = await asyncio.wait_for(
                    consumer.end_offsets([TopicPartition(*place) for place in reads]),
                    min(options.patience, ANSWER_SECONDS),
                )
            except (KafkaError, TimeoutError) as error:
                await self._missed(error)
            else:
                self.ends = {(tp.topic, tp.partition): offset for tp, offset in found.items()}
                self._looked = time.monotonic()
                self.answered()
                with suppress(KafkaError, TimeoutError):  # a rebalance came between
                    await asyncio.wait_for(self._look(consumer), WATCH_SECONDS)
                await refuse_other_ids(options)
            if self._committer.takes > COMMIT_SECONDS:
                await refuse_gone(options)
            came = time.monotonic() - max(self._inbox.taken_at, self._outbox.waited_at)
            if self._inbox.depth + self._inbox.ahead and came > options.learner_patience:
                raise Fenced(
                    f"the learner has taken no record for {came:.0f} s: it hangs; another may take over"
                )
            await asyncio.sleep(WATCH_SECONDS)

    async def begin(self, consumer: AIOKafkaConsumer, places: Sequence[Place], reads: Sized) -> None:
        """Before anything is read, which may take as long as a state takes to load: does a broker answer?"""
        asked = [TopicPartition(*place) for place in places]
        while not reads:
            with suppress(KafkaError, TimeoutError):  # `run` says what this means
                await asyncio.wait_for(consumer.end_offsets(asked), ANSWER_SECONDS)
                self.answered()
            await asyncio.sleep(WATCH_SECONDS)

    async def _missed(self, error: Exception) -> None:
        self.drained = {}  # nobody knows
        options, away = self._options, time.monotonic() - self._contact
        if away > options.patience:
            raise Unreachable(
                f"{options.where}: no broker has answered for {away:.0f} s (source.patience): giving up; a "
                "new start goes on from the last commit"
            ) from error
        await refuse_gone(options)
        if away > SAID_SECONDS and not self._away:
            self._away = True
            log.warning(
                "%s: no broker has answered for %.0f s: waiting for up to %.0f s (source.patience), nothing "
                "is lost",
                options.where,
                away,
                options.patience,
            )

    async def _look(self, consumer: AIOKafkaConsumer) -> None:
        drained = set[Place]()
        for place, end in self.ends.items():
            tp = TopicPartition(*place)
            if self._reading() and tp in consumer.assignment() and await consumer.position(tp) >= end:
                drained.add(place)
        now = time.monotonic()
        self.drained = {place: self.drained.get(place, now) for place in drained}
