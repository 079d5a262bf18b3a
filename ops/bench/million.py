"""A million events of 64 numbers from a file: is memory flat?

One long `streamlearn run` (checkpoints, exporter and predictions on) whose resident memory is sampled. How
fast that is beside loops written by hand: `ops.bench.w1`.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from ops.bench.common import Run, arguments, made_with, say, streamlearn, table, work_dir, write
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


def main() -> None:
    parser = arguments("million", __doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--format", choices=("jsonl", "msgpack"), default="jsonl")
    parser.add_argument("--default", action="store_true", help="with default settings")
    options = parser.parse_args()
    about = made_with()
    with work_dir(options.work_dir) as folder:
        one = long_run(folder, options)
    names = ("events", "seconds", "events_per_second", "accuracy", "checkpoints")
    table([{name: one[name] for name in names}])
    sizes = {name: one[name] for name in one if name.endswith("_bytes") and one[name] is not None}
    table([{"memory": name, "MB": round(size / 1e6, 1)} for name, size in sizes.items()])
    if one["growth_bytes"] is not None:
        flat = one["growth_bytes"] < MOST_GROWTH
        print(f"memory grew by less than {MOST_GROWTH >> 20} MiB: {'yes' if flat else 'NO'}\n")
    write(options.out, about, options, {"matched_settings": MATCHED, "long_run": one})


if __name__ == "__main__":
    main()
