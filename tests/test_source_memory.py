"""What a file source holds on to and is called, and what is too deep, too large, half-written or a lie."""

from __future__ import annotations

import gzip
import io
import json
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors import files, formats, npz
from connectors.files import ByteReader, FileSource
from connectors.formats import Objects, Queue, is_whole
from connectors.skipper import Skipper
from streamlearn.codec import Codec
from streamlearn.config import CodecSettings
from streamlearn.events import Event, Record, Rejection, Resume, Unreachable, UsageError
from tests.processes import flags, hashes, here, newest
from tests.streams import WHOLE_STREAMS, vectors


def test_what_was_taken_is_let_go(tmp_path: Path) -> None:
    """Reading ahead in blocks, the queue is hardly ever empty; it once kept every record it had given."""
    path = tmp_path / "e.jsonl"
    path.write_text("".join(json.dumps({"id": i, "x": [1]}) + "\n" for i in range(20_000)))
    source = FileSource({"path": str(path)})
    source.open(Resume())
    count = longest = 0
    while not source.ended:
        count += len(source.poll(64, 0))
        reader = source._reader
        assert isinstance(reader, ByteReader) and isinstance(reader._cutter, Queue)
        longest = max(longest, len(reader._cutter._values))
    assert count == 20_000
    block = 1 << 20
    assert longest < 2 * block / len('{"id": 1, "x": [1]}\n') + 128


def test_a_file_that_moved_keeps_its_name(tmp_path: Path) -> None:
    """Ids made of positions are part of the state, and outputs are found again by their source."""
    events = vectors(120)
    lines = [{"x": event.x.tolist(), "y": event.y} for event in events]
    content = "".join(json.dumps(line) + "\n" for line in lines)
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "events.jsonl").write_text(content)
    stay = ("--checkpoint.events", "40", "--checkpoint.keep", "9")
    assert here(*flags(whole, whole / "events.jsonl", *stay)) == 0
    before = (whole / "predictions.jsonl").read_bytes()
    # back to an older checkpoint, with all outputs there, and the file found under another path
    (whole / "events.jsonl").rename(whole / "renamed.jsonl")
    expected = hashes(whole)
    newest(whole).path.unlink()
    assert here(*flags(whole, whole / "renamed.jsonl", *stay)) == 0
    assert (whole / "predictions.jsonl").read_bytes() == before
    assert hashes(whole) == expected


def read(path: Path, resume: Resume | None = None, **options: Any) -> list[Record]:
    source = FileSource({"path": str(path), **options})
    source.open(resume or Resume())
    records: list[Record] = []
    while not source.ended:
        records += source.poll(100, 10)
    source.close()
    return records


