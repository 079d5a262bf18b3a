"""A stop that is asked for while others keep still: an input, read again or for the first time; a reader."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import IO, Any
from urllib.request import urlopen

import numpy as np
import pytest

from connectors import inputs
from connectors.files import FileSource
from streamlearn.events import Resume, Stopped
from streamlearn.stop import Stop
from tests.processes import (
    DEADLINE,
    Process,
    count_lines,
    flags,
    hashes,
    here,
    line,
    newest,
    next_offset,
    outputs,
    piped,
    tree,
    write_events,
)
from tests.streams import vectors

EVENTS = vectors(12_000)
SOON = 30.0
"""Far less than the 60 s for which a stream may keep still, and enough for a process on a busy machine."""


def lines(start: int, end: int) -> bytes:
    return b"".join(map(line, EVENTS[start:end]))


@pytest.fixture
def pipe() -> Iterator[tuple[int, IO[bytes]]]:
    reading, writing = os.pipe()
    with open(writing, "wb", buffering=0) as writer:
        yield reading, writer
    os.close(reading)


def after(calls: int) -> Callable[[], bool]:
    """False so many times, then true."""
    left = [calls]

    def stopped() -> bool:
        left[0] -= 1
        return left[0] < 0

    return stopped


def arrays() -> bytes:
    file = io.BytesIO()
    np.savez(file, x=np.zeros((20, 3)))
    return file.getvalue()


@pytest.mark.parametrize(
    ("format", "content"),
    [("jsonl", b"1\n" * 100), ("jsonl", gzip.compress(b"1\n" * 100)), ("npz", arrays())],
    ids=["plain", "gzip", "npz"],
)
def test_an_input_that_keeps_still(
    pipe: tuple[int, IO[bytes]], format: str, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "GLANCE", 0.02)
    fd, writer = pipe
    writer.write(content[: len(content) // 2])
    source = FileSource({"path": "-", "fd": fd, "format": format})
    started = time.monotonic()
    with pytest.raises(Stopped, match="stopped while standard input was read again"):
        source.open(Resume({0: 100}, {0: 200}, stopped=after(4)))
    assert time.monotonic() - started < SOON
    assert not source.ended


@pytest.mark.parametrize("packed", [False, True])
def test_an_input_that_flows(pipe: tuple[int, IO[bytes]], tmp_path: Path, packed: bool) -> None:
    """A long one, with always more to read."""
    content = os.urandom(3 << 20).hex().encode() + b"\n"
    path = tmp_path / "f.jsonl.gz"
    path.write_bytes(gzip.compress(content, 1))
    fd, writer = pipe
    writer.write(content[:4096])
    source = FileSource({"path": str(path)} if packed else {"path": "-", "fd": fd})
    with pytest.raises(Stopped):
        source.open(Resume({0: 1}, {0: len(content)}, stopped=after(2)))


def test_the_stopped_worker_leaves_all_as_it_was(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with piped(tmp_path) as worker:
        worker.send(lines(0, 200))
        assert worker.ends() == 0
    before = tree(tmp_path)
    before.pop("state/lock")
    with caplog.at_level("INFO"), piped(tmp_path) as worker:
        worker.send(lines(0, 100))
        worker.until(lambda: "standard input is read again to byte" in caplog.text, "it reads again")
        worker.worker.stop()
        worker.until(lambda: worker.status is not None, "its end")
        assert worker.status == 0
        assert worker.worker.vitals.failure is None
        assert worker.worker.vitals.observation.records == 200
    assert caplog.messages[-1].startswith("stopped while standard input was read again: the last checkpoint")
    after = tree(tmp_path)
    after.pop("state/lock")
    assert after == before
    with piped(tmp_path) as worker:
        worker.send(lines(0, 300))
        assert worker.ends() == 0
    assert next_offset(tmp_path) == 300


# ---- processes


def stops(run: Process, number: signal.Signals) -> int:
    """Send the signal once; the status, which must come soon."""
    started = time.monotonic()
    run.process.send_signal(number)
    status = run.ends()
    assert time.monotonic() - started < SOON
    return status


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_standard_input_is_read_again(tmp_path: Path, number: signal.Signals) -> None:
    with piped(tmp_path) as worker:
        worker.send(lines(0, 300))
        assert worker.ends() == 0
    name = newest(tmp_path).id
    report = tmp_path / "report"
    with Process(*flags(tmp_path, "-", "--report", str(report)), stdin=True) as run:
        run.send(lines(0, 150))
        run.says("standard input is read again to byte")
        assert stops(run, number) == 0
    assert "stopped while standard input was read again: the last checkpoint stands" in run.err[-1]
    assert newest(tmp_path).id == name
    assert (report / "summary.json").exists()


@pytest.mark.slow
def test_a_signal_while_a_packed_fifo_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl.gz"
    path.write_bytes(gzip.compress(lines(0, 300)))
    assert here(*flags(tmp_path, path)) == 0
    packed = path.read_bytes()
    path.unlink()
    os.mkfifo(path)
    never = tree(tmp_path / "state")
    never.pop("lock")
    with Process(*flags(tmp_path, path)) as run, open(path, "wb", buffering=0) as writer:
        writer.write(packed[: len(packed) // 2])
        run.says(f"{path} is read again to byte")
        assert stops(run, signal.SIGTERM) == 0
    stopped = tree(tmp_path / "state")
    stopped.pop("lock")
    assert stopped == never


@pytest.mark.slow
def test_a_signal_while_the_input_says_nothing(tmp_path: Path) -> None:
    """In the middle of a line: that record was not read."""
    never = tmp_path / "never"
    never.mkdir()
    with Process(*flags(tmp_path, "-"), stdin=True) as run:
        run.send(lines(0, 200) + line(EVENTS[200])[:30])
        run.until(lambda: count_lines(tmp_path / "predictions.jsonl") == 200, "it works")
        assert stops(run, signal.SIGTERM) == 0
    assert next_offset(tmp_path) == 200
    for folder in (tmp_path, never):
        with piped(folder) as worker:
            worker.send(lines(0, 400))
            assert worker.ends() == 0
    assert hashes(tmp_path) == hashes(never)
    assert outputs(tmp_path / "predictions.jsonl") == outputs(never / "predictions.jsonl")


@pytest.mark.slow
def test_a_signal_while_the_output_is_not_read(tmp_path: Path) -> None:
    """Predictions that nobody takes can't be below a checkpoint: the last one stands, and it says so."""
    path = write_events(tmp_path / "events.jsonl", EVENTS)
    fifo = tmp_path / "out"
    os.mkfifo(fifo)
    more = ["--exporter.enabled", "true", "--exporter.port", "0"]
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with open(reader), Process(*flags(tmp_path, path, "--sink.predictions", str(fifo), *more)) as run:
        run.says("  metrics  http")
        url = re.search(r"metrics  (http://127\.0\.0\.1:\d+)/metrics", run.errors)
        assert url

        def problem() -> object:
            with urlopen(f"{url[1]}/status", timeout=DEADLINE) as answer:
                return json.loads(answer.read())["output_problem"]

        run.until(problem, "it waits for the reader")
        assert stops(run, signal.SIGTERM) == 4
    said = run.err[-1]
    assert "stopped while" in said and "the last checkpoint stands, a new start goes on from it" in said
    assert newest(tmp_path).body["records"] < len(EVENTS)
    assert here(*flags(tmp_path, path)) == 0
    assert next_offset(tmp_path) == len(EVENTS)


