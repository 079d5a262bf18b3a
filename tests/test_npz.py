"""Rows of arrays: what is recognised again, what may have grown, and what a dead letter holds of them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from connectors import npz
from connectors.files import FileSource
from connectors.kafka.messages import Encoder
from streamlearn.codec import Codec, original
from streamlearn.config import CodecSettings
from streamlearn.events import Array, Event, Item, Record, Rejection, Resume, StateMismatch, UsageError
from tests.processes import flags, hashes, here, outputs

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2500, 4)).astype(np.float32)
Y = np.array(["cat", "dog"])[np.arange(2500) % 2]


def saved(path: Path, **arrays: Array) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def learned(path: Path, rows: int, steps: tuple[int, ...] = ()) -> Resume:
    """Where the next start goes on behind so many rows, with fingerprints taken on the way."""
    source = FileSource({"path": str(path)})
    source.open(Resume())
    for step in steps:
        source.fingerprint({0: step})
    fingerprint = json.loads(json.dumps(source.fingerprint({0: rows})))
    source.close()
    return Resume({0: rows}, {0: rows}, fingerprint)


def rest(path: Path, resume: Resume) -> list[Record]:
    source = FileSource({"path": str(path)})
    source.open(resume)
    found: list[Record] = []
    while not source.ended:
        found += source.poll(1000, 1)
    source.close()
    return found


@pytest.mark.parametrize("row", [0, 999, 1000, 1500, 1999])
@pytest.mark.parametrize("name", ["x", "y", "id"])
def test_a_changed_row_below_the_cursor_is_refused(tmp_path: Path, row: int, name: str) -> None:
    arrays = {"x": X.copy(), "y": Y.copy(), "id": np.arange(2500)}
    path = saved(tmp_path / "f.npz", **arrays)
    resume = learned(path, 2000)
    arrays[name][row] = arrays[name][row + 1]
    with pytest.raises(StateMismatch, match=f"the first 2000 rows of {name} differ"):
        rest(saved(path, **arrays), resume)


def test_a_changed_row_above_the_cursor_is_not_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "f.npz", x=X, y=Y)
    resume = learned(path, 2000)
    assert len(rest(saved(path, x=np.concatenate([X[:2000], -X[:7]]), y=Y[:2007]), resume)) == 7


def test_a_file_that_has_grown_goes_on(tmp_path: Path) -> None:
    """New classes have longer names now and then, which makes all of numpy's strings longer."""
    path = saved(tmp_path / "f.npz", x=X[:2000], y=Y[:2000])
    resume = learned(path, 2000)
    more = rest(saved(path, x=X, y=np.concatenate([Y[:2000], np.array(["a wombat"] * 500)])), resume)
    assert [record.position.offset for record in more] == list(range(2000, 2500))
    assert more[0].fields is not None and more[0].fields["y"] == "a wombat"


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": X}, "it has the arrays x, the state has learned from x, y"),
        ({"x": X.astype(np.float64), "y": Y}, r"a row of x is <f8 \[4\], it was <f4 \[4\]"),
        ({"x": X[:, :3], "y": Y}, r"a row of x is <f4 \[3\], it was <f4 \[4\]"),
        ({"x": X, "y": np.arange(2500)}, r"a row of y is <i8 \[\], it was U \[\]"),
        ({"x": X[:1999], "y": Y[:1999]}, "it has 1999 rows, the state has learned 2000"),
    ],
)
def test_other_arrays_are_refused_with_a_word_why(
    tmp_path: Path, arrays: dict[str, Array], words: str
) -> None:
    path = saved(tmp_path / "f.npz", x=X, y=Y)
    resume = learned(path, 2000)
    with pytest.raises(StateMismatch, match=rf"\({words}\): give the same input, which may have grown"):
        rest(saved(path, **arrays), resume)


def test_a_fingerprint_is_the_same_however_often_it_was_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(
        tmp_path / "f.npz", x=np.asfortranarray(X), y=Y, b=Y.astype("S"), when=Y.astype("U9") == "cat"
    )
    expected = learned(path, 2000)
    monkeypatch.setattr(npz, "HASHED_AT_ONCE", 100)
    assert learned(path, 2000, steps=(0, 10, 1311, 2000)) == expected
    assert learned(path, 2000, steps=(2400, 3)) == expected


def test_only_rows_that_are_new_are_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    content_of = npz.content_of

    def counting(rows: Array) -> bytes:
        counted.append(len(rows))
        return content_of(rows)

    monkeypatch.setattr(npz, "content_of", counting)
    learned(saved(tmp_path / "f.npz", x=X), 2000, steps=tuple(range(100, 2000, 100)))
    assert sum(counted) == 2000


def test_run_goes_on_with_a_grown_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path / "f.npz", x=X[:60], y=Y[:60])
    words = flags(tmp_path, path, "--memory.capacity", "50")
    assert here(*words) == 0
    saved(path, x=X[:75], y=Y[:75])
    assert here(*words) == 0
    assert len(outputs(tmp_path / "predictions.jsonl")) == 75
    before = hashes(tmp_path)
    x = X[:90].copy()
    x[30] += 1
    saved(path, x=x, y=Y[:90])
    capfd.readouterr()
    assert here(*words) == 3
    assert "the first 75 rows of x differ" in capfd.readouterr().err
    assert hashes(tmp_path) == before


# ---- dead letters


