"""Messages in transactions that carry their own progress: every message exactly once, over any kill.

The progress is committed as the offset, with metadata, of a group of its own, in the same transaction as
the messages. Whoever begins again under the same name first fences the one before, and settles its last
transaction; what it then reads is the truth.

What kafka-python 3.0 does, and what follows for us:
- It commits a transaction although a batch of it has failed, where that one ran out of time: so every
  message's result is looked at before the commit begins.
- Its calls may wait for ever, also for a broker that has long come back: so they run beside, with a deadline;
  a transaction of unknown outcome is settled by a new producer.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka import errors as kafka_errors
from kafka.structs import OffsetAndMetadata

from connectors.kafka.client import kafka_python_options
from connectors.kafka.cluster import Forbidden, within
from connectors.kafka.messages import Message
from streamlearn.events import Fenced, Stopped, Unreachable

log = logging.getLogger(__name__)

TIMEOUT = 60.0
"""Seconds after which the broker aborts a transaction that nobody goes on with: so long its readers wait."""
LEAST = 10.0
"""Seconds before that in which nobody is told that another one took over: it may be too late for us."""
DELIVERY = (10.0, 40.0)
"""Seconds in which all messages of a transaction must be written: so many at first, twice as many each time
that they weren't, so many at most: well within a transaction."""
COMMIT = 10.0
"""Seconds more in which it must be committed."""
BATCH = 512 * 1024
"""Bytes sent together, at most."""
REQUEST = 100 * 1024 * 1024
"""Bytes of the largest request that brokers take."""
METADATA = 4000
"""Bytes of metadata of an offset that brokers take: 4096, unless they are set up otherwise."""
BEGIN = 15.0
"""Seconds in which a client must have begun, and have said how far it came: else another one tries."""
PAUSE = 0.5
"""Seconds between two tries to reach the broker again."""

_FENCED = ("ProducerFenced", "InvalidProducerEpoch")
_REFUSED = (
    kafka_errors.InvalidRecordError,
    kafka_errors.InvalidTimestampError,
    kafka_errors.UnsupportedForMessageFormatError,
    kafka_errors.PolicyViolationError,
)


class Progress(NamedTuple):
    """How far a publication has come: what a committed transaction says.

    sent: messages. run: a random word, of the start that began counting. cursor, fingerprint: of the
    source, behind the last message. topic: the topic's id.
    """

    sent: int
    run: str
    cursor: int
    fingerprint: Mapping[str, Any]
    topic: str


class Lost(Exception):
    """The broker is away, or what became of a transaction isn't known."""


