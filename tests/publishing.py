"""For the tests of publishing: the connector called here, and a real broker asked what came of it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kafka.admin import TransactionState

from connectors.files import FileSource
from connectors.kafka.publish import Outcome, publish
from connectors.kafka.transactions import Transactions
from ops.kafka.broker import Broker
from streamlearn.config import CodecSettings
from tests.kafka import Message, administrator, read_all
from tests.processes import wait_for

CODEC = CodecSettings().model_dump()


def write_numbers(path: Path, events: int, first: int = 0) -> Path:
    """JSON lines, each with its number as the id; appended."""
    with open(path, "a") as file:
        file.writelines(f'{{"id": {i}, "x": [{i}, 1], "y": "a"}}\n' for i in range(first, first + events))
    return path


def numbers(messages: Sequence[Message]) -> list[int]:
    """The ids of what `write_numbers` wrote."""
    return [json.loads(message.value or b"")["id"] for message in messages]


def send(
    broker: Broker,
    topic: str,
    path: Path,
    stopped: Callable[[], bool] = lambda: False,
    **options: Any,
) -> Outcome:
    """`connectors.kafka.publish.publish` of a file, in this process."""
    given = {
        "bootstrap_servers": broker.address,
        "deadline": 30.0,
        "patience": 60.0,
        "topic": topic,
        "input": str(path),
        "identity": f"file:{path}",
        "marker": str(path.parent / "markers"),
        "marker_given": False,
        "again": False,
        "limit": None,
        "rate": 0,
        "key": None,
        "format": None,
        "codec": CODEC,
    }
    return publish(FileSource({"path": str(path)}), given | options, lambda count, cursor: None, stopped)


def expect(broker: Broker, topic: str, wanted: Sequence[int]) -> None:
    """Every number once, in order within each partition. Waits for the broker to end transactions."""
    until, pause = time.monotonic() + 30, threading.Event()
    while True:
        found = read_all(broker, topic)
        if len(found) >= len(wanted) or time.monotonic() > until:
            break
        pause.wait(0.1)
    assert sorted(numbers(found)) == list(wanted)
    for partition in {message.partition for message in found}:
        own = numbers([message for message in found if message.partition == partition])
        assert own == sorted(own)


def after_sends(patch: Any, number: int, act: Callable[[], None]) -> None:
    """Do `act` once, after transaction `number` (from 1) was committed."""
    original, count = Transactions.send, 0

    def counting(self: Transactions, *arguments: Any) -> bool:
        nonlocal count
        done = original(self, *arguments)
        count += 1
        if count == number:
            act()
        return done

    patch.setattr(Transactions, "send", counting)


def kill(broker: Broker) -> None:
    """Kill it when it has ended its transactions.

    Killed before that, Kafka 4.3 with one replica may never end one that it has called committed ("Couldn't
    find leader endpoint for partitions ... likely deleted already and hence can be skipped", in its log).
    """
    done = (TransactionState.COMPLETE_COMMIT, TransactionState.COMPLETE_ABORT, TransactionState.EMPTY)
    with administrator(broker) as admin:

        def settled() -> bool:
            found = admin.list_transactions().values()
            return all(each.state in done for listings in found for each in listings)

        wait_for(settled, "the broker has ended all transactions")
    broker.kill()