# --- much at once --------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["jsonl", "csv", "msgpack"])
def test_a_poll_gives_no_more_bytes_than_it_should(
    tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "AT_ONCE", 1 << 20)
    sizes = [10, 300_000, 5_000_000, 10, 10, 600_000, 600_000, *[1000] * 3000]
    path = tmp_path / f"f.{format}"
    make = msgpack.packb if format == "msgpack" else lambda value: value + b"\n"
    path.write_bytes((b"a\n" if format == "csv" else b"") + b"".join(make(b"x" * size) for size in sizes))
    source = FileSource({"path": str(path)})
    source.open(Resume())
    found: list[int] = []
    tracemalloc.start()
    while not source.ended:
        records = source.poll(10_000, 0)
        assert len(records) == 1 or sum(len(record.value) for record in records) <= 1 << 20
        found += [len(record.value) for record in records]
        assert [record.position.offset for record in records] == [*range(len(found))][
            len(found) - len(records) :
        ]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [size // 10 for size in found] == [size // 10 for size in sizes]
    assert peak < 30_000_000
    source.close()


def test_long_lines_come_one_by_one_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    with open(path, "wb") as file:
        for _ in range(5):
            file.write(b"x" * 30_000_000 + b"\n")
    source = FileSource({"path": str(path)})
    source.open(Resume())
    tracemalloc.start()
    lengths = []
    while not source.ended:
        lengths.append([len(record.value) for record in source.poll(1000, 0)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    source.close()
    assert [each for each in lengths if each] == [[30_000_000]] * 5 and peak < 130_000_000


def test_rows_of_arrays_come_in_bounded_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "AT_ONCE", 1000)
    np.savez(tmp_path / "f.npz", x=np.zeros((100, 50), np.uint8), y=np.zeros((100, 50), np.uint8))
    source = FileSource({"path": str(tmp_path / "f.npz")})
    source.open(Resume())
    assert [len(source.poll(64, 0)) for _ in range(10)] == [10] * 10 and source.ended
    source.close()


def test_a_poll_comes_back_in_time_however_large_the_first_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SLACK", 0.0)
    (tmp_path / "f.jsonl").write_bytes(b"x" * 10_000_000 + b"\n")
    source = FileSource({"path": str(tmp_path / "f.jsonl")})
    source.open(Resume())
    assert source.poll(10, 0) == [] and not source.ended
    monkeypatch.undo()
    assert len(source.poll(10, 60)) == 1
    source.close()


# --- deep and large msgpack ----------------------------------------------------------------------------

EVENT = msgpack.packb({"x": [1.0, 2.0], "y": "a"})


def deep(levels: int) -> bytes:
    return b"\x81\xa1x" + b"\x91" * levels + b"\x01"


def test_what_is_behind_an_object_too_deep_is_learned(tmp_path: Path) -> None:
    path = tmp_path / "f.msgpack"
    path.write_bytes(EVENT * 30 + deep(3000) + EVENT * 30 + deep(5000) + deep(1_000_000) + EVENT)
    records = read(path)
    assert [record.value for record in records[30::31]] == [deep(3000), deep(5000)]
    outputs = Codec(CodecSettings()).decode(records)
    assert sum(isinstance(output, Event) for output in outputs) == 61
    reasons = [output.reason for output in outputs if isinstance(output, Rejection)]
    assert reasons == ["too_deep"] * 3


def pieces(data: bytes, *sizes: int) -> list[tuple[bytes, int]]:
    cutter, at, turn = Objects(), 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        cutter.feed(data[at : at + size])
        assert sum(map(len, cutter._held)) <= formats.LIMIT + max(sizes)
        at, turn = at + size, turn + 1
    cutter.finish()
    frames = cutter.take(cutter.ready)
    return list(zip(frames.values, frames.ends, strict=True))


WILD = st.lists(
    st.one_of(
        st.builds(deep, st.sampled_from([0, 3, 1030, 3000])),
        st.integers(0, 3000).map(lambda size: msgpack.packb(b"b" * size)),
        st.integers(0, 3000).map(lambda size: msgpack.packb(["é" * 5] * size)),
        st.sampled_from([EVENT, b"\xc1", b"\x92\x01\xc1", b"\x93\x01", b"\xdd\0\0\x10\0"]),
    ),
    max_size=8,
)


@WHOLE_STREAMS
@given(WILD, st.lists(st.integers(1, 5000), min_size=1, max_size=4))
def test_pieces_change_nothing_about_odd_objects(things: list[bytes], sizes: list[int]) -> None:
    data = b"".join(things)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "LIMIT", 2000)
        patch.setattr(formats, "CHUNK", 500)
        found = pieces(data, *sizes)
        assert found == pieces(data, 1 << 20)
    ends = [0, *(end for _, end in found)]
    assert ends[-1] == len(data)
    for (value, end), start in zip(found, ends, strict=False):
        assert value == data[start : min(end, start + 2000)]


def test_a_large_object_is_held_only_so_far_and_what_is_behind_it_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(formats, "LIMIT", 1000)
    large = msgpack.packb([b"x" * 700] * 1000)
    found = pieces(EVENT + large + EVENT, 300)
    assert [(value, end - len(EVENT)) for value, end in found] == [
        (EVENT, 0),
        (large[:1000], len(large)),
        (EVENT, len(large) + len(EVENT)),
    ]


anything = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(width=32),
        st.sampled_from([0, 1, 31, 32, 255, 256, 65536]).map(lambda size: "x" * size),
        st.sampled_from([0, 255, 256, 65536]).map(bytes),
        st.sampled_from([0, 1, 2, 3, 4, 8, 16, 17, 256, 65536]).map(
            lambda size: msgpack.ExtType(3, bytes(size))
        ),
        st.sampled_from([15, 16, 300]).map(lambda size: [1] * size),
        st.sampled_from([15, 16, 300]).map(lambda size: dict.fromkeys(range(size))),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=20), st.dictionaries(st.text(max_size=5), inner)),
    max_leaves=12,
)


def skipped(data: bytes, size: int) -> int:
    skipper, used = Skipper(), 0
    while not skipper.done:
        used += skipper.feed(data[used : used + size])
    assert not skipper.corrupt
    return used


@given(anything, st.integers(1, 300), st.booleans())
def test_every_type_of_msgpack_is_skipped_to_its_end(thing: Any, size: int, single: bool) -> None:
    data = msgpack.packb(thing, use_single_float=single)
    assert skipped(data + b"\x01\x91", size if len(data) < 5000 else size * 100) == len(data)


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_the_longest_headers(size: int) -> None:
    inner = b"\xdf\0\0\0\2\1\xcb12345678\2\xdd\0\0\0\0"
    data = b"\xdd\0\1\0\2" + inner + b"\xc9\0\0\0\1t." + b"\1" * 65536
    assert skipped(data + b"\1\1", size) == len(data)


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_of_an_object_beyond_the_limit_the_start_is_the_record(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(formats, "LIMIT", 20)
    data = msgpack.packb(1) + msgpack.packb(b"x" * 18) + msgpack.packb(b"y" * 19) + msgpack.packb(2)
    assert [(len(value), end) for value, end in pieces(data, size)] == [(1, 1), (20, 21), (20, 42), (1, 43)]


# --- half-written lines --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "whole"),
    [
        (b'{"x": [1]}', True),
        (b'\xef\xbb\xbf{"x": [NaN]} \r', True),
        (b'{"y": "caf\xe9", "n": 1' + b"0" * 5000 + b"}", True),
        (b"[1]", True),
        (b"12", False),
        (b" ", False),
        (b'{"x": [1]', False),
        (b'{"y": "\xc3', False),
        (b"[" * 100_000, False),
        (b'{"x": [1]} {"x": [2]}', False),
    ],
)
def test_which_lines_are_whole(line: bytes, whole: bool) -> None:
    assert is_whole(line) == whole


