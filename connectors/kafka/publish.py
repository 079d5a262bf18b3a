"""Sends what a source holds to a topic, each event exactly once, over any number of starts."""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from connectors.kafka.cluster import Cluster, Topic, check_name
from connectors.kafka.marker import Marker, Marking
from connectors.kafka.messages import Encoder, Message
from connectors.kafka.pace import Pace, Times
from connectors.kafka.transactions import Progress, TooLarge, Transactions, size
from streamlearn.codec import one_of_many
from streamlearn.events import (
    ConnectorError,
    Record,
    Resume,
    Source,
    StateMismatch,
    Stopped,
    Unreachable,
    UsageError,
)

log = logging.getLogger(__name__)

PREFIX = "streamlearn.publish."
"""Of transactional ids and groups."""
MOST = 20_000
"""Events of one transaction, at most."""
MOST_BYTES = 4 * 1024 * 1024
"""Bytes of one transaction, about: a slow line must carry them in time."""
INTERVAL = 0.5
"""Seconds after which a transaction ends: events don't wait for others for longer."""
TICK = 0.05
"""Seconds that we wait at most before we look again whether to stop."""
MARKED = 5.0
"""Seconds between two writings of the marker."""
LARGEST = 1_048_588
"""Kafka's default of max.message.bytes."""
OVERHEAD = 68
"""Bytes of a batch with one record, at least, beside key and value."""


@dataclass
class Outcome:
    """What a start did.

    before: events that earlier starts had sent. sent: by this one. ended: the input has no more. Of those
    sent by this one: keyless, without the key's field; clocked, with the clock's time in place of their own.
    """

    before: int = 0
    sent: int = 0
    seconds: float = 0.0
    ended: bool = False
    keyless: int = 0
    clocked: int = 0


@dataclass
class Chunk:
    """Events of one transaction: the first one's number, the cursor behind, what is wrong with the next."""

    messages: list[Message]
    first: int
    cursor: int = 0
    wrong: ConnectorError | None = None


def publish(
    source: Source,
    options: Mapping[str, Any],
    tell: Callable[[int, int], None],
    stopped: Callable[[], bool],
) -> Outcome:
    """Send what was not sent yet, until the source ends, `limit` is reached or `stopped` becomes true.

    options: how brokers are reached (see `Cluster`), `patience` (see `Transactions`), `topic`, `codec` (see
    `Encoder`, also for `key` and `format`), `input` (what the source is, for people), `identity` (what tells
    it from others; None: nothing, so it can't be gone on with), `marker` (a folder or, with `marker_given`, a
    file), `again` (from the start, whatever was sent), `limit` (events of all starts together; None: all),
    `rate` (events a second, 0: as fast as it goes).
    tell: called with the events sent by all starts and the source's cursor behind them.
    Raises UsageError, StateMismatch (another input, or progress that Kafka forgot), Unreachable, Fenced.
    """
    check_name("source.topic", options["topic"])
    try:
        with Cluster(options, stopped) as cluster:
            topic = cluster.topics([options["topic"]]).get(options["topic"])
    except Stopped:
        return Outcome()
    if topic is None:
        raise Unreachable(
            f"there is no topic {options['topic']}: `streamlearn topics` with the same settings creates it"
        )
    publication = Publication(source, options, topic, tell, stopped)
    try:
        return publication.run()
    finally:
        publication.close()


