"""The topics of a Kafka cluster, as kafka-python's admin client sees them."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeVar

from kafka import KafkaAdminClient
from kafka import errors as kafka_errors
from kafka.admin import ConfigResource

from connectors.kafka.client import kafka_python_options
from connectors.kafka.reach import reach
from streamlearn.events import Unreachable, UsageError

T = TypeVar("T")

CONFIGS = (
    "cleanup.policy max.message.bytes min.insync.replicas retention.ms message.timestamp.type "
    "message.timestamp.after.max.ms message.timestamp.before.max.ms"
).split()
"""What we want to know of a topic."""
PAUSE = 0.2
"""Seconds between two tries."""
ANSWER = 30.0
"""Seconds in which a broker that runs answers one request."""

_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")


class Missing(Exception):
    """There is no such topic; the message is its name."""


class Forbidden(Unreachable):
    """The broker doesn't let us."""


@dataclass(frozen=True)
class Topic:
    """What is known of a topic that is there. Of `configs` nothing where they may not be read."""

    name: str
    id: str
    partitions: int
    replicas: int
    configs: Mapping[str, str] = field(default_factory=dict)

    def number(self, name: str) -> int | None:
        """A setting as an integer; None if it isn't known."""
        value = self.configs.get(name, "")
        return int(value) if value.lstrip("-").isdigit() else None


def check_name(setting: str, name: str) -> None:
    """Raises UsageError for what Kafka takes for no name of a topic."""
    if not _NAME.fullmatch(name) or name in (".", ".."):
        raise UsageError(
            f"{setting} is {name!r}: a topic's name has 1 to 249 letters, digits, dots, underscores, dashes"
        )


def within(seconds: float, work: Callable[[], T]) -> T:
    """What `work` returns or raises; TimeoutError after `seconds`, whatever becomes of it then.

    For calls of a library that may wait for ever.
    """
    found: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {seconds:g} seconds")
    if raised:
        raise raised[0]
    return found[0]


class Cluster:
    """An open admin client. A context manager; opening it waits for a broker, `deadline` seconds at most.

    options: as of `client.kafka_python_options`, and `deadline` (seconds). Raises Unreachable, UsageError,
    and Stopped once `stopped` is true while it waits.
    """

    def __init__(self, options: Mapping[str, Any], stopped: Callable[[], bool] = lambda: False) -> None:
        self._deadline = float(options.get("deadline") or 60.0)
        self._servers = str(options.get("bootstrap_servers"))
        start = time.monotonic()
        given = kafka_python_options(options)
        reach(options, self._deadline, stopped)
        left = max(1.0, self._deadline - (time.monotonic() - start))
        self._admin = self._guarded(
            lambda: KafkaAdminClient(
                **given,
                bootstrap_timeout_ms=int(left * 1000),
                request_timeout_ms=int(min(ANSWER, self._deadline) * 1000),
                reconnect_backoff_max_ms=1000,
            ),
            "connecting",
        )

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        # We hold nothing that the broker must be told of.
        with suppress(kafka_errors.KafkaError, TimeoutError):
            within(ANSWER, self._admin.close)

    def topics(self, names: Iterable[str]) -> dict[str, Topic]:
        """Those of them that are there. Raises Unreachable; Forbidden if one may not be looked at."""
        wanted = list(dict.fromkeys(names))
        described = self._guarded(lambda: self._admin.describe_topics(wanted), "asking for topics")
        there = {}
        for found in described:
            error = kafka_errors.for_code(found["error_code"])
            if error is kafka_errors.TopicAuthorizationFailedError:
                raise Forbidden(
                    f"the broker doesn't let us see topic {found['name']}: its ACLs must allow DESCRIBE, "
                    "and what is to be done there (CREATE; READ and WRITE)"
                )
            if error is kafka_errors.NoError and found["partitions"]:
                there[found["name"]] = found
        configs = self._configs(list(there))
        return {
            name: Topic(
                name,
                str(found["topic_id"]),
                len(found["partitions"]),
                min(len(partition["replica_nodes"]) for partition in found["partitions"]),
                configs.get(name, {}),
            )
            for name, found in there.items()
        }

    def _configs(self, names: list[str]) -> dict[str, dict[str, str]]:
        if not names:
            return {}
        resources = [ConfigResource("TOPIC", name, CONFIGS) for name in names]
        # Where they may not be read the answer holds none.
        found = self._guarded(
            lambda: self._admin.describe_configs(resources, config_filter="all"), "asking for topic settings"
        ).get("topic", {})
        return {
            name: {key: str(entry["value"]) for key, entry in entries.items() if entry["value"] is not None}
            for name, entries in found.items()
        }

    def create(self, name: str, partitions: int, replication: int | None, configs: Mapping[str, str]) -> bool:
        """Create a topic; False if somebody else just did. Raises Forbidden, Unreachable, UsageError."""
        wanted = {"num_partitions": partitions, "replication_factor": replication or -1, "configs": configs}
        answer = self._guarded(
            lambda: self._admin.create_topics({name: wanted}, raise_errors=False), "creating topics"
        )
        found = answer["topics"][0]
        error = kafka_errors.for_code(found["error_code"])
        said = found.get("error_message") or error.__name__
        if error is kafka_errors.NoError:
            return True
        if error is kafka_errors.TopicAlreadyExistsError:
            return False
        if error in (
            kafka_errors.TopicAuthorizationFailedError,
            kafka_errors.ClusterAuthorizationFailedError,
        ):
            raise Forbidden(
                f"the broker doesn't let us create topic {name}: its ACLs must allow CREATE on it, or "
                "somebody who may creates it"
            )
        if error is kafka_errors.RequestTimedOutError:
            return False  # it may come yet: `wait` sees
        raise UsageError(f"topic {name} can't be created: {said}")

    def wait(self, names: Iterable[str]) -> None:
        """Until all of them can be used: every partition has a leader. Raises Unreachable."""
        wanted = list(dict.fromkeys(names))
        try:
            within(
                self._deadline + ANSWER,
                lambda: self._admin.wait_for_topics(wanted, timeout_ms=int(self._deadline * 1000)),
            )
        except (kafka_errors.KafkaError, TimeoutError) as error:
            raise Unreachable(
                f"the topics can't be used yet after {self._deadline:g} seconds: {error}"
            ) from None

    def _guarded(self, work: Callable[[], T], doing: str) -> T:
        """Once more and again, until the deadline, where that can help."""
        until = time.monotonic() + self._deadline
        while True:
            try:
                return within(max(1.0, until - time.monotonic()), work)
            except (kafka_errors.KafkaError, TimeoutError) as error:
                lasting = isinstance(error, kafka_errors.KafkaError) and not error.retriable
                if lasting or time.monotonic() + PAUSE > until:
                    raise Unreachable(
                        f"{self._servers}: {doing} failed ({error}): does the broker run, and let us do that?"
                    ) from None
                time.sleep(PAUSE)
