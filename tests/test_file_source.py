"""Files and streams as they come: torn, corrupt, huge, slow, foreign."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors import formats, inputs
from connectors.csv_rows import Rows
from connectors.files import FileSource, format_of
from connectors.formats import Cutter, Lines, Objects
from connectors.gzip_stream import Gunzip
from streamlearn.events import Record, Resume, StateMismatch, Unreachable, UsageError
from tests.streams import WHOLE_STREAMS


def drain(source: FileSource) -> list[Record]:
    records: list[Record] = []
    while not source.ended:
        records += source.poll(100, 10)
    return records


def read(path: Path, resume: Resume | None = None, **options: Any) -> list[Record]:
    source = FileSource({"path": str(path), **options})
    source.open(resume or Resume())
    try:
        return drain(source)
    finally:
        source.close()


def values(path: Path) -> list[bytes]:
    return [record.value for record in read(path)]


def cut(cutter: Cutter, data: bytes, *sizes: int) -> list[tuple[bytes, int, Any]]:
    """What a cutter makes of data that comes in pieces of these sizes."""
    at, turn = 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)] if sizes else len(data)
        cutter.feed(data[at : at + size])
        at, turn = at + size, turn + 1
    cutter.finish()
    frames = cutter.take(cutter.ready)
    return list(zip(frames.values, frames.ends, frames.fields or [None] * len(frames.values), strict=True))


# --- JSON lines ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"a\nb\n", [(b"a", 2), (b"b", 4)]),
        (b"a\r\n\r\nb", [(b"a", 3), (b"", 5), (b"b", 6)]),
        (b"\n\na\r", [(b"", 1), (b"", 2), (b"a", 4)]),
        (b"\xef\xbb\xbfa\n", [(b"a", 5)]),
        (b"a\rb\n", [(b"a\rb", 4)]),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 100])
def test_lines(data: bytes, expected: list[tuple[bytes, int]], size: int) -> None:
    # A byte order mark that comes in pieces is still one.
    assert [(value, end) for value, end, _ in cut(Lines(), data, size)] == expected


def test_a_line_beyond_the_limit_is_cut_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "LIMIT", 10)
    cutter = Lines()
    for _ in range(1000):
        cutter.feed(b"x" * 9)
        assert sum(map(len, cutter._held)) <= 10
    cutter.feed(b"\nshort\n")
    assert cutter.take(5) == ([b"x" * 10, b"short"], [9001, 9007], None)


def test_a_file_that_has_grown_goes_on_behind_a_last_line_without_newline(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_bytes(b"a\n{}")
    source = FileSource({"path": str(path)})
    source.open(Resume())
    assert drain(source)[-1].cursor == 4
    resume = Resume({0: 2}, {0: 4}, source.fingerprint({0: 4}))
    source.close()
    path.write_bytes(b"a\n{}\nc\n")
    assert [(r.value, r.position.offset, r.cursor) for r in read(path, resume)] == [(b"c", 2, 7)]


# --- msgpack -------------------------------------------------------------------------------------------

THINGS: list[Any] = [{"a": 1}, [1.5, "x" * 300], b"\0" * 70_000, None, {"b": [{}]}]
OBJECTS: list[bytes] = [msgpack.packb(each) for each in THINGS]


@WHOLE_STREAMS
@given(st.lists(st.integers(1, 90_000), min_size=1, max_size=5))
def test_objects_whatever_the_pieces(sizes: list[int]) -> None:
    """An object that the end cuts is a record too."""
    expected = [*OBJECTS, OBJECTS[1][:-5]]
    assert [value for value, _, _ in cut(Objects(), b"".join(expected), *sizes)] == expected


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_a_corrupt_stream_comes_in_chunks(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(formats, "CHUNK", 10)
    good, bad = OBJECTS[0], b"\x93\x01\xc1" + b"junk" * 6
    found = cut(Objects(), good + bad, size)
    assert [value for value, _, _ in found] == [good, bad[:10], bad[10:20], bad[20:]]
    assert [end for _, end, _ in found] == [len(good) + n for n in (0, 10, 20, 27)]


def test_resuming_behind_corruption_stays_corrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "CHUNK", 4)
    path = tmp_path / "f.msgpack"
    path.write_bytes(OBJECTS[0] + b"\xc1" + b"\x01" * 11)
    whole = values(path)
    assert len(whole) == 4
    source = FileSource({"path": str(path)})
    for count in range(1, 5):
        source.open(Resume())
        cursor = [record.cursor for record in source.poll(4, 0)][count - 1]
        fingerprint = source.fingerprint({0: cursor})
        assert ("corrupt_from" in fingerprint) == (count > 1)
        source.open(Resume({0: count}, {0: cursor}, fingerprint))
        assert [record.value for record in drain(source)] == whole[count:]
    source.close()


# --- CSV -----------------------------------------------------------------------------------------------

cells = st.text(st.sampled_from('ab,"\n\r é'), max_size=6)


@given(st.lists(st.lists(cells, min_size=1, max_size=4), max_size=8), st.integers(1, 9))
def test_rows_are_what_the_csv_module_reads(table: list[list[str]], size: int) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([["x", "y"], *table])
    content = text.getvalue()
    found = cut(Rows("f"), content.encode(), size)
    assert [fields for _, _, fields in found] == list(csv.DictReader(io.StringIO(content, newline="")))


@given(st.text(st.sampled_from('ab,"\n'), max_size=30), st.integers(1, 9))
def test_any_text_is_read_as_the_csv_module_does(body: str, size: int) -> None:
    # Where a quote is open at the very end, the last newline is ours to drop and the csv module's to keep.
    content = "x,y\n" + body.rstrip("\n")
    found = cut(Rows("f"), content.encode(), size)
    assert [fields for _, _, fields in found] == list(csv.DictReader(io.StringIO(content, newline="")))


def test_a_row_s_value_is_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes(b'a,b\r\n1,"x\r\ny"\r\n\r\n2\r\n3,4,5\r\n\xff,1\r\n')
    records = read(path)
    assert [r.value for r in records] == [b'1,"x\r\ny"', b"2", b"3,4,5", b"\xff,1"]
    assert [r.fields for r in records] == [
        {"a": "1", "b": "x\r\ny"},
        {"a": "2", "b": None},
        {"a": "3", "b": "4", None: ["5"]},
        {None: "the row is not UTF-8"},
    ]
    assert [r.cursor for r in records] == [15, 20, 27, 32]


def test_a_quote_that_never_closes_swallows_only_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.csv_rows.LIMIT", 20)
    data = b'a,b\n1,"x\n' + b"2,3\n" * 6 + b"4,5\n"
    for size in (1, 3, 1000):
        torn, *rest = cut(Rows("f"), data, size)
        assert torn[:2] == (b'1,"x\n2,3\n2,3\n2,3\n2,3\n2,3\n2,3'[: len(torn[0])], 4 + len(torn[0]) + 1)
        assert "never be closed" in torn[2][None]
        assert 20 <= len(torn[0]) < 30
        assert [fields for _, _, fields in rest][-1] == {"a": "4", "b": "5"}


@pytest.mark.parametrize("header", ["a,b,a", "a,,b", "a, ,b", ""])
def test_a_header_that_names_nothing_is_refused_at_open(tmp_path: Path, header: str) -> None:
    path = tmp_path / "f.csv"
    path.write_text(f"{header}\n1,2,3\n2,2,2\n" if header else ",\n")
    with pytest.raises(UsageError, match=r"f\.csv"):
        read(path)


# --- gzip ----------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=2000), min_size=1, max_size=4), st.integers(1, 500), st.integers(0, 40))
def test_members_in_pieces_with_padding(members: list[bytes], size: int, padding: int) -> None:
    data = b"".join(gzip.compress(each) for each in members) + b"\0" * padding
    gunzip, out = Gunzip(), b""
    for at in range(0, len(data), size):
        out += gunzip.feed(data[at : at + size])
        while gunzip.pending:
            out += gunzip.feed(b"")
    assert out == b"".join(members) and gunzip.complete


def test_a_bomb_comes_in_bounded_pieces() -> None:
    data = gzip.compress(b"\0" * 20_000_000)
    gunzip = Gunzip()
    pieces = [gunzip.feed(data)]
    while gunzip.pending:
        pieces.append(gunzip.feed(b""))
    assert sum(map(len, pieces)) == 20_000_000 and max(map(len, pieces)) <= 1024 * 1024 and gunzip.complete


LINES = [json.dumps({"id": i, "x": [i * i % 97, i % 7]}).encode() for i in range(3000)]


@pytest.mark.parametrize("stdin", [False, True])
@pytest.mark.parametrize("damage", ["cut", "flip", "tail"])
def test_a_damaged_gzip_gives_what_was_whole_then_says_where(
    tmp_path: Path, damage: str, stdin: bool
) -> None:
    path = tmp_path / "f.jsonl.gz"
    data = bytearray(gzip.compress(b"\n".join(LINES)))
    if damage == "flip":
        data[len(data) // 2] ^= 255
    path.write_bytes({"cut": data[: len(data) // 2], "tail": data[:-6], "flip": data}[damage])
    fd = os.open(path, os.O_RDONLY)
    source = FileSource({"path": "-", "fd": fd} if stdin else {"path": str(path)})
    got: list[Record] = []
    if damage == "flip" and not stdin:  # what can be read twice is not given at all
        with pytest.raises(Unreachable, match="nothing new was learned from it"):
            source.open(Resume())
        os.close(fd)
        return
    source.open(Resume())
    with pytest.raises(Unreachable, match="gzip") as caught:
        while True:
            got += source.poll(11, 10)
    assert not source.ended
    assert len(got) > 1000 and f"record {len(got)} " in str(caught.value)
    if damage != "flip":  # a flipped bit may decode to other bytes before it is noticed
        assert [record.value for record in got] == LINES[: len(got)]
        assert (damage == "tail") == (len(got) == len(LINES) - 1)
    with pytest.raises(Unreachable):
        source.poll(1, 0)
    source.close()
    os.close(fd)


def test_suffix_and_first_bytes_both_mean_gzip(tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_bytes(gzip.compress(b"a\nb\n"))
    assert values(tmp_path / "f.jsonl") == [b"a", b"b"]
    (tmp_path / "f.jsonl.gz").write_bytes(b"")
    with pytest.raises(Unreachable, match="cut"):
        read(tmp_path / "f.jsonl.gz")


# --- streams -------------------------------------------------------------------------------------------


@pytest.fixture
def pipe() -> Iterator[tuple[int, Any]]:
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "wb", buffering=0) as writer:
        yield read_end, writer
    os.close(read_end)


def test_a_pipe_answers_at_once(pipe: tuple[int, Any]) -> None:
    fd, writer = pipe
    source = FileSource({"path": "-", "fd": fd})
    source.open(Resume())
    assert source.poll(10, 0) == []
    writer.write(b"one\ntw")
    started = time.monotonic()
    assert [r.value for r in source.poll(1000, 60)] == [b"one"]
    assert time.monotonic() - started < 30
    assert source.poll(10, 0.001) == []
    writer.write(b"o\nthree")
    assert [r.value for r in source.poll(1000, 60)] == [b"two"]
    writer.close()
    assert [r.value for r in source.poll(1000, 60)] == [b"three"]
    assert source.ended
    source.close()


def test_a_gzip_pipe_answers_at_once(pipe: tuple[int, Any]) -> None:
    fd, writer = pipe
    source = FileSource({"path": "-", "fd": fd})
    source.open(Resume())
    with gzip.GzipFile(fileobj=writer, mode="wb") as packed:
        packed.write(b"one\n")
        packed.flush()
        assert [r.value for r in source.poll(1000, 60)] == [b"one"]
    writer.close()
    assert drain(source) == []
    source.close()


def test_a_fifo_waits_for_its_writer(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    os.mkfifo(path)
    source = FileSource({"path": str(path)})
    source.open(Resume())
    assert source.poll(10, 0) == []
    with open(path, "wb", buffering=0) as writer:
        writer.write(b"a\n")
        assert [r.value for r in source.poll(10, 60)] == [b"a"]
    assert drain(source) == []
    source.close()


def test_a_stream_that_keeps_still_while_it_is_read_again(pipe: tuple[int, Any]) -> None:
    fd, writer = pipe
    writer.write(b"abc\n")
    source = FileSource({"path": "-", "fd": fd, "patience": 0.001})
    with pytest.raises(Unreachable, match="gave nothing"):
        source.open(Resume({0: 3}, {0: 12}))


def test_a_stream_keeps_bounded_bytes_for_fingerprints(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(inputs, "KEEP", 10_000)
    path = tmp_path / "f.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n".join(LINES)))
    source = FileSource({"path": str(path)})
    source.open(Resume())
    records = drain(source)
    near, far = records[-50].cursor, records[100].cursor
    tails = [source.fingerprint({0: cursor})["tail_sha256"] for cursor in (far, near)]
    assert tails[0] is None and tails[1] is not None
    source.open(Resume({0: 101}, {0: far}, source.fingerprint({0: far})))
    assert [r.value for r in drain(source)] == LINES[101:]
    source.close()


# --- what is refused -----------------------------------------------------------------------------------


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.jsonl", tmp_path):
        with pytest.raises(Unreachable, match=path.name):
            read(path, format="jsonl")


def test_a_shorter_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_bytes(b"a\n")
    with pytest.raises(StateMismatch, match=r"2 bytes.*byte 10"):
        read(path, Resume({0: 5}, {0: 10}))
    path.write_bytes(gzip.compress(b"a\n"))
    with pytest.raises(StateMismatch, match=r"2 bytes.*byte 10"):
        read(path, Resume({0: 5}, {0: 10}))


def test_state_of_another_kind_of_source_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_bytes(b"a\nb\n")
    for resume in (Resume({0: 1}), Resume({0: 1}, {0: 2}, {"records_sha256": "?"})):
        with pytest.raises(StateMismatch):
            read(path, resume)


def test_format_by_suffix_unless_given() -> None:
    by_suffix = {"-": "jsonl", "A.NDJSON.GZ": "jsonl", "a.mp.gzip": "msgpack", "a.json": "jsonl"}
    assert {path: format_of(path, None) for path in by_suffix} == by_suffix
    assert format_of("-", "csv") == "csv" and format_of("a.txt", "npz") == "npz"


@pytest.mark.parametrize("options", [{"path": "a.txt"}, {"path": "a.csv", "format": "avro"}, {"path": "gz"}])
def test_unknown_format(options: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"source\.format"):
        FileSource(options)
