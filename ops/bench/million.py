"""A million events of 64 numbers from a file: is memory flat, and how fast is it beside a plain torch loop?

First one long `streamlearn run` (checkpoints, exporter and predictions on) whose resident memory is sampled;
then rounds of short runs, each loop in turn in a process of its own, so that all see the same machine.
"""

from __future__ import annotations

import statistics
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ops.bench.common import Run, arguments, loop, made_with, say, streamlearn, table, work_dir, write
from ops.bench.stream import write_file

DIM, CLASSES = 64, 10
WARM_EVENTS = 100_000
MOST_GROWTH = 50 << 20

MATCHED = (
    "--method.name er --evaluation.held_out 0 --model.head linear --learning.optimiser sgd "
    "--learning.learning_rate 0.05 --learning.weight_decay 0 --memory.capacity 200 "
    "--learning.stream_batch 10 --learning.memory_batch 10"
).split()
"""What the plain loop does, as settings; normalising stays on, which the plain loop doesn't do."""


def growth(run: Run, warm: int) -> dict[str, Any]:
    """Resident memory at `warm` events and the most afterwards."""
    after = [(records, resident) for _, records, resident in run.samples if records >= warm]
    if not after:
        return {"warm_events": None, "warm_bytes": None, "most_bytes": None, "growth_bytes": None}
    most = max(resident for _, resident in after)
    return {
        "warm_events": after[0][0],
        "warm_bytes": after[0][1],
        "most_bytes": most,
        "last_bytes": after[-1][1],
        "growth_bytes": most - after[0][1],
    }


def long_run(folder: Path, options: Namespace) -> dict[str, Any]:
    """The run over all events."""
    path = folder / f"long.{options.format}"
    say(f"writing {options.events:,} events")
    write_file(path, options.format, options.events, DIM, CLASSES, options.seed)
    size = path.stat().st_size
    say(f"streamlearn run over {size / 1e6:.0f} MB, {'default' if options.default else 'matched'} settings")
    flags = [] if options.default else MATCHED
    run = streamlearn(
        folder / "long", ["--source.path", str(path), "--seed", str(options.seed), *flags], sample=True
    )
    path.unlink()
    warm = min(WARM_EVENTS, options.events // 10)
    return {
        "settings": flags,
        "file_bytes": size,
        "events": run.learner["predicted"],
        "seconds": run.seconds,
        "cpu_seconds": run.cpu_seconds,
        "events_per_second": options.events / run.seconds,
        "accuracy": run.accuracy,
        "checkpoints": run.checkpoints,
        **growth(run, warm),
        "samples": [[round(s, 1), records, resident] for s, records, resident in run.samples],
    }


def contestants(folder: Path, options: Namespace) -> dict[str, Callable[[int], dict[str, Any]]]:
    """Every loop by name; each takes the number of its round and returns seconds and accuracy."""
    json_path, packed_path = folder / "short.jsonl", folder / "short.msgpack"
    for path in (json_path, packed_path):
        write_file(path, path.suffix[1:], options.round_events, DIM, CLASSES, options.seed)
    common = ["--events", str(options.round_events), "--dim", str(DIM), "--classes", str(CLASSES)]
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
        "plain loop, json.loads": plain("--input", "json", *text),
        "plain loop, orjson": plain("--input", "orjson", *text),
        "plain loop, orjson, predictions written": plain(
            "--input", "orjson", *text, "--write", str(folder / "plain.jsonl")
        ),
        "plain loop, msgpack": plain("--input", "msgpack", *packed),
        "learner, arrays, matched": learner(*MATCHED),
        "learner, arrays, default": learner(),
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
            say(f"round {number + 1}: {name}: {options.round_events / result['seconds']:,.0f} events/s")
    rows = []
    for name, took in seconds.items():
        ratios = [base / own for base, own in zip(seconds[BASE], took, strict=True)]
        rows.append(
            {
                "loop": name,
                "events_per_second": options.round_events / statistics.median(took),
                "to_plain": statistics.median(ratios),
                "least": min(ratios),
                "most": max(ratios),
                "cpu_us_per_event": statistics.median(cpu[name]) / options.round_events * 1e6,
                "cpu_to_plain": statistics.median(
                    base / own for base, own in zip(cpu[BASE], cpu[name], strict=True)
                ),
                "accuracy": accuracy[name],
            }
        )
    return rows


def main() -> None:
    parser = arguments("million", __doc__)
    parser.add_argument("--events", type=int, default=1_000_000, help="of the long run; 0: none")
    parser.add_argument("--format", choices=("jsonl", "msgpack"), default="jsonl", help="of the long run")
    parser.add_argument("--default", action="store_true", help="the long run with default settings")
    parser.add_argument("--rounds", type=int, default=5, help="of short runs")
    parser.add_argument("--round-events", type=int, default=100_000, help="of a short run")
    options = parser.parse_args()
    about = made_with()
    result: dict[str, Any] = {}
    with work_dir(options.work_dir) as folder:
        if options.events:
            result["long_run"] = one = long_run(folder, options)
            names = ("events", "seconds", "events_per_second", "accuracy", "checkpoints")
            table([{name: one[name] for name in names}])
            sizes = {name: one[name] for name in one if name.endswith("_bytes") and one[name] is not None}
            table([{"memory": name, "MB": round(size / 1e6, 1)} for name, size in sizes.items()])
            if one["growth_bytes"] is not None:
                flat = one["growth_bytes"] < MOST_GROWTH
                print(f"memory grew by less than {MOST_GROWTH >> 20} MiB: {'yes' if flat else 'NO'}\n")
            write(options.out, about, options, {"matched_settings": MATCHED, **result})
        if options.rounds:
            result["rounds"] = rounds(folder, options)
            table(result["rounds"])
    write(options.out, about, options, {"matched_settings": MATCHED, **result})


if __name__ == "__main__":
    main()
