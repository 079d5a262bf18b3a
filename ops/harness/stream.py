"""A labeled stream whose every record is known to be good or bad before anything reads it."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

DIM = 64
MOST_CLASSES = 10
"""codec.max_classes of the runs; the stream has one class more."""
FORMATS = ("jsonl", "jsonl.gz", "msgpack", "csv")
BAD, UNLABELED = 0.03, 0.05
"""Shares of the stream."""

Event = dict[str, Any]


@dataclass(frozen=True)
class Stream:
    """A file of events, and what must become of them."""

    path: Path
    records: int
    predicted: list[int]
    """Offsets of the records that get a prediction, in order."""
    dead: list[int]
    """Offsets of the records that become dead letters, in order."""
    labeled: list[int]
    """Offsets of the predicted ones that have a label."""

    @property
    def learned(self) -> int:
        """How many of them are learned or held out."""
        return len(self.labeled)


def write_stream(
    folder: Path, format: str, events: int, seed: int, classes: int = MOST_CLASSES + 1
) -> Stream:
    """Write `events` records: Gaussian classes that appear one after another, the last one past
    codec.max_classes; some without a label or an id, some bad in one way or another."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, DIM))
    encode, spoilers, end = _ENCODERS[format.removesuffix(".gz")]
    predicted: list[int] = []
    dead: list[int] = []
    known: set[str] = set()
    labeled: list[int] = []
    path = folder / f"events.{format}"
    with gzip.open(path, "wb", 1) if format.endswith(".gz") else open(path, "wb") as file:
        if format == "csv":
            file.write(",".join(["id", "y", *(f"x{i}" for i in range(DIM))]).encode() + end)
        for i in range(events):
            label = int(rng.integers(1 + i * len(centres) // events))
            x = np.round(centres[label] + rng.normal(size=DIM), 3)
            event: Event = {"id": f"e{i}", "x": x.tolist(), "y": f"class {label}"}
            if rng.random() < UNLABELED:
                event["y"] = None
            if rng.random() < BAD:
                file.write(spoilers[int(rng.integers(len(spoilers)))](event) + end)
                dead.append(i)
                continue
            if i % 50 == 7:
                del event["id"]
            file.write(encode(event) + end)
            if event["y"] is not None:
                if event["y"] not in known and len(known) == MOST_CLASSES:
                    dead.append(i)
                    continue
                known.add(event["y"])
                labeled.append(i)
            predicted.append(i)
    return Stream(path, events, predicted, dead, labeled)


# -- encoders, and ways to spoil a record in each format


def _json(event: Event) -> bytes:
    return json.dumps(event).encode()


def _msgpack(event: Event) -> bytes:
    packed: bytes = msgpack.packb(event)
    return packed


def _csv(event: Event) -> bytes:
    row = io.StringIO()
    csv.writer(row, lineterminator="").writerow([event.get("id", ""), event["y"], *event["x"]])
    return row.getvalue().encode()


Spoiler = Callable[[Event], bytes]
_SPOILERS: list[Callable[[Event], Event]] = [
    lambda event: event | {"x": event["x"][:-1]},
    lambda event: event | {"x": [*event["x"][1:], float("inf")]},
    lambda event: event | {"x": None},
    lambda event: event | {"y": ["a", "list"]},
    lambda event: event | {"y": True},
    lambda event: event | {"y": "long" * 100},
    lambda event: event | {"id": {"an": "object"}},
]


def _spoiled(encode: Callable[[Event], bytes]) -> list[Spoiler]:
    return [lambda event, spoil=spoil: encode(spoil(event)) for spoil in _SPOILERS]  # type: ignore[misc]


_ENCODERS: dict[str, tuple[Callable[[Event], bytes], list[Spoiler], bytes]] = {
    "jsonl": (
        _json,
        [
            *_spoiled(_json),
            lambda event: _json(event)[:100],
            lambda event: b"\xff\xfe nothing at all",
            lambda event: b"[1, 2, 3]",
            lambda event: b"",
            lambda event: _json(event)[:-1] + b', "id": "twice"}',
            lambda event: b'{"x": ' + b"[" * 100 + b"]" * 100 + b"}",
        ],
        b"\n",
    ),
    "msgpack": (
        _msgpack,
        [
            *_spoiled(_msgpack),
            lambda event: _msgpack(event | {"x": msgpack.ExtType(7, b"what")}),
            lambda event: b"\x07",
            lambda event: b"\xc0",
        ],
        b"",
    ),
    "csv": (
        _csv,
        [
            lambda event: _csv(event | {"x": event["x"][:-1]}),
            lambda event: _csv(event | {"x": [*event["x"], 1.0]}),
            lambda event: _csv(event | {"x": [*event["x"][1:], "1e999"]}),
            lambda event: _csv(event | {"y": "long" * 100}),
            lambda event: b"\xff\xfe,nothing",
        ],
        b"\r\n",
    ),
}
