"""`streamlearn run` in a process of its own: signals, pipes, the HTTP port."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests.processes import (
    DEADLINE,
    QUIET,
    ROOT,
    Process,
    count_lines,
    flags,
    hashes,
    here,
    line,
    newest,
    next_offset,
    outputs,
    wait_for,
    write_events,
)
from tests.scrape import parsed
from tests.streams import vectors
from tests.test_prometheus import EXPORT, address

pytestmark = pytest.mark.slow

MANY = 12_000
EVENTS = vectors(MANY)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_middle(tmp_path: Path, number: signal.Signals) -> None:
    path = write_events(tmp_path / "events.jsonl", EVENTS)
    never, folder = tmp_path / "never", tmp_path / "stopped"
    never.mkdir()
    folder.mkdir()
    with Process(*flags(folder, path, "--checkpoint.seconds", "0.2")) as run:
        run.until(lambda: count_lines(folder / "predictions.jsonl") > 300, "it works")
        run.process.send_signal(number)
        assert run.ends() == 0
    assert f"INFO run: {number.name}: stopping after a checkpoint (again: stop at once)" in run.errors
    stopped = next_offset(folder)
    assert 0 < stopped == count_lines(folder / "predictions.jsonl") < MANY
    with Process(*flags(folder, path)) as run:
        assert run.ends() == 0
    assert f"goes on from 000001-{newest(folder).body['number']:06d}"[:20] in run.errors
    assert f"from record {stopped}" in run.errors
    assert here(*flags(never, path)) == 0
    assert hashes(folder) == hashes(never)
    assert outputs(folder / "predictions.jsonl") == outputs(never / "predictions.jsonl")


def catches(pid: int, number: signal.Signals) -> bool:
    """Has the process a handler for the signal?"""
    found = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return found is not None and bool(int(found[1], 16) >> (number - 1) & 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_start(tmp_path: Path, number: signal.Signals) -> None:
    """Imports take seconds; a service manager may not wait for them."""
    path = write_events(tmp_path / "events.jsonl", EVENTS[:10])
    with Process(*flags(tmp_path, path)) as run:
        # Python itself catches SIGINT: our handlers are there once SIGTERM is caught, too.
        run.until(lambda: catches(run.process.pid, signal.SIGTERM), "handlers")
        run.process.send_signal(number)
        assert run.ends() == 0
    assert f"{number.name}: stopped before anything was begun" in run.errors
    assert [path.name for path in tmp_path.iterdir()] == ["events.jsonl"]


def test_a_signal_at_the_end(tmp_path: Path) -> None:
    """Whenever it comes: the work is done, and the status says so."""
    path = write_events(tmp_path / "events.jsonl", EVENTS[:10])
    with Process(*flags(tmp_path, path)) as run:
        run.says("the source has ended")
        run.process.send_signal(signal.SIGTERM)
        assert run.ends() == 0
    assert next_offset(tmp_path) == 10


def test_the_second_signal_stops_at_once(tmp_path: Path) -> None:
    """Here the first one can't: the output's reader takes nothing, and the worker waits for it."""
    path = write_events(tmp_path / "events.jsonl", EVENTS)
    words = flags(tmp_path, path, "--sink.predictions", "-")
    run = subprocess.Popen(
        [sys.executable, "-m", "streamlearn", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        bufsize=0,
    )
    assert run.stdout is not None and run.stderr is not None
    with run, run.stdout, run.stderr:
        assert run.stdout.read(1)
        run.send_signal(signal.SIGTERM)
        for text in iter(run.stderr.readline, b""):
            if b"stopping after a checkpoint" in text:
                break
        run.send_signal(signal.SIGTERM)
        assert run.wait(DEADLINE) == -signal.SIGTERM
    assert newest(tmp_path).body["records"] == 0


def test_a_reader_that_leaves(tmp_path: Path) -> None:
    path = write_events(tmp_path / "events.jsonl", EVENTS[:2000])
    words = flags(tmp_path, path, "--sink.predictions", "-")
    command = shlex.join([sys.executable, "-m", "streamlearn", *words])
    ended = subprocess.run(
        ["bash", "-c", f"{command} | head -1; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        cwd=ROOT,
        check=True,
    )
    prediction, status = ended.stdout.splitlines()
    assert json.loads(prediction)["id"] == "event 0"
    assert status == "4"
    assert ended.stderr.splitlines()[-1].endswith("ERROR run: the reader of standard output is gone")
    with Process(*words) as run:
        assert run.ends() == 0
    assert [json.loads(text)["id"] for text in run.out][-1] == "event 1999"
    assert next_offset(tmp_path) == 2000


def test_a_conversation(tmp_path: Path) -> None:
    """A person types events and sees answers; nothing else is on standard output."""
    words = flags(tmp_path, "-", "--sink.predictions", "-")
    with Process(*words, stdin=True) as run:
        run.send(b"".join(map(line, EVENTS[:10])))
        run.until(lambda: len(run.out) == 10, "the shape is settled")
        for count in range(11, 24):
            run.send(line(EVENTS[count - 1]))
            run.until(lambda count=count: len(run.out) == count, f"answer {count}")  # type: ignore[misc]
        run.hang_up()
        assert run.ends() == 0
    answers = [json.loads(text) for text in run.out]
    assert [each["id"] for each in answers] == [event.id for event in EVENTS[:23]]
    assert answers[-1]["known_classes"] >= 1


def test_the_http_port(tmp_path: Path) -> None:
    words = flags(tmp_path, "-", "--exporter.enabled", "true", "--exporter.port", "0")
    with Process(*words, stdin=True) as run:
        run.says("  metrics  http")
        found = re.search(r"metrics  (http://127\.0\.0\.1:\d+)/metrics", run.errors)
        assert found

        def ask(path: str) -> tuple[int, str]:
            try:
                with urllib.request.urlopen(f"{found[1]}{path}", timeout=10) as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read().decode()

        assert ask("/healthz") == (200, "ok\n")
        assert ask("/readyz") == (200, "ok\n")
        run.send(b"".join(map(line, EVENTS[:200])) + b"garbage\n")
        labeled = sum(event.y is not None for event in EVENTS[:200])
        run.until(lambda: json.loads(ask("/status")[1])["records"] == 200, "all are counted")
        status = json.loads(ask("/status")[1])
        waiting = labeled - status["held_out"]
        assert (status["learned"], status["pending"]) == (waiting // 10 * 10, waiting % 10)
        assert status["dead_letters"] == {"undecodable": 1}
        assert status["offsets"] == {"-": {"0": 201}}
        samples = {
            (sample.name, *sample.labels.values()): sample.value
            for family in parsed(ask("/metrics")[1])
            for sample in family.samples
        }
        assert samples["streamlearn_events_total", "predicted"] == 200
        assert samples["streamlearn_dead_letters_total", "undecodable"] == 1
        assert samples["streamlearn_model_step",] == labeled // 10
        assert ask("/nothing")[0] == 404
        run.process.send_signal(signal.SIGTERM)
        assert run.ends() == 0
    assert next_offset(tmp_path) == 201


def test_log_lines_for_machines(tmp_path: Path) -> None:
    path = write_events(tmp_path / "events.jsonl", EVENTS[:50])
    words = ["run", "--source.path", str(path), "--checkpoint.folder", str(tmp_path / "s"), *QUIET]
    with Process(*words, "--log.format", "json", "--log.level", "info") as run:
        assert run.ends() == 0
    lines = [json.loads(text) for text in run.err if text.startswith("{")]
    assert lines[-1]["message"] == (
        "the source has ended: 50 records, "
        f"{sum(event.y is not None for event in EVENTS[:50])} learned, 0 dead letters"
    )
    assert len(run.out) == 50


def test_a_kill_soon_after_a_file_took_the_place_of_standard_output(tmp_path: Path) -> None:
    """What the killed worker wrote stands once: there was a mark of the file before its first line."""
    path, predictions = tmp_path / "events.jsonl", tmp_path / "predictions.jsonl"
    write_events(path, EVENTS[:500])
    seldom = ("--checkpoint.seconds", "1000", "--checkpoint.events", "1000000")
    assert here(*flags(tmp_path, path, "--sink.predictions", "-")) == 0
    write_events(path, EVENTS)
    with Process(*flags(tmp_path, path, *seldom)) as run:
        run.until(lambda: count_lines(predictions) > 200, "it answers")
        run.process.kill()
        run.process.wait(DEADLINE)
    assert newest(tmp_path).body["records"] == 500
    with Process(*flags(tmp_path, path)) as run:
        assert run.ends() == 0
    assert [each["id"] for each in outputs(predictions)] == [event.id for event in EVENTS[500:]]


def test_what_status_says_while_the_reader_takes_nothing(tmp_path: Path) -> None:
    """The figures are those of now, not those from before the wait."""
    path = write_events(tmp_path / "events.jsonl", EVENTS * 3)
    words = flags(tmp_path, path, "--sink.predictions", "-", *EXPORT)
    said: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-m", "streamlearn", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        bufsize=0,
    ) as run:
        assert run.stdout is not None and run.stderr is not None
        for text in iter(run.stderr.readline, b""):
            said.append(text.decode())
            if "/metrics" in said[-1]:
                break
        url = f"http://{address(lambda: ''.join(said))}"

        def status() -> dict[str, Any]:
            with urlopen(f"{url}/status", timeout=10) as answer:
                found: dict[str, Any] = json.loads(answer.read())
                return found

        wait_for(lambda: status()["queues"].get("outputs", 0) > 0, "outputs wait")
        wait_for(lambda: status()["records"] > 0, "and records were learned")
        found = status()
        assert found["step"] and found["known_classes"] and found["offsets"]
        with urlopen(f"{url}/metrics", timeout=10) as answer:
            text = answer.read()
        assert b'streamlearn_queue_depth{queue="outputs"}' in text
        assert b"# TYPE streamlearn_consumer_lag_events gauge" in text
        run.kill()
