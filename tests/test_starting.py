"""A worker that starts: what it says before it learns or stands by, and when the start hangs."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest

from ops.kafka.broker import Broker
from ops.kafka.ports import free_ports
from tests.kafka import running
from tests.kafka_worker import Run, new_place
from tests.processes import Process, flags, here, newest, write_events
from tests.streams import vectors

pytestmark = pytest.mark.slow

EVENTS = vectors(100)
ROLES = 'streamlearn_role{role="learner"} ', 'streamlearn_role{role="standby"} '


class Site:
    """The HTTP port of a worker that has not said where it is."""

    def __init__(self) -> None:
        (self.port,) = free_ports(1)
        self.words = ("--exporter.enabled", "true", "--exporter.port", str(self.port))

    def ask(self, path: str) -> tuple[int, str]:
        """Status and text; 0 where nobody answers yet."""
        try:
            with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except URLError:
            return 0, ""

    def figure(self, name: str) -> str:
        """The value of a series, as it is written; empty where there is none."""
        lines = self.ask("/metrics")[1].splitlines()
        return next((text.removeprefix(name).strip() for text in lines if text.startswith(name)), "")


def test_a_start_that_hangs(tmp_path: Path) -> None:
    """The state comes from a file server that is gone, say: a FIFO that nobody writes to."""
    events = write_events(tmp_path / "events.jsonl", EVENTS)
    assert here(*flags(tmp_path, events)) == 0
    parts = newest(tmp_path).path.with_suffix(".parts")
    parts.unlink()
    os.mkfifo(parts)
    site = Site()
    with Process(*flags(tmp_path, events, *site.words, "--exporter.stall_seconds", "2")) as worker:
        worker.until(lambda: "loading a checkpoint" in site.ask("/readyz")[1], "what it does")
        assert site.ask("/readyz") == (503, "not ready: loading a checkpoint\n")
        assert site.ask("/healthz") == (200, "ok\n")
        assert [site.figure(role) for role in ROLES] == ["0.0", "0.0"]
        worker.until(lambda: site.ask("/healthz")[0] == 503, "it hangs")
        assert site.ask("/healthz")[1].startswith("loading a checkpoint has hung for ")
        assert site.ask("/readyz")[1].startswith("not ready: loading a checkpoint has hung for ")
        status = json.loads(site.ask("/status")[1])
        assert (status["role"], status["healthy"], status["ready"]) == ("starting", False, False)
        assert status["last_checkpoint"]["free_bytes"] > 0
        assert float(site.figure("streamlearn_checkpoint_free_bytes")) > 0
        worker.says("not healthy: loading a checkpoint has hung for ")
        assert "MainThread in " in worker.errors


def test_a_load_that_takes_long_is_no_broker_that_is_silent(broker: Broker, tmp_path: Path) -> None:
    place, site = new_place(broker, tmp_path), Site()
    place.send(EVENTS)
    with place.run() as run:
        place.until_kept(run, 100)
        assert run.stops() == 0
    parts = newest(tmp_path).path.with_suffix(".parts")
    parts.rename(tmp_path / "parts")
    os.mkfifo(parts)
    series = "streamlearn_last_broker_answer_timestamp_seconds"
    with place.run(*site.words) as run:
        run.until(lambda: "loading a checkpoint" in site.ask("/readyz")[1], "what it does")
        before = float(site.figure(series))
        run.until(lambda: float(site.figure(series)) > before + 3, "the broker answers meanwhile")
        assert site.ask("/healthz") == (200, "ok\n")
        assert [site.figure(role) for role in ROLES] == ["0.0", "0.0"]


def test_a_broker_that_is_not_there_yet(tmp_path: Path) -> None:
    """Waiting is healthy, and somebody is told why nothing comes."""
    site, begun = Site(), time.time()
    (port,) = free_ports(1)
    words = flags(tmp_path, "-", *site.words, "--exporter.stall_seconds", "2")
    at = words.index("--source.path")
    words[at : at + 2] = ["--source.bootstrap_servers", f"127.0.0.1:{port}", "--source.topic", "t"]
    at = words.index("--sink.predictions")
    del words[at : at + 2]
    series = "streamlearn_last_broker_answer_timestamp_seconds"
    with Process(*words) as worker:
        worker.until(lambda: "joining the group" in site.ask("/readyz")[1], "what it does")
        first = float(site.figure(series))
        assert begun <= first <= time.time()
        worker.until(lambda: "no broker answers yet" in site.ask("/readyz")[1], "what keeps it")
        wanted = f"Kafka at 127.0.0.1:{port}: no broker answers yet: waiting for up to 60 s (source.deadline)"
        worker.says(wanted)
        assert site.ask("/readyz")[1].startswith(f"not ready: {wanted}")
        assert worker.errors.count("no broker answers yet") == 1
        assert site.ask("/healthz") == (200, "ok\n"), "it only waits"
        assert float(site.figure(series)) < first + 3, "when it began to ask"


def roles(run: Run, site: Site, wanted: str) -> set[str]:
    """Those that it has until it is `wanted`; asked again and again."""
    seen: set[str] = set()

    def there() -> bool:
        status, text = site.ask("/status")
        if status:
            seen.add(json.loads(text)["role"])
        return wanted in seen

    run.until(there, wanted)
    return seen


def test_alone_it_never_stands_by(tmp_path: Path) -> None:
    """While a group forms a broker waits for more members, by default for 3 s: no standby was there."""
    with running(tmp_path / "kafka", settings={"group.initial.rebalance.delay.ms": "3000"}) as broker:
        place = new_place(broker, tmp_path)
        place.send(EVENTS)
        for saying in ("a first start", "goes on from "):
            site, begun = Site(), time.monotonic()
            with place.run(*site.words) as run:
                assert roles(run, site, "learner") == {"starting", "learner"}
                assert saying == "goes on from " or time.monotonic() - begun > 3, "the group formed at once"
                run.says(saying)
                place.until_answered(run, 100)
                assert ": standby, metrics" not in run.said
                run.kill()


def test_another_stands_by_and_takes_over(broker: Broker, tmp_path: Path) -> None:
    place, first, second = new_place(broker, tmp_path), Site(), Site()
    place.send(EVENTS)
    with place.run(*first.words) as learner:
        place.until_answered(learner, 100)
        with place.run(*second.words, "--exporter.stall_seconds", "2") as standby:
            assert roles(standby, second, "standby") <= {"starting", "standby"}
            assert second.ask("/readyz") == (200, "ok\n")
            assert [second.figure(role) for role in ROLES] == ["0.0", "1.0"]
            series = "streamlearn_last_broker_answer_timestamp_seconds"
            before = float(second.figure(series))
            standby.until(lambda: float(second.figure(series)) > before + 3, "it asks again and again")
            assert second.ask("/healthz") == (200, "ok\n"), "only waiting is no hanging"
            assert "not healthy" not in standby.said
            learner.kill()
            assert roles(standby, second, "learner") <= {"standby", "starting", "learner"}
            standby.says("goes on from ")
            assert standby.stops() == 0
