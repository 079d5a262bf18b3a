"""The file sink where the system fails it: full disks, torn lines, gone readers, strange files."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors import file_sink
from connectors.file_sink import FileSink
from streamlearn.events import (
    Output,
    Position,
    Prediction,
    Record,
    Rejection,
    Stalled,
    StateMismatch,
    Unreachable,
    UsageError,
)
from tests.streams import WHOLE_STREAMS


def prediction(offset: int, topic: str = "t", partition: int = 0) -> Prediction:
    return Prediction(f"id {offset}", None, {}, 0, 0, Position(topic, partition, offset))


def rejection(offset: int) -> Rejection:
    return Rejection("shape", "", Record(b"\xff", Position("t", 0, offset)))


OUTPUTS: list[Output] = [rejection(i) if i % 4 == 1 else prediction(i) for i in range(20)]


def sink_in(folder: Path, **options: str) -> FileSink:
    return FileSink({"predictions": str(folder / "p"), "dead_letters": str(folder / "d"), **options})


def write(sink: FileSink, outputs: list[Output], marks: dict[str, int] | None = None) -> dict[str, int]:
    sink.open(marks, 3)
    sink.write(outputs)
    marks = sink.flush()
    sink.close()
    return marks


def test_what_is_written(tmp_path: Path) -> None:
    marks = write(sink_in(tmp_path), OUTPUTS)
    lines = [json.loads(line) for line in (tmp_path / "p").read_bytes().splitlines()]
    assert [line["source"] for line in lines] == [["t", 0, i] for i in range(20) if i % 4 != 1]
    assert {line["epoch"] for line in lines} == {3}
    letters = [json.loads(line) for line in (tmp_path / "d").read_bytes().splitlines()]
    assert [letter["source"][2] for letter in letters] == [1, 5, 9, 13, 17]
    assert marks == {name: (tmp_path / name[0]).stat().st_size for name in ("predictions", "dead_letters")}


class Disk:
    """`os` with a disk that takes so many bytes in each write, and fails where a size is below zero."""

    def __init__(self, sizes: list[int]) -> None:
        self._sizes = sizes

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def write(self, fd: int, data: bytes) -> int:
        size = self._sizes.pop(0) if self._sizes else len(data)
        if size < 0:
            raise OSError(-size, os.strerror(-size))
        return os.write(fd, data[: max(1, size)])


@WHOLE_STREAMS
@given(st.lists(st.one_of(st.integers(0, 400), st.sampled_from([-errno.ENOSPC, -errno.EDQUOT, -errno.EIO]))))
def test_a_full_disk_tears_and_doubles_nothing(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    calm, full = tmp_path_factory.mktemp("calm"), tmp_path_factory.mktemp("full")
    expected = write(sink_in(calm), OUTPUTS)
    failures = sum(size < 0 for size in sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_sink, "os", Disk(sizes))
        sink = sink_in(full)
        sink.open(None, 3)
        marks = None
        for first in range(0, 20, 5):
            sink.write(OUTPUTS[first : first + 5])
            for _ in range(failures + 1):
                try:
                    marks = sink.flush()
                    break
                except OSError as error:
                    assert error.filename.startswith(str(full))
        sink.close()
    assert marks == expected
    assert [(full / n).read_bytes() for n in "pd"] == [(calm / n).read_bytes() for n in "pd"]


def test_a_first_start_appends_to_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(b"a line of somebody else\n")
    write(sink_in(tmp_path), [prediction(0)])
    first, second = (tmp_path / "p").read_bytes().splitlines()
    assert first == b"a line of somebody else" and json.loads(second)["source"] == ["t", 0, 0]


def test_a_first_start_never_continues_a_half_line(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(b"half a line")
    with pytest.raises(StateMismatch, match="first start"):
        sink_in(tmp_path).open(None, 0)
    assert (tmp_path / "p").read_bytes() == b"half a line"


@pytest.mark.parametrize(
    "options",
    [
        {"predictions": "-", "dead_letters": "-"},
        {"predictions": "a", "dead_letters": "./a"},
        {"predictions": "a.jsonl.gz"},
        {"dead_letters": "a.GZ"},
    ],
)
def test_names_that_cannot_be(options: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        FileSink(options)


def test_one_file_under_two_names_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p").touch()
    os.link(tmp_path / "p", tmp_path / "d")
    with pytest.raises(UsageError, match="one file"):
        sink_in(tmp_path).open(None, 0)


def test_it_says_what_is_still_to_come_again(tmp_path: Path) -> None:
    marks = write(sink_in(tmp_path), OUTPUTS[:8])
    write(sink_in(tmp_path), OUTPUTS[8:14], marks)
    sink = sink_in(tmp_path)
    sink.open(marks, 4)
    assert [offset for offset in range(8, 20) if sink.repeats({0: offset})] == [8, 9, 10, 11, 12, 13]
    assert sink.repeats({})
    sink.close()
    sink = sink_in(tmp_path)
    sink.open(None, 4)
    assert not sink.repeats({0: 0}), "lines of another life are nobody's"
    sink.close()


def test_a_missing_folder_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="no folder"):
        sink_in(tmp_path / "missing").open(None, 0)
    with pytest.raises(Unreachable, match="directory"):
        sink_in(tmp_path, predictions=str(tmp_path)).open(None, 0)


def test_standard_output(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    marks = write(sink_in(tmp_path, predictions="-"), OUTPUTS)
    assert set(marks) == {"dead_letters"}, "a stream has no mark"
    assert len(capfd.readouterr().out.splitlines()) == 15
    assert write(sink_in(tmp_path, predictions="-"), [prediction(30)], marks) == marks
    assert json.loads(capfd.readouterr().out)["source"] == ["t", 0, 30]


def test_a_reader_that_has_gone(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    saved = os.dup(1)
    sink = sink_in(tmp_path, predictions="-")
    sink.open(None, 0)
    sink.write([prediction(0)])
    try:
        os.dup2(write_end, 1)
        os.close(read_end)
        with pytest.raises(Unreachable, match="the reader of standard output is gone"):
            sink.flush()
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(write_end)
    sink.close()


@contextmanager
def stalled(tmp_path: Path) -> Iterator[tuple[FileSink, int]]:
    """A sink whose standard output is a pipe with a reader that has taken nothing yet."""
    read_end, write_end = os.pipe()
    saved = os.dup(1)
    os.dup2(write_end, 1)
    os.close(write_end)
    sink = sink_in(tmp_path, predictions="-")
    sink.open(None, 0)
    try:
        yield sink, read_end
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(read_end)
        sink.close()


def test_a_reader_that_takes_nothing_stalls_and_loses_nothing(tmp_path: Path) -> None:
    outputs: list[Output] = [rejection(0), *(prediction(i) for i in range(1, 3000))]
    taken, stalls = bytearray(), 0
    with stalled(tmp_path) as (sink, reader):
        sink.write(outputs)
        while True:
            try:
                marks = sink.flush()
                break
            except Stalled as error:
                stalls += 1
                assert error.filename == "standard output"
                assert (tmp_path / "d").stat().st_size > 0  # the other one has what is for it
                taken += os.read(reader, 1 << 20)
        assert os.get_blocking(1)
        while taken.count(b"\n") < 2999:
            taken += os.read(reader, 1 << 20)
    assert stalls > 1
    assert set(marks) == {"dead_letters"}
    assert [json.loads(line)["source"][2] for line in taken.splitlines()] == list(range(1, 3000))


def test_a_flush_waits_only_so_long_in_all() -> None:
    """However often its reader takes a little: the worker must come back to see a signal."""
    reader, writer = os.pipe()
    waits = file_sink._Waits(writer)
    while waits.until_ready():
        os.write(writer, bytes(file_sink.ATOM))
    started = time.monotonic()
    assert not any(waits.until_ready() for _ in range(100))
    assert time.monotonic() - started < 10
    os.read(reader, 1 << 20)
    assert waits.until_ready()
    os.close(reader)
    assert waits.until_ready()  # to find out that it is gone
    os.close(writer)


def test_a_terminal_whose_reader_takes_nothing(tmp_path: Path) -> None:
    """One that is ready may take a byte: it must not block, and its other users mustn't notice."""
    ours, theirs = os.openpty()
    try:
        sink = FileSink({"predictions": os.ttyname(theirs), "dead_letters": str(tmp_path / "d")})
        sink.open(None, 0)
        sink.write([prediction(i) for i in range(3000)])
        with pytest.raises(Stalled):
            sink.flush()
        assert os.get_blocking(theirs)
        sink.close()
    finally:
        os.close(ours)
        os.close(theirs)


def test_the_null_device_takes_both(tmp_path: Path) -> None:
    sink = FileSink({"predictions": os.devnull, "dead_letters": os.devnull})
    assert write(sink, OUTPUTS) == {}
    sink.sync()


def test_sync_reaches_files_and_their_folder_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bool] = []
    sink = sink_in(tmp_path)
    sink.open(None, 0)
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.path.isdir(f"/proc/self/fd/{fd}")))
    sink.sync()
    sink.sync()
    assert sorted(synced) == [False] * 4 + [True] * 2
    sink.close()
    sink.sync()


def test_a_failed_sync_stays_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    sink = sink_in(tmp_path)
    sink.open(None, 0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="Input/output"):
            sink.sync()
    with pytest.raises(OSError, match="Input/output"):
        sink.sync()
    sink.open(None, 0)
    sink.sync()
    sink.close()
