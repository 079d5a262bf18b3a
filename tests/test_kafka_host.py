"""The Kafka process of a worker on a real broker: started as users start it, killed, stopped, left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.kafka import hosted
from ops.bench.common import family
from ops.kafka.broker import Broker
from tests.kafka_worker import Place, new_place
from tests.processes import ROOT, Process, state, wait_for
from tests.streams import vectors

pytestmark = pytest.mark.slow

EVENTS = vectors(200)


@pytest.fixture
def place(broker: Broker, tmp_path: Path) -> Iterator[Place]:
    yield new_place(broker, tmp_path)


def host_of(pid: int) -> int:
    """The one child of a worker."""
    _, child = family(pid)
    assert "connectors.kafka.host" in Path(f"/proc/{child}/cmdline").read_text()
    return child


def gone(pid: int) -> bool:
    """Has it ended? (Whoever is nobody's child any more may wait to be collected for ever.)"""
    try:
        return state(pid) == "Z"
    except FileNotFoundError:
        return True


def goes_on(place: Place) -> None:
    """A new start answers the other events too; each has one prediction, and the steps never fall back."""
    place.send(EVENTS[100:])
    with Process(*place.words("run")) as worker:
        wait_for(lambda: place.answered(200), "a new start goes on")
        worker.process.terminate()
        assert worker.ends() == 0
    found = [json.loads(message.value or b"") for message in place.read()]
    assert [each["source"][2] for each in found] == list(range(200))
    steps = [each["model_step"] for each in found]
    assert steps == sorted(steps)


def test_the_worker_is_killed(place: Place) -> None:
    """Its Kafka process doesn't outlive it, and the next one goes on."""
    place.send(EVENTS[:100])
    with Process(*place.words("run")) as worker:
        wait_for(lambda: place.answered(50), "it works")
        host = host_of(worker.process.pid)
        worker.process.kill()
        wait_for(lambda: gone(host), "its Kafka process has ended", lambda: True)
    goes_on(place)


def test_the_kafka_process_is_killed(place: Place) -> None:
    """One clear line, status 4, and nothing is lost."""
    place.send(EVENTS[:100])
    with Process(*place.words("run")) as worker:
        wait_for(lambda: place.answered(50), "it works")
        os.kill(host_of(worker.process.pid), signal.SIGKILL)
        assert worker.ends() == 4
    last = worker.errors.strip().splitlines()[-1]
    assert "the process that talks to Kafka was killed by signal 9: nothing is lost" in last
    goes_on(place)


def impatient() -> None:
    hosted.HUNG_SECONDS = 1.0


@pytest.mark.parametrize("asked_to_end", [False, True])
def test_the_kafka_process_alone_is_stopped(asked_to_end: bool, place: Place) -> None:
    """No worker waits for it for ever, whether it is to end or to go on."""
    place.send(EVENTS[:100])
    with place.run(before=impatient) as run:
        place.until_answered(run, 100)
        assert run.process.pid is not None
        _, host = family(run.process.pid)
        os.kill(host, signal.SIGSTOP)
        assert (run.stops() if asked_to_end else run.ends()) == 4
        assert gone(host)
    last = run.said.strip().splitlines()[-1]
    assert "the process that talks to Kafka was killed by signal 9: nothing is lost" in last
    goes_on(place)


def test_a_signal_to_all_its_processes(place: Place) -> None:
    """As a terminal sends it, or systemd: the worker stops as ever, with its Kafka process to the end."""
    place.send(EVENTS[:100])
    with Process(*place.words("run")) as worker:
        wait_for(lambda: place.answered(100), "it works")
        host = host_of(worker.process.pid)
        for pid in (host, worker.process.pid):
            os.kill(pid, signal.SIGTERM)
        assert worker.ends() == 0
        assert gone(host)
    assert "Traceback" not in worker.errors
    at, said = place.committed()["", 0]
    assert at == 100
    assert said["checkpoint"] == place.named()


def test_a_signal_at_the_very_beginning(place: Place) -> None:
    """To both, before the one has loaded torch and the other Kafka's client."""
    with Process(*place.words("run")) as worker:
        pid = worker.process.pid
        wait_for(lambda: len(family(pid)) == 2, "the Kafka process is begun")
        for each in reversed(family(pid)):
            os.kill(each, signal.SIGINT)
        assert worker.ends() == 0
    assert "Traceback" not in worker.errors
    assert "SIGINT: stopped before anything was begun" in worker.errors


def test_a_folder_with_modules_of_our_names(place: Place, tmp_path: Path) -> None:
    """Whatever lies where a worker is started is none of its modules."""
    for name in ("kafka", "json", "connectors"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not this one')")
    place.send(EVENTS[:50])
    command = [sys.executable, "-P", "-m", "streamlearn", *place.words("run")]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.DEVNULL) as worker:
        wait_for(lambda: place.answered(50), "it works", lambda: worker.poll() is None)
        worker.terminate()
        assert worker.wait(60) == 0
