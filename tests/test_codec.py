"""The codec: every reason by a real bad record, and every good form."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import msgpack
import numpy as np
import orjson
import pytest

from streamlearn.codec import REASONS, encode_dead_letter, encode_prediction
from streamlearn.events import Event, Position, Prediction, Record, Rejection
from tests.decoding import HERE, codec, decode, decode_row, event, png, reason

LATER_STAGES = {"wrong_shape", "wrong_dtype", "too_many_classes"}

RAW = {"dtype": "float32", "shape": [2], "data": b"\0" * 8}

BAD: list[tuple[str, bytes, str]] = [
    ("a tombstone", b"", "empty"),
    ("an empty line", b" \r\n", "empty"),
    ("five megabytes", b'{"x": [1], "pad": "' + b"a" * (5 << 20) + b'"}', "too_large"),
    ("a list longer than max_values", b'{"x": [' + b"1," * 64 + b"1]}", "too_large"),
    ("a producer cut off", b'{"id": "a", "x": [1, 2', "undecodable"),
    ("latin-1", b'{"x": [1], "y": "caf\xe9"}', "undecodable"),
    ("a lone surrogate", b'{"x": [1], "y": "\\ud800"}', "undecodable"),
    ("UTF-16", '{"x": [1]}'.encode("utf-16"), "undecodable"),
    ("a byte order mark", b'\xef\xbb\xbf{"x": [1]}', "undecodable"),
    ("two objects in one line", b'{"x": [1]} {"x": [2]}', "undecodable"),
    ("single quotes", b"{'x': [1]}", "undecodable"),
    ("plain text", b"hello", "undecodable"),
    ("a cut msgpack array", msgpack.packb([1, 2])[:-1], "undecodable"),
    ("msgpack cut", msgpack.packb({"x": [1, 2]})[:-1], "undecodable"),
    ("msgpack and more", msgpack.packb({"x": [1, 2]}) + b"\0", "undecodable"),
    ("msgpack with a reserved byte", b"\x81\xa1x\xc1", "undecodable"),
    ("msgpack promising 4 G pairs", b"\xdf\xff\xff\xff\xff", "undecodable"),
    ("msgpack with integer keys", msgpack.packb({1: 2}), "undecodable"),
    ("msgpack with keys of bytes", msgpack.packb({b"x": [1]}), "undecodable"),
    ("msgpack with a bad string", b"\x81\xa1\xff\x01", "undecodable"),
    ("msgpack with a bad timestamp", b"\x81\xa1x\xc7\x0c\xff" + b"\xff" * 12, "undecodable"),
    ("a JSON list", b"[1]", "not_an_object"),
    ("a JSON number", b"3", "not_an_object"),
    ("a JSON string", b'"a"', "not_an_object"),
    ("JSON null", b"null", "not_an_object"),
    ("a msgpack array", msgpack.packb([1, 2]), "not_an_object"),
    ("a msgpack integer", msgpack.packb(5), "not_an_object"),
    ("a msgpack string", msgpack.packb("str"), "not_an_object"),
    ("msgpack bytes", msgpack.packb(b"abc"), "not_an_object"),
    ("msgpack nil", msgpack.packb(None), "not_an_object"),
    ("msgpack nil and more", msgpack.packb(None) * 2, "undecodable"),
    ("a letter, which is an integer in msgpack", b"a", "undecodable"),
    ("a key twice", b'{"y": "a", "x": [1], "y": "b"}', "duplicate_key"),
    ("a key twice below", b'{"x": {"a": 1, "b": {"c": 1, "c": 1}}}', "duplicate_key"),
    ("a key twice in a list", b'{"x": [1], "z": [{"a": 1, "a": 2}]}', "duplicate_key"),
    ("a key twice, once escaped", b'{"x": [1], "\\u0078": [2]}', "duplicate_key"),
    ("a key twice, with a hidden colon", b'{"x": [1], "a": "p", "a": "\\u003a"}', "duplicate_key"),
    ("a key twice in msgpack", b"\x82\xa1x\x01\xa1x\x02", "duplicate_key"),
    ("NaN of Python's json", json.dumps({"x": [1.0, math.nan]}).encode(), "not_finite"),
    ("Infinity of Python's json", json.dumps({"x": [1.0, math.inf]}).encode(), "not_finite"),
    ("-Infinity of Python's json", json.dumps({"x": [1.0, -math.inf]}).encode(), "not_finite"),
    ("beyond float64", b'{"x": [1e400]}', "not_finite"),
    ("5000 digits", b'{"x": [1' + b"0" * 5000 + b"]}", "not_finite"),
    ("beyond float32", b'{"x": [1e300]}', "not_finite"),
    ("NaN in msgpack", msgpack.packb({"x": [math.nan]}), "not_finite"),
    ("NaN in raw bytes", msgpack.packb({"x": {**RAW, "data": b"\xff" * 8}}), "not_finite"),
    ("NaN in an object", msgpack.packb({"x": {"a": math.inf}}), "not_finite"),
    ("nine levels", b'{"x": ' + b"[" * 9 + b"]" * 9 + b"}", "too_deep"),
    ("100,000 brackets", b'{"x": ' + b"[" * 100_000, "too_deep"),
    ("100,000 braces", b'{"a":' * 100_000, "too_deep"),
    ("900 whole levels", b'{"x": ' + b"[" * 900 + b"]" * 900 + b"}", "too_deep"),
    ("100,000 brackets, no object", b"[" * 100_000, "too_deep"),
    ("100,000 arrays in msgpack", b"\x81\xa1x" + b"\x91" * 100_000, "too_deep"),
    ("600 arrays in msgpack", b"\x81\xa1x" + b"\x91" * 600 + b"\1", "too_deep"),
    ("a msgpack timestamp", b"\x82\xa2ts\xd6\xff\0\0\0\0\xa1x\x91\1", "msgpack_extension"),
    ("a timestamp in a list", b"\x81\xa1x\x91\xd6\xff\0\0\0\0", "msgpack_extension"),
    ("a msgpack timestamp alone", b"\xd6\xff\0\0\0\0", "msgpack_extension"),
    ("an extension alone", msgpack.packb(msgpack.ExtType(5, b"ab")), "msgpack_extension"),
    ("another extension", msgpack.packb({"x": msgpack.ExtType(5, b"data")}), "msgpack_extension"),
    ("an id of a float", b'{"id": 1.5, "x": [1]}', "bad_id"),
    ("an id of a boolean", b'{"id": true, "x": [1]}', "bad_id"),
    ("an id of a list", b'{"id": ["a"], "x": [1]}', "bad_id"),
    ("an empty id", b'{"id": "", "x": [1]}', "bad_id"),
    ("a long id", b'{"id": "' + b"a" * 513 + b'", "x": [1]}', "bad_id"),
    ("an id of a large float", b'{"id": 18446744073709551616.0, "x": [1]}', "bad_id"),
    ("a label of a large float", b'{"y": 1e300, "x": [1]}', "bad_label"),
    ("a label of infinity", msgpack.packb({"y": math.inf, "x": [1]}), "bad_label"),
    ("a label of a float", b'{"y": 1.0, "x": [1]}', "bad_label"),
    ("a label of a boolean", b'{"y": false, "x": [1]}', "bad_label"),
    ("a label of a list", b'{"y": ["a"], "x": [1]}', "bad_label"),
    ("a label of an object", b'{"y": {"a": 1}, "x": [1]}', "bad_label"),
    ("a label of bytes", msgpack.packb({"y": b"cat", "x": [1]}), "bad_label"),
    ("an empty label", b'{"y": "", "x": [1]}', "bad_label"),
    ("a long label", b'{"y": "' + b"a" * 257 + b'", "x": [1]}', "label_too_long"),
    ("a time of words", b'{"ts": "yesterday", "x": [1]}', "bad_time"),
    ("a time of digits in JSON", b'{"ts": "17", "x": [1]}', "bad_time"),
    ("a time of a boolean", b'{"ts": true, "x": [1]}', "bad_time"),
    ("a time of NaN", msgpack.packb({"ts": math.nan, "x": [1]}), "bad_time"),
    ("no features", b'{"y": "cat"}', "missing_features"),
    ("null features", b'{"x": null}', "missing_features"),
    ("an object without anything", b'{"x": {"a": null, "b": {}, "c": " "}}', "missing_features"),
    ("a number", b'{"x": 3}', "bad_features"),
    ("a boolean", b'{"x": true}', "bad_features"),
    ("an empty list", b'{"x": []}', "bad_features"),
    ("empty rows", b'{"x": [[], []]}', "bad_features"),
    ("rows of unequal length", b'{"x": [[1, 2], [3]]}', "bad_features"),
    ("numbers and a row", b'{"x": [1, [2]]}', "bad_features"),
    ("a list with a boolean", b'{"x": [1.0, true]}', "bad_features"),
    ("a list with null", b'{"x": [1.0, null]}', "bad_features"),
    ("a list of strings", b'{"x": ["1.0"]}', "bad_features"),
    ("a list of objects", b'{"x": [{"a": 1}]}', "bad_features"),
    ("four dimensions", b'{"x": [[[[1]]]]}', "bad_features"),
    ("raw bytes of the wrong length", msgpack.packb({"x": {**RAW, "shape": [3]}}), "bad_features"),
    ("raw bytes of no dimension", msgpack.packb({"x": {**RAW, "shape": []}}), "bad_features"),
    ("raw bytes of a negative shape", msgpack.packb({"x": {**RAW, "shape": [-1, -2]}}), "bad_features"),
    ("raw bytes of a shape of true", msgpack.packb({"x": {**RAW, "shape": [True, 2]}}), "bad_features"),
    ("raw bytes of objects", msgpack.packb({"x": {**RAW, "dtype": "object"}}), "bad_features"),
    ("raw bytes of a list", msgpack.packb({"x": {**RAW, "data": [1]}}), "bad_features"),
    ("raw bytes, bad base64", orjson.dumps({"x": {**RAW, "data": "AAA"}}), "bad_features"),
    ("raw bytes, no ASCII", orjson.dumps({"x": {**RAW, "data": "ä"}}), "bad_features"),
    ("bytes that are no image", msgpack.packb({"x": b"GIF89a"}), "bad_features"),
    ("an object with a list of numbers", b'{"x": {"a": [1, 2]}}', "bad_features"),
    ("an object with bytes", msgpack.packb({"x": {"a": b"b"}}), "bad_features"),
    ("a large image", msgpack.packb({"x": png(5, 5)}), "image_too_large"),
    ("a cut image", msgpack.packb({"x": png()[:50]}), "truncated_image"),
    ("a broken image", msgpack.packb({"x": png()[:8] + b"\1" * 80 + b"IEND"}), "bad_image"),
    ("a data URL of a GIF", b'{"x": "data:image/gif;base64,R0lGODlh"}', "bad_image"),
    ("a data URL of no base64", b'{"x": "data:image/png;base64,???"}', "bad_image"),
]


@pytest.mark.parametrize(("value", "expected"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_record(value: bytes, expected: str) -> None:
    result = decode(value, max_pixels=24, max_values=64)
    assert reason(result) == expected
    assert isinstance(result, Rejection)
    assert (result.record.value, result.position) == (value, HERE)


def test_every_reason_has_an_example() -> None:
    assert {row[2] for row in BAD} == REASONS.keys() - LATER_STAGES - {"bad_row"}
    assert all(meaning.endswith(".") for meaning in REASONS.values())


def test_one_result_per_record_in_order() -> None:
    values = [b'{"x": [1]}', b"", b'{"x": [2]}', b"nonsense"]
    results = codec().decode([Record(v, Position("t", 0, n)) for n, v in enumerate(values)])
    assert [type(r) for r in results] == [Event, Rejection, Event, Rejection]
    assert [r.position.offset for r in results] == [0, 1, 2, 3]


# Forms of a good record


def test_everything_in_its_default_place() -> None:
    e = event(decode(b' {"id": "a1", "x": [0.5, 2], "y": "cat", "ts": 1790000000.5, "task": [{}]}'))
    assert (e.id, e.y, e.ts, e.position) == ("a1", "cat", 1790000000.5, HERE)
    assert e.x.dtype == np.float64
    assert e.x.tolist() == [0.5, 2.0]
    assert e.record is not None


def test_integers_become_strings_and_absent_values_have_defaults() -> None:
    assert (event(decode({"x": [1], "id": 7, "y": -3})).id, event(decode({"x": [1], "y": -3})).y) == (
        "7",
        "-3",
    )
    e = event(decode({"x": [1], "id": None, "y": None, "ts": None}))
    assert (e.id, e.y, e.ts) == ("topic:3:14", None, None)
    assert event(decode({"x": [1], "ts": 17})).ts == 17.0


def test_limits_are_inclusive() -> None:
    event(decode({"x": [1], "id": "i" * 9, "y": "y" * 9}, max_id_length=9, max_label_length=9))
    event(decode(b'{"x":[1]}', max_bytes=9))
    assert reason(decode(b'{"x":[1]} ', max_bytes=9)) == "too_large"
    event(decode({"x": [1, 2]}, max_values=2))
    event(decode({"x": [[1]]}, max_depth=3))
    assert reason(decode({"x": [[1]]}, max_depth=2)) == "too_deep"


def test_msgpack_is_told_apart() -> None:
    wide = {"x": [1.5], "y": "cat", **{f"k{n}": n for n in range(20)}}
    for packed in (msgpack.packb({"x": [1.5], "y": "cat"}), msgpack.packb(wide)):
        e = event(decode(packed))
        assert (e.x.tolist(), e.y) == ([1.5], "cat")


def test_colons_in_strings_are_no_duplicates() -> None:
    e = event(decode(b'{"a:b": "12:30:00", "l": ["x:y", {"z": ":"}], "e": "\\u003a:", "x": [1], "y": ":"}'))
    assert e.y == ":"


def test_paths() -> None:
    value = {"meta": {"key": "k", "when": [5, 6]}, "a.b": "exact", "a": {"b": "nested"}, "in": [{"v": [1]}]}
    e = event(decode(value, id="meta.key", label="a.b", time="meta.when.1", features="in.0.v"))
    assert (e.id, e.y, e.ts, e.x.tolist()) == ("k", "exact", 6.0, [1.0])
    for path in ("in.1.v", "in.-1.v", "in.0.v.w", "in.x", "meta.nothing", "in.\u0663"):
        assert reason(decode(value, features=path)) == "missing_features"


def test_features_as_a_list_of_paths() -> None:
    paths = ["amount", "who.age"]
    e = event(decode({"who": {"age": 40}, "amount": 1.5}, features=paths))
    assert e.x.tolist() == [1.5, 40.0]
    assert reason(decode({"amount": 1.5}, features=paths)) == "missing_features"
    for hashed in ({"amount": None, "who": {"age": 1}}, {"amount": 1, "who": {"age": "old"}}):
        assert event(decode(hashed, features=paths)).x.shape == (1024,)
    assert event(decode({"amount": True, "who": {"age": 1}}, features=paths)).x.shape == (1024,)
    assert reason(decode({"amount": None, "who": {"age": None}}, features=paths)) == "missing_features"
    assert reason(decode({"amount": [1], "who": {"age": 1}}, features=paths)) == "bad_features"


# Tables


def test_a_row_of_numbers_is_a_vector_of_its_columns() -> None:
    e = event(decode_row({"id": "r1", "b": "1.5", "a": " 2", "y": "cat", "ts": "17.5"}))
    assert (e.id, e.y, e.ts, e.x.tolist()) == ("r1", "cat", 17.5, [1.5, 2.0])


def test_empty_cells_are_absent() -> None:
    e = event(decode_row({"id": "", "b": "1", "y": "", "ts": ""}))
    assert (e.id, e.y, e.ts) == ("topic:3:14", None, None)


def test_a_row_with_words_is_hashed_as_the_object_would_be() -> None:
    row = event(decode_row({"amount": "1.5", "country": "DE", "note": "", "y": "1"}))
    same = event(decode({"x": {"amount": 1.5, "country": "DE"}}))
    np.testing.assert_array_equal(row.x, same.x)


def test_numbers_in_tables_are_what_other_tools_read() -> None:
    assert event(decode_row({"a": "1_000", "b": "2"})).x.shape == (1024,)
    assert reason(decode_row({"a": "nan", "b": "2"})) == "not_finite"
    assert reason(decode_row({"a": "1e39"})) == "not_finite"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"a": "1", None: ["2", "3"]}, "bad_row"),
        ({"a": "1", "b": None}, "bad_row"),
        ({}, "missing_features"),
        ({"y": "cat"}, "missing_features"),
        ({"x": ""}, "missing_features"),
        ({"x": "3"}, "bad_features"),
        ({"x": "[1, 2"}, "bad_features"),
        ({"a": "1", "ts": "soon"}, "bad_time"),
        ({"a": "1", "ts": "inf"}, "bad_time"),
        ({"a": "1", "ts": 10**400}, "bad_time"),
        ({"a": "1", "y": "\udcff"}, "bad_label"),
        ({"a": "1", "id": "\udcff"}, "bad_id"),
        ({"a": "1", "id": 10**5000}, "bad_id"),
        ({"a": 10**400}, "not_finite"),
        ({"a": "\udcff"}, "bad_features"),
        ({"\udcff": "word"}, "bad_features"),
        ({"a": object()}, "bad_features"),
        ({"x": np.array(["a"])}, "bad_features"),
        ({"x": np.array([True])}, "bad_features"),
        ({"x": np.array([1, None])}, "bad_features"),
        ({"x": np.array(1.0)}, "bad_features"),
        ({"x": np.zeros((0, 3))}, "bad_features"),
        ({"x": np.zeros((1, 1, 1, 1))}, "bad_features"),
        ({"x": np.array([1e300])}, "not_finite"),
        ({"x": np.array([np.nan], np.float16)}, "not_finite"),
        ({"x": np.zeros(2), "y": np.float64(1)}, "bad_label"),
        ({"x": np.zeros(2), "y": np.bool_(1)}, "bad_label"),
        ({"x": np.zeros(2), "y": np.datetime64(0, "ns")}, "bad_label"),
        ({"x": np.zeros(2), "y": np.zeros(2)}, "bad_label"),
    ],
)
def test_bad_row(row: dict[Any, Any], expected: str) -> None:
    result = decode_row(row)
    assert reason(result) == expected
    assert isinstance(result, Rejection)
    assert result.record.value, "the dead letter has a content"
    assert base64.b64decode(orjson.loads(encode_dead_letter(result))["value"]) == result.record.value
    kept = decode_row(row, b"a,b\n1")
    assert isinstance(kept, Rejection)
    assert kept.record.value == b"a,b\n1"


def test_the_content_of_a_rejected_row() -> None:
    result = decode_row(
        {"x": np.zeros((1, 1, 1, 2), np.float32), "y": np.int64(3), "when": np.datetime64("2020-01-01")}
    )
    assert isinstance(result, Rejection)
    assert orjson.loads(result.record.value) == {"x": [[[[0, 0]]]], "y": 3, "when": "2020-01-01T00:00:00"}


def test_the_content_of_a_row_whose_raw_bytes_are_no_numbers() -> None:
    record = Record(b"", HERE, fields={"x": {"dtype": "float32", "shape": [1], "data": b"\xff" * 4}})
    (rejected,) = codec().decode([record])
    assert isinstance(rejected, Rejection) and rejected.reason == "not_finite"
    assert orjson.loads(rejected.record.value)["x"]["dtype"] == "float32"


def test_a_row_that_a_later_stage_refuses_has_a_content_too() -> None:
    letter = encode_dead_letter(Rejection("wrong_shape", "", Record(b"", HERE, fields={"a": "1"})))
    assert base64.b64decode(orjson.loads(letter)["value"]) == b'{"a":"1"}'


def test_the_dead_letter_of_a_tombstone_is_not_that_of_an_empty_value() -> None:
    records = [Record(b"", HERE), Record(b"", HERE, tombstone=True)]
    letters = [orjson.loads(encode_dead_letter(Rejection("empty", "", record))) for record in records]
    assert [letter["value"] for letter in letters] == ["", None]


def test_numpy_rows() -> None:
    x = np.arange(12, dtype=np.uint8).reshape(3, 4)
    e = event(decode_row({"x": x, "y": np.int64(3), "id": np.str_("a"), "ts": np.float32(1.5)}))
    assert (e.id, e.y, e.ts) == ("a", "3", 1.5)
    assert (type(e.id), type(e.y)) == (str, str)
    assert (e.x.dtype.name, e.x.shape) == ("uint8", (1, 3, 4))
    assert not np.shares_memory(e.x, x)
    assert event(decode_row({"x": x, "y": np.array(3)})).y == "3"
    assert event(decode_row({"x": "[1, 2]"})).x.tolist() == [1.0, 2.0]
    assert event(decode_row({"x": [np.float64(1), np.float64(2)]})).x.tolist() == [1.0, 2.0]


# Outputs


def test_encode_prediction() -> None:
    p = Prediction("a", "ä", {"ä": 0.75, "b": 0.25}, 2, 40, HERE, y="hidden", record=Record(b"", HERE))
    line = encode_prediction(p, 7)
    assert b"\n" not in line
    assert list(orjson.loads(line).items()) == [
        ("id", "a"),
        ("label", "ä"),
        ("scores", {"ä": 0.75, "b": 0.25}),
        ("known_classes", 2),
        ("model_step", 40),
        ("epoch", 7),
        ("source", ["topic", 3, 14]),
    ]
    assert orjson.loads(encode_prediction(Prediction("a", None, {}, 0, 0), 1))["label"] is None


def test_lone_surrogates_are_escaped_when_encoded() -> None:
    place = Position("/data/\udcff.jsonl", 0, 1)
    line = encode_prediction(Prediction("\ud800", "\ud800", {"\ud800": 1.0}, 1, 1, place), 1)
    assert json.loads(line)["id"] == "\ud800"
    (e,) = codec().decode([Record(b'{"x": [1]}', place)])
    event(e).id.encode()


def test_details_are_the_same_in_every_run() -> None:
    """A dead letter is a function of the record: no address of an object may be in it."""
    rows: list[dict[str, Any]] = [{"a": object()}, {"y": object(), "a": "1"}, {"x": [object()]}]
    for row in rows:
        result = decode_row(row)
        assert isinstance(result, Rejection)
        assert "0x" not in result.detail
    header = decode(msgpack.packb({"x": png()[:9] + b"\1" * 80}))
    assert isinstance(header, Rejection)
    assert "0x" not in header.detail


ROW = {"id": "a", "amount": "1", "label": "cat", "when": "3"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"label": "lable"}, "no column 'lable' (codec.label); it has id, amount, label, when"),
        ({"id": "key"}, "no column 'key' (codec.id); it has id"),
        ({"time": "now"}, "no column 'now' (codec.time); it has id"),
        ({"features": ["amount", "price"]}, "no column 'price' (codec.features); it has id"),
        ({"label": "a.b"}, "no column 'a.b' (codec.label)"),
    ],
)
def test_a_column_that_is_named_must_be_there(settings: dict[str, Any], words: str) -> None:
    """A mistyped label would make every row one to predict only, and the label a feature."""
    result = decode_row(ROW, b"a,1,cat,3", **settings)
    assert reason(result) == "bad_row"
    assert isinstance(result, Rejection) and words in result.detail
    wide = decode_row({f"column {i}": "1" for i in range(10_000)}, **settings)
    assert reason(wide) == "bad_row"


def test_named_columns_that_are_there_and_default_ones_that_are_not() -> None:
    named = event(decode_row(ROW, label="label", time="when", features=["amount"]))
    assert (named.id, named.y, named.ts, named.x.tolist()) == ("a", "cat", 3.0, [1.0])
    assert event(decode_row({"amount": "1"})).y is None
    assert event(decode_row({**ROW, "label": ""}, label="label", features=["amount"])).y is None
    assert event(decode_row({"a": {"b": "cat"}, "x": [1.0]}, label="a.b")).y == "cat"
    assert event(decode({"x": [1]}, label="lable", time="now", id="key")).y is None


def test_a_row_without_cells_says_why() -> None:
    result = decode_row({None: "the row is not UTF-8"}, msgpack.packb({"x": [1]}))
    assert reason(result) == "bad_row"
    assert isinstance(result, Rejection) and result.detail == "the row is not UTF-8"
