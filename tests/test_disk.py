"""Disks that are full or can't be written to, for real: small file systems, mounted for the test."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.processes import (
    Process,
    count_lines,
    flags,
    hashes,
    here,
    line,
    newest,
    outputs,
    piped,
    tree,
    write_events,
)
from tests.streams import vectors

pytestmark = pytest.mark.slow

EVENTS = vectors(1200)
Mount = Callable[..., Path]


def lines(start: int, end: int) -> bytes:
    return b"".join(map(line, EVENTS[start:end]))


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a file system of `size` at tmp_path / name. Skips where that isn't allowed."""
    mounted: list[Path] = []

    def at(name: str, size: str = "1m") -> Path:
        place = tmp_path / name
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        except FileNotFoundError:
            pytest.skip("there is no mount(8) here")
        if done.returncode:
            pytest.skip(f"no file system can be mounted here (root could): {done.stderr.strip()}")
        mounted.append(place)
        return place

    yield at
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True, timeout=30)


def remount(place: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(place)], check=True, timeout=30)


def fill(folder: Path) -> Path:
    """Leave not a byte free; delete the file to change that."""
    filler = folder / "filler"
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC
    return filler


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is there after all EVENTS, where there was always room."""
    folder = tmp_path_factory.mktemp("quiet")
    with piped(folder) as worker:
        worker.send(lines(0, 1200))
        assert worker.ends() == 0
    return folder


def same_as(quiet: Path, folder: Path, predictions: Path) -> None:
    assert hashes(folder) == hashes(quiet)
    assert outputs(predictions) == outputs(quiet / "predictions.jsonl")


def test_no_room_for_checkpoints(
    tmp_path: Path, mount: Mount, quiet: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It learns and answers on, says so once, and recovers by itself."""
    state, predictions = mount("state"), tmp_path / "predictions.jsonl"
    often = ["--checkpoint.seconds", "0.05", "--checkpoint.patience", "20", "--checkpoint.keep", "2"]
    with caplog.at_level("INFO"), piped(tmp_path, *often) as worker:
        keeper = worker.worker.keeper
        worker.send(lines(0, 300))
        worker.until(lambda: count_lines(predictions) == 300 and keeper.figures.written > 1, "a checkpoint")
        filler = fill(state)
        worker.send(lines(300, 600))
        worker.until(lambda: keeper.figures.failures > 0, "a failure")
        durable = newest(tmp_path).id
        written = keeper.figures.written
        assert not list(state.rglob("*.tmp")), "nothing half is left"
        worker.send(lines(600, 900))
        worker.until(lambda: count_lines(predictions) == 900, "answers all the same")
        worker.until(lambda: keeper.figures.failures > 1, "another attempt")
        assert newest(tmp_path).id == durable
        assert keeper.figures.written == written
        filler.unlink()
        worker.send(lines(900, 1200))
        worker.until(lambda: keeper.problem is None, "the recovery")
        assert worker.ends() == 0
    assert caplog.text.count("checkpoint not written to") == 1
    assert "No space left on device" in caplog.text
    assert caplog.text.count("checkpoints can be written again") == 1
    same_as(quiet, tmp_path, predictions)


def test_no_room_for_checkpoints_for_too_long(tmp_path: Path, mount: Mount, quiet: Path) -> None:
    state, predictions = mount("state"), tmp_path / "predictions.jsonl"
    words = flags(tmp_path, "-", "--checkpoint.seconds", "0.05", "--checkpoint.patience", "1")
    with Process(*words, stdin=True) as run:
        run.send(lines(0, 300))
        run.until(lambda: count_lines(predictions) == 300, "it works")
        filler = fill(state)
        run.send(lines(300, 500))
        assert run.ends() == 6
    assert run.errors.count("checkpoint not written to") == 1
    assert "(No space left on device)" in run.errors.replace("[Errno 28] ", "")
    assert ": giving up" in run.err[-1]
    assert "Traceback" not in run.errors
    assert not list(state.rglob("*.tmp"))
    assert newest(tmp_path).body["records"] <= 500
    filler.unlink()
    with piped(tmp_path) as worker:
        worker.send(lines(0, 1200))
        assert worker.ends() == 0
    same_as(quiet, tmp_path, predictions)


