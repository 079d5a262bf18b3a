"""A column that happens to be called x: one feature of several, or all of them; told once for a table."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.csv_rows import Rows
from connectors.files import FileSource
from streamlearn.codec import one_of_many
from streamlearn.events import Event, Item, Record, Rejection, Resume, Row
from tests.decoding import codec, decode, decode_row, event, reason
from tests.test_connectors_contract import PipedSource


def records_of(path: Path, resume: Resume | None = None) -> list[Record]:
    source = FileSource({"path": str(path)})
    source.open(resume or Resume())
    try:
        return source.poll(100, 0)
    finally:
        source.close()


def items(folder: Path, text: str, **of: Any) -> list[Item]:
    path = folder / "t.csv"
    path.write_text(text)
    return codec(**of).decode(records_of(path))


def xs(found: list[Item]) -> list[Any]:
    return [item.x.tolist() if isinstance(item, Event) else item.reason for item in found if item]  # type: ignore[union-attr]


def test_a_number_called_x_is_one_feature_of_several(tmp_path: Path) -> None:
    table = "x,y,kind\n1.5,2,a\n-3, 4 ,b\n"
    found = items(tmp_path, table, label="kind")
    assert xs(found) == [[1.5, 2], [-3, 4]]
    assert [event(each).y for each in found] == ["a", "b"]
    assert xs(items(tmp_path, "id,ts,x,y,z\na,1,2,b,3\n")) == [[2, 3]]
    (one,) = items(tmp_path, "x,colour,y\n1,red,a\n", hash_dim=64)
    assert event(one).x.shape == (64,)


def test_whoever_says_x_means_it(tmp_path: Path) -> None:
    assert xs(items(tmp_path, "x,y,kind\n1,2,a\n", label="kind", features="x")) == ["bad_features"]
    assert xs(items(tmp_path, "x,y,kind\n1,2,a\n", label="kind", features=["x"])) == [[1]]


def test_a_column_x_that_holds_all_features_is_as_before(tmp_path: Path) -> None:
    image = decode({"x": "data:image/png;base64,AAAA"})
    assert reason(image) == "bad_features" or reason(image) == "bad_image"
    assert xs(items(tmp_path, 'x,y,z\n"[1, 2]",a,9\n3,b,9\n"[4, 5]",c,9\n')) == [
        [1, 2],
        "bad_features",
        [4, 5],
    ]
    assert xs(items(tmp_path, 'x,y\n1,a\n"[1, 2]",b\n')) == ["bad_features", [1, 2]]
    (image,) = items(tmp_path, 'x,y,z\n"data:image/png;base64,AAAA",a,9\n')
    assert isinstance(image, Rejection) and image.reason == reason(
        decode({"x": "data:image/png;base64,AAAA"})
    )
    (text,) = items(tmp_path, "x,y,z\nsome words,a,9\n")
    assert (event(text).x == event(decode({"x": "some words"})).x).all()


def test_the_first_whole_row_tells_for_all(tmp_path: Path) -> None:
    table = "x,y,kind\n1\n\n2,3,a\n,4,b\nred,5,c\n"
    found = items(tmp_path, table, label="kind", hash_dim=64)
    assert [each.reason if isinstance(each, Rejection) else "" for each in found] == ["bad_row", "", "", ""]
    assert [event(each).x.shape for each in found[1:]] == [(2,), (64,), (64,)]
    assert xs(items(tmp_path, "x,y,kind\nred,3,a\n1,4,b\n", label="kind"))[1] == "bad_features"


def test_a_row_of_no_table_tells_for_itself() -> None:
    assert event(decode_row({"x": "1", "a": "2", "y": "b"})).x.tolist() == [1, 2]
    assert reason(decode_row({"x": "1", "y": "b"})) == "bad_features"
    assert event(decode_row({"x": [1, 2], "a": "2"})).x.tolist() == [1, 2]
    assert reason(decode({"x": 1, "a": 2})) == "bad_features"  # JSON says what it means


@pytest.mark.parametrize("cell", ["1", " -2.5e3 ", "nan", "٣"])
def test_what_is_one_of_many(cell: str) -> None:
    assert one_of_many({"x": cell, "a": ""}, "x", {"y"})
    assert not one_of_many({"x": cell, "y": ""}, "x", {"y"})
    assert not one_of_many({"x": f"[{cell}]", "a": ""}, "x", {"y"})
    assert not one_of_many({"a": cell}, "x", {"y"})


def first_x(record: Record) -> object:
    return record.fields.first["x"] if isinstance(record.fields, Row) else None


rows = st.lists(
    st.sampled_from(["1,2,a", "5", "red,2,a", '"[1, 2]",3,b', '"4",5,"a\nb"', "", "1,2,3,4"]),
    min_size=1,
    max_size=5,
)


@settings(deadline=None, max_examples=60)  # a loaded machine is no failure
@given(rows, st.booleans(), st.sampled_from(["file", "gzip", "pipe"]))
def test_it_is_the_same_wherever_reading_begins(
    tmp_path_factory: pytest.TempPathFactory, table: list[str], newline: bool, kind: str
) -> None:
    text = ("x,y,kind\n" + "\n".join(table) + "\n" * newline).encode()
    path = tmp_path_factory.mktemp("t") / ("t.csv.gz" if kind == "gzip" else "t.csv")
    path.write_bytes(gzip.compress(text) if kind == "gzip" else text)

    def read(resume: Resume) -> tuple[list[Record], FileSource]:
        source = PipedSource("csv", text) if kind == "pipe" else FileSource({"path": str(path)})
        source.open(resume)
        found: list[Record] = []
        while not source.ended:
            found += source.poll(100, 1)
        return found, source

    whole, source = read(Resume())
    prints = {one.cursor: source.fingerprint({0: one.cursor}) for one in whole}
    source.close()
    decoded = [repr(item) for item in codec(label="kind", hash_dim=64).decode(whole)]
    for number, one in enumerate(whole, 1):
        rest, source = read(Resume({0: number}, {0: one.cursor}, prints[one.cursor], whole[0].position.topic))
        source.close()
        assert [first_x(each) for each in rest] == [first_x(each) for each in whole[number:]]
        again = codec(label="kind", hash_dim=64).decode(rest)
        assert [repr(item) for item in again] == decoded[number:]


def test_a_first_row_without_its_newline_still_tells_when_the_content_has_grown() -> None:
    first = Rows("t")
    first.feed(b"x,y,kind\n1,2,a")
    first.finish()
    (end,) = first.take(9).ends
    again = Rows("t")
    again.feed(b"x,y,kind\n1,2,a"[:end])
    assert again.wants_start
    again.jump(end, b"a", None)
    again.feed(b"\nred,2,b\n")
    fields = again.take(9).fields
    assert fields is not None and isinstance(fields[0], Row) and fields[0].first["x"] == "1"


def test_bytes_that_are_neither_format_are_told_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    for value in (b"\xc1\xff\xff", b"\x92\x01", b"\xfe\xff{", b"h"):
        found = decode(value)
        assert reason(found) == "undecodable" and isinstance(found, Rejection)
        assert "msgpack" in found.detail and "JSON" in found.detail
    cut = decode(b'{"x": [1, 2')
    assert isinstance(cut, Rejection) and "msgpack" not in cut.detail


def test_behind_what_is_no_msgpack_all_is_one_dead_letter(tmp_path: Path) -> None:
    good = msgpack.packb({"x": [1, 2], "y": "a"})
    path = tmp_path / "f.msgpack.gz"  # of a plain file the end might still be written
    path.write_bytes(gzip.compress(good * 3 + b"\xc1\xc1" + good * 3))
    found = codec().decode(records_of(path))
    assert [isinstance(item, Event) for item in found] == [True] * 3 + [False]
    assert isinstance(found[3], Rejection) and "msgpack" in found[3].detail
