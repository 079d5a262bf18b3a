"""Bad records through a pipe, each between good ones: one dead letter each, and the good ones all learned."""

from __future__ import annotations

import base64
import gzip
import io
import json
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from PIL import Image

from tests.processes import Process, flags, here, outputs, piped

MOST_CLASSES = 3


def good(number: int) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    label = number % MOST_CLASSES
    return {"id": f"good {number}", "x": (rng.normal(size=4) + 3 * label).tolist(), "y": f"class {label}"}


def picture(kind: str, label: int = 0, seed: int = 0) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 100, (8, 8, 3)).astype(np.uint8)
    noise[:, :, label] += 150
    file = io.BytesIO()
    Image.fromarray(noise).save(file, kind)
    return file.getvalue()


def bomb() -> bytes:
    """A PNG of a few hundred bytes that says it is 100,000 x 100,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def nested(depth: int) -> list[Any]:
    value: list[Any] = [1]
    for _ in range(depth):
        value = [value]
    return value


# What both formats can say; x in place of an image stands for its bytes
BOTH: list[tuple[str, dict[str, Any], str]] = [
    ("wrong shape", {"x": [1, 2, 3]}, "wrong_shape"),
    ("another number of dimensions", {"x": [[[1]]]}, "wrong_shape"),
    ("NaN", {"x": [1, 2, 3, math.nan]}, "not_finite"),
    ("infinity", {"x": [1, 2, 3, -math.inf]}, "not_finite"),
    ("beyond float32", {"x": [1, 2, 3, 1e300]}, "not_finite"),
    ("an image bomb", {"x": bomb()}, "image_too_large"),
    ("a truncated image", {"x": picture("PNG")[:-30]}, "truncated_image"),
    ("a truncated JPEG", {"x": picture("JPEG")[:-30]}, "truncated_image"),
    ("a broken image", {"x": b"\x89PNG\r\n\x1a\n" + b"\1" * 80 + b"IEND"}, "bad_image"),
    ("deep nesting", {"x": nested(100)}, "too_deep"),
    ("a label of a list", {"x": [1, 2, 3, 4], "y": ["a"]}, "bad_label"),
    ("a label of a boolean", {"x": [1, 2, 3, 4], "y": True}, "bad_label"),
    ("a label of a float", {"x": [1, 2, 3, 4], "y": 1.5}, "bad_label"),
    ("a label too long", {"x": [1, 2, 3, 4], "y": "y" * 257}, "label_too_long"),
    ("a class past the limit", {"x": [1, 2, 3, 4], "y": "one more"}, "too_many_classes"),
    ("an id of a list", {"id": [1], "x": [1, 2, 3, 4]}, "bad_id"),
    ("a time of words", {"ts": "noon", "x": [1, 2, 3, 4]}, "bad_time"),
    ("no features", {"y": "class 0"}, "missing_features"),
    ("words for features", {"x": "hello"}, "wrong_shape"),
    ("base64 without a URL", {"x": "iVBORw0KGgo" * 9}, "bad_features"),
]


def as_json(event: dict[str, Any]) -> bytes:
    x = event.get("x")
    if isinstance(x, bytes):
        event = {**event, "x": "data:image/png;base64," + base64.b64encode(x).decode()}
    return json.dumps(event).encode()


LINES: list[tuple[str, bytes, str]] = [
    *((name, as_json(event), reason) for name, event, reason in BOTH),
    ("cut JSON", b'{"id": "a", "x": [1, 2', "undecodable"),
    ("bytes that are nothing", bytes(byte for byte in range(128, 256)), "undecodable"),
    ("latin-1", b'{"x": [1, 2, 3, 4], "y": "caf\xe9"}', "undecodable"),
    ("duplicate keys", b'{"x": [1, 2, 3, 4], "y": "class 0", "y": "class 1"}', "duplicate_key"),
    ("a list", b"[1, 2, 3, 4]", "not_an_object"),
    ("an empty line", b"", "empty"),
    ("white space", b"   ", "empty"),
    ("a msgpack extension", msgpack.packb({"x": msgpack.ExtType(5, b"data")}), "msgpack_extension"),
    ("100,000 brackets", b'{"x": ' + b"[" * 100_000, "too_deep"),
    ("12 MB of x", b'{"x": [' + b"0.123456, " * 1_250_000 + b"1]}", "too_large"),
]

SHORT = {"dtype": "float32", "shape": [4], "data": b"\0"}
OBJECTS: list[tuple[str, bytes, str]] = [
    *((name, msgpack.packb(event), reason) for name, event, reason in BOTH),
    ("11 MB of x", msgpack.packb({"x": [0.123456] * 1_250_000}), "too_large"),
    ("a msgpack extension", msgpack.packb({"x": msgpack.ExtType(5, b"data")}), "msgpack_extension"),
    ("a timestamp", msgpack.packb({"x": msgpack.Timestamp(1)}), "msgpack_extension"),
    ("duplicate keys", b"\x82\xa1x\x94\1\1\1\1\xa1x\x94\2\2\2\2", "duplicate_key"),
    ("integer keys", msgpack.packb({1: 2}), "undecodable"),
    ("a list", msgpack.packb([1, 2]), "not_an_object"),
    ("a number", b"\x07", "not_an_object"),
    ("raw bytes too short", msgpack.packb({"x": SHORT}), "bad_features"),
]


def mixed(bad: Sequence[tuple[str, bytes, str]], pack: Any, end: bytes) -> tuple[bytes, int]:
    """Eleven good ones to settle the shape, then a bad and a good one by turns; and how many are good."""
    stream, number = b"".join(pack(good(i)) + end for i in range(11)), 11
    for _, record, _ in bad:
        stream += record + end + pack(good(number)) + end
        number += 1
    return stream, number


def judge(
    folder: Path,
    bad: Sequence[tuple[str, bytes, str]],
    goods: int,
    capfd: pytest.CaptureFixture[str],
    tail: Sequence[tuple[bytes, str]] = (),
) -> None:
    letters = outputs(folder / "state/dead_letters.jsonl")
    for i, (name, record, reason) in enumerate(bad):
        assert letters[i]["reason"] == reason, (name, letters[i])
        assert letters[i]["value"] == record, name
        assert letters[i]["source"] == ["-", 0, 11 + 2 * i], name
        assert letters[i]["detail"]
    assert [(each["value"], each["reason"]) for each in letters[len(bad) :]] == list(tail)
    predictions = outputs(folder / "predictions.jsonl")
    assert [each["id"] for each in predictions] == [f"good {i}" for i in range(goods)]
    capfd.readouterr()
    assert here("checkpoints", "show", str(folder / "state"), "--json") == 0
    shown = json.loads(capfd.readouterr().out)
    assert shown["events_learned"] + shown["events_held_out"] == goods
    assert shown["classes"] == ["class 0", "class 1", "class 2"]
    assert shown["offsets"] == {"-": {"0": goods + len(letters)}}


def test_bad_lines_between_good_ones(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stream, goods = mixed(LINES, as_json, b"\n")
    with piped(tmp_path, "--codec.max_classes", str(MOST_CLASSES)) as worker:
        worker.send(stream + b'{"cut": "by the end')
        assert worker.ends() == 0
    judge(tmp_path, LINES, goods, capfd, [(b'{"cut": "by the end', "undecodable")])


def test_bad_objects_between_good_ones(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Behind bytes that are no msgpack the next object can't be found: the rest is one dead letter."""
    stream, goods = mixed(OBJECTS, msgpack.packb, b"")
    nothing = b"\xc1 is never used in msgpack"
    with piped(tmp_path, "--source.format", "msgpack", "--codec.max_classes", str(MOST_CLASSES)) as worker:
        worker.send(stream + nothing)
        assert worker.ends() == 0
    judge(tmp_path, OBJECTS, goods, capfd, [(nothing, "undecodable")])


