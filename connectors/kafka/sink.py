"""Predictions and dead letters to Kafka topics, each exactly once for a read_committed reader."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, repeat
from typing import Any, cast

from connectors.kafka.boxes import Message, Named, Place
from connectors.kafka.link import Link
from connectors.kafka.murmur import partition_of
from connectors.kafka.options import options_of
from connectors.kafka.records import HEADER, bytes_of, messages_of, needs_of
from connectors.kafka.source import KafkaSource
from connectors.kafka.topics import Topic, cleaned, compacted, describe, refuse_missing
from streamlearn.codec import encode_predictions, encode_too_large, original
from streamlearn.events import (
    Output,
    Position,
    Prediction,
    Record,
    Rejection,
    Tombstone,
    Unreachable,
    UsageError,
)

log = logging.getLogger(__name__)

WAIT_SECONDS = 0.5
"""For so long one flush waits for room."""
LONGEST = 1024
"""Bytes of a header that goes with what stands for an output that is too large."""


class KafkaSink:
    """Outputs as messages: of a prediction JSON, of a dead letter the original key, bytes and headers.

    With a `KafkaSource` as `source` it commits what that has read, in small transactions (mode exactly_once)
    or after the outputs (at_least_once). With another source, or none, it is at_least_once: outputs after
    the last checkpoint may come again after a crash, recognisable by their source position.

    Options: `predictions`, `dead_letters`, `answers` (topics), `bootstrap_servers`, `security`,
    `commit_interval`, `headers`, `client`, `mode`, `source`.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        source = options.get("source")
        self._source = source if isinstance(source, KafkaSource) else None
        self._predictions, self._dead_letters = str(options["predictions"]), str(options["dead_letters"])
        self._answers = str(options.get("answers") or "")
        if self._predictions == self._dead_letters:
            raise UsageError(f"sink.predictions and sink.dead_letters are both {self._predictions}")
        self._headers = list(options.get("headers") or ())
        mode = options.get("mode")
        interval = float(options.get("commit_interval") or 0.1)
        self._link: Link | None = None
        self._options = options_of(options)
        if self._source is not None:
            if self._source.topic in (self._predictions, self._dead_letters):
                raise UsageError(f"sink: outputs would go to {self._source.topic}, the topic that is read")
            self._source.pair(
                (self._predictions, self._dead_letters),
                self._answers,
                mode != "at_least_once",
                interval,
                dict(options.get("client") or {}),
            )
        else:
            if mode == "exactly_once":
                raise UsageError(
                    "delivery.mode exactly_once needs Kafka on both sides: from another source to Kafka it "
                    "is at_least_once (model updates never repeat, outputs may after a crash)"
                )
            self._options.exactly_once, self._options.commit_interval = False, interval
            self._options.producer = dict(options.get("client") or {})
        self._topics: Mapping[str, Topic] = {}
        self._counts: Mapping[str, int] = {}
        """Partitions that there are, by topic."""
        self._epoch = 0
        self._published: dict[Place, int] = {}
        self._waiting: list[Message] = []
        self._next: dict[Place, int] = {}
        self._closed = False

    @property
    def grouped(self) -> bool:
        """Whether its commits say which checkpoint is the truth."""
        return self._source is not None

    def look(self, marks: Mapping[str, int] | None) -> list[str]:
        """For `streamlearn check`: see `Sink`. Raises Unreachable."""
        names = [self._predictions, self._dead_letters]
        if self._source is None:
            found = asyncio.run(describe(self._options, names))
            refuse_missing(self._options, found, names)
            return compacted(found.there)
        there = self._source.topics
        written = {name: there[name] for name in [*names, self._answers] if name in there}
        return compacted(written) + cleaned(self._source.topic, there[self._source.topic])

    def open(self, marks: Mapping[str, int] | None, epoch: int) -> None:
        """Begin. Outputs of records below the group's committed offsets are left out when they come again."""
        self._epoch = epoch
        if self._source is not None:
            self._link, self._topics = self._source.link, self._source.topics
            self._published = dict(self._link.plane.committer.published)
            for note in cleaned(self._source.topic, self._topics[self._source.topic]):
                log.warning("%s", note)
        else:
            self._link = Link(self._options)
            self._link.start()
            names = [self._predictions, self._dead_letters]
            found = self._link.call(lambda: describe(self._options, names))
            refuse_missing(self._options, found, names)
            self._topics = found.there
            self._options.limits = {name: topic.largest for name, topic in self._topics.items()}
            link = self._link
            link.call(lambda: link.plane.committer.start(transactional=False))
        link = self._link

        async def begin() -> None:
            link.plane.publish(self._published, epoch)

        link.call(begin)

    def write(self, outputs: Sequence[Output]) -> None:
        self._count()
        for kind, some in groupby(self._new(outputs), type):
            if kind is Prediction:
                self._waiting += self._predicted(cast(list[Prediction], list(some)))
            else:
                self._waiting += map(self._of_other, some)

    def _new(self, outputs: Sequence[Output]) -> Sequence[Output]:
        """Those that were not published before; P will be behind them."""
        positions = [output.position for output in outputs]
        if self.grouped:
            self._opened().plane.committer.tally.add(positions)
        published = self._published
        if min([at.offset for at in positions], default=0) < max(published.values(), default=0):
            outputs = [o for o in outputs if o.position.offset >= published.get(o.position[:2], 0)]
            positions = [output.position for output in outputs]
        self._next |= {(topic, partition): offset + 1 for topic, partition, offset in positions}
        return outputs

    def passed(self, place: Place, offset: int) -> None:
        """Below `offset` there are no records but those whose outputs were written."""
        self._opened().plane.committer.tally.passed(place, offset)
        if offset > self._published.get(place, 0):
            self._next[place] = offset

    def flush(self) -> dict[str, int]:
        """Hand over; raises Stalled while the broker takes nothing and much waits."""
        link = self._opened()
        if self._waiting or self._next:
            link.plane.outbox.put(self._waiting, self._next if self.grouped else {})
            self._waiting, self._next = [], {}
        link.plane.outbox.wait(WAIT_SECONDS)
        return {}

    def sync(self) -> None:
        """Without a group: wait until the broker has everything that was flushed."""
        if not self.grouped and self._link is not None:
            while not self._link.plane.outbox.wait_sent(WAIT_SECONDS):
                pass

    def name(
        self,
        checkpoint: str,
        offsets: Mapping[str, Mapping[int, int]],
        answered: Position | None = None,
        answer: bytes = b"",
    ) -> None:
        """A checkpoint is durable: the next commit whose P reaches these offsets, its C, names it."""
        # A topic of commands that is not read any more has no P: it would keep every commit from naming this.
        read = self._read
        places = {(of, p): offset for of, part in offsets.items() if of in read for p, offset in part.items()}
        messages, published = [], {}
        if answered is not None and answered.offset >= self._published.get(answered[:2], 0):
            published[answered[:2]] = answered.offset + 1
            if self._answers in self._topics:
                messages.append(Message((self._answers, 0), None, answer))
        self._opened().plane.outbox.name(Named(checkpoint, places), messages, published)

    @property
    def _read(self) -> set[str]:
        """The topics that are read."""
        assert self._source is not None
        return {self._source.topic, self._opened().plane.commands_topic}

    def settle(self, timeout: float) -> bool:
        """Wait until all that was flushed and named is committed."""
        return self._opened().plane.outbox.wait_sent(timeout)

    @property
    def named(self) -> str | None:
        """The checkpoint that the newest commit names."""
        return self._link.plane.committer.named if self._link is not None else None

    def close(self) -> None:
        """Ends without waiting for what was not settled; the source closes what they share."""
        if self._source is None and self._link is not None:
            self._link.stop()

    def _opened(self) -> Link:
        if self._link is None:
            raise Unreachable("the sink is not open")
        return self._link

    # -- messages

    def _count(self) -> None:
        """Topics may have grown since the start: the events' in the plane, the others' in the producer."""
        counts = {name: topic.partitions for name, topic in self._topics.items()}
        plane = self._opened().plane
        if plane.committer.producer is not None:
            cluster = plane.committer.producer.client.cluster
            for name in (self._predictions, self._dead_letters):
                counts[name] = max(counts[name], len(cluster.partitions_for_topic(name) or ()))
        if self._source is not None:
            read = self._source.topic
            counts[read] = max(counts[read], sum(topic == read for topic, _ in tuple(plane.next)))
        self._counts = counts

    def _place(self, topic: str, output: Output, key: bytes | None) -> Place:
        """The record's partition where both topics have as many, else by the key, else by the partition."""
        partition, count = output.position.partition, self._counts[topic]
        if self._by_partition(topic):
            return self._beside(topic, partition)
        return topic, partition_of(key, count) if key is not None else partition % count

    def _beside(self, topic: str, partition: int) -> Place:
        return topic, min(partition, self._counts[topic] - 1)

    def _by_partition(self, topic: str) -> bool:
        """Whether the record's partition alone says which one its output goes to."""
        read = self._counts[self._source.topic] if self._source is not None else 0
        return self._counts[topic] in (1, read)

    def _predicted(self, predictions: Sequence[Prediction]) -> list[Message]:
        """All at once: a call for each would cost as much as its JSON."""
        topic = self._predictions
        records = [prediction.record for prediction in predictions]
        keys = [record.key if record is not None else None for record in records]
        headers: Iterable[Sequence[tuple[str, bytes | None]]] = repeat(())
        if self._headers:
            headers = [self._passed_on(record) if record is not None else () for record in records]
        if self._by_partition(topic):
            partitions = [prediction.position.partition for prediction in predictions]
            beside = {partition: self._beside(topic, partition) for partition in set(partitions)}
            places = [beside[partition] for partition in partitions]
        else:
            places = [self._place(topic, *of) for of in zip(predictions, keys, strict=True)]
        messages = messages_of(places, keys, encode_predictions(predictions, self._epoch), headers)
        if max(needs_of(messages)) + HEADER <= self._topics[topic].largest:
            return messages
        return [
            message if self._fits(message) else self._small(message, prediction)
            for message, prediction in zip(messages, predictions, strict=True)
        ]

    def _of_other(self, output: Output) -> Message:
        """Of what is no prediction."""
        if isinstance(output, Tombstone):
            key = output.record.key
            return Message(
                self._place(self._predictions, output, key), key, None, self._passed_on(output.record)
            )
        return self._dead_letter(cast(Rejection, output))

    def _passed_on(self, record: Record) -> Sequence[tuple[str, bytes | None]]:
        """Of its headers those that its prediction, or what is its prediction, carries too."""
        every = "*" in self._headers
        return [header for header in record.headers if every or header[0] in self._headers]

    def _dead_letter(self, rejection: Rejection) -> Message:
        record = rejection.record
        topic, partition, offset = rejection.position
        place = self._place(self._dead_letters, rejection, record.key)
        said = [
            ("__connect.errors.topic", topic),
            ("__connect.errors.partition", str(partition)),
            ("__connect.errors.offset", str(offset)),
            ("__connect.errors.exception.class.name", rejection.reason),
            ("__connect.errors.exception.message", rejection.detail),
        ]
        headers = [*record.headers, *((name, text.encode(errors="replace")) for name, text in said)]
        message = Message(place, record.key, original(record), headers)
        return message if self._fits(message) else self._small(message, rejection)

    def _fits(self, message: Message) -> bool:
        return bytes_of(message) + HEADER <= self._topics[message.place[0]].largest

    def _small(self, message: Message, output: Output) -> Message:
        """In place of an output that is too large for its topic: which it would be, and no bytes of it."""
        topic = message.place[0]
        size, limit = bytes_of(message), self._topics[topic].largest
        log.warning(
            "%s:%d:%d: an output of %d bytes is too large for %s",
            *(*output.position, size, topic),
            extra={"fields": output.position._asdict()},
        )
        headers = [
            (name, value)
            for name, value in message.headers
            if name.startswith("__connect.errors.") and len(value or b"") < LONGEST
        ]
        return Message(message.place, None, encode_too_large(output, size, limit), headers)
