"""How many steps lie between two recalls of the same stored example: expected and measured.

python -m ops.bench.recall_interval

The same number of memory rows in a step, by `er` (30 examples, drawn independently) and by `er` with
`view_batch` (fewer examples, several views of each, out of a shuffled queue). The memory is full and its
reservoir hardly changes any more. Counted here, draw by draw, beside what the modifier says of itself.
"""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import numpy as np

from ops.bench.common import arguments, made_with, table, write
from streamlearn.config import CoreSettings, LearningSettings, MemorySettings, MethodSettings
from streamlearn.events import Event
from streamlearn.learner import OnlineLearner

CAPACITY, BATCH, IMAGES = 300, 10, 4.0
VIEWS = (None, 2, 3, 4)


def measure(views: int | None, events: int, seed: int) -> dict[str, Any]:
    """views: of view_batch; None: without it."""
    modifiers = [] if views is None else ["view_batch"]
    tables = {} if views is None else {"view_batch": {"views": views}}
    learner = OnlineLearner(
        CoreSettings(
            seed=seed,
            method=MethodSettings(name="er", modifiers=modifiers, **tables),
            memory=MemorySettings(capacity=CAPACITY),
            learning=LearningSettings(stream_batch=BATCH, images_per_event=IMAGES),
        )
    )
    rng = np.random.default_rng(seed)
    batches = [
        [Event(f"{s}.{i}", rng.normal(size=8) + s % 3, str(s % 3)) for i in range(BATCH)]
        for s in range(events // BATCH)
    ]
    half = len(batches) // 2
    for batch in batches[:half]:
        learner.learn(batch)
    last = np.full(CAPACITY, -1)
    gaps: list[int] = []
    trainer = learner.trainer
    method, memory = trainer.method, trainer.memory
    draw = method.draw
    steps = 0

    def watched(*given: Any) -> Any:
        nonlocal last
        drawn = draw(*given)
        slots = drawn.slots
        seen = last[slots] >= 0
        gaps.extend((steps - last[slots][seen]).tolist())
        last[slots] = steps
        return drawn

    method.draw = watched  # type: ignore[method-assign]
    for batch in batches[half:]:
        learner.learn(batch)
        steps += 1
    examples = trainer.replay_batch
    return {
        "views": views or 1,
        "examples a step": examples,
        "rows a step": examples * (views or 1),
        "expected": CAPACITY / examples,
        "measured": float(np.mean(gaps)),
        "shortest": min(gaps),
        "longest": max(gaps),
        "said": method.recall_interval if views else "",
        "size": memory.size,
    }


def main(options: Namespace) -> None:
    about = made_with()
    rows = [measure(views, options.events, options.seed) for views in VIEWS]
    table(rows)
    write(options.out, about, options, {"capacity": CAPACITY, "rows": rows})


if __name__ == "__main__":
    parser = arguments("recall_interval", __doc__)
    parser.add_argument("--events", type=int, default=12_000)
    main(parser.parse_args())
