"""The learner alone, on events in memory: what is left of the worker without reading, decoding and writing.

The stream is that of `ops.bench.stream`, or with --fashion that of `ops.bench.image_stream`. Arguments that
aren't its own go to the settings: `--memory.capacity 200`. Prints one JSON line; with --counter nothing.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import time
from collections.abc import Sequence
from pathlib import Path

from ops.bench.common import collector_as_in_the_worker
from ops.bench.image_stream import images
from ops.bench.stream import arrays
from ops.bench.turns import COUNT
from streamlearn import Learner
from streamlearn.events import Event
from streamlearn.flags import load_settings

TURN = 500
"""Events of one call, as the worker gives them."""


def endless(learner: Learner, events: Sequence[Event], counter: Path) -> None:
    """Round and round the events until killed, or left alone. counter: a file for how many they were."""
    parent = os.getppid()
    with counter.open("r+b") as file:
        count, done = mmap.mmap(file.fileno(), COUNT.size), 0
    while os.getppid() == parent:
        for start in range(0, len(events), TURN):
            some = events[start : start + TURN]
            learner.learn(some)
            done += len(some)
            count[:] = COUNT.pack(done)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--warm", type=int, default=0, help="events before the clock starts")
    parser.add_argument("--data-seed", type=int, default=0)
    parser.add_argument("--counter", type=Path, help="go on for ever, and say in this file how far it is")
    parser.add_argument("--fashion", type=Path, help="the folder of Fashion-MNIST, to learn that")
    options, words = parser.parse_known_args()
    shown = images(options.fashion, options.events, options.data_seed) if options.fashion else None
    if shown is not None:
        x, y = shown.x, shown.y
    else:
        x, y = arrays(options.events, options.dim, options.classes, options.data_seed)
    events = [Event(f"e{i}", x[i], f"c{y[i]}") for i in range(len(y))]
    learner = Learner(load_settings(words, {}))
    for start in range(0, options.warm, TURN):
        learner.learn(events[start : min(start + TURN, options.warm)])
    with collector_as_in_the_worker():
        if options.counter is not None:
            endless(learner, events, options.counter)
        begun, cpu = time.perf_counter(), time.process_time()
        for start in range(options.warm, len(events), TURN):
            learner.learn(events[start : start + TURN])
        learner.flush()
        seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - cpu
    accuracy = learner.prequential.figures("cumulative").accuracy
    result = {"seconds": seconds, "cpu_seconds": cpu_seconds, "accuracy": accuracy}
    result["events"] = learner.counts.learned - options.warm
    if shown is not None:
        classes = learner.classes.labels
        found = [int(classes[number][1:]) for number in learner.numbers(shown.test_x)]
        result["test_accuracy"] = sum(a == b for a, b in zip(found, shown.test_y, strict=True)) / len(found)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