def test_a_dead_letter_holds_the_whole_row(tmp_path: Path) -> None:
    path = saved(tmp_path / "floaty.npz", x=X[:30], y=np.arange(30.0), id=np.arange(30))
    assert here(*flags(tmp_path, path)) == 0
    letters = outputs(tmp_path / "state/dead_letters.jsonl")
    assert {letter["reason"] for letter in letters} == {"bad_label"} and len(letters) == 30
    row = orjson.loads(letters[7]["value"])
    assert (row["y"], row["id"]) == (7.0, 7)
    assert np.array_equal(np.array(row["x"], np.float32), X[7])


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_of_numbers_that_json_does_not_have_it_holds_the_bits(tmp_path: Path, value: float) -> None:
    x = np.array([[1.5, value]], np.float32)
    (item,) = Codec(CodecSettings()).decode(rest(saved(tmp_path / "f.npz", x=x, y=Y[:1]), Resume()))
    assert isinstance(item, Rejection) and item.reason == "not_finite"
    row: dict[str, Any] = orjson.loads(original(item.record) or b"")
    assert row["y"] == "cat" and (row["x"]["dtype"], row["x"]["shape"]) == ("float32", [2])
    assert base64.b64decode(row["x"]["data"]) == x.tobytes()


def test_a_row_counts_by_its_arrays(tmp_path: Path) -> None:
    record = rest(saved(tmp_path / "f.npz", x=X, y=Y), Resume())[0]
    assert record.size == 16 and Record(b"abc", record.position).size == 3
    (item,) = Codec(CodecSettings(max_bytes=15)).decode([record])
    assert isinstance(item, Rejection) and item.reason == "too_large"


# ---- what people save beside x and y, and how


def decoded(records: list[Record]) -> list[Item]:
    """As they are, and the same as messages of `streamlearn publish`."""
    codec, encoder = Codec(CodecSettings()), Encoder(CodecSettings().model_dump())
    messages = [Record(encoder.message(record).value, record.position, record.cursor) for record in records]
    items = codec.decode(records)
    for item, again in zip(items, codec.decode(messages), strict=True):
        assert isinstance(item, Event) == isinstance(again, Event)
        if isinstance(item, Event) and isinstance(again, Event):
            assert item.y == again.y and item.x.dtype == again.x.dtype and np.array_equal(item.x, again.x)
    return items


def labels(items: list[Item]) -> list[str | None]:
    return [item.y for item in items if isinstance(item, Event)]


def test_arrays_that_are_no_columns_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    more = {"class_names": np.array(["cat", "dog"]), "version": np.array(3), "weight": np.arange(4.0)}
    path = saved(tmp_path / "f.npz", x=X[:4], y=Y[:4], **more)
    with caplog.at_level("INFO"):
        records = rest(path, Resume())
    assert labels(decoded(records)) == Y[:4].tolist()
    assert records[0].fields is not None and records[0].fields.keys() == {"x", "y", "weight"}
    (line,) = [record.getMessage() for record in caplog.records if record.name == "connectors.npz"]
    assert line.endswith("x has 4 rows; left out: class_names (2 rows), version (no rows)")
    resume = learned(path, 2)
    assert len(rest(saved(path, x=X[:9], y=Y[:9], weight=np.arange(9.0), notes=np.array([1])), resume)) == 7


def test_those_that_the_codec_reads_are_not(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path / "f.npz", x=X[:40], y=Y[:40], kind=np.arange(3), when=np.arange(2))
    for setting in ("label=kind", "time=when", "features=x,kind", "id=kind.no"):
        assert here(*flags(tmp_path, path, f"--codec.{setting}")) == 2
        assert "x has 40 rows but " in capfd.readouterr().err
    assert here(*flags(tmp_path, path)) == 0
    with pytest.raises(UsageError, match="x has 4 rows but id has 2 rows"):
        rest(saved(path, x=X[:4], id=np.arange(2)), Resume())


def test_labels_in_a_column_of_a_matrix_or_as_bytes(tmp_path: Path) -> None:
    path = tmp_path / "f.npz"
    for y in (Y[:4], Y[:4, None], Y[:4].astype("S"), Y[:4, None].astype("S")):
        items = decoded(rest(saved(path, x=X[:4], y=y, id=np.arange(4)[:, None]), Resume()))
        assert labels(items) == Y[:4].tolist()
        assert [item.id for item in items if isinstance(item, Event)] == ["0", "1", "2", "3"]
    assert labels(decoded(rest(saved(path, x=X[:2], y=np.array([[3], [4]])), Resume()))) == ["3", "4"]
    names = np.array(["größe".encode(), b"\xff"])
    first, second = decoded(rest(saved(path, x=X[:2], y=names), Resume()))
    assert isinstance(first, Event) and first.y == "größe"
    assert isinstance(second, Rejection) and second.reason == "bad_label"
    # Two labels a row are none.
    assert not labels(decoded(rest(saved(path, x=X[:2], y=np.array([[3, 4], [4, 5]])), Resume())))


def test_truth_values_are_0_and_1(tmp_path: Path) -> None:
    x = X[:3] > 0
    for shaped in (x, x.reshape(3, 1, 2, 2), x[:, 0]):
        items = decoded(rest(saved(tmp_path / "f.npz", x=shaped, y=Y[:3]), Resume()))
        for item, row in zip(items, shaped, strict=True):
            assert isinstance(item, Event) and item.x.dtype == np.uint8
            assert np.array_equal(item.x.ravel(), row.ravel().astype(np.uint8))