class Publication:
    """One start of `publish`, to a topic that is there."""

    def __init__(
        self,
        source: Source,
        options: Mapping[str, Any],
        topic: Topic,
        tell: Callable[[int, int], None],
        stopped: Callable[[], bool],
    ) -> None:
        self._source, self._options, self._topic = source, options, topic
        self._tell, self._stopped = tell, stopped
        self._input = str(options["input"])
        self._limit: int | None = options["limit"]
        self._encoder = Encoder(options["codec"], options["key"], options["format"])
        self._times, self._pace = Times(topic), Pace(float(options["rate"]))
        self._largest = topic.number("max.message.bytes")
        self._outcome = Outcome()
        self._cut = False  # stopped while the broker was away
        self._marker, self._word = self._named()
        self._marking = self._marker.read()
        self._transactions = Transactions(options, topic.name, PREFIX + self._word, self._largest or LARGEST)

    def run(self) -> Outcome:
        try:
            committed = self._transactions.open(self._stopped)
            begun = self._begin(committed)
            self._outcome.before = begun.sent
            self._mark(begun.sent)
            self._open(begun)
        except Stopped:
            return self._outcome
        self._tell(begun.sent, begun.cursor)
        start = time.monotonic()
        last = self._go_on(begun, committed)
        self._outcome.seconds = time.monotonic() - start
        self._outcome.clocked = self._times.clocked
        if self._outcome.sent and not self._cut and self._transactions.confirmed() != last:
            raise self._transactions.fenced()
        return self._outcome

    def close(self) -> None:
        self._transactions.close()
        self._source.close()

    # ---- where it begins

    def _named(self) -> tuple[Marker, str]:
        """The marker, and the word that names this publication."""
        place, identity = self._options["marker"], self._options["identity"]
        if self._options["marker_given"]:
            marker = Marker(place)
            marking = marker.read()
            return marker, marking.name if marking else secrets.token_hex(8)
        if identity is None:
            return Marker(None), secrets.token_hex(8)
        named = f"{self._topic.name}\0{identity}".encode("utf-8", "surrogatepass")
        word = hashlib.sha256(named).hexdigest()[:16]
        return Marker(f"{place}/{word}.json", must=False), word

    def _begin(self, committed: Progress | None) -> Progress:
        """Where to go on. Raises StateMismatch, UsageError."""
        start, marking = Progress(0, secrets.token_hex(4), 0, {}, self._topic.id), self._marking
        if self._options["again"]:
            return start
        if marking is not None and marking.topic != self._topic.name:
            raise UsageError(
                f"{self._marker.path} is the progress of publishing to topic {marking.topic}, not to "
                f"{self._topic.name}: name another --progress FILE"
            )
        if committed is not None and committed.topic == self._topic.id:
            return committed
        if committed is not None or (marking is not None and marking.topic_id != self._topic.id):
            log.info("topic %s is a new one of that name: all events are sent to it", self._topic.name)
        elif marking is not None and marking.sent:
            raise StateMismatch(
                f"{marking.sent} events of {self._input} were sent to {self._topic.name} by {marking.at}, "
                "but Kafka has forgotten how far that came (offsets.retention.minutes, by default a week): "
                "--again sends all of them once more"
            )
        return start

    def _open(self, begun: Progress) -> None:
        """Raises Stopped, StateMismatch, UsageError, Unreachable."""
        if not begun.sent:
            self._source.open(Resume(stopped=self._stopped))
            return
        resume = Resume({0: begun.sent}, {0: begun.cursor}, begun.fingerprint, stopped=self._stopped)
        try:
            self._source.open(resume)
        except StateMismatch:
            raise StateMismatch(
                f"{self._input} no longer begins with the {begun.sent} events that were sent of it to "
                f"{self._topic.name}: give that input (it may have grown), or --again to send this one from "
                "its start"
            ) from None

    # ---- on and on

    def _go_on(self, at: Progress, before: Progress | None) -> Progress:
        """From `at`, where `before` is committed. Returns what is committed last."""
        marked = time.monotonic()
        try:
            while not self._stopped():
                chunk = self._gather(at.sent)
                if chunk.messages:
                    after = Progress(
                        at.sent + len(chunk.messages),
                        at.run,
                        chunk.cursor,
                        self._source.fingerprint({0: chunk.cursor}),
                        self._topic.id,
                    )
                    if not self._send(chunk, before, after):
                        self._cut = True
                        break
                    at = before = after
                    self._tell(at.sent, at.cursor)
                    if time.monotonic() - marked > MARKED:
                        marked = time.monotonic()
                        self._mark(at.sent)
                if chunk.wrong is not None:
                    raise chunk.wrong
                self._outcome.ended = self._source.ended
                if self._source.ended or at.sent == self._limit:
                    break
        finally:
            self._mark(at.sent)
        return at

    def _gather(self, count: int) -> Chunk:
        """The next events, behind `count`."""
        chunk, size_, until = Chunk([], count), 0, 0.0
        most = MOST if self._limit is None else min(MOST, self._limit - count)
        while len(chunk.messages) < most and size_ < MOST_BYTES and not self._stopped():
            now = time.monotonic()
            if chunk.messages and now > until:
                break
            room = self._pace.room(now, most - len(chunk.messages))
            if not room:
                time.sleep(TICK)
                continue
            try:
                records = self._source.poll(room, TICK)
            except ConnectorError as error:  # what came before it is sent
                chunk.wrong = error
                break
            self._pace.spend(len(records))
            if records:
                if not chunk.messages:
                    until = time.monotonic() + INTERVAL
                    self._hint(records[0], count)
                size_ += sum(record.size for record in records)
                self._take(chunk, records)
            if chunk.wrong is not None or (not records and self._source.ended):
                break
        return chunk

    def _take(self, chunk: Chunk, records: Sequence[Record]) -> None:
        """Add records to the chunk, up to one that the topic can't take."""
        messages = list(map(self._encoder.message, records))
        if self._largest is not None:
            room = self._largest - OVERHEAD
            for index, message in enumerate(messages):
                if size(message) > room:
                    chunk.wrong = self._too_large(len(chunk.messages) + index + chunk.first, message)
                    messages = messages[:index]
                    break
        if messages:
            chunk.messages += messages
            chunk.cursor = records[len(messages) - 1].cursor

    def _send(self, chunk: Chunk, before: Progress | None, after: Progress) -> bool:
        stamped = [(message, self._times.stamp(message)) for message in chunk.messages]
        try:
            if not self._transactions.send(stamped, before, after, self._stopped):
                return False
        except TooLarge as error:
            raise self._too_large(chunk.first + error.index, chunk.messages[error.index]) from None
        self._outcome.sent += len(stamped)
        if self._options["key"] is not None:
            self._outcome.keyless += sum(message.key is None for message in chunk.messages)
        return True

    def _too_large(self, number: int, message: Message) -> UsageError:
        limit = "" if self._largest is None else f", which is {self._largest}"
        return UsageError(
            f"record {number} of {self._input} (from 0) has {size(message)} bytes, more than topic "
            f"{self._topic.name} takes (max.message.bytes{limit}): set that higher, or take the record out. "
            "It was not sent, and nothing behind it; the same command goes on from where this one stopped"
        )

    def _hint(self, record: Record, count: int) -> None:
        """Columns go out under their names: a worker must be told which ones are the features."""
        features = self._options["codec"]["features"]
        fields = record.fields
        if count or fields is None or not isinstance(features, str):
            return
        others = {self._options["codec"][name] for name in ("id", "label", "time", "task")}
        if features in fields and not one_of_many(fields, features, others):
            return
        columns = [name for name in fields if name is not None and name not in others]
        log.info("the worker that reads these rows needs --codec.features %s", ",".join(columns))

    def _mark(self, sent: int) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._marker.write(Marking(self._word, self._topic.name, self._topic.id, self._input, sent, now))
