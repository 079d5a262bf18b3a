"""W1: 64 numbers, ten classes, MLP 64-256-10, SGD, ten events and ten replayed a step, reservoir of 200.

How fast is it beside loops written by hand? Rounds in turn, each loop in a process of its own, so that all
see the same machine; medians, and medians of the ratios within a round. `plain` is what a good engineer
writes in an hour, `lean` what it becomes in a day (ops/bench/plain_loop.py, ops/bench/lean_loop.py). All of
them predict every event before they learn it, draw uniformly and keep a true reservoir.
"""

from __future__ import annotations

import statistics
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ops.bench.common import arguments, loop, made_with, say, streamlearn, table, work_dir, write
from ops.bench.million import CLASSES, DIM, MATCHED
from ops.bench.stream import write_file

BARE = [*MATCHED, "--model.normalise", "false"]
"""What the loops by hand do and nothing else."""
HELD_OUT = [*MATCHED, "--evaluation.held_out", "0.01"]
"""With held-out sets, so that every metric is there."""


def contestants(folder: Path, options: Namespace) -> dict[str, Callable[[int], dict[str, Any]]]:
    """Every loop by name; each takes the number of its round and returns seconds and accuracy."""
    json_path, packed_path = folder / "short.jsonl", folder / "short.msgpack"
    for path in (json_path, packed_path):
        write_file(path, path.suffix[1:], options.events, DIM, CLASSES, options.seed)
    common = ["--events", str(options.events), "--dim", str(DIM), "--classes", str(CLASSES)]
    seed = ["--seed", str(options.seed)]

    def worker(name: str, path: Path, flags: list[str]) -> Callable[[int], dict[str, Any]]:
        def run(number: int) -> dict[str, Any]:
            here = folder / f"{name}-{number}"
            done = streamlearn(here, ["--source.path", str(path), *seed, *flags])
            return {"seconds": done.seconds, "cpu_seconds": done.cpu_seconds, "accuracy": done.accuracy}

        return run

    def plain(*flags: str) -> Callable[[int], dict[str, Any]]:
        return lambda number: loop("plain_loop", *common, *seed, *flags)

    def learner(*flags: str) -> Callable[[int], dict[str, Any]]:
        return lambda number: loop("learner_loop", *common, "--data-seed", str(options.seed), *seed, *flags)

    text, packed = ["--path", str(json_path)], ["--path", str(packed_path)]
    return {
        "plain loop, arrays": plain(),
        "lean loop, arrays": lambda number: loop("lean_loop", *common, *seed),
        "learner, arrays, matched": learner(*MATCHED),
        "learner, arrays, matched, not normalised": learner(*BARE),
        "learner, arrays, matched, every metric": learner(*HELD_OUT),
        "learner, arrays, default": learner(),
        "plain loop, json.loads": plain("--input", "json", *text),
        "plain loop, orjson": plain("--input", "orjson", *text),
        "plain loop, orjson, predictions written": plain(
            "--input", "orjson", *text, "--write", str(folder / "plain.jsonl")
        ),
        "plain loop, msgpack": plain("--input", "msgpack", *packed),
        "run, jsonl, matched": worker("jsonl-matched", json_path, MATCHED),
        "run, msgpack, matched": worker("msgpack-matched", packed_path, MATCHED),
        "run, jsonl, default": worker("jsonl-default", json_path, []),
    }


BASE = "plain loop, arrays"


def rounds(folder: Path, options: Namespace) -> list[dict[str, Any]]:
    """Every contestant in turn, `options.rounds` times; medians, and medians of the ratios within a round."""
    loops = contestants(folder, options)
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    cpu: dict[str, list[float]] = {name: [] for name in loops}
    accuracy: dict[str, float] = {}
    for number in range(options.rounds):
        for name, work in loops.items():
            result = work(number)
            seconds[name].append(result["seconds"])
            cpu[name].append(result["cpu_seconds"])
            accuracy[name] = result["accuracy"]
            say(f"round {number + 1}: {name}: {options.events / result['seconds']:,.0f} events/s")
    rows = []
    for name, took in seconds.items():
        ratios = [base / own for base, own in zip(seconds[BASE], took, strict=True)]
        rows.append(
            {
                "loop": name,
                "events_per_second": options.events / statistics.median(took),
                "to_plain": statistics.median(ratios),
                "least": min(ratios),
                "most": max(ratios),
                "cpu_us_per_event": statistics.median(cpu[name]) / options.events * 1e6,
                "cpu_to_plain": statistics.median(
                    base / own for base, own in zip(cpu[BASE], cpu[name], strict=True)
                ),
                "accuracy": accuracy[name],
            }
        )
    return rows


def main() -> None:
    parser = arguments("w1", __doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--events", type=int, default=60_000, help="of a run")
    options = parser.parse_args()
    about = made_with()
    with work_dir(options.work_dir) as folder:
        rows = rounds(folder, options)
    table(rows)
    write(options.out, about, options, {"matched_settings": MATCHED, "rounds": rows})


if __name__ == "__main__":
    main()
