"""What a worker does, and says, when the broker is away; with a broker of its own, frozen and killed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import errors as kafka_errors

from connectors.kafka.errors import explain
from ops.kafka.broker import Broker
from ops.kafka.ports import free_ports
from streamlearn import worker
from streamlearn.events import ConnectorError, Fenced, StateMismatch, Unreachable, UsageError
from tests.kafka import administrator, running
from tests.kafka_worker import Place, Run, new_place
from tests.processes import wait_for
from tests.streams import vectors

EVENTS = vectors(300)
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker to stop and freeze; transactions may not be as long as by default."""
    settings = {
        "transaction.max.timeout.ms": "120000",
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "200",
        # A broker that was killed is let back in once its session has ended.
        "broker.session.timeout.ms": "5000",
        "broker.heartbeat.interval.ms": "500",
    }
    with running(tmp_path_factory.mktemp("own") / "kafka", settings=settings) as broker:
        yield broker


@pytest.fixture
def fragile(own: Broker) -> Iterator[Broker]:
    """The same, serving again at the end."""
    yield own
    own.thaw()
    if not own.running():
        own.start()
    wait_for(own.serves, "it serves again")


def back(place: Place) -> None:
    """A broker that was frozen lets itself in again a moment later: until then no topic has a leader."""
    place.broker.thaw()

    def answers() -> bool:
        try:
            place.read()
        except kafka_errors.KafkaError:
            return False
        return True

    wait_for(answers, "it answers again")


PATIENT = ("--source.patience", "100")


def each_once(place: Place, count: int = len(EVENTS)) -> None:
    assert [each["id"] for each in place.predictions()] == [event.id for event in EVENTS[:count]]


def last_line(said: str) -> str:
    assert "Traceback" not in said
    return said.splitlines()[-1].partition(" ERROR ")[2]


@slow
def test_absent_at_the_start(tmp_path: Path) -> None:
    """Waited for, not for ever."""
    (port,) = free_ports(1)
    words = ["--source.bootstrap_servers", f"127.0.0.1:{port}", "--source.topic", "t"]
    for command in ("run", "check"):
        given = [command, *words, "--source.deadline", "1", "--checkpoint.folder", str(tmp_path / "state")]
        with Run([*given, "--exporter.enabled", "false"], tmp_path / f"{command}.log") as run:
            assert run.ends() == 4
        assert last_line(run.said) == (
            f"run: no Kafka broker answers within 1 seconds (127.0.0.1:{port}: connection refused): does it "
            "run, and is source.bootstrap_servers right?"
        )


@slow
def test_one_that_comes_later_is_waited_for_and_one_that_restarts(fragile: Broker, tmp_path: Path) -> None:
    """Killed amid outputs and started again: worker and standby go on as they were."""
    place = new_place(fragile, tmp_path)
    place.send(EVENTS[:100])
    fragile.kill()
    with place.run(*PATIENT) as run:
        fragile.start()
        place.until_answered(run, 100)
        with place.run(*PATIENT) as other:
            other.says("standing by with checkpoint ")
            place.send(EVENTS[100:200])
            place.until_answered(run, 120)
            fragile.kill()
            fragile.start()
            place.send(EVENTS[200:])
            place.until_answered(run, 300)
            assert other.stops() == 0
        assert run.stops() == 0
    each_once(place)
    assert place.committed()["", 0][1]["epoch"] == 1


@slow
def test_lost_for_longer_than_a_session(fragile: Broker, tmp_path: Path) -> None:
    """The broker has forgotten the members of the group when it answers again; whoever is back first learns.

    (By default a broker waits 3 s for all to come back, and then it is who learned; this one doesn't wait.)
    """
    place = new_place(fragile, tmp_path)
    place.send(EVENTS[:100])
    with place.run(*PATIENT) as run:
        place.until_answered(run, 100)
        with place.run(*PATIENT) as other:
            other.says("standing by with checkpoint ")
            fragile.freeze()
            other.says("standing by, though no broker answers: ")
            run.says(" s: waiting for up to 100 s (source.patience), nothing is lost")
            back(place)
            place.send(EVENTS[100:])
            wait_for(lambda: place.answered(300), "300 predictions are visible", other.running)
            assert other.stops() == 0
            taken_over = "goes on from 0" in other.said
            if taken_over:
                assert run.ends() == 7
                assert "another worker of " in last_line(run.said)
            else:
                run.says("a broker answers again")
                assert run.stops() == 0
    each_once(place)
    assert place.committed()["", 0][1]["epoch"] == 1 + taken_over


