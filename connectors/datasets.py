"""Real data sets as finite sources, for the demo, benchmarks and tests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from connectors.streams import ORDERS, arrange, class_order
from streamlearn.events import Array, Position, Record, Resume, StateMismatch, Unreachable, UsageError

HEAD = 64
"""The features of so many first events are part of a fingerprint."""

FASHION = (
    "t-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


@dataclass(frozen=True)
class Dataset:
    """Labeled examples in their canonical order.

    x: [examples, ...] uint8 images (C x H x W) or float32 vectors, or a list of mappings of named values.
    y: [examples] int64, indices into `classes`.
    classes: the labels, in their canonical order.
    ids: one for each example, such as "digits-train-17".
    """

    x: Array | Sequence[Mapping[str, Any]]
    y: Array
    classes: tuple[str, ...]
    ids: tuple[str, ...]


def _digits(folder: Path, split: str) -> tuple[Any, Array, Sequence[str]]:
    from sklearn.datasets import load_digits

    images, targets = load_digits(return_X_y=True)
    y = np.asarray(targets, np.int64)
    held_out = np.zeros(len(y), bool)
    for label in range(10):
        held_out[np.flatnonzero(y == label)[4::5]] = True
    chosen = held_out if split == "test" else ~held_out
    return np.asarray(images, np.uint8).reshape(-1, 1, 8, 8)[chosen], y[chosen], [str(i) for i in range(10)]


def _fashion(folder: Path, split: str) -> tuple[Any, Array, Sequence[str]]:
    with np.load(folder / "fashion_mnist.npz", allow_pickle=False) as arrays:
        return arrays[f"{split}_x"][:, None], arrays[f"{split}_y"].astype(np.int64), FASHION


def _cifar100(folder: Path, split: str) -> tuple[Any, Array, Sequence[str]]:
    from PIL import Image

    folder = folder / "cifar100"
    classes: list[str] = json.loads((folder / "labels.json").read_text())["fine"]
    sheets = []
    for name in classes:
        with Image.open(folder / split / f"{name}.webp") as sheet:
            pixels = np.asarray(sheet.convert("RGB"))
        rows, columns = pixels.shape[0] // 32, pixels.shape[1] // 32
        tiles = pixels.reshape(rows, 32, columns, 32, 3).transpose(0, 2, 4, 1, 3)
        sheets.append(tiles.reshape(-1, 3, 32, 32))
    y = np.repeat(np.arange(len(classes), dtype=np.int64), [len(sheet) for sheet in sheets])
    return np.concatenate(sheets), y, classes


def _electricity(folder: Path, split: str) -> tuple[Any, Array, Sequence[str]]:
    table = np.loadtxt(folder / "elec.csv", delimiter=",", skiprows=1, dtype=np.float64)
    return table[:, :6].astype(np.float32), table[:, 6].astype(np.int64), ("0", "1")


def _clinc150(folder: Path, split: str) -> tuple[Any, Array, Sequence[str]]:
    lists = json.loads((folder / "clinc150.json").read_text())
    classes = sorted({intent for _, intent in lists["train"]})
    number = {intent: i for i, intent in enumerate(classes)}
    y = np.array([number[intent] for _, intent in lists[split]], np.int64)
    return [{"text": text} for text, _ in lists[split]], y, classes


_Loader = Callable[[Path, str], tuple[Any, Array, Sequence[str]]]
_LOADERS: dict[str, tuple[_Loader, tuple[str, ...]]] = {
    "digits": (_digits, ("train", "test")),
    "fashion_mnist": (_fashion, ("train", "test")),
    "cifar100": (_cifar100, ("train", "test")),
    "electricity": (_electricity, ("train",)),
    "clinc150": (_clinc150, ("train", "val", "test")),
}


def load(name: str, data_dir: str | Path | None = None, split: str = "train") -> Dataset:
    """The split `split` of a data set; "all" joins its splits, in the order train, val, test.

    digits (8 x 8, values 0 to 16) comes with scikit-learn; there, every fifth example of each class is
    the test split. The others are read from `data_dir`. electricity has one split, in the order of time.
    clinc150 is without its out-of-scope utterances.

    Raises UsageError for an unknown name or split, Unreachable if a file is missing or can't be read.
    """
    if name not in _LOADERS:
        raise UsageError(f"the data set {name!r} is not known: it must be one of {', '.join(_LOADERS)}")
    loader, splits = _LOADERS[name]
    if split not in (*splits, "all"):
        raise UsageError(f"{name} has no split {split!r}: it has {', '.join(splits)} and all")
    if data_dir is None and name != "digits":
        raise UsageError(f"{name} doesn't come with streamlearn: set data_dir to the folder that holds it")
    folder = Path(data_dir or ".")
    names = splits if split == "all" else (split,)
    try:
        parts = [loader(folder, each) for each in names]
    except ImportError as error:
        raise Unreachable(f"{name} can't be loaded: {error}; install it") from None
    except FileNotFoundError as error:
        raise Unreachable(f"{name} is not whole in {folder}: there is no {error.filename}") from None
    except (OSError, ValueError, KeyError) as error:
        raise Unreachable(f"{name} in {folder} can't be read: {error}") from None
    xs = [x for x, _, _ in parts]
    return Dataset(
        x=np.concatenate(xs) if isinstance(xs[0], np.ndarray) else [row for x in xs for row in x],
        y=np.concatenate([y for _, y, _ in parts]),
        classes=tuple(parts[0][2]),
        ids=tuple(
            f"{name}-{each}-{i}" for each, (x, _, _) in zip(names, parts, strict=True) for i in range(len(x))
        ),
    )


def set_aside(data: Dataset, per_class: int, aside: bool) -> Dataset:
    """The last `per_class` examples of each class (`aside`), or the others, in their canonical order.

    Raises UsageError if a class would have no others.
    """
    last = np.zeros(len(data.y), bool)
    for number, label in enumerate(data.classes):
        members = np.flatnonzero(data.y == number)
        if 0 < len(members) <= per_class:
            raise UsageError(
                f"{label!r} has {len(members)} training examples: {per_class} is too many for validation"
            )
        last[members[-per_class:]] = True
    chosen = np.flatnonzero(last == aside)
    x = data.x[chosen] if isinstance(data.x, np.ndarray) else [data.x[i] for i in chosen.tolist()]
    return Dataset(x, data.y[chosen], data.classes, tuple(data.ids[i] for i in chosen.tolist()))


class DatasetSource:
    """A data set as a stream of records with the fields id, x and y.

    The topic is the data set's name, the partition 0; offset and cursor count the stream's events. The
    value holds the bytes of x (text: UTF-8).

    Options: `dataset` (digits, the default / fashion_mnist / cifar100 / electricity / clinc150), `data_dir`,
    `split` (train, the default; see `load`), `validation` (so many last training examples of each class are
    set aside: train is without them, and the split `validation` is they), `order` (default
    class_incremental; electricity: as_is), `groups` (2), `blur` (.1), `repeats` (3) as in
    `streams.arrange`, `shuffle_classes` (true), `seed` (0), `classes` (only the first so many of the order
    of classes), `per_class` (at most so many events of a class, its first), `limit` (the stream's length at
    most).
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.topic = str(options.get("dataset") or "digits")
        self._split = str(options.get("split") or "train")
        self._data_dir = options.get("data_dir")
        natural = "as_is" if self.topic == "electricity" else "class_incremental"
        self._order = str(options.get("order") or natural)
        if self.topic not in _LOADERS:
            raise UsageError(f"source.dataset is {self.topic!r}: it must be one of {', '.join(_LOADERS)}")
        if self._order not in ORDERS:
            raise UsageError(f"source.order is {self._order!r}: it must be one of {', '.join(ORDERS)}")
        self._options = dict(options)
        self._data: Dataset | None = None
        self._index: Array = np.empty(0, np.int64)
        self._at = 0

    def open(self, resume: Resume) -> None:
        if self._data is None:
            self._data = self._load()
            self._index = self._arranged(self._data)
        at = resume.cursors.get(0, resume.offsets.get(0, 0))
        if at > len(self._index):
            self._refuse(f"the stream has {len(self._index)} events, the state has learned {at}")
        known = resume.fingerprint
        if known and dict(known) != self._known(at, known.get("head_events", 0)):
            self._refuse("its first events are others; the data set, its order and the seed must be the same")
        self._at = at

    def poll(self, max_records: int, timeout: float) -> list[Record]:
        data, first = self._opened(), self._at
        chosen = self._index[first : first + max(0, max_records)].tolist()
        self._at += len(chosen)
        records = []
        for offset, i in enumerate(chosen, first):
            x = data.x[i]
            value = x.tobytes() if isinstance(x, np.ndarray) else str(x["text"]).encode()
            fields = {"id": data.ids[i], "x": x, "y": data.classes[data.y[i]]}
            records.append(Record(value, Position(self.topic, 0, offset), offset + 1, fields=fields))
        return records

    @property
    def ended(self) -> bool:
        return self._data is not None and self._at >= len(self._index)

    def fingerprint(self, cursors: Mapping[int, int]) -> dict[str, Any]:
        """The ids and labels of all events below the cursor, and the features of the first 64.

        Before the first event: of the first 64, as answers may leave before the next checkpoint.
        """
        at = cursors.get(0, 0)
        return self._known(at, 0 if at else min(HEAD, len(self._index)))

    def _known(self, at: int, head: int) -> dict[str, Any]:
        data, digest = self._opened(), hashlib.sha256()
        chosen = self._index[: at or head]
        digest.update("\n".join(data.ids[i] for i in chosen.tolist()).encode())
        digest.update(data.y[chosen].astype("<i8").tobytes())
        for i in chosen[:HEAD].tolist():
            x = data.x[i]
            digest.update(x.tobytes() if isinstance(x, np.ndarray) else repr(x).encode())
        known = {"dataset": self.topic, "events_sha256": digest.hexdigest()}
        return known | ({"head_events": head} if head else {})

    def close(self) -> None:
        self._data = None

    def _load(self) -> Dataset:
        aside = self._options.get("validation") or 0
        if self._split not in ("train", "validation") or (self._split == "train" and not aside):
            return load(self.topic, self._data_dir, self._split)
        if not isinstance(aside, int) or aside < 1:
            raise UsageError(f"validation is {aside!r}: it must be how many examples of a class to set aside")
        return set_aside(load(self.topic, self._data_dir, "train"), aside, self._split == "validation")

    def _arranged(self, data: Dataset) -> Array:
        def option(name: str, default: Any) -> Any:
            given = self._options.get(name)
            return default if given is None else given

        try:
            rng = np.random.default_rng(int(option("seed", 0)))
            classes = class_order(data.y, rng, bool(option("shuffle_classes", True)))
            index = arrange(
                data.y,
                self._order,
                rng,
                classes=classes[: option("classes", None)],
                groups=int(option("groups", 2)),
                per_class=option("per_class", None),
                blur=float(option("blur", 0.1)),
                repeats=int(option("repeats", 3)),
            )
            return index[: option("limit", None)]
        except (ValueError, TypeError, OverflowError) as error:
            raise UsageError(f"the stream's settings can't be used: {error}") from None

    def _opened(self) -> Dataset:
        if self._data is None:
            raise ValueError("the source isn't open")
        return self._data

    def _refuse(self, why: str) -> None:
        raise StateMismatch(
            f"{self.topic} is not the stream this state has learned from ({why}); "
            "or start with another --checkpoint.folder"
        )