@pytest.mark.slow
def test_bad_lines_through_the_real_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stream, goods = mixed(LINES, as_json, b"\n")
    words = flags(tmp_path, "-", "--codec.max_classes", str(MOST_CLASSES))
    with Process(*words, stdin=True) as run:
        for start in range(0, len(stream), 1 << 20):
            run.send(stream[start : start + (1 << 20)])
        run.hang_up()
        assert run.ends() == 0
        assert run.out == []
    assert "Traceback" not in run.errors
    judge(tmp_path, LINES, goods, capfd)


# ---- good ones of every form


def state_after(folder: Path, stream: bytes, *more: str) -> dict[str, Any]:
    """Give a pipe `stream`; returns the learner's counts and schema."""
    with piped(folder, *more) as worker:
        worker.send(stream)
        assert worker.ends() == 0
        learner = worker.worker.learner
        assert learner.schema is not None
        return {"learned": learner.counts.learned, "rejected": dict(learner.counts.rejected)} | (
            learner.schema.plain() | {"classes": learner.classes.labels}
        )


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("format", ["jsonl", "msgpack"])
def test_encoded_images(tmp_path: Path, kind: str, format: str) -> None:
    records = [{"x": picture(kind, i % 3, i), "y": str(i % 3)} for i in range(24)]
    records.insert(15, {"x": picture(kind)[:-20], "y": "0"})
    stream = b"".join(as_json(each) + b"\n" if format == "jsonl" else msgpack.packb(each) for each in records)
    state = state_after(tmp_path, stream, "--source.format", format, "--model.width", "4")
    assert state == {
        "learned": 24,
        "rejected": {"truncated_image": 1},
        "shape": [3, 8, 8],
        "dtype": "uint8",
        "classes": ["0", "1", "2"],
    }


