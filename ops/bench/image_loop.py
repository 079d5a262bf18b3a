"""Learning from Fashion-MNIST by hand, in plain torch: what W2 and W3 are compared with.

replay (W2): a small convolutional net, ten new images and ten replayed ones a step, cross-entropy, AdamW.
prototypes (W3): the maths of the default learner, written to be read. A cosine head; two views of ten new
and thirty replayed images, the first untouched, and four of ten and two of twenty once the memory is worn;
the loss of PCR; an average of the weights that follows faster after a new class, and answers by the mean over
an image and its mirror image.

It predicts every image before it learns it and keeps a true reservoir. It knows the number of classes, and
mean and deviation of the pixels, beforehand; it has no checkpoints, metrics or dead letters. Prints one JSON
line.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from ops.bench.image_stream import CLASSES, Images, images

MEAN, DEVIATION = 0.286, 0.353
"""Of the pixels, between 0 and 1."""
CAPACITY, BATCH = 200, 10
BULK = 256


def make_encoder() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(64, 128, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(2048, 128), nn.ReLU()),
    )


def normalised(x: Tensor) -> Tensor:
    """uint8 or float of 0 to 255 [n, 1, 28, 28]."""
    return (x.float() / 255 - MEAN) / DEVIATION


class Memory:
    """A reservoir (Vitter, 1985)."""

    def __init__(self) -> None:
        self.x = torch.zeros(CAPACITY, 1, 28, 28, dtype=torch.uint8)
        self.y = torch.zeros(CAPACITY, dtype=torch.int64)
        self.seen = 0

    def draw(self, n: int) -> tuple[Tensor, Tensor]:
        """n different ones, or all there are."""
        drawn = torch.randperm(min(self.seen, CAPACITY))[:n]
        return self.x[drawn], self.y[drawn]

    def insert(self, x: Tensor, y: Tensor) -> None:
        for image, label in zip(x, y, strict=True):
            slot = self.seen if self.seen < CAPACITY else random.randrange(self.seen + 1)
            if slot < CAPACITY:
                self.x[slot], self.y[slot] = image, label
            self.seen += 1


class Replay:
    """W2."""

    def __init__(self) -> None:
        self.net = nn.Sequential(make_encoder(), nn.Linear(128, CLASSES))
        self.optimiser = torch.optim.AdamW(self.net.parameters(), 1e-3, (0.9, 0.99), weight_decay=0)
        self.memory = Memory()

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(normalised(x))
        return torch.softmax(logits, 1)

    def learn(self, x: Tensor, y: Tensor) -> None:
        old_x, old_y = self.memory.draw(10)
        rows, labels = torch.cat([x, old_x]), torch.cat([y, old_y])
        self.optimiser.zero_grad()
        functional.cross_entropy(self.net(normalised(rows)), labels).backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.memory.insert(x, y)


class Cosine(nn.Module):
    """A head whose logits are cosines over a temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter((2 * torch.rand(CLASSES, 128) - 1) / 128**0.5)

    def forward(self, h: Tensor) -> Tensor:
        return functional.normalize(h) @ functional.normalize(self.weight).T / 0.09


def augmented(x: Tensor) -> Tensor:
    """A normalised view of uint8 images: mirrored or not, shifted, of another brightness and contrast."""
    n = len(x)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = torch.where(torch.rand(n) < 0.5, -1.0, 1.0)
    theta[:, 1, 1] = 1
    theta[:, :, 2] = (2 * torch.rand(n, 2) - 1) * 2 * 2 / 28
    grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
    moved = functional.grid_sample(x.float(), grid, padding_mode="border", align_corners=False)
    contrast, brightness = 0.6 + 0.8 * torch.rand(2, n, 1, 1, 1)
    middle = moved.mean(dim=(1, 2, 3), keepdim=True)
    return normalised(((moved - middle) * contrast + middle) * brightness)


class Prototypes:
    """W3."""

    def __init__(self) -> None:
        self.net = nn.Sequential(make_encoder(), Cosine())
        self.average = copy.deepcopy(self.net)
        self.optimiser = torch.optim.AdamW(self.net.parameters(), 1e-3, (0.9, 0.99), weight_decay=0)
        self.memory = Memory()
        self.known = torch.zeros(CLASSES, dtype=torch.bool)
        self.age = 0

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        x = normalised(x)
        logits: Tensor = (self.average(x) + self.average(x.flip(-1))) / 2
        return torch.softmax(logits.masked_fill(~self.known, -torch.inf), 1)

    def learn(self, x: Tensor, y: Tensor) -> None:
        if not self.known[y].all():
            self.known[y] = True
            self.age = min(self.age, 10)
        young = self.memory.seen / 2 / BATCH * 30 <= 20 * min(self.memory.seen, CAPACITY)
        views, replayed = (2, 30) if young else (4, 20)
        old_x, old_y = self.memory.draw(replayed)
        rows = [normalised(x), *(augmented(x) for _ in range(views - 1))]
        labels = torch.cat([y] * views + [old_y] * 2)
        if len(old_x):
            rows += [normalised(old_x), augmented(old_x)]
        counts = torch.bincount(labels, minlength=CLASSES)
        self.optimiser.zero_grad()
        logits = self.net(torch.cat(rows)) + counts.log()  # of a class that isn't there: minus infinity
        functional.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        with torch.no_grad():
            share = max(0.01, 2 / (self.age + 2))
            for mine, theirs in zip(self.average.parameters(), self.net.parameters(), strict=True):
                mine.lerp_(theirs, share)
        self.age += 1
        self.memory.insert(x, y)


def from_file(path: Path) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of msgpack records with PNG images."""
    rows, labels = [], []
    with open(path, "rb") as file:
        for event in msgpack.Unpacker(file):
            rows.append(np.asarray(Image.open(io.BytesIO(event["x"])))[None])
            labels.append(int(event["y"][1:]))
            if len(rows) == BATCH:
                yield torch.from_numpy(np.stack(rows)), torch.tensor(labels)
                rows, labels = [], []


def from_arrays(data: Images) -> Iterator[tuple[Tensor, Tensor]]:
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)
    for start in range(0, len(y), BATCH):
        yield x[start : start + BATCH], y[start : start + BATCH]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", choices=("replay", "prototypes"))
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--data-seed", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--path", type=Path, help="msgpack records with PNG images, in place of the arrays")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    random.seed(options.seed)
    data = images(options.data_dir, options.events, options.data_seed)
    learner: Replay | Prototypes = Replay() if options.work == "replay" else Prototypes()
    seen = right = 0
    begun, cpu = time.perf_counter(), time.process_time()
    for x, y in from_file(options.path) if options.path else from_arrays(data):
        right += int((learner.predict(x).argmax(1) == y).sum())
        learner.learn(x, y)
        seen += len(y)
    result: dict[str, Any] = {
        "seconds": time.perf_counter() - begun,
        "cpu_seconds": time.process_time() - cpu,
    }
    test_x, test_y = torch.from_numpy(data.test_x), torch.from_numpy(data.test_y)
    found = torch.cat([learner.predict(part).argmax(1) for part in test_x.split(BULK)])
    test = float((found == test_y).float().mean())
    print(json.dumps({**result, "events": seen, "accuracy": right / max(1, seen), "test_accuracy": test}))


if __name__ == "__main__":
    main()