def waiting(stop: Stop, moment: int) -> None:
    """Wait for it, interrupted by one who sets it at that step of Python's."""
    steps = [moment]

    def interrupt(frame: FrameType, event: str, _: object) -> Any:
        frame.f_trace_opcodes = True
        if event == "opcode":
            steps[0] -= 1
            if steps[0] == 0:
                sys.settrace(None)
                stop.set()
        return interrupt

    sys.settrace(interrupt)
    stop.wait(0.005)
    sys.settrace(None)
    stop.set()


def test_it_may_be_set_at_any_moment_of_waiting_for_it() -> None:
    """A signal handler runs on the thread that waits, between any two of its steps."""
    hung = []
    for moment in range(40):
        stop = Stop()
        thread = threading.Thread(target=waiting, args=(stop, moment), daemon=True)
        thread.start()
        thread.join(DEADLINE)
        hung += [moment] if thread.is_alive() else []
        assert hung == []
        assert stop.is_set()
        assert stop.wait(0.0)


def test_all_who_wait_see_it() -> None:
    stop, seen = Stop(), []
    assert not stop.wait(0.0)
    threads = [threading.Thread(target=lambda: seen.append(stop.wait(DEADLINE))) for _ in range(3)]
    for thread in threads:
        thread.start()
    stop.set()
    for thread in threads:
        thread.join(DEADLINE)
    assert seen == [True] * 3
