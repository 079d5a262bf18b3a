"""Publishing while the broker is killed, hangs, or stays away."""

from __future__ import annotations

import threading
import time
from functools import partial
from pathlib import Path

import pytest

from streamlearn.events import Unreachable
from tests.kafka import fresh_topic, running
from tests.publishing import after_sends, expect, kill, send, write_numbers

pytestmark = [
    pytest.mark.slow,
    # kafka-python leaves sockets that couldn't be connected to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.usefixtures("rubbish", "own_state_home"),
]


def test_the_broker_is_killed_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.kafka.publish.MOST", 200)
    with running(tmp_path / "kafka") as broker:
        path, topic = write_numbers(tmp_path / "a.jsonl", 4000), fresh_topic(broker, 2)
        restart = threading.Timer(2.0, broker.start)

        def go_away() -> None:
            kill(broker)
            restart.start()

        after_sends(monkeypatch, 4, go_away)
        outcome = send(broker, topic, path, key="id", rate=1500)
        restart.join()
        assert (outcome.sent, outcome.ended) == (4000, True)
        expect(broker, topic, range(4000))


def test_a_broker_that_hangs_for_longer_than_a_batch_may_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kafka-python then gives the batch up, and would commit the others."""
    monkeypatch.setattr("connectors.kafka.publish.MOST", 200)
    monkeypatch.setattr("connectors.kafka.transactions.DELIVERY", (2.0, 4.0))
    with running(tmp_path / "kafka") as broker:
        path, topic = write_numbers(tmp_path / "a.jsonl", 2000), fresh_topic(broker, 2)
        thaw = threading.Timer(6.0, broker.thaw)

        def hang() -> None:
            broker.freeze()
            thaw.start()

        after_sends(monkeypatch, 3, hang)
        outcome = send(broker, topic, path, key="id", rate=1500)
        thaw.join()
        assert outcome.sent == 2000
        expect(broker, topic, range(2000))


def test_a_broker_that_stays_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tmp_path / "kafka") as broker:
        path, topic = write_numbers(tmp_path / "a.jsonl", 1000), fresh_topic(broker)
        with monkeypatch.context() as patch:
            patch.setattr("connectors.kafka.publish.MOST", 100)
            after_sends(patch, 3, partial(kill, broker))
            start = time.monotonic()
            with pytest.raises(Unreachable, match=r"away for 2 s .*same command goes on"):
                send(broker, topic, path, patience=2.0)
            assert time.monotonic() - start < 20
        broker.start()
        outcome = send(broker, topic, path)
        assert (outcome.before, outcome.sent) == (300, 700)
        expect(broker, topic, range(1000))


def test_stopped_while_the_broker_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.kafka.publish.MOST", 100)
    with running(tmp_path / "kafka") as broker:
        path, topic = write_numbers(tmp_path / "a.jsonl", 1000), fresh_topic(broker)
        stop = threading.Event()

        def go_away() -> None:
            kill(broker)
            threading.Timer(1.0, stop.set).start()

        after_sends(monkeypatch, 3, go_away)
        outcome = send(broker, topic, path, stopped=stop.is_set, patience=5.0)
        assert (outcome.sent, outcome.ended) == (300, False)
