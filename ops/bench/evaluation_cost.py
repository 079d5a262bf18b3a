"""What continual evaluation costs: three learners take the same events in turns.

python -m ops.bench.evaluation_cost --data-dir ../shared/data

One without it, one that is evaluated and answers alike, and the default, which answers as its held-out
sets find best: class means, say, cost more to ask than the weights do, and that is the price of better
answers. Blocks of 500 events, each learned by one after another (who begins alternates), so that a busy
machine slows all alike; processor seconds of this thread. Images (Fashion-MNIST, 5 x 2 classes) and vectors
(64 numbers), else default settings.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ops.bench.common import (
    arguments,
    collector_as_in_the_worker,
    data_dir,
    made_with,
    needed,
    say,
    table,
    write,
)
from streamlearn.config import CoreSettings, EvaluationSettings, ServingSettings
from streamlearn.events import Event
from streamlearn.learner import OnlineLearner

BLOCK = 500


def fashion(folder: Path, count: int, seed: int) -> list[Event]:
    """Two new classes at a time."""
    with np.load(needed(folder / "fashion_mnist.npz"), allow_pickle=False) as arrays:
        x, y = arrays["train_x"][:, None], arrays["train_y"]
    rng = np.random.default_rng(seed)
    order = rng.permutation(10)
    chosen = []
    for pair in order.reshape(5, 2):
        chosen.append(rng.permutation(np.flatnonzero(np.isin(y, pair)))[: count // 5])
    return [Event(f"f{i}", x[i], str(y[i])) for i in np.concatenate(chosen)]


def vectors(count: int, seed: int) -> list[Event]:
    """Twenty Gaussian classes of 64 numbers, one after another at first."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(20, 64))
    events = []
    for i in range(count):
        label = int(rng.integers(1 + min(19, 40 * i // count)))
        events.append(Event(f"v{i}", centres[label] + rng.normal(size=64), str(label)))
    return events


def measure(events: Sequence[Event], seed: int) -> dict[str, Any]:
    """CPU seconds with and without, and what the evaluations were."""
    without = OnlineLearner(CoreSettings(seed=seed, evaluation=EvaluationSettings(held_out=0)))
    without.learn(events[:BLOCK])
    same = ServingSettings(predictor=without.trainer.serving.name)
    evaluated, chosen = (OnlineLearner(CoreSettings(seed=seed, serving=s)) for s in (same, ServingSettings()))
    learners = [without, evaluated, chosen]
    for learner in learners[1:]:
        learner.learn(events[:BLOCK])
    seconds = [0.0] * len(learners)
    for number, start in enumerate(range(BLOCK, len(events), BLOCK)):
        for place in range(len(learners)):
            which = (number + place) % len(learners)
            begun = time.thread_time()
            learners[which].learn(events[start : start + BLOCK])
            seconds[which] += time.thread_time() - begun
    return {
        "off_us_per_event": round(1e6 * seconds[0] / (len(events) - BLOCK), 2),
        "percent": round(100 * (seconds[1] / seconds[0] - 1), 2),
        **asked(evaluated, ""),
        "answers": chosen.trainer.serving.name,
        "percent_choosing": round(100 * (seconds[2] / seconds[0] - 1), 2),
        **asked(chosen, "_choosing"),
        "examples": evaluated.trainer.evaluator.held.size,
    }


def asked(learner: OnlineLearner, which: str) -> dict[str, float]:
    """How often it has asked its held-out sets, and what that was of the images that it learned from."""
    evaluator = learner.trainer.evaluator
    return {
        f"evaluations{which}": evaluator.figures.evaluations,
        f"images_per_image_learned{which}": round(evaluator.images / learner.counts.images, 4),
    }


def main(options: Namespace) -> None:
    torch.set_deterministic_debug_mode("error")
    about = made_with()
    streams = {
        "Fashion-MNIST": fashion(options.data_dir, options.events, options.seed),
        "64 numbers": vectors(5 * options.events, options.seed),
    }
    rows = []
    for name, events in streams.items():
        say(f"{name}: {len(events):,} events")
        with collector_as_in_the_worker():
            rows.append({"stream": name, "events": len(events), **measure(events, options.seed)})
    table(rows)
    write(options.out, about, options, {"rows": rows})


if __name__ == "__main__":
    parser = arguments("evaluation_cost", __doc__)
    parser.add_argument("--events", type=int, default=10_000, help="images; vectors: five times as many")
    data_dir(parser)
    main(parser.parse_args())
