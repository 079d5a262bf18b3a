"""Fashion-MNIST in pairs of classes: the stream of the speed benchmarks of images."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import msgpack
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from connectors.datasets import load
from connectors.streams import arrange
from ops.bench.common import needed

CLASSES = 10

Pixels = NDArray[np.uint8]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Images:
    """x, test_x: [n, 1, 28, 28] of 0 to 255; y, test_y: [n], classes numbered as the stream brings them."""

    x: Pixels
    y: Numbers
    test_x: Pixels
    test_y: Numbers


def images(folder: Path, events: int, seed: int) -> Images:
    """The first `events` / 10 of every class, two new classes at a time, and all test images."""
    needed(folder / "fashion_mnist.npz")
    train, test = (load("fashion_mnist", folder, split) for split in ("train", "test"))
    rng = np.random.default_rng(seed)
    order = rng.permutation(CLASSES)
    index = arrange(train.y, "class_incremental", rng, classes=order, per_class=events // CLASSES)
    assert isinstance(train.x, np.ndarray) and isinstance(test.x, np.ndarray)
    y = train.y[index]
    _, first = np.unique(y, return_index=True)
    number = np.empty(CLASSES, np.int64)
    number[y[np.sort(first)]] = np.arange(CLASSES)
    return Images(train.x[index], number[y], test.x, number[test.y])


def png(image: Pixels) -> bytes:
    """[1, H, W] as a PNG."""
    file = io.BytesIO()
    Image.fromarray(image[0]).save(file, "png")
    return file.getvalue()


def write_file(path: Path, data: Images) -> None:
    """The stream as msgpack records with PNG images."""
    with open(path, "wb", buffering=1 << 20) as out:
        for i, (image, label) in enumerate(zip(data.x, data.y.tolist(), strict=True)):
            out.write(msgpack.packb({"id": f"e{i}", "x": png(image), "y": f"c{label}"}))
