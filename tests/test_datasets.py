"""The orders of streams, the data sets themselves, and arrays from NPZ files."""

from __future__ import annotations

import os
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.datasets import Dataset, DatasetSource, load, set_aside
from connectors.files import FileSource
from connectors.streams import ORDERS, arrange, class_order
from streamlearn.events import Record, Resume, Unreachable, UsageError

DATA = Path(
    os.environ.get("STREAMLEARN_TEST_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data"
)


@cache
def data(name: str, split: str = "train") -> Dataset:
    if not DATA.is_dir():
        pytest.skip(f"the data sets are not in {DATA}; STREAMLEARN_TEST_DATA names their folder")
    return load(name, DATA, split)


def records(**options: Any) -> list[Record]:
    source = DatasetSource(options)
    source.open(Resume())
    return source.poll(100_000, 0)


def labels_of(found: list[Record]) -> list[str]:
    return [record.fields["y"] for record in found if record.fields is not None]


LABELS = np.repeat(np.arange(7), [10, 20, 30, 5, 8, 40, 3])[np.random.default_rng(0).permutation(116)]


@pytest.mark.parametrize("order", ORDERS)
@given(seed=st.integers(0, 99), groups=st.integers(1, 8))
def test_every_event_comes_once_and_the_seed_decides(order: str, seed: int, groups: int) -> None:
    first, second = (arrange(LABELS, order, np.random.default_rng(seed), groups=groups) for _ in range(2))
    assert np.array_equal(first, second)
    assert np.array_equal(np.sort(first), np.arange(len(LABELS)))


def runs(values: list[Any]) -> list[Any]:
    return [value for i, value in enumerate(values) if i == 0 or values[i - 1] != value]


def test_class_incremental_has_one_group_after_another() -> None:
    index = arrange(LABELS, "class_incremental", np.random.default_rng(1), classes=[4, 2, 6, 0, 5], groups=2)
    group = {4: 0, 2: 0, 6: 1, 0: 1, 5: 2}
    assert runs([group[label] for label in LABELS[index].tolist()]) == [0, 1, 2]
    assert len(runs(LABELS[index].tolist())) > 5, "within a group the classes are mixed"


def test_recurring_groups_come_back() -> None:
    index = arrange(LABELS, "recurring", np.random.default_rng(1), classes=[0, 1, 2], groups=1, repeats=3)
    assert runs(LABELS[index].tolist()) == [0, 1, 2] * 3
    assert Counter(LABELS[index][:20].tolist()) == {0: 4, 1: 7, 2: 9}


def test_blurry_moves_a_share_of_each_group() -> None:
    labels = np.repeat(np.arange(5), 1000)
    index = arrange(labels, "blurry", np.random.default_rng(1), classes=np.arange(5), groups=1, blur=0.2)
    at = 0
    for group in range(5):
        moved_here = 800
        # The time of a group holds its 800 and about 200 of the others; find its core.
        window = labels[index[at : at + 1000]]
        assert 750 < (window == group).sum() <= moved_here
        assert set(window.tolist()) == set(range(5))
        at += 1000
    plain = arrange(labels, "class_incremental", np.random.default_rng(1), groups=5)
    assert np.array_equal(arrange(labels, "blurry", np.random.default_rng(1), groups=5), plain)


def test_per_class_and_classes() -> None:
    index = arrange(LABELS, "as_is", np.random.default_rng(1), classes=[5, 0], per_class=7)
    assert Counter(LABELS[index].tolist()) == {5: 7, 0: 7} and (np.diff(index) > 0).all()


def test_class_order() -> None:
    assert class_order(LABELS, np.random.default_rng(0), shuffle=False).tolist() == list(range(7))
    assert sorted(class_order(LABELS, np.random.default_rng(0)).tolist()) == list(range(7))


@pytest.mark.parametrize(
    "wrong", [{"order": "sorted"}, {"groups": 0}, {"repeats": 0}, {"blur": 1.1}, {"per_class": 0}]
)
def test_numbers_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        arrange(LABELS, **{"order": "blurry", "rng": np.random.default_rng(0), **wrong})
    with pytest.raises(UsageError):
        records(**wrong)


# --- data sets -----------------------------------------------------------------------------------------


def test_digits_have_a_fixed_stratified_split() -> None:
    train, test = load("digits"), load("digits", split="test")
    assert isinstance(train.x, np.ndarray) and isinstance(test.x, np.ndarray)
    assert train.x.shape == (1442, 1, 8, 8) and train.x.dtype == np.uint8 and train.x.max() == 16
    assert len(test.x) == 355 and train.ids[17] == "digits-train-17"
    assert np.array_equal(np.bincount(test.y), np.bincount(load("digits", split="all").y) // 5)
    assert not {x.tobytes() for x in train.x} & {x.tobytes() for x in test.x}


def test_options_of_the_source() -> None:
    found = records(classes=4, per_class=20, groups=2, limit=70, seed=3)
    assert len(found) == 70 and Counter(labels_of(found[:40])).most_common() == [
        (label, 20) for label, _ in Counter(labels_of(found[:40])).most_common()
    ]
    assert len(set(labels_of(found))) == 4
    assert runs(labels_of(records(shuffle_classes=False, groups=1))) == [str(i) for i in range(10)]
    assert labels_of(records(seed=None, order=None, split=None)) == labels_of(records())
    assert labels_of(records(seed=1)) != labels_of(records())


@pytest.mark.parametrize("options", [{"dataset": "mnist"}, {"split": "val"}, {"dataset": "cifar100"}])
def test_what_the_settings_cannot_ask(options: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        records(**options)


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar100", "electricity", "clinc150"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(Unreachable, match=str(tmp_path)):
        load(name, tmp_path)


@pytest.mark.parametrize(
    ("name", "split", "count", "shape", "classes"),
    [
        ("fashion_mnist", "test", 10_000, (1, 28, 28), 10),
        ("cifar100", "test", 10_000, (3, 32, 32), 100),
        ("electricity", "train", 45_312, (6,), 2),
        ("clinc150", "val", 3_000, None, 150),
        ("clinc150", "all", 22_500, None, 150),
    ],
)
def test_real_data(name: str, split: str, count: int, shape: tuple[int, ...] | None, classes: int) -> None:
    found = data(name, split)
    assert len(found.x) == len(found.y) == len(found.ids) == len(set(found.ids)) == count
    assert len(found.classes) == classes and set(found.y.tolist()) == set(range(classes))
    if shape is not None:
        assert isinstance(found.x, np.ndarray)
        assert found.x.shape == (count, *shape)
        assert found.x.dtype == (np.float32 if name == "electricity" else np.uint8)


def test_cifar100_means_are_the_known_ones() -> None:
    """Of the test split: close to the train split's .507 .487 .441, in this order of channels."""
    x = data("cifar100", "test").x
    assert isinstance(x, np.ndarray)
    assert np.allclose(x.mean((0, 2, 3)) / 255, (0.507, 0.487, 0.441), atol=0.005)


def test_electricity_streams_in_the_order_of_time() -> None:
    data("electricity")
    source = DatasetSource({"dataset": "electricity", "data_dir": DATA})
    source.open(Resume())
    first = source.poll(1, 0)[0].fields
    assert first is not None and first["id"] == "electricity-train-0" and first["y"] == "1"
    assert np.allclose(first["x"][:3], (0, 0.056443, 0.439155))


def test_clinc150_streams_text() -> None:
    data("clinc150")
    record = records(dataset="clinc150", data_dir=DATA, limit=1)[0]
    assert record.fields is not None
    assert record.value.decode() == record.fields["x"]["text"]


# --- NPZ -----------------------------------------------------------------------------------------------


def read_npz(path: Path) -> list[Record]:
    source = FileSource({"path": str(path)})
    source.open(Resume())
    try:
        return source.poll(100, 0)
    finally:
        source.close()


def test_arrays_become_fields(tmp_path: Path) -> None:
    path = tmp_path / "f.npz"
    x = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    np.savez_compressed(path, x=x, y=np.array(["cat", "dog"]), id=np.array([7, 8]), ts=np.array([0.5, 1.5]))
    first, second = read_npz(path)
    assert first.fields is not None and second.fields is not None
    assert {k: v for k, v in second.fields.items() if k != "x"} == {"y": "dog", "id": 8, "ts": 1.5}
    assert np.array_equal(second.fields["x"], x[1]) and second.fields["x"].dtype == np.uint8
    assert (second.value, second.cursor) == (b"", 2)


@pytest.mark.parametrize(
    ("arrays", "error", "words"),
    [
        ({"y": np.arange(3)}, UsageError, "no array x"),
        ({"x": np.arange(3), "y": np.arange(2)}, UsageError, "3 rows but y has 2 rows"),
        ({"x": np.arange(3), "y": np.float64(1)}, UsageError, "y has no rows"),
        ({"x": np.array([{}, None])}, UsageError, "pickle"),
    ],
)
def test_arrays_that_make_no_rows(tmp_path: Path, arrays: Any, error: type[Exception], words: str) -> None:
    path = tmp_path / "f.npz"
    np.savez(path, **arrays)
    with pytest.raises(error, match=words):
        read_npz(path)


@pytest.mark.parametrize("damage", ["cut", "text", "flipped"])
def test_a_damaged_npz_is_unreachable(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "f.npz"
    np.savez(path, x=np.arange(1000))
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[400] ^= 255
    path.write_bytes({"cut": bytes(data[:500]), "text": b"hello", "flipped": bytes(data)}[damage])
    with pytest.raises(Unreachable, match="NPZ"):
        read_npz(path)


def test_the_last_examples_of_each_class_are_set_aside() -> None:
    data = load("digits")
    kept, aside = (set_aside(data, 30, part) for part in (False, True))
    assert len(aside.y) == 300
    assert not set(kept.ids) & set(aside.ids)
    assert sorted([*kept.ids, *aside.ids]) == sorted(data.ids)
    for number in range(10):
        mine = [name for name, y in zip(data.ids, data.y, strict=True) if y == number]
        assert [name for name, y in zip(aside.ids, aside.y, strict=True) if y == number] == mine[-30:]
    place = {name: i for i, name in enumerate(data.ids)}
    assert isinstance(data.x, np.ndarray) and isinstance(kept.x, np.ndarray)
    assert np.array_equal(kept.x, data.x[[place[name] for name in kept.ids]])
    with pytest.raises(UsageError, match="145 is too many for validation"):
        set_aside(data, 145, True)


def test_the_validation_split_of_a_source() -> None:
    def ids(**options: Any) -> list[str]:
        source = DatasetSource({"dataset": "digits", "order": "as_is", **options})
        source.open(Resume())
        return [str(record.fields["id"]) for record in source.poll(10_000, 0) if record.fields]

    learned, asked = ids(validation=5), ids(split="validation", validation=5)
    assert sorted(learned + asked) == sorted(ids())
    assert len(asked) == 50
    assert ids(split="test", validation=5) == ids(split="test")
    with pytest.raises(UsageError, match="validation is 0"):
        ids(split="validation")