class TooLarge(Exception):
    """The broker takes no message of this size. `index`: which one of those that were to be sent."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


class Transactions:
    """The producer of one publication. One thread calls it.

    options: as of `client.kafka_python_options`, and `patience` (seconds that the broker may be away). name:
    the transactional id and the group. largest: bytes of the largest batch that the topic takes.
    """

    def __init__(self, options: Mapping[str, Any], topic: str, name: str, largest: int) -> None:
        self._given = kafka_python_options(options)
        self._patience = float(options["patience"])
        self._topic, self._name = topic, name
        self._place = TopicPartition(topic, 0)
        self._batch = min(BATCH, largest)
        self._producer: Any = None
        self._begun = 0.0
        self._delivery = DELIVERY[0]

    def open(self, stopped: Callable[[], bool]) -> Progress | None:
        """Fence whoever has this name, and read how far it came: None if nothing was ever committed.

        Raises Unreachable (patience is over), Stopped (`stopped` became true while the broker was away),
        Forbidden.
        """
        return self._open(time.monotonic() + self._patience, stopped)

    def send(
        self,
        messages: Sequence[tuple[Message, int | None]],
        before: Progress | None,
        after: Progress,
        stopped: Callable[[], bool],
    ) -> bool:
        """Send messages, each with its time in milliseconds (None: now), and commit the progress `after`.

        All of them or none. False: none, since `stopped` became true while the broker was away.
        before: the progress committed last.
        Raises TooLarge (then nothing was sent), Fenced, Unreachable, Forbidden.
        """
        until = time.monotonic() + self._patience
        while True:
            try:
                if self._producer is None:
                    found = self._open(until, stopped)
                    if found == after:
                        return True
                    if found != before:
                        raise self.fenced()
                within(
                    max(1.0, min(TIMEOUT, until - time.monotonic())), lambda: self._transact(messages, after)
                )
                return True
            except (Lost, TimeoutError, kafka_errors.KafkaError) as error:
                self._drop()
                self._raise_lasting(error)
                self._delivery = min(2 * self._delivery, DELIVERY[1])
                if stopped():
                    return False
                self._wait(error, until)
            except Stopped:
                return False
            except BaseException:
                self._drop()
                raise

    def confirmed(self) -> Progress | None:
        """The progress that the broker holds, read when nothing of it is pending. Raises Unreachable."""
        until = time.monotonic() + self._patience
        while True:
            try:
                return self._committed(max(1.0, min(BEGIN, until - time.monotonic())))
            except (Lost, TimeoutError, kafka_errors.KafkaError) as error:
                self._raise_lasting(error)
                self._wait(error, until)

    def close(self) -> None:
        self._drop()

    # ---- one transaction

    def _transact(self, messages: Sequence[tuple[Message, int | None]], after: Progress) -> None:
        producer, topic, self._begun = self._producer, self._topic, _now()
        producer.begin_transaction()
        futures = [
            producer.send(topic, message.value, message.key, timestamp_ms=milliseconds)
            for message, milliseconds in messages
        ]
        with suppress(kafka_errors.KafkaError):
            producer.flush()
        for future in futures:
            # `flush` doesn't wait for what was too large together and is sent again in parts.
            if not future.is_done:
                with suppress(kafka_errors.KafkaError):
                    future.get(timeout=self._delivery)
        failed = [index for index, future in enumerate(futures) if not future.succeeded()]
        if failed:
            self._raise_failed([(index, futures[index].exception) for index in failed], messages)
        offset = OffsetAndMetadata(after.sent, packed(after), -1)
        producer.send_offsets_to_transaction({self._place: offset}, self._name)
        producer.commit_transaction()

    def _raise_failed(
        self, failed: Sequence[tuple[int, Any]], messages: Sequence[tuple[Message, int | None]]
    ) -> None:
        # With one message all that were not yet sent fail, for the same reason.
        large = [index for index, error in failed if isinstance(error, kafka_errors.MessageSizeTooLargeError)]
        if large:
            raise TooLarge(max(large, key=lambda index: size(messages[index][0])))
        for _, error in failed:
            if isinstance(error, _REFUSED):
                raise Unreachable(f"topic {self._topic} refuses a message: {error}") from None
        raise Lost(f"{len(failed)} of {len(messages)} messages were not written: {failed[0][1]}")

    # ---- beginning, and beginning again

    def _open(self, until: float, stopped: Callable[[], bool]) -> Progress | None:
        while True:
            try:
                left = max(1.0, min(BEGIN, until - time.monotonic()))
                self._producer = within(2 * left + PAUSE, partial(self._started, left))
                # Behind the start: it has settled the last transaction of this name.
                return self._committed(left)
            except (Lost, TimeoutError, kafka_errors.KafkaError) as error:
                self._drop()
                self._raise_lasting(error)
                if stopped():
                    raise Stopped("stopped while the broker was away") from None
                self._wait(error, until)

    def _started(self, seconds: float) -> Any:
        """Within twice `seconds`, or it fences nobody: later it could be the one that took over from it."""
        until = time.monotonic() + seconds
        producer = KafkaProducer(
            **self._given,
            transactional_id=self._name,
            transaction_timeout_ms=int(TIMEOUT * 1000),
            delivery_timeout_ms=int(self._delivery * 1000),
            request_timeout_ms=int(self._delivery / 2 * 1000),
            bootstrap_timeout_ms=int(seconds * 1000),
            max_block_ms=int(seconds * 1000),
            max_request_size=REQUEST,
            batch_size=self._batch,
            linger_ms=20,
            # After a commit the broker wants a moment before the next transaction: not a tenth of a second.
            retry_backoff_ms=20,
            reconnect_backoff_max_ms=1000,
            metrics_enabled=False,
        )
        try:
            if time.monotonic() > until + PAUSE:
                raise TimeoutError("the producer took too long to connect")
            producer.init_transactions()
        except BaseException:
            _close(producer)
            raise
        return producer

    def _committed(self, seconds: float) -> Progress | None:
        consumer = within(
            seconds + PAUSE,
            lambda: KafkaConsumer(
                **self._given,
                group_id=self._name,
                enable_auto_commit=False,
                # Asks for offsets that no open transaction may change.
                isolation_level="read_committed",
                bootstrap_timeout_ms=int(seconds * 1000),
                reconnect_backoff_max_ms=1000,
                metrics_enabled=False,
            ),
        )
        try:
            found = within(
                seconds + PAUSE,
                lambda: consumer.committed(self._place, metadata=True, timeout_ms=int(seconds * 1000)),
            )
        except kafka_errors.KafkaTimeoutError:
            # Seen of Kafka 4.3 with one replica, killed within milliseconds of a commit: it forgets to end
            # the transaction in the topics, and no producer can end it any more.
            raise Lost(
                "it doesn't say how far we came; `kafka-transactions.sh find-hanging` tells whether it holds "
                "a transaction that nobody can end"
            ) from None
        finally:
            _beside(consumer.close)
        return None if found is None or found.offset < 0 else unpacked(found.offset, found.metadata)

    def _wait(self, error: Exception, until: float) -> None:
        """A moment; Unreachable if that would be too long."""
        if time.monotonic() + PAUSE > until:
            raise Unreachable(
                f"topic {self._topic}: the broker is away for {self._patience:g} s ({_said(error)}): the "
                "same command goes on from where it stopped"
            ) from None
        log.warning("the broker is away (%s): trying again", _said(error))
        time.sleep(PAUSE)

    def _raise_lasting(self, error: Exception) -> None:
        """Where trying again can't help."""
        said = repr(error)
        # A transaction that went on for too long looks the same: the broker ended it.
        if any(word in said for word in _FENCED) and _now() - self._begun < TIMEOUT - LEAST:
            raise self.fenced() from None
        for word, needed in (
            ("TransactionalIdAuth", f"WRITE and DESCRIBE on the transactional id {self._name}"),
            ("GroupAuth", f"READ on the group {self._name}"),
            ("TopicAuth", f"READ, WRITE and DESCRIBE on the topic {self._topic}"),
            ("ClusterAuth", "IDEMPOTENT_WRITE on the cluster"),
        ):
            if word in said:
                raise Forbidden(f"the broker doesn't let us publish: its ACLs must allow {needed}") from None
        if "OffsetMetadataTooLarge" in said:
            raise Unreachable(
                f"the broker's offset.metadata.max.bytes is below {METADATA}: set it higher"
            ) from None

    def fenced(self) -> Fenced:
        return Fenced(
            f"another `streamlearn publish` of the same input to topic {self._topic} took over: it goes on "
            "from where this one stopped"
        )

    def _drop(self) -> None:
        """Let go of the producer, whatever it is waiting for; the next one aborts what it left open."""
        producer, self._producer = self._producer, None
        if producer is not None:
            _close(producer)


def size(message: Message) -> int:
    return len(message.value) + len(message.key or b"")


def _now() -> float:
    """Seconds, those that the machine slept too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _close(producer: Any) -> None:
    def close() -> None:
        with suppress(Exception):
            producer.close(timeout=0)
        # Where it has messages left, `close` gives up before it stops the thread that goes on trying.
        sender = getattr(producer, "_sender", None)
        if sender is not None:
            sender.force_close()

    _beside(close)


def _beside(work: Callable[[], object]) -> None:
    def quietly() -> None:
        with suppress(Exception):
            work()

    threading.Thread(target=quietly, daemon=True).start()


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


def packed(progress: Progress) -> str:
    content = progress._asdict()
    del content["sent"]
    text = json.dumps(content, separators=(",", ":"))
    if len(text) > METADATA:
        # Arrays with very many names: then the input isn't compared.
        text = json.dumps(content | {"fingerprint": {}}, separators=(",", ":"))
    return text


def unpacked(sent: int, metadata: str) -> Progress | None:
    try:
        content = json.loads(metadata)
        return Progress(sent, **content)
    except (ValueError, TypeError):
        raise Unreachable(
            f"the committed offset has metadata that `streamlearn publish` never wrote: {metadata[:80]!r}"
        ) from None
