"""Where the time of W1's learner goes, as a flame graph: of this checkout, or of another one beside it.

    git worktree add /tmp/before COMMIT
    python -m ops.bench.flame --out after.svg
    python -m ops.bench.flame --checkout /tmp/before --out before.svg

Every frame is as wide as its share of the samples, what it calls lies below it; a browser tells name and
share of the one that is pointed at. Needs py-spy (pip install py-spy), which looks at the process from
outside.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from ops.bench.common import ROOT, environment
from ops.bench.w1 import HELD_OUT

WIDTH, HEIGHT, LEAST = 1200.0, 17, 0.002
"""Pixels of the whole and of a line, and the share of a frame that is still drawn."""
LETTER = 6.2
"""Pixels, about."""
OURS, THEIRS, REST = "#9ec5e8", "#f2c48d", "#dddddd"
RATE = 200
"""Looks a second."""


@dataclass
class Frame:
    """A function under its callers: samples in it or below it."""

    samples: int = 0
    calls: dict[str, Frame] = field(default_factory=dict)


def tree(lines: Iterable[str]) -> Frame:
    """Of stacks as `outer;inner;innermost COUNT`."""
    root = Frame()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        frame = root
        frame.samples += int(count)
        for name in stack.split(";"):
            frame = frame.calls.setdefault(name, Frame())
            frame.samples += int(count)
    return root


def called(name: str) -> str:
    """`learn` of `OnlineLearner.learn (streamlearn/learner.py)`."""
    return name.partition(" (")[0].rpartition(".")[2]


def below(root: Frame, name: str) -> Frame:
    """The function of that name with the most samples: what is above it is of no interest."""
    found = [root]
    for frame in found:
        found += frame.calls.values()
    named = [each for frame in found for word, each in frame.calls.items() if called(word) == name]
    return max(named, key=lambda frame: frame.samples, default=root)


def boxes(frame: Frame, left: float, depth: int, all_of_it: int) -> Iterator[tuple[str, float, int, float]]:
    """(name, left, depth, share) of whatever is called, the widest first; left as a share of the whole."""
    for name, each in sorted(frame.calls.items(), key=lambda of: -of[1].samples):
        share = each.samples / all_of_it
        if share >= LEAST:
            yield name, left, depth, share
            yield from boxes(each, left, depth + 1, all_of_it)
        left += share


def svg(frame: Frame, title: str) -> str:
    found = list(boxes(frame, 0.0, 0, frame.samples))
    height = HEIGHT * (3 + max((depth for _, _, depth, _ in found), default=0))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {height}" font-family="sans-serif" '
        'font-size="11"><rect width="100%" height="100%" fill="white"/>'
        f'<text x="4" y="13">{escape(title)}</text>'
    ]
    for name, left, depth, share in found:
        x, y, width = WIDTH * left, HEIGHT * (depth + 1), WIDTH * share
        told = f"{name}: {100 * share:.1f} %"
        fill = OURS if "streamlearn/" in name else THEIRS if "numpy/" in name or "torch/" in name else REST
        parts.append(
            f'<g><title>{escape(told)}</title><rect x="{x:.1f}" y="{y}" width="{max(0.3, width - 0.5):.1f}" '
            f'height="{HEIGHT - 1}" fill="{fill}"/>'
        )
        short = called(name)[: int((width - 4) / LETTER)] if width > 20 else ""
        parts.append(f'<text x="{x + 2:.1f}" y="{y + 12}">{escape(short)}</text></g>' if short else "</g>")
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkout", type=Path, default=ROOT, help="whose learner (default: this one)")
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--out", type=Path, required=True, help="file of the graph")
    options = parser.parse_args()
    py_spy = shutil.which("py-spy", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if py_spy is None:
        raise SystemExit("no py-spy here: pip install py-spy")
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw"
        words = [py_spy, "record", "--rate", str(RATE), "--function", "--format", "raw", "--output", str(raw)]
        loop = [sys.executable, "-m", "ops.bench.learner_loop", "--events", str(options.events), *HELD_OUT]
        path = {"PYTHONPATH": str(options.checkout)}
        subprocess.run([*words, "--", *loop], cwd=options.checkout, env=environment() | path, check=True)
        root = tree(raw.read_text().splitlines())
    learn = below(root, "learn")
    colours = "blue: streamlearn, orange: numpy and torch, gray: Python"
    options.out.write_text(svg(learn, f"W1 with every metric, {learn.samples} samples; {colours}"))


if __name__ == "__main__":
    main()
