"""The learner alone on a stream of any length: processor time for an event at several places of it.

Arguments that aren't its own go to the settings. Only the learning is timed; the events are made in between.
Prints one JSON line: for every mark the microseconds for each of the last events before it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator

from ops.bench.common import collector_as_in_the_worker
from ops.bench.stream import chunks
from streamlearn import Learner
from streamlearn.events import Event
from streamlearn.flags import load_settings

TURN = 500
"""Events of one call, as the worker gives them."""


def turns(events: int, dim: int, classes: int, seed: int) -> Iterator[list[Event]]:
    """The stream, TURN events at a time."""
    for first, x, y in chunks(events, dim, classes, seed):
        for at in range(0, len(y), TURN):
            yield [Event(f"e{first + i}", x[i], f"c{y[i]}") for i in range(at, min(at + TURN, len(y)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--marks", type=int, nargs="+", required=True, help="multiples of 500")
    parser.add_argument("--window", type=int, default=5_000, help="events before a mark that are timed")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options, words = parser.parse_known_args()
    learner = Learner(load_settings([*words, "--seed", str(options.seed)], {}))
    took: dict[int, list[float]] = {mark: [] for mark in options.marks}
    learned = 0
    with collector_as_in_the_worker():
        for events in turns(max(options.marks), options.dim, options.classes, options.seed):
            begun = time.process_time()
            learner.learn(events)
            spent = time.process_time() - begun
            learned += len(events)
            for mark, each in took.items():
                if mark - options.window < learned <= mark:
                    each.append(spent / len(events) * 1e6)
    found = {str(mark): sum(each) / len(each) for mark, each in took.items()}
    figures = {"classes": learner.model.classes, "memory": learner.memory.size}
    print(json.dumps({"us_per_event": found, **figures}))


if __name__ == "__main__":
    main()
