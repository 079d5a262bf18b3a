"""What the plain loop becomes when somebody spends a day on it: the same learning, few calls of torch.

Batches lie in memory that is made once, gradients come from `torch.autograd.grad`, SGD is an addition, and
the reservoir draws a batch's slots at once. It predicts every event before it learns it, draws uniformly and
keeps a true reservoir like the plain loop. Arrays only. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ops.bench.stream import arrays


def learn(options: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    x, y = arrays(options.events, options.dim, options.classes, options.seed)
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    hidden = torch.nn.Linear(options.dim, 256)
    head = torch.nn.Linear(256, options.classes)
    weights = [hidden.weight, hidden.bias, head.weight, head.bias]
    size, replayed, capacity = options.stream_batch, options.memory_batch, options.capacity
    memory_x, memory_y = torch.zeros(capacity, options.dim), torch.zeros(capacity, dtype=torch.int64)
    rows, targets = torch.zeros(size + replayed, options.dim), torch.zeros(size + replayed, dtype=torch.int64)
    slots_of = memory_y.numpy()
    held = memory_x.numpy()
    seen = correct = 0
    begun, cpu = time.perf_counter(), time.process_time()
    for start in range(0, len(y) - size + 1, size):
        batch, truth = inputs[start : start + size], labels[start : start + size]
        with torch.inference_mode():
            h = torch.relu_(functional.linear(batch, weights[0], weights[1]))
            probabilities = torch.softmax(functional.linear(h, weights[2], weights[3]), 1)
            correct += int((probabilities.argmax(1) == truth).sum())
        n = size
        rows[:size], targets[:size] = batch, truth
        if seen:
            drawn = torch.from_numpy(rng.integers(0, min(seen, capacity), replayed))
            torch.index_select(memory_x, 0, drawn, out=rows[size:])
            torch.index_select(memory_y, 0, drawn, out=targets[size:])
            n += replayed
        h = torch.relu(functional.linear(rows[:n], weights[0], weights[1]))
        loss = functional.cross_entropy(functional.linear(h, weights[2], weights[3]), targets[:n])
        gradients = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.sub_(gradient, alpha=options.rate)
        number = np.arange(seen, seen + size)
        slots = np.where(number < capacity, number, (rng.random(size) * (number + 1)).astype(np.int64))
        for row in np.flatnonzero(slots < capacity):
            held[slots[row]] = x[start + row]
            slots_of[slots[row]] = y[start + row]
        seen += size
    seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - cpu
    accuracy = correct / max(1, seen)
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "events": seen, "accuracy": accuracy}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stream-batch", type=int, default=10)
    parser.add_argument("--memory-batch", type=int, default=10)
    parser.add_argument("--capacity", type=int, default=200)
    parser.add_argument("--rate", type=float, default=0.05)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(learn(options)))


if __name__ == "__main__":
    main()
