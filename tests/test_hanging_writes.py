"""Checkpoint writes that never return: a file server that is gone, a disk that is stuck."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from connectors import file_sink
from connectors.file_sink import FileSink
from streamlearn import keeper as keepers
from streamlearn.checkpoint import CheckpointStore
from streamlearn.keeper import Keeper
from streamlearn.learner import OnlineLearner
from streamlearn.settings import CheckpointSettings
from tests.processes import (
    DEADLINE,
    Piped,
    Process,
    count_lines,
    flags,
    hashes,
    line,
    newest,
    outputs,
    piped,
    wait_for,
)
from tests.streams import settings, vectors

EVENTS = vectors(300)
OFTEN = ("--checkpoint.seconds", "0.05", "--checkpoint.patience", "0")


def lines(start: int, end: int) -> bytes:
    return b"".join(map(line, EVENTS[start:end]))


class Stuck:
    """Whoever comes through `gate` while it is `shut` stays there until it opens."""

    def __init__(self) -> None:
        self._open, self.reached = threading.Event(), threading.Event()
        self._open.set()

    def shut(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def gate(self) -> None:
        if not self._open.is_set():
            self.reached.set()
            assert self._open.wait(DEADLINE)


def writing() -> bool:
    return any(thread.name == "checkpoint-writer" for thread in threading.enumerate())


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stuck]:
    monkeypatch.setattr(keepers, "HANGING_SECONDS", 0.3)
    disk = Stuck()
    yield disk
    disk.open()
    wait_for(lambda: not writing(), "the writer's end")


@pytest.fixture
def stuck_store(stuck: Stuck, monkeypatch: pytest.MonkeyPatch) -> Stuck:
    """Nothing comes back from the state's disk while it is shut."""
    write: Callable[..., Any] = CheckpointStore.write

    def hang(*arguments: Any) -> Any:
        stuck.gate()
        return write(*arguments)

    monkeypatch.setattr(CheckpointStore, "write", hang)
    return stuck


def hung(folder: Path, worker: Piped, stuck: Stuck) -> None:
    """Learn, then let the next write hang until the worker has ended."""
    worker.send(lines(0, 100))
    worker.until(lambda: count_lines(folder / "predictions.jsonl") == 100, "it works")
    stuck.shut()
    worker.send(lines(100, 200))
    worker.until(lambda: worker.status is not None, "its end")


def says_how_long(folder: Path, text: str | None) -> bool:
    words = f"{folder / 'state'}: the writing of a checkpoint has been hanging for"
    return text is not None and words in text


def test_a_write_that_hangs_ends_the_worker(
    tmp_path: Path, stuck_store: Stuck, caplog: pytest.LogCaptureFixture
) -> None:
    with piped(tmp_path, *OFTEN) as worker:
        hung(tmp_path, worker, stuck_store)
        assert worker.status == 6
        vitals, keeper = worker.worker.vitals, worker.worker.keeper
        assert says_how_long(tmp_path, vitals.sickness()), "/healthz says this"
        assert says_how_long(tmp_path, caplog.messages[-1])
        assert caplog.messages[-1].endswith(" s: giving up")
        assert keeper.under_way
        worker.worker.sink.close()
        stuck_store.open()
        wait_for(lambda: not writing(), "the writer's end")
        keeper.settle(wait=False)
        assert vitals.sickness() is None, "it did come back"
    assert newest(tmp_path).body["records"] <= 200
    with piped(tmp_path) as worker:
        worker.send(lines(0, 300))
        assert worker.ends() == 0
    assert len(outputs(tmp_path / "predictions.jsonl")) == 300


class Disk:
    """`os`, with an fsync that hangs."""

    def __init__(self, stuck: Stuck) -> None:
        self._stuck = stuck

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fsync(self, fd: int) -> None:
        self._stuck.gate()
        os.fsync(fd)


