"""What /healthz, /readyz, /status and the log say while parts of a real worker hang, and once they don't."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from ops.harness.hanging import VARIABLE
from ops.kafka.broker import Broker
from tests.kafka_worker import Place, new_place
from tests.processes import Process, count_lines, flags, line, wait_for
from tests.streams import vectors
from tests.test_prometheus import EXPORT, address

pytestmark = pytest.mark.slow

EVENTS = vectors(200)
STALL = 2.0
WATCHED = (*EXPORT, "--exporter.stall_seconds", str(STALL))
ON_KAFKA = ("--source.connector", "ops.harness.hanging:HangingKafka", "--sink.connector")
HANGING_KAFKA = (*ON_KAFKA, "connectors.kafka:KafkaSink", *WATCHED)


def lines(start: int, end: int) -> bytes:
    return b"".join(map(line, EVENTS[start:end]))


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder whose files make things hang; none is left at the end, or a worker could not stop."""
    folder = tmp_path / "faults"
    folder.mkdir()
    monkeypatch.setenv(VARIABLE, str(folder))
    yield folder
    for fault in folder.iterdir():
        fault.unlink()


class Site:
    """A worker's HTTP port."""

    def __init__(self, said: Callable[[], str]) -> None:
        self._said = said
        self.url = f"http://{address(said)}"

    def ask(self, path: str) -> tuple[int, str]:
        try:
            with urlopen(f"{self.url}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def healthy(self) -> bool:
        return self.ask("/healthz") == (200, "ok\n")

    def sick(self, why: str, thread: str, where: str = "hang harness/hanging.py") -> None:
        """Wait until it says so, in all places; not before it may. thread: the one that hangs in `where`."""
        begun = time.monotonic()
        wait_for(lambda: not self.healthy(), "it is not healthy")
        assert time.monotonic() - begun > STALL / 2, "too soon: it may have been slow"
        status, text = self.ask("/healthz")
        assert (status, why in text) == (503, True), text
        assert self.ask("/readyz")[0] == 503
        status, text = self.ask("/status")
        found = json.loads(text)
        assert (status, found["healthy"], found["ready"]) == (200, False, False)
        assert why in found["sickness"]
        assert "streamlearn_healthy 0.0" in self.ask("/metrics")[1]
        wait_for(lambda: "not healthy: " in self._said(), "the log says so, too")
        said = next(text for text in self._said().splitlines() if "not healthy: " in text)
        assert why in said and re.search(rf"{thread} in [^;]*{where}", said), said

    def recovers(self) -> None:
        wait_for(self.healthy, "it is healthy again")
        wait_for(lambda: "healthy again" in self._said(), "and the log says so")
        wait_for(lambda: self.ask("/readyz") == (200, "ok\n"), "and it is ready")


@pytest.mark.parametrize(
    ("fault", "connector", "why"),
    [
        (
            "decode",
            ("--codec.connector", "ops.harness.hanging:HangingCodec"),
            "nothing was applied for ",
        ),
        (
            "read",
            ("--source.connector", "ops.harness.hanging:HangingFile"),
            "reading has hung for ",
        ),
    ],
)
def test_the_learner_hangs(
    tmp_path: Path, faults: Path, fault: str, connector: tuple[str, str], why: str
) -> None:
    predictions = tmp_path / "predictions.jsonl"
    words = flags(tmp_path, "-", *WATCHED, *connector)
    with Process(*words, stdin=True, env={VARIABLE: str(faults)}) as worker:
        site = Site(lambda: worker.errors)
        worker.send(lines(0, 100))
        worker.until(lambda: count_lines(predictions) == 100, "it works")
        assert site.healthy()
        (faults / fault).touch()
        if fault == "read":
            worker.until((faults / "read.hangs").exists, "the read that was under way is over")
        worker.send(lines(100, 200))
        site.sick(why, "MainThread")
        assert count_lines(predictions) == 100
        (faults / fault).unlink()
        site.recovers()
        worker.hang_up()
        assert worker.ends() == 0
    assert count_lines(predictions) == 200


@pytest.fixture
def place(broker: Broker, tmp_path: Path, faults: Path) -> Place:
    place = new_place(broker, tmp_path)
    place.send(EVENTS[:100])
    return place


def env(faults: Path) -> dict[str, str]:
    return {VARIABLE: str(faults)}


def test_the_kafka_loop_hangs(place: Place, faults: Path) -> None:
    """A callback that doesn't return: nothing comes, which from the learner looks like a quiet topic."""
    with place.run(*HANGING_KAFKA, env=env(faults)) as run:
        site = Site(lambda: run.said)
        place.until_answered(run, 100)
        wait_for(lambda: site.ask("/readyz") == (200, "ok\n"), "it is ready")
        (faults / "loop").touch()
        site.sick("the thread that talks to the brokers has hung for ", "kafka")
        (faults / "loop").unlink()
        site.recovers()
        place.send(EVENTS[100:])
        place.until_answered(run, 200)
        assert run.stops() == 0


def test_records_that_do_not_come(place: Place, faults: Path) -> None:
    """The brokers answer and have more, but the client hands nothing over: also that is being stuck."""
    with place.run(*HANGING_KAFKA, env=env(faults)) as run:
        site = Site(lambda: run.said)
        place.until_answered(run, 100)
        (faults / "deliver").touch()
        run.until((faults / "deliver.hangs").exists, "it asks in vain")
        place.send(EVENTS[100:])
        site.sick("nothing was applied for ", "kafka", "select ")
        status = json.loads(site.ask("/status")[1])
        assert status["lag"] == {place.topic: {"0": 100}}
        (faults / "deliver").unlink()
        site.recovers()
        place.until_answered(run, 200)
        assert run.stops() == 0


def test_the_learner_hangs_while_the_lag_grows(place: Place, faults: Path) -> None:
    """The lag is that of the moment, not what the learner saw last."""
    codec = ("--codec.connector", "ops.harness.hanging:HangingCodec")
    with place.run(*WATCHED, *codec, env=env(faults)) as run:
        site = Site(lambda: run.said)
        place.until_answered(run, 100)
        applied = f'streamlearn_next_offset{{partition="0",topic="{place.topic}"}} 100.0'
        wait_for(lambda: applied in site.ask("/metrics")[1], "it is seen how far the learner is")
        (faults / "decode").touch()
        place.send(EVENTS[100:150])
        site.sick("nothing was applied for ", "MainThread")
        place.send(EVENTS[150:])
        wanted = f'streamlearn_consumer_lag_events{{partition="0",topic="{place.topic}"}} 100.0'
        wait_for(lambda: wanted in site.ask("/metrics")[1], "the lag grows")
        (faults / "decode").unlink()
        site.recovers()
        place.until_answered(run, 200)
        assert run.stops() == 0


def test_a_standby_hangs(place: Place, faults: Path) -> None:
    """Waiting for its turn is healthy; not to be there when it comes is not."""
    with place.run(env=env(faults)) as learner:
        place.until_answered(learner, 100)
        with place.run(*HANGING_KAFKA, env=env(faults)) as standby:
            standby.says(": standby, metrics http://")
            assert "standing by with checkpoint " in standby.said
            found = standby.said.partition(", metrics http://")[2].partition("/metrics")[0]
            site = Site(lambda: f"  metrics  http://{found}/metrics\n{standby.said}")
            wait_for(lambda: site.ask("/readyz") == (200, "ok\n"), "it is known that another one learns")
            (faults / "loop").touch()
            site.sick("the thread that talks to the brokers has hung for ", "kafka")
            (faults / "loop").unlink()
            site.recovers()
            standby.kill()
        assert learner.stops() == 0


def test_nobody_hangs(place: Place, faults: Path) -> None:
    """Paused by a command, or with nothing to do, it is healthy for as long as it likes."""
    with place.run(*HANGING_KAFKA, env=env(faults)) as run:
        site = Site(lambda: run.said)
        place.until_answered(run, 100)
        with place.command(["tell", "pause"]) as told:
            assert told.ends() == 0
        place.send(EVENTS[100:])
        until = time.monotonic() + 2 * STALL
        wait_for(lambda: not site.healthy() or time.monotonic() > until, "long enough")
        assert site.healthy()
        assert json.loads(site.ask("/status")[1])["paused"] is True
        with place.command(["tell", "resume"]) as told:
            assert told.ends() == 0
        place.until_answered(run, 200)
        assert "not healthy" not in run.said
        assert run.stops() == 0
        assert os.listdir(faults) == []
