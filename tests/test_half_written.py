"""What stands at the end of a file whose writer may still be at work, and files of which no record comes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from connectors.files import FileSource
from streamlearn.events import Record, Resume, UsageError
from tests.processes import ROOT, flags, here, newest, outputs

ROWS = (
    b"id,a,label\r\n",
    b"1,10,cat\n",
    b'2,20,"a ""cat"", or\nnot"\n',
    b"3,30,\xc3\xa9\r\n",
    b'"4",-40.5,cat1\n',
    b"5,50,",
    b"\n",
)
OBJECTS = tuple(
    msgpack.packb(each) for each in ({"x": [1, 2]}, {"id": "a" * 40, "x": [0.5]}, 7, {"y": {"b": [{}, 300]}})
)


def drain(source: FileSource) -> list[Record]:
    found: list[Record] = []
    while not source.ended:
        found += source.poll(7, 1)
    return found


def read(path: Path, resume: Resume | None = None, **options: Any) -> tuple[list[Record], Resume]:
    """The records of a file, and from where the next start goes on."""
    source = FileSource({"path": str(path), **options})
    source.open(resume or Resume())
    found = drain(source)
    before = resume or Resume()
    cursor = found[-1].cursor if found else before.cursors.get(0, 0)
    offset = before.offsets.get(0, 0) + len(found)
    after = Resume({0: offset}, {0: cursor} if cursor else {}, source.fingerprint({0: cursor}))
    source.close()
    return found, after


@pytest.mark.parametrize(
    ("name", "pieces", "what"),
    [("f.csv", (ROWS[0], *ROWS[1:5], ROWS[5] + ROWS[6]), "row"), ("f.msgpack", OBJECTS, "object")],
)
def test_what_is_half_written_is_left_and_read_once_it_is_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, pieces: tuple[bytes, ...], what: str
) -> None:
    content = b"".join(pieces)
    ends = [len(b"".join(pieces[:count])) for count in range(len(pieces) + 1)]
    (tmp_path / name).write_bytes(content)
    expected = [(r.value, r.fields, r.cursor) for r in read(tmp_path / name)[0]]
    for cut in range(len(content) + 1):
        caplog.clear()
        path = tmp_path / f"{cut}.{name}"  # over an older file ext4 would write at once, and slowly
        path.write_bytes(content[:cut])
        first, resume = read(path)
        left = max(end for end in ends if end <= cut)
        words = f"the last {what}, {cut - left} bytes at byte {left}, "
        said = [words in each and "left for the next start" in each for each in caplog.messages]
        assert said == ([] if cut == 0 else [False] if cut == left == len(ROWS[0]) else [True] * (cut > left))
        again, resume = read(path, resume)
        assert again == []
        with open(path, "ab") as file:
            file.write(content[cut:])
        second, _ = read(path, resume)
        assert [(r.value, r.fields, r.cursor) for r in first + second] == expected
        assert [r.position.offset for r in first + second] == list(range(len(expected)))


@pytest.mark.parametrize(
    ("format", "content"), [("csv", b"a,b\n1,2\n3,4"), ("msgpack", OBJECTS[0] + b"\x92\x01")]
)
@pytest.mark.parametrize("packed", [True, False])
def test_what_ends_for_good_gives_its_last_record_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, format: str, content: bytes, packed: bool
) -> None:
    path = tmp_path / f"f.{format}"
    path.write_bytes(gzip.compress(content) if packed else content)
    with open(path, "rb") as file:
        options: dict[str, Any] = {} if packed else {"fd": file.fileno(), "format": format}
        found, _ = read(path if packed else Path("-"), **options)
    assert len(found) == 2 and found[-1].cursor == len(content)
    assert caplog.messages == []


def test_behind_corruption_the_rest_is_a_record_in_a_file_too(tmp_path: Path) -> None:
    path = tmp_path / "f.msgpack"
    path.write_bytes(OBJECTS[0] + b"\x92\xc1" + b"junk")
    assert [record.value for record in read(path)[0]] == [OBJECTS[0], b"\x92\xc1junk"]


def test_a_writer_that_is_still_at_work_costs_no_event(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.csv"
    whole = "".join(f"{i},{i % 3},{i % 5},cat{i % 2}\n" for i in range(60))
    path.write_text(f"id,a,b,label\n{whole}61,1,2,ca")
    words = flags(tmp_path, path, "--codec.label", "label", "--memory.capacity", "50")
    assert here(*words) == 0
    assert (
        f"{path}: the last row, 9 bytes at byte {13 + len(whole)}, has no line end, so it may still be being "
        "written: it is left for the next start (end it with a newline to have it learned)"
    ) in capfd.readouterr().err
    with open(path, "a") as file:
        file.write("t1\n62,1,2,cat0\n63,2,2,cat1\n")
    assert here(*words) == 0
    assert [each["id"] for each in outputs(tmp_path / "predictions.jsonl")][60:] == ["61", "62", "63"]
    assert newest(tmp_path).body["classes"] == ["cat0", "cat1"]
    assert not (tmp_path / "state/dead_letters.jsonl").read_bytes()


@pytest.mark.parametrize(
    "content", ["id,a,y\r1,2,cat\r2,3,cat\r", "id,a,y\r1,2,cat", 'id,a,"y"\r1,2,"cat"\r']
)
@pytest.mark.parametrize("stdin", [False, True])
def test_rows_that_end_in_carriage_returns_alone_are_no_header(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], content: str, stdin: bool
) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes(content.encode())
    with open(path, "rb") as file:
        more = ["--source.options.fd", str(file.fileno()), "--source.format", "csv"] if stdin else []
        assert here(*flags(tmp_path, "-" if stdin else path, *more)) == 2
    assert "the CSV header holds a carriage return outside of quotes" in capfd.readouterr().err


def test_a_carriage_return_in_quotes_or_before_the_newline_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes(b'a,"b\rc","d ""\r"""\r\n1,2,3\r\n')
    assert read(path)[0][0].fields == {"a": "1", "b\rc": "2", 'd "\r"': "3"}
    path.write_bytes(b"a,b\r")
    assert read(path)[0] == [], "the newline may come"
    path.write_bytes(b"a,b\r\r\n1,2\n")
    with pytest.raises(UsageError, match="carriage return"):
        read(path)


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "npz"])
def test_a_source_that_holds_something_but_no_record_is_wondered_at(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], suffix: str
) -> None:
    path = tmp_path / f"f.{suffix}"
    if suffix == "npz":
        np.savez(path, x=np.zeros((0, 3)))
    else:
        path.write_bytes(gzip.compress(b"a,b\n\n") if suffix.endswith("gz") else b"a,b\n\n")
    assert here(*flags(tmp_path, path)) == 0
    err = capfd.readouterr().err
    assert f"{path} holds" in err and "but no record" in err and "WARNING" in err


def test_nothing_new_and_nothing_at_all_are_not_wondered_at(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "f.csv"
    path.write_text("a,b,y\n1,2,cat\n2,1,dog\n")
    for content in (path.read_bytes(), path.read_bytes(), b""):
        path.write_bytes(content)
        assert here(*flags(tmp_path, path)) == (0 if content else 3)
        assert "no record" not in capfd.readouterr().err
    (tmp_path / "e.jsonl").touch()
    assert read(tmp_path / "e.jsonl") == ([], Resume({0: 0}, {}, read(tmp_path / "e.jsonl")[1].fingerprint))


def test_garbage_at_the_end_of_a_file_waits_for_its_newline(tmp_path: Path) -> None:
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert "has neither answer nor dead letter until then" in readme
    path = tmp_path / "f.jsonl"
    path.write_bytes(json.dumps({"x": [1]}).encode() + b"\ngarbage")
    first, resume = read(path)
    assert len(first) == 1 and read(path, resume)[0] == []
    with open(path, "ab") as file:
        file.write(b"\n")
    assert [record.value for record in read(path, resume)[0]] == [b"garbage"]
