"""W2, W3 and W5: Fashion-MNIST through a small convolutional net, beside plain torch written by hand.

W2: ten new images and ten replayed ones a step, cross-entropy. W3: the default learner, 8 images an event.
W5: W2 from a file of records with PNG images, predictions written, by `streamlearn run`. Rounds in turn, each
in a process of its own with one thread; medians, and medians of the ratios to the loop by hand within a round
(ops/bench/image_loop.py). accuracy: before learning; test_accuracy: of all test images at the end.
"""

from __future__ import annotations

import statistics
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ops.bench.common import arguments, data_dir, loop, made_with, say, streamlearn, table, work_dir, write
from ops.bench.image_stream import images, write_file

SAME = ["--memory.capacity", "200", "--evaluation.held_out", "0"]
REPLAY = [
    *SAME,
    *"--method.name er --model.head linear --learning.memory_batch 10".split(),
    *"--views.shift 0 --views.light 0 --views.flip false".split(),
]
"""What the loop by hand does in W2, as settings; pixels are normalised online, which it does beforehand."""
PROTOTYPES = [*SAME, *"--views.flip true --learning.images_per_event 8".split()]
HELD_OUT = ["--evaluation.held_out", "0.01"]
"""With held-out sets, so that every metric is there."""

Loop = Callable[[int], dict[str, Any]]


def contestants(folder: Path, options: Namespace) -> dict[str, tuple[str, Loop]]:
    """Every loop by name, with the one that it is compared with; each takes the number of its round."""
    path = folder / "images.msgpack"
    write_file(path, images(options.data_dir, options.events, options.seed))
    common = ["--events", str(options.events), "--data-seed", str(options.seed)]
    seed = ["--seed", str(options.seed)]

    def plain(work: str, *flags: str) -> Loop:
        return lambda _: loop("image_loop", work, "--data-dir", str(options.data_dir), *common, *seed, *flags)

    def learner(*flags: str) -> Loop:
        return lambda _: loop("learner_loop", "--fashion", str(options.data_dir), *common, *seed, *flags)

    def worker(number: int) -> dict[str, Any]:
        done = streamlearn(folder / f"run-{number}", ["--source.path", str(path), *seed, *REPLAY])
        return {"seconds": done.seconds, "cpu_seconds": done.cpu_seconds, "accuracy": done.accuracy}

    w2, w3, w5 = "W2 by hand", "W3 by hand", "W5 by hand"
    return {
        w2: (w2, plain("replay")),
        "W2 learner": (w2, learner(*REPLAY)),
        "W2 learner, every metric": (w2, learner(*REPLAY, *HELD_OUT)),
        w3: (w3, plain("prototypes")),
        "W3 learner": (w3, learner(*PROTOTYPES)),
        "W3 learner, bfloat16": (w3, learner(*PROTOTYPES, "--model.dtype", "bfloat16")),
        w5: (w5, plain("replay", "--path", str(path))),
        "W5 run": (w5, worker),
    }


def rounds(folder: Path, options: Namespace) -> list[dict[str, Any]]:
    """Every contestant in turn, `options.rounds` times."""
    loops = contestants(folder, options)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in loops}
    for number in range(options.rounds):
        for name, (_, work) in loops.items():
            found[name].append(work(number))
            say(f"round {number + 1}: {name}: {options.events / found[name][-1]['seconds']:,.0f} events/s")

    def ratios(name: str, what: str) -> list[float]:
        base = loops[name][0]
        return [by_hand[what] / own[what] for by_hand, own in zip(found[base], found[name], strict=True)]

    return [
        {
            "loop": name,
            "events_per_second": options.events / statistics.median(one["seconds"] for one in runs),
            "to_by_hand": statistics.median(ratios(name, "seconds")),
            "least": min(ratios(name, "seconds")),
            "most": max(ratios(name, "seconds")),
            "cpu_to_by_hand": statistics.median(ratios(name, "cpu_seconds")),
            "accuracy": runs[-1]["accuracy"],
            "test_accuracy": runs[-1].get("test_accuracy", "-"),
        }
        for name, runs in found.items()
    ]


def main() -> None:
    parser = arguments("images", __doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--events", type=int, default=5_000, help="of a run")
    data_dir(parser)
    options = parser.parse_args()
    about = made_with()
    with work_dir(options.work_dir) as folder:
        rows = rounds(folder, options)
    table(rows)
    write(options.out, about, options, {"replay_settings": REPLAY, "rounds": rows})


if __name__ == "__main__":
    main()