def test_an_output_whose_fsync_hangs(tmp_path: Path, stuck: Stuck, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sink is locked meanwhile: whoever closed it would hang, too."""
    monkeypatch.setattr(file_sink, "os", Disk(stuck))
    with piped(tmp_path, *OFTEN) as worker:
        sink = worker.worker.sink
        hung(tmp_path, worker, stuck)
        assert worker.status == 6
        stuck.open()
        wait_for(lambda: not writing(), "the writer's end")
        sink.close()


def test_for_how_long_a_write_hangs_is_seen(tmp_path: Path, stuck_store: Stuck) -> None:
    """As of the moment somebody asks, whatever the learner's thread does; and what is free, also then."""
    with piped(tmp_path, "--checkpoint.seconds", "0.05", "--checkpoint.patience", "60") as worker:
        worker.send(lines(0, 100))
        worker.until(lambda: count_lines(tmp_path / "predictions.jsonl") == 100, "it works")
        vitals = worker.worker.vitals
        stuck_store.shut()
        worker.send(lines(100, 200))
        worker.until(stuck_store.reached.is_set, "a write that hangs")
        first = vitals.look().checkpoint.writing_seconds
        worker.until(lambda: vitals.look().checkpoint.writing_seconds > first + 0.2 > 0.2, "it goes on")
        assert vitals.look().checkpoint.free_bytes
        stuck_store.open()
        worker.hang_up()
        assert worker.ends() == 0
        seen = vitals.look().checkpoint
        assert seen.writing_seconds == 0
        assert seen.last_duration is not None and seen.last_pause is not None
        assert 0 < seen.last_pause <= seen.last_duration < DEADLINE


def test_a_disk_that_does_not_say_what_is_free_stops_nobody(
    tmp_path: Path, stuck: Stuck, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = shutil.disk_usage
    learners = threading.get_ident()

    def hang(folder: Path) -> Any:
        assert threading.get_ident() != learners
        stuck.gate()
        return ask(folder)

    monkeypatch.setattr(shutil, "disk_usage", hang)
    stuck.shut()
    learner = OnlineLearner(settings())
    keeper = Keeper(CheckpointSettings(), CheckpointStore(tmp_path), learner)
    keeper.look()
    assert stuck.reached.wait(DEADLINE)
    assert keeper.figures.free_bytes is None
    stuck.open()
    wait_for(lambda: keeper.figures.free_bytes, "it answers")


def test_the_last_write_hangs(tmp_path: Path, stuck_store: Stuck, caplog: pytest.LogCaptureFixture) -> None:
    with piped(tmp_path, "--checkpoint.patience", "0") as worker:
        worker.send(lines(0, 100))
        worker.until(lambda: count_lines(tmp_path / "predictions.jsonl") == 100, "it works")
        stuck_store.shut()
        assert worker.ends() == 6
        worker.worker.sink.close()
    assert f"the last checkpoint could not be written to {tmp_path / 'state'}: " in caplog.text
    assert "hanging for" in caplog.text


def test_the_first_write_hangs(tmp_path: Path, stuck_store: Stuck) -> None:
    stuck_store.shut()
    with piped(tmp_path, *OFTEN) as worker:
        worker.until(lambda: worker.error is not None, "its end")
        assert isinstance(worker.error, OSError)
        assert worker.error.filename == str(tmp_path / "state")
        assert "hanging for" in str(worker.error)
        worker.worker.sink.close()


def test_a_slow_write_is_waited_for(tmp_path: Path, stuck_store: Stuck) -> None:
    """With patience it is a write like others."""
    with piped(tmp_path, "--checkpoint.seconds", "0.05", "--checkpoint.patience", "60") as worker:
        worker.send(lines(0, 100))
        worker.until(lambda: count_lines(tmp_path / "predictions.jsonl") == 100, "it works")
        stuck_store.shut()
        worker.send(lines(100, 200))
        worker.until(stuck_store.reached.is_set, "a write that hangs")
        worker.send(lines(200, 300))
        worker.until(lambda: count_lines(tmp_path / "predictions.jsonl") == 300, "it learns on")
        assert worker.worker.vitals.sickness() is None
        worker.hang_up()
        stuck_store.open()
        assert worker.ends() == 0
    assert newest(tmp_path).body["records"] == 300


# ---- in a process of its own, for real


class HangingSink(FileSink):
    """Its fsync is a system call that never returns, once there is a FIFO beside the predictions."""

    def sync(self) -> None:
        fifo = f"{self._paths['predictions']}.fifo"
        if os.path.exists(fifo):
            os.close(os.open(fifo, os.O_RDONLY))
        super().sync()


@pytest.mark.slow
def test_a_process_whose_writer_hangs_ends(tmp_path: Path) -> None:
    words = [*flags(tmp_path, "-", *OFTEN), "--sink.connector", "tests.test_hanging_writes:HangingSink"]
    predictions = tmp_path / "predictions.jsonl"
    with Process(*words, "--sink.dead_letters", str(tmp_path / "dead"), stdin=True) as run:
        run.send(lines(0, 100))
        run.until(lambda: count_lines(predictions) == 100, "it works")
        os.mkfifo(f"{predictions}.fifo")
        run.send(lines(100, 200))
        assert run.ends() == 6
    assert says_how_long(tmp_path, run.err[-1]) and run.err[-1].endswith(" s: giving up")
    assert "Traceback" not in run.errors
    os.unlink(f"{predictions}.fifo")
    never = tmp_path / "never"
    never.mkdir()
    for folder in (tmp_path, never):
        with piped(folder, "--sink.dead_letters", str(folder / "dead")) as worker:
            worker.send(lines(0, 300))
            assert worker.ends() == 0
    assert hashes(tmp_path) == hashes(never)
    assert outputs(predictions) == outputs(never / "predictions.jsonl")