def test_no_room_for_outputs(
    tmp_path: Path, mount: Mount, quiet: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is read until they can be written; then it goes on behind the last byte."""
    out = mount("out")
    predictions = out / "predictions.jsonl"
    words = ["--sink.predictions", str(predictions), "--checkpoint.seconds", "0.05"]
    with caplog.at_level("INFO"), piped(tmp_path, *words) as worker:
        worker.send(lines(0, 300))
        worker.until(lambda: count_lines(predictions) == 300, "it works")
        filler = fill(out)
        worker.send(lines(300, 900))
        vitals = worker.worker.vitals
        worker.until(lambda: vitals.output_problem is not None, "the disk is full")
        assert "No space left on device" in str(vitals.output_problem)
        filler.unlink()
        worker.until(lambda: count_lines(predictions) == 900, "it goes on")
        worker.send(lines(900, 1200))
        assert worker.ends() == 0
        assert vitals.output_problem is None
    assert caplog.text.count("outputs can't be written") == 1
    same_as(quiet, tmp_path, predictions)


def test_no_room_for_outputs_for_too_long(tmp_path: Path, mount: Mount, quiet: Path) -> None:
    out = mount("out")
    predictions = out / "predictions.jsonl"
    words = ["--sink.predictions", str(predictions), "--checkpoint.seconds", "0.05"]
    with piped(tmp_path, *words, "--checkpoint.patience", "0.5") as worker:
        worker.send(lines(0, 300))
        worker.until(lambda: count_lines(predictions) == 300, "it works")
        filler = fill(out)
        worker.send(lines(300, 900))
        worker.until(lambda: worker.status is not None, "its end")
        assert worker.status == 6
    filler.unlink()
    with piped(tmp_path, *words) as worker:
        worker.send(lines(0, 1200))
        assert worker.ends() == 0
    same_as(quiet, tmp_path, predictions)


def test_a_state_that_cannot_be_written(
    tmp_path: Path, mount: Mount, capfd: pytest.CaptureFixture[str]
) -> None:
    state = mount("state")
    path = write_events(tmp_path / "events.jsonl", EVENTS[:50])
    words = flags(tmp_path, path)
    assert here(*words) == 0
    write_events(path, EVENTS[:80])
    remount(state, "ro")
    before = tree(tmp_path)
    capfd.readouterr()
    assert here(*words) == 6
    err = capfd.readouterr().err
    assert f"ERROR run: {state}: the state can't be kept here (Read-only file system)" in err
    assert "set checkpoint.folder" in err
    assert here("check", *words[1:]) == 6
    assert f"{state}: not writable" in capfd.readouterr().err
    assert here("checkpoints", "show", str(state)) == 0
    capfd.readouterr()
    assert here("checkpoints", "use", str(state), newest(tmp_path).id) == 6
    assert "Read-only file system" in capfd.readouterr().err
    new = flags(tmp_path, path, "--checkpoint.folder", str(state / "new"))
    assert here(*new) == 6
    assert tree(tmp_path) == before
    remount(state, "rw")
    assert here(*words) == 0
    assert count_lines(tmp_path / "predictions.jsonl") == 80


def test_an_output_that_cannot_be_written(
    tmp_path: Path, mount: Mount, capfd: pytest.CaptureFixture[str]
) -> None:
    out = mount("out")
    path = write_events(tmp_path / "events.jsonl", EVENTS[:50])
    words = flags(tmp_path, path, "--sink.predictions", str(out / "p.jsonl"))
    remount(out, "ro")
    assert here(*words) == 4
    assert f"{out}/p.jsonl can't be written: Read-only file system" in capfd.readouterr().err
    remount(out, "rw")
    assert here(*words) == 0
    assert os.path.getsize(out / "p.jsonl") > 0
    assert count_lines(out / "p.jsonl") == 50
