"""What is published of a file: the bytes as they were, and of rows what decodes to the same events."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.datasets import DatasetSource
from connectors.files import FileSource
from connectors.kafka.messages import Encoder, Message, find
from streamlearn.codec import Codec, one_of_many
from streamlearn.config import CodecSettings
from streamlearn.events import Event, Item, Position, Record, Rejection, Resume


def encoder(key: str | None = None, format: str | None = None, **codec: Any) -> Encoder:
    return Encoder(CodecSettings(**codec).model_dump(), key, format)


def record(value: bytes = b"", fields: dict[Any, Any] | None = None) -> Record:
    return Record(value, Position("t", 0, 7), fields=fields)


def read(path: Path) -> list[Record]:
    source = FileSource({"path": str(path)})
    source.open(Resume())
    found = source.poll(1000, 0)
    source.close()
    return found


def said(item: Item) -> tuple[Any, ...]:
    """All that a learner sees of it."""
    if isinstance(item, Rejection):
        return ("rejected",)
    assert isinstance(item, Event)
    return item.id, item.x.tobytes(), item.x.dtype, item.x.shape, item.y, item.ts, item.task


def same(records: list[Record], encode: Encoder, settings: CodecSettings) -> list[Message]:
    """Decoded from Kafka, `records` are the events that they are here."""
    messages = [encode.message(one) for one in records]
    codec = Codec(settings)
    here = codec.decode(records)
    sent = [Record(m.value, one.position) for m, one in zip(messages, records, strict=True)]
    assert [said(item) for item in codec.decode(sent)] == [said(item) for item in here]
    return messages


@pytest.mark.parametrize(
    "value",
    [b'{"id":"a","x":[1],"y":"b"}', b"", b"no JSON", b"\xff\x00", b'{"x": NaN}', b"[1]", b'{"ts":'],
)
def test_bytes_stay_as_they_are(value: bytes) -> None:
    for encode in (encoder(), encoder(key="id"), encoder(format="msgpack")):
        assert encode.message(record(value)).value == value


def test_time_and_key_of_bytes() -> None:
    text = b'{"ts": 12.5, "user": {"id": 7}, "x": [1], "y": "a"}'
    assert encoder().message(record(text)) == Message(text, None, 12.5)
    assert encoder(key="user.id").message(record(text)) == Message(text, b"7", 12.5)
    assert encoder(key="y", time="x.0").message(record(text)) == Message(text, b"a", 1.0)
    packed = msgpack.packb({"ts": 3, "k": b"\x00\xff", "x": [1]})
    assert encoder(key="k").message(record(packed)) == Message(packed, b"\x00\xff", 3.0)
    assert encoder(key="none").message(record(packed)).key is None
    for odd in (b'{"ts": "late"}', b'{"ts": true}', b'{"ts": null}', b'{"ts": 1e999}', b"{}", b"ts"):
        assert encoder().message(record(odd)).seconds is None


def test_a_key_of_any_kind() -> None:
    for value, key in (("ä", "ä".encode()), (1.5, b"1.5"), ([1, 2], b"[1,2]"), (None, None), (True, b"true")):
        assert encoder(key="k").message(record(orjson.dumps({"k": value}))).key == key


def test_find_as_the_codec_does() -> None:
    fields = {"a.b": 1, "a": {"b": 2, "c": [10, {"d": 3}]}}
    assert [find(fields, path) for path in ("a.b", "a.c.0", "a.c.1.d", "a.x", "x.y", "a.c.9", "z")] == [
        *(1, 10, 3, None, None, None, None)
    ]


CSV = """id,price,size,note,zip,y,ts
007,1.5,,red,00501,1,12.5
8,-2,3e2,two words,7,cat,13
9,nan,1,x,1,cat,13
10,1,2,"a ""quote"", and comma",123456789012345678901234567,,
11,1,2
12,1,2,3,4,5,6,7
,1,2,"[1, 2]",3,cat,late
"""


def test_rows_of_a_csv_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(CSV)
    settings = CodecSettings(features=["price", "size", "note", "zip"])
    messages = same(read(path), Encoder(settings.model_dump(), key="id"), settings)
    assert orjson.loads(messages[0].value) == {
        "id": "007",
        "price": 1.5,
        "size": None,
        "note": "red",
        "zip": 501.0,
        "y": "1",
        "ts": 12.5,
    }
    assert messages[0][1:] == (b"007", 12.5)
    assert msgpack.unpackb(messages[2].value)["note"] == "x"  # NaN has no JSON
    assert messages[4].value == b"11,1,2"  # no whole row
    assert messages[6].key is None


def test_numeric_columns_are_a_vector(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a,b,class\n1,2.5,up\n 3 ,+4,down\n5,1_0,up\n")
    settings = CodecSettings(features=["a", "b"], label="class")
    messages = same(read(path), Encoder(settings.model_dump()), settings)
    assert messages[0].value == b'{"a":1,"b":2.5,"class":"up"}'
    same(read(path), Encoder(settings.model_dump(), format="msgpack"), settings)


def test_a_column_that_holds_all_features(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('x,y\n"[1, 2.5]",a\nsome words,b\n"[1,",c\n12,d\n,e\n')
    settings = CodecSettings()
    messages = same(read(path), Encoder(settings.model_dump()), settings)
    assert messages[0].value == b'{"x":[1,2.5],"y":"a"}'


def test_rows_of_arrays(tmp_path: Path) -> None:
    x = np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2)
    for array in (x, x.astype(">f4"), x.astype(np.int16), x.astype(np.float16), x[:, 0, 0, 0].astype(float)):
        np.savez(tmp_path / "a.npz", x=array, y=np.array([3, 4]), ts=np.array([1.5, np.nan]))
        records = read(tmp_path / "a.npz")
        messages = same(records, encoder(), CodecSettings())
        assert msgpack.unpackb(messages[0].value)["y"] == 3
        assert [m.seconds for m in messages] == [1.5, None]
        as_json = same(records[:1], encoder(format="json"), CodecSettings())
        assert orjson.loads(as_json[0].value)["x"].keys() == {"dtype", "shape", "data"}


def test_rows_of_a_data_set() -> None:
    source = DatasetSource({"dataset": "digits", "limit": 5})
    source.open(Resume())
    messages = same(source.poll(5, 0), encoder(key="y"), CodecSettings())
    assert msgpack.unpackb(messages[0].value)["x"]["shape"] == [1, 8, 8]
    assert messages[0].key is not None


cells = st.one_of(
    st.text(max_size=8),
    st.floats().map(str),
    st.integers().map(str),
    st.sampled_from(["", "nan", "1_0", " 5", "[1]", "[", "00", "inf", "1e400", "-0", "٣", "data:x"]),
)


@given(st.lists(st.fixed_dictionaries(dict.fromkeys(("id", "a", "b", "x", "y", "ts"), cells)), max_size=3))
def test_any_row_is_the_same_event(rows: list[dict[str, str]]) -> None:
    records = [record(b"row", dict(row)) for row in rows]
    # A table whose x is a number needs --codec.features behind a topic, as `publish` says.
    whole = [one for one in records if not one_of_many(one.fields or {}, "x", ())]
    of_names = CodecSettings(features=["a", "b"])
    for settings in (of_names, CodecSettings(), CodecSettings(named="vector")):
        records = records if settings is of_names else whole
        same(records, Encoder(settings.model_dump()), settings)
        same(records, Encoder(settings.model_dump(), format="msgpack"), settings)


def test_nothing_in_a_row_makes_it_raise() -> None:
    odd: list[Any] = [object(), {1, 2}, 2**70, np.array(["a"]), b"\xff", "\ud800", io, np.datetime64(0, "s")]
    for value in odd:
        for format in (None, "json", "msgpack"):
            assert encoder(key="k", format=format).message(record(b"raw", {"x": value, "k": value})).value