def goes_on(place: Place) -> None:
    """The broker is back, and so is a worker: it finds the first hundred events done, and does the others."""
    back(place)
    place.send(EVENTS[100:])
    with place.run(*PATIENT) as run:
        place.until_answered(run, 300)
        assert run.stops() == 0
    each_once(place)


@slow
def test_lost_for_longer_than_the_patience(fragile: Broker, tmp_path: Path) -> None:
    """Both give up, and whoever starts them again finds everything."""
    place = new_place(fragile, tmp_path)
    place.send(EVENTS[:100])
    short = ("--source.patience", "3")
    with place.run(*short) as run, place.run(*short) as other:
        wait_for(lambda: place.answered(100) and "standing by" in run.said + other.said, "both are there")
        fragile.freeze()
        for each in (run, other):
            assert each.ends() == 4
            assert "no broker has answered for " in last_line(each.said)
            assert " s (source.patience): giving up" in last_line(each.said)
    goes_on(place)


def hurry() -> None:
    """In the worker's process: wait 2 s for a last commit, not 10."""
    worker.LAST_SECONDS = 2.0


@slow
def test_a_stop_while_it_is_away_does_not_wait_for_it(fragile: Broker, tmp_path: Path) -> None:
    place = new_place(fragile, tmp_path)
    place.send(EVENTS[:100])
    with place.run(*PATIENT, before=hurry) as run:
        place.until_answered(run, 100)
        fragile.freeze()
        assert run.stops() == 4  # its last checkpoint, at least, has no commit
    assert "stopped, but the broker has not taken the last outputs: nothing is lost" in last_line(run.said)
    goes_on(place)


@slow
def test_transactions_that_the_broker_does_not_allow(own: Broker, tmp_path: Path) -> None:
    place = new_place(own, tmp_path)
    with place.run() as run:
        assert run.ends() == 2
        assert "the broker doesn't allow transactions as long as source.patience" in last_line(run.said)


@slow
def test_a_transaction_that_the_broker_has_given_up(own: Broker, tmp_path: Path) -> None:
    """After a long stop of machine or network: nothing of it is seen, and a new start makes it again."""
    place = new_place(own, tmp_path)
    place.send(EVENTS[:50])
    short = (*PATIENT, "--sink.client.transaction_timeout_ms", "1000")

    def state() -> str:
        with administrator(own) as admin:
            name = f"streamlearn.{place.group}"
            return str(admin.describe_transactions([name])[name].state)

    with place.run(*short, **place.held) as run:
        place.until_answered(run, 50)
        place.hold.touch()
        place.send(EVENTS[50:100])
        run.says("HELD")
        run.freeze()
        run.until(lambda: "ABORT" in state().upper(), "the broker has aborted it")
        place.hold.unlink()
        run.thaw()
        assert run.ends() == 7
        assert (
            "fenced: another worker of this group took over, or the broker gave up a transaction"
            in last_line(run.said)
        )
        assert len(place.read()) == 50
    place.send(EVENTS[100:])
    with place.run(*PATIENT) as run:
        place.until_answered(run, 300)
        assert run.stops() == 0
    each_once(place)


def wrapped(error: Exception) -> Exception:
    """As the client's sender task does it."""
    outer: Exception = kafka_errors.KafkaError("Unexpected error during batch delivery")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (kafka_errors.ProducerFenced(), Fenced, "nothing is lost, a new start goes on from the last commit"),
        (wrapped(kafka_errors.InvalidTxnState()), Fenced, "the broker gave up a transaction"),
        (kafka_errors.ProducerFenced(), Fenced, "share a source.options.instance: give each its own"),
        (wrapped(kafka_errors.InvalidProducerIdMapping()), Fenced, "has forgotten our transactional id"),
        (
            kafka_errors.TopicAuthorizationFailedError("t"),
            Unreachable,
            r"not authorised \(.*: t\): the user needs",
        ),
        (kafka_errors.GroupAuthorizationFailedError("g"), Unreachable, "not authorised"),
        (kafka_errors.OffsetOutOfRangeError({"t": 5}), StateMismatch, "are no longer in the log"),
        (kafka_errors.InvalidSessionTimeoutError(), UsageError, "set source.client.session_timeout_ms"),
        (kafka_errors.MessageSizeTooLargeError(), Unreachable, "set the topic's max.message.bytes higher"),
        (TimeoutError(), Unreachable, "no answer in time; what was not committed is made again"),
        (kafka_errors.KafkaError("odd"), Unreachable, "KafkaError: odd"),
        (Unreachable("as it is"), Unreachable, "^as it is$"),
    ],
)
def test_an_error_of_the_client_is_a_sentence(
    error: Exception, kind: type[ConnectorError], words: str
) -> None:
    found = explain(error, "Kafka at a:1")
    assert type(found) is kind
    assert re.search(words, str(found))
