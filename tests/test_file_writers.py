"""An output file has one writer: who else names it, or changes it meanwhile, is told."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from connectors.file_sink import FileSink
from streamlearn.events import Position, Prediction, StateMismatch
from tests.processes import ROOT, count_lines, flags, here, line, next_offset, piped, said, write_events
from tests.streams import vectors

EVENTS = vectors(60)


def sink_in(folder: Path, **options: str) -> FileSink:
    return FileSink({"predictions": str(folder / "p"), "dead_letters": str(folder / "d"), **options})


def prediction(offset: int) -> Prediction:
    return Prediction(f"id {offset}", None, {}, 0, 0, Position("t", 0, offset))


@pytest.mark.parametrize("name", ["p", "d"])
def test_a_second_writer_is_refused_until_the_first_has_closed(tmp_path: Path, name: str) -> None:
    other = {"p": "dead_letters", "d": "predictions"}[name]
    first, second = sink_in(tmp_path), sink_in(tmp_path, **{other: str(tmp_path / "other")})
    first.open(None, 0)
    first.write([prediction(0)])
    marks = first.flush()
    content = (tmp_path / name).read_bytes()
    for refused in (lambda: second.open(None, 0), lambda: second.look(None)):
        with pytest.raises(StateMismatch, match=f"{tmp_path / name} is being written by another worker"):
            refused()
    assert (tmp_path / name).read_bytes() == content
    first.open(marks, 1)
    first.close()
    second.open(None, 0)
    second.close()


def test_the_second_worker_ends_with_status_3(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    path = write_events(tmp_path / "events.jsonl", EVENTS)
    words = flags(two, path, "--sink.predictions", str(one / "predictions.jsonl"))
    with piped(one) as worker:
        worker.send(b"".join(map(line, EVENTS)))
        worker.until(lambda: count_lines(one / "predictions.jsonl") == 60, "it has answered")
        assert here(*words) == 3
        text = f"{one / 'predictions.jsonl'} is being written by another worker"
        assert text in capfd.readouterr().err
        assert text in said(capfd, "check", *words[1:], status=3)
        assert worker.ends() == 0
    assert count_lines(one / "predictions.jsonl") == next_offset(one) == 60
    assert here(*words) == 0, "one after another they may"
    assert count_lines(one / "predictions.jsonl") == 120


@pytest.mark.parametrize("how", ["cut", "appended to"])
def test_a_file_that_somebody_else_changes_is_not_overwritten(tmp_path: Path, how: str) -> None:
    sink = sink_in(tmp_path)
    sink.open(None, 0)
    sink.write([prediction(0)])
    length = sink.flush()["predictions"]
    with open(tmp_path / "p", "ab") as file:
        if how == "cut":
            file.truncate(0)
        else:
            file.write(b"their line\n")
    content = (tmp_path / "p").read_bytes()
    sink.write([prediction(1)])
    for _ in range(2):
        with pytest.raises(StateMismatch, match=f"{len(content)} bytes, but .* byte {length}: .* {how} it"):
            sink.flush()
    sink.close()
    assert (tmp_path / "p").read_bytes() == content


def test_a_changed_file_ends_the_worker(tmp_path: Path) -> None:
    with piped(tmp_path) as worker:
        worker.send(b"".join(map(line, EVENTS[:30])))
        worker.until(lambda: count_lines(tmp_path / "predictions.jsonl") == 30, "it has answered")
        os.truncate(tmp_path / "predictions.jsonl", 0)
        worker.send(b"".join(map(line, EVENTS[30:])))
        with pytest.raises(StateMismatch, match="has 0 bytes, but this worker has written up to byte"):
            worker.ends()
    assert (tmp_path / "predictions.jsonl").read_bytes() == b""


def test_a_file_system_without_locks_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(fd: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    sink = sink_in(tmp_path)
    sink.open(None, 0)
    sink.close()
    assert [message.partition(" can't")[0] for message in caplog.messages] == [
        str(tmp_path / "p"),
        str(tmp_path / "d"),
    ]


def run_in(folder: Path, path: Path, *words: str, out: str, err: str) -> subprocess.CompletedProcess[bytes]:
    """`streamlearn run` with its standard output and error in files of these names."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "streamlearn", *flags(folder, path, *words)]
    with open(folder / out, "ab") as stdout, open(folder / err, "ab") as stderr:
        return subprocess.run(command, stdout=stdout, stderr=stderr, env=environment, check=False)


@pytest.mark.slow
def test_dead_letters_do_not_go_where_the_log_goes(tmp_path: Path) -> None:
    """Its lines would be taken for somebody else's, who appends to the file."""
    path = write_events(tmp_path / "events.jsonl", EVENTS)
    for name in ("/dev/stderr", str(tmp_path / "err.log")):
        done = run_in(tmp_path, path, "--sink.dead_letters", name, out="out", err="err.log")
        assert done.returncode == 2
        said = (tmp_path / "err.log").read_text().splitlines()[-1]
        assert f"{name} is the file that standard error, with the log, is written to" in said


@pytest.mark.slow
def test_predictions_on_standard_output_and_dead_letters_in_one_file(tmp_path: Path) -> None:
    path = write_events(tmp_path / "events.jsonl", EVENTS)
    more = ["--sink.predictions", "-", "--sink.dead_letters"]
    for name in ("/dev/stdout", str(tmp_path / "out.log")):
        done = run_in(tmp_path, path, *more, name, out="out.log", err="err.log")
        assert done.returncode == 2
        assert "are one file: name two" in (tmp_path / "err.log").read_text().splitlines()[-1]
    assert (tmp_path / "out.log").read_bytes() == b""


def test_of_two_outputs_none_is_cut_before_both_are_ours(tmp_path: Path) -> None:
    sink, other = (
        sink_in(tmp_path),
        FileSink({"predictions": str(tmp_path / "q"), "dead_letters": str(tmp_path / "d")}),
    )
    other.open(None, 0)
    (tmp_path / "p").write_bytes(b"torn")
    with pytest.raises(StateMismatch, match="is being written by another worker"):
        sink.open(None, 0)
    other.close()
    assert (tmp_path / "p").read_bytes() == b"torn"
