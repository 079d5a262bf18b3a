"""What a good engineer writes in an hour: a torch loop that predicts, learns and replays from a reservoir.

It is what the worker's speed is compared with: no checkpoints, no unknown shapes, no dead letters, no
metrics, and a label must be c0, c1, … of a number of classes that is known. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import orjson
import torch
from torch import Tensor, nn
from torch.nn import functional

from ops.bench.stream import arrays

Batch = tuple[list[str], Tensor, Tensor]
Parse = Callable[[bytes], Any]


def from_arrays(options: argparse.Namespace) -> Iterator[Batch]:
    x, y = arrays(options.events, options.dim, options.classes, options.seed)
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    size = options.stream_batch
    yield [], inputs[:0], labels[:0]  # all is prepared: the clock starts
    for start in range(0, len(y), size):
        yield [], inputs[start : start + size], labels[start : start + size]


def from_file(options: argparse.Namespace) -> Iterator[Batch]:
    ids: list[str] = []
    rows: list[Any] = []
    labels: list[int] = []
    yield [], torch.empty(0), torch.empty(0)
    for event in read(options.path, options.input):
        ids.append(event["id"])
        rows.append(event["x"])
        labels.append(int(event["y"][1:]))
        if len(rows) == options.stream_batch:
            if options.input == "msgpack":
                rows = [np.frombuffer(x["data"], x["dtype"]) for x in rows]
            yield ids, torch.from_numpy(np.array(rows, np.float32)), torch.tensor(labels)
            ids, rows, labels = [], [], []


def read(path: Path, kind: str) -> Iterator[dict[str, Any]]:
    with open(path, "rb") as file:
        if kind == "msgpack":
            yield from msgpack.Unpacker(file)
        else:
            parse: Parse = json.loads if kind == "json" else orjson.loads
            for line in file:
                yield parse(line)


def learn(batches: Iterator[Batch], options: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(options.seed)
    random.seed(options.seed)
    model = nn.Sequential(nn.Linear(options.dim, 256), nn.ReLU(), nn.Linear(256, options.classes))
    optimiser = torch.optim.SGD(model.parameters(), lr=options.rate)
    capacity = options.capacity
    memory_x = torch.zeros(capacity, options.dim)
    memory_y = torch.zeros(capacity, dtype=torch.int64)
    seen = correct = 0
    out = open(options.write, "w", buffering=1 << 20) if options.write else None  # noqa: SIM115
    next(batches)
    begun, cpu = time.perf_counter(), time.process_time()
    for ids, x, y in batches:
        with torch.no_grad():
            probabilities = torch.softmax(model(x), 1)
        predicted = probabilities.argmax(1)
        correct += int((predicted == y).sum())
        if out is not None:
            best = torch.topk(probabilities, 5, 1)
            for name, numbers, scores in zip(ids, best.indices.tolist(), best.values.tolist(), strict=True):
                top = {f"c{i}": round(p, 6) for i, p in zip(numbers, scores, strict=True)}
                out.write(json.dumps({"id": name, "label": f"c{numbers[0]}", "scores": top}) + "\n")
        rows, labels = x, y
        if seen:
            drawn = torch.randint(min(seen, capacity), (options.memory_batch,))
            rows, labels = torch.cat([x, memory_x[drawn]]), torch.cat([y, memory_y[drawn]])
        optimiser.zero_grad()
        functional.cross_entropy(model(rows), labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        for i in range(len(y)):
            slot = seen if seen < capacity else random.randrange(seen + 1)
            if slot < capacity:
                memory_x[slot] = x[i]
                memory_y[slot] = y[i]
            seen += 1
    if out is not None:
        out.close()
    seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - cpu
    accuracy = correct / max(1, seen)
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "events": seen, "accuracy": accuracy}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--input", choices=("arrays", "json", "orjson", "msgpack"), default="arrays")
    parser.add_argument("--path", type=Path)
    parser.add_argument("--write", type=Path, help="file for predictions (JSON lines)")
    parser.add_argument("--stream-batch", type=int, default=10)
    parser.add_argument("--memory-batch", type=int, default=10)
    parser.add_argument("--capacity", type=int, default=200)
    parser.add_argument("--rate", type=float, default=0.05)
    options = parser.parse_args()
    torch.set_num_threads(1)
    batches = from_arrays(options) if options.input == "arrays" else from_file(options)
    print(json.dumps(learn(batches, options)))


if __name__ == "__main__":
    main()