def test_objects_of_numbers_categories_and_text(tmp_path: Path) -> None:
    rows = [
        {"amount": 3.5 * i, "country": ["DE", "FR"][i % 2], "note": f"card number {i}", "fraud": i % 2}
        for i in range(25)
    ]
    rows.insert(12, {"amount": 1.0, "country": "DE", "note": "", "fraud": 0.5})
    named = ["--codec.features", "amount,country,note", "--codec.label", "fraud", "--codec.hash_dim", "64"]
    state = state_after(tmp_path, b"".join(as_json(row) + b"\n" for row in rows), *named)
    assert state == {
        "learned": 25,
        "rejected": {"bad_label": 1},
        "shape": [64],
        "dtype": "float32",
        "classes": ["0", "1"],
    }


@pytest.mark.parametrize("packed", [False, True])
def test_a_table_with_named_fields(tmp_path: Path, packed: bool) -> None:
    rows = [f"{i},{i * 0.5},{'up' if i % 2 else 'down'},{i % 7}" for i in range(25)]
    rows[13] = "13,nan,up,1"
    rows[14] = "14,1.5"
    table = "\r\n".join(["when,price,trend,demand", *rows]).encode()
    named = ["--source.format", "csv", "--codec.features", "price,demand", "--codec.label", "trend"]
    state = state_after(tmp_path, gzip.compress(table) if packed else table, *named, "--codec.time", "when")
    assert state == {
        "learned": 23,
        "rejected": {"bad_row": 1, "not_finite": 1},
        "shape": [2],
        "dtype": "float32",
        "classes": ["down", "up"],
    }
    letters = outputs(tmp_path / "state/dead_letters.jsonl")
    assert [each["value"].rstrip() for each in letters] == [b"13,nan,up,1", b"14,1.5"]


def test_arrays(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 2, 4)).astype(np.float32)
    x[17] = np.inf
    file = io.BytesIO()
    np.savez(file, x=x, y=np.arange(30) % 3)
    state = state_after(tmp_path, file.getvalue(), "--source.format", "npz", "--model.net", "mlp")
    assert state == {
        "learned": 29,
        "rejected": {"not_finite": 1},
        "shape": [1, 2, 4],
        "dtype": "float32",
        "classes": ["0", "1", "2"],
    }
    (letter,) = outputs(tmp_path / "state/dead_letters.jsonl")
    assert letter["source"] == ["-", 0, 17]
    row = json.loads(letter["value"])
    assert (row["y"], base64.b64decode(row["x"]["data"])) == (2, x[17].tobytes())