def test_a_half_written_line_is_read_when_it_is_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [json.dumps({"id": i, "x": [i]}).encode() for i in range(20)]
    content = b"\n".join(lines) + b"\n"
    ends = [0, *(i + 1 for i, byte in enumerate(content) if byte == 10)]
    for cut in range(len(content)):
        caplog.clear()
        path = tmp_path / f"{cut}.jsonl"  # over an older file ext4 would write at once, and slowly
        path.write_bytes(content[:cut])
        source = FileSource({"path": str(path)})
        source.open(Resume())
        first = []
        while not source.ended:
            first += source.poll(7, 0)
        cursor = first[-1].cursor if first else 0
        resume = Resume({0: len(first)}, {0: cursor}, source.fingerprint({0: cursor}))
        source.close()
        left = max(end for end in ends if end <= cut)
        whole = cut in ends or cut + 1 in ends
        assert [str(path) in m and f"{cut - left} bytes at byte {left}," in m for m in caplog.messages] == (
            [] if whole else [True]
        )
        assert read(path, resume) == []  # it is not delivered twice
        with open(path, "ab") as file:
            file.write(content[cut:])
        second = read(path, resume)
        assert [record.value for record in first + second] == lines
        assert [record.position.offset for record in first + second] == list(range(20))


@pytest.mark.parametrize("packed", [True, False])
def test_what_ends_for_good_gives_its_half_line(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / "f.jsonl"
    path.write_bytes(gzip.compress(b'{"x": [1') if packed else b'{"x": [1')
    with open(path, "rb") as file:
        options: dict[str, Any] = {} if packed else {"fd": file.fileno()}
        (record,) = read(Path(path if packed else "-"), **options)
    assert record.value == b'{"x": [1'


# --- NPZ that lies -------------------------------------------------------------------------------------


def archive(path: Path, shape: str, content: bytes = b"", **options: Any) -> Path:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    with zipfile.ZipFile(path, "w", **options) as file:
        file.writestr("x.npy", b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header + content)
    return path


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (f"({1 << 40},)", f"x.npy claims {1 << 42} bytes, but there are 4"),
        (f"({1 << 40}, {1 << 40})", "claims"),
        ("(-1,)", "NPZ"),
        ("(2,", "NPZ"),
        ("'a'", "NPZ"),
        ("(" * 3000, "NPZ"),
    ],
)
def test_arrays_that_claim_more_than_there_is(tmp_path: Path, shape: str, words: str, stream: bool) -> None:
    path = archive(tmp_path / "f.npz", shape, b"\0" * 4)
    with open(path, "rb") as file, pytest.raises(Unreachable, match=words):
        read(Path("-" if stream else path), format="npz", fd=file.fileno())


def test_an_archive_that_unpacks_to_too_much(tmp_path: Path) -> None:
    path = archive(tmp_path / "f.npz", "(2, 2500000)", bytes(20_000_000), compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    with pytest.raises(Unreachable, match=r"source\.options\.max_npz_bytes is 1000000:"):
        read(path, max_npz_bytes=1_000_000)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
    assert len(read(path, max_npz_bytes=30_000_000)) == 2
    packed = tmp_path / "g.npz.gz"
    packed.write_bytes(gzip.compress(bytes(3_000_000)))
    with pytest.raises(Unreachable, match="max_npz_bytes"):
        read(packed, max_npz_bytes=1_000_000)


def test_too_little_memory_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise MemoryError("Unable to allocate 4.00 TiB")

    path = archive(tmp_path / "f.npz", "(1,)", b"\0" * 4)
    monkeypatch.setattr(np, "load", load)
    with pytest.raises(Unreachable, match=r"memory doesn't hold it: Unable to allocate 4\.00 TiB"):
        read(path)


@given(st.data())
def test_no_bytes_make_npz_raise_anything_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.arange(12).reshape(4, 3), y=np.array(["a", "b", "c", "d"]))
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("npz") / "f.npz"
    path.write_bytes(content)
    try:
        read(path)
    except (Unreachable, UsageError) as error:
        assert str(path) in str(error)
