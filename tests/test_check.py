"""`streamlearn check`: it says what `run` would, and changes nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from streamlearn.checkpoint import CheckpointStore
from tests.processes import flags, here, line, newest, said, tree, write_events
from tests.streams import vectors

EVENTS = vectors(60)


def checked(capfd: pytest.CaptureFixture[str], folder: Path, path: Path, *more: str, status: int = 0) -> str:
    before = tree(folder)
    text = said(capfd, "check", *flags(folder, path, *more)[1:], status=status)
    assert tree(folder) == before, "check changes nothing"
    return text


def test_check_before_the_first_start(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_events(tmp_path / "events.jsonl", EVENTS)
    with open(path, "ab") as file:
        file.write(b'garbage\n{"x": [1, 2]}\n')
    text = checked(capfd, tmp_path, path)
    assert f"state: none in {tmp_path / 'state'}; a first start\n" in text
    assert "62 records read, 2 of them dead letters\n  record 60: undecodable: " in text
    assert "\n  record 61: wrong_shape: x has shape [2], this stream has [5]\n" in text
    assert "x: shape [5], float32; labels so far: 6" in text
    assert text.endswith("settings are fine\n")
    assert "(not read by check)" in said(capfd, "check", *flags(tmp_path, "-")[1:])


@pytest.mark.slow
def test_a_reader_that_is_gone_is_no_full_disk(tmp_path: Path) -> None:
    path = write_events(tmp_path / "events.jsonl", EVENTS)
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-m", "streamlearn", "check", *flags(tmp_path, path)[1:]]
    with open(writing, "wb") as pipe:
        done = subprocess.run(words, stdout=pipe, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (4, b"")


def test_check_where_there_is_a_state(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_events(tmp_path / "events.jsonl", EVENTS)
    assert here(*flags(tmp_path, path)) == 0
    with open(path, "ab") as file:
        file.write(b'{"x": [1, 2]}\n' * 12)
    text = checked(capfd, tmp_path, path, "--learning.top_k", "3")
    assert "setting adopted: learning.top_k: 5 -> 3" in text
    assert f"state: goes on from {newest(tmp_path).id}, step " in text
    assert "offsets {0: 60}" in text
    assert "12 records read, 12 of them dead letters" in text, "the state knows the shape"
    text = checked(capfd, tmp_path, path, "--seed", "9", status=3)
    assert "seed was 0, now 9" in text
    write_events(path, vectors(100, seed=4))
    text = checked(capfd, tmp_path, path, status=3)
    assert "is not the input this state has learned from" in text


@pytest.mark.parametrize(
    ("more", "status", "words"),
    [
        (["--source.path", "/nowhere/e.jsonl"], 4, "/nowhere/e.jsonl can't be opened"),
        (["--sink.predictions", "/nowhere/p"], 4, "the folder /nowhere does not exist"),
        (["--sink.predictions", "/tmp"], 4, "/tmp can't be written: it is a folder"),
        (["--report", "/dev/null/report"], 2, "/dev/null: not a folder"),
        (["--checkpoint.folder", "/dev/null/state"], 6, "/dev/null: not a folder"),
        (["--nothing", "1"], 2, "unknown setting nothing"),
        (["--source.path", "null"], 2, "no source of events"),
        (["--source.connector", "here.not:Source"], 2, "there is no module here"),
        (["--model.device", "gpu"], 2, "model.device"),
    ],
)
def test_check_finds(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], more: list[str], status: int, words: str
) -> None:
    path = write_events(tmp_path / "events.jsonl", EVENTS)
    assert words in checked(capfd, tmp_path, path, *more, status=status)


@pytest.mark.parametrize("name", ["predictions.jsonl", "state/dead_letters.jsonl"])
def test_check_finds_a_shorter_output(tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str) -> None:
    path = write_events(tmp_path / "events.jsonl", EVENTS)
    with open(path, "ab") as file:
        file.write(b"garbage\n")
    assert here(*flags(tmp_path, path)) == 0
    assert "settings are fine" in checked(capfd, tmp_path, path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[:-10])
    text = checked(capfd, tmp_path, path, status=3)
    assert f"{name} has {len(content) - 10} bytes, but the checkpoint was taken when it had" in text
    (tmp_path / name).write_bytes(content[:-1] + b"x")
    text = checked(capfd, tmp_path, path, status=3)
    assert f"{name} has no line that ends at byte {len(content)}" in text
    (tmp_path / name).unlink()
    assert f"{name} has 0 bytes" in checked(capfd, tmp_path, path, status=3)
    assert here(*flags(tmp_path, path)) == 3


def test_check_finds_an_output_without_an_end(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_events(tmp_path / "events.jsonl", EVENTS)
    (tmp_path / "predictions.jsonl").write_text("something else")
    assert "no line that ends at byte 14" in checked(capfd, tmp_path, path, status=3)
    assert here(*flags(tmp_path, path)) == 3


def test_check_beside_a_worker(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_events(tmp_path / "events.jsonl", EVENTS)
    worker = CheckpointStore(tmp_path / "state")
    worker.lock()
    text = checked(capfd, tmp_path, path, status=3)
    assert f"process {os.getpid()} already works in {tmp_path / 'state'}" in text
    worker.unlock()
    checked(capfd, tmp_path, path)
    worker.lock()
    worker.unlock()


def test_check_tries_the_port(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_events(tmp_path / "events.jsonl", EVENTS)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        more = ["--exporter.enabled", "true", "--exporter.port", port]
        assert "--exporter.port 0: any free one" in checked(capfd, tmp_path, path, *more, status=2)
    checked(capfd, tmp_path, path, *more)


def test_check_takes_nothing_out_of_a_pipe(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with open(path, "wb", buffering=0) as writer, open(reading, "rb") as reader:
        writer.write(line(EVENTS[0]))
        text = checked(capfd, tmp_path, path, "--source.format", "jsonl")
        assert f"source: {path}, which is no regular file (not read by check)" in text
        assert reader.readline() == line(EVENTS[0])


def test_check_takes_folders_that_run_makes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_events(tmp_path / "events.jsonl", EVENTS)
    more = [
        "--sink.dead_letters",
        str(tmp_path / "state/dead_letters.jsonl"),
        "--report",
        str(tmp_path / "r/s"),
    ]
    checked(capfd, tmp_path, path, *more)
    assert here(*flags(tmp_path, path, *more)) == 0
    checked(capfd, tmp_path, path, *more)


FOREIGN = [b"junk\n", b'{"id": 1}\n{"source": ["e", 0, 99]}\n', b'{"source": ["e", 0, 99]}\n\xff\n{"a']
LOST = [b"\0" * 5000, b'{"source": ["e", 0, 99]}\n{"id": "a\0\0']
OURS_OR_TORN = [b'{"source": ["e", 0, 99]}\n', b'{"id":"torn', b'{"source": ["e", 0, 99]}\n{"id":"torn']


@pytest.mark.parametrize("name", ["predictions.jsonl", "state/dead_letters.jsonl"])
@pytest.mark.parametrize("more", [*FOREIGN, *LOST, *OURS_OR_TORN])
def test_check_says_what_run_does_with_what_stands_above_the_mark(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, more: bytes
) -> None:
    path = write_events(tmp_path / "events.jsonl", EVENTS)
    assert here(*flags(tmp_path, path)) == 0
    mark = (tmp_path / name).stat().st_size
    with open(tmp_path / name, "ab") as file:
        file.write(more)
    good = more.index(b"\n") + 1 if more.startswith(b'{"source"') else 0
    what = f"{tmp_path / name}: what stands at byte {mark + good}, above the mark of the checkpoint"
    if more in FOREIGN:
        what += f" (byte {mark}), is no output of streamlearn: "
        assert what in checked(capfd, tmp_path, path, status=3)
        assert what in said(capfd, *flags(tmp_path, path), status=3)
        assert (tmp_path / name).stat().st_size == mark + len(more)
        return
    what += ", is no output of streamlearn, but holds NUL bytes (a power loss leaves such things): "
    text = checked(capfd, tmp_path, path)
    assert text.endswith("settings are fine\n")
    if more in OURS_OR_TORN:
        assert "warning" not in text
    else:
        assert f"{what}{len(more) - good} bytes would be cut from there on, and made again\n" in text
    assert here(*flags(tmp_path, path)) == 0
    err = capfd.readouterr().err
    assert (what in err) == (more in LOST)
    assert (tmp_path / name).stat().st_size == mark + good


def test_check_finds_one_file_under_two_names(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_events(tmp_path / "events.jsonl", EVENTS)
    (tmp_path / "predictions.jsonl").touch()
    (tmp_path / "dead").hardlink_to(tmp_path / "predictions.jsonl")
    more = ["--sink.dead_letters", str(tmp_path / "dead")]
    assert "are one file: name two" in checked(capfd, tmp_path, path, *more, status=2)
    assert here(*flags(tmp_path, path, *more)) == 2
