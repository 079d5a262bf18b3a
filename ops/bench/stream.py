"""The stream of the speed benchmarks: Gaussian classes, the same for every loop, in memory or as a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgpack
import numpy as np
import orjson
from numpy.typing import NDArray

CHUNK = 10_000

Floats = NDArray[np.float32]
Numbers = NDArray[np.int64]


def chunks(events: int, dim: int, classes: int, seed: int) -> Iterator[tuple[int, Floats, Numbers]]:
    """(number of the first event, x [n, dim], y [n]) up to `events`; x has four decimals."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, dim)) * 0.4
    for start in range(0, events, CHUNK):
        n = min(CHUNK, events - start)
        y = rng.integers(classes, size=n)
        x = np.round(centres[y] + rng.normal(size=(n, dim)), 4).astype(np.float32)
        yield start, x, y


def arrays(events: int, dim: int, classes: int, seed: int) -> tuple[Floats, Numbers]:
    """The whole stream: x [events, dim], y [events]."""
    parts = list(chunks(events, dim, classes, seed))
    return np.concatenate([x for _, x, _ in parts]), np.concatenate([y for _, _, y in parts])


def records(format: str, events: int, dim: int, classes: int, seed: int) -> Iterator[bytes]:
    """The stream as lines of JSON or as msgpack with raw bytes, record by record."""
    for start, x, y in chunks(events, dim, classes, seed):
        for i in range(len(y)):
            name, label = f"e{start + i}", f"c{y[i]}"
            if format == "msgpack":
                raw = {"dtype": "float32", "shape": [dim], "data": x[i].tobytes()}
                yield msgpack.packb({"id": name, "x": raw, "y": label})
            else:
                # a float32 of four decimals is written with four decimals
                event = {"id": name, "x": x[i], "y": label}
                yield orjson.dumps(event, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n"


def write_file(path: Path, format: str, events: int, dim: int, classes: int, seed: int) -> None:
    """The same, to a file."""
    with open(path, "wb", buffering=1 << 20) as file:
        file.writelines(records(format, events, dim, classes, seed))
