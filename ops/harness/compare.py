"""What a run that was killed must have in common with one that wasn't: a list of checks."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ops.harness.stream import Stream

EPOCH = re.compile(rb'"epoch":(\d+)')


@dataclass(frozen=True)
class Check:
    """One promise, whether it was kept, and the figures behind that."""

    name: str
    kept: bool
    detail: str


@dataclass(frozen=True)
class Result:
    """What a run has left behind: outputs, state folder, `checkpoints show --json`, `verify --json`."""

    predictions: Path
    dead_letters: Path
    folder: Path
    shown: Mapping[str, Any]
    verified: Sequence[Mapping[str, Any]]


def compare(stream: Stream, reference: Result, killed: Result) -> list[Check]:
    """All checks, of the reference too where it can be wrong by itself."""
    return [
        parts(reference.shown, killed.shown),
        *(learned(stream, result.shown, name) for name, result in _both(reference, killed)),
        *(answered(stream, result, name) for name, result in _both(reference, killed)),
        predictions(reference.predictions, killed.predictions),
        epochs(killed.predictions),
        identical("dead letters: byte-identical", reference.dead_letters, killed.dead_letters),
        *(whole(result.verified, name) for name, result in _both(reference, killed)),
        tidy(killed),
    ]


def _both(reference: Result, killed: Result) -> list[tuple[str, Result]]:
    return [("reference", reference), ("killed", killed)]


def parts(reference: Mapping[str, Any], killed: Mapping[str, Any]) -> Check:
    """Every part of the state has the same SHA-256."""
    ours, theirs = killed["parts"], reference["parts"]
    differing = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    kept = not differing and bool(theirs)
    return Check("state: SHA-256 of all parts", kept, ", ".join(differing) or f"{len(theirs)} parts equal")


def learned(stream: Stream, shown: Mapping[str, Any], name: str) -> Check:
    """Every labeled good event was learned or held out, once, and the whole stream was read."""
    found = shown["events_learned"] + shown["events_held_out"]
    offsets = [offset for by in shown["offsets"].values() for offset in by.values()]
    kept = found == stream.learned and offsets == [stream.records]
    detail = f"{found} of {stream.learned} learned or held out, next record {offsets} of {stream.records}"
    return Check(f"{name}: events learned", kept, detail)


def answered(stream: Stream, result: Result, name: str) -> Check:
    """Every record has one output, of the right kind, in order."""
    found = offsets_in(result.predictions), offsets_in(result.dead_letters)
    kept = found == (stream.predicted, stream.dead)
    lost = set(stream.predicted) - set(found[0]), set(stream.dead) - set(found[1])
    twice = sum((_repeats(offsets) for offsets in found), 0)
    surplus = set(found[0]) - set(stream.predicted), set(found[1]) - set(stream.dead)
    detail = (
        f"{len(found[0])} predictions, {len(found[1])} dead letters, {sum(map(len, lost))} missing, "
        f"{twice} repeated, {sum(map(len, surplus))} unexpected"
    )
    return Check(f"{name}: one output per record", kept, detail)


def _repeats(offsets: Sequence[int]) -> int:
    return sum(count - 1 for count in Counter(offsets).values())


def offsets_in(path: Path) -> list[int]:
    """The source offset of every line of an output."""
    return [int(json.loads(line)["source"][2]) for line in _lines(path)]


def predictions(reference: Path, killed: Path) -> Check:
    """The same bytes in the same order, but for the epoch."""
    name = "predictions: byte-identical but for the epoch"
    count = 0
    for ours, theirs in zip_longest(_lines(killed), _lines(reference)):
        count += 1
        if ours is None or theirs is None or EPOCH.sub(b"", ours) != EPOCH.sub(b"", theirs):
            return Check(name, False, f"line {count}: {ours!r} in place of {theirs!r}")
    return Check(name, count > 0, f"{count} lines")


def epochs(killed: Path) -> Check:
    """Epochs never go back."""
    found = [int(match[1]) if (match := EPOCH.search(line)) else -1 for line in _lines(killed)]
    kept = bool(found) and found == sorted(found) and found[0] > 0
    return Check("predictions: epochs never go back", kept, f"{len(set(found))} epochs in the file")


def identical(name: str, reference: Path, killed: Path) -> Check:
    ours, theirs = killed.read_bytes(), reference.read_bytes()
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
    detail = f"{len(ours)} bytes" if ours == theirs else f"{len(ours)} and {len(theirs)} bytes, first at {at}"
    return Check(name, ours == theirs, detail)


def whole(verified: Sequence[Mapping[str, Any]], name: str) -> Check:
    """All checkpoints that are kept are whole."""
    problems = [str(each["problem"]) for each in verified if not each["whole"]]
    return Check(
        f"{name}: checkpoints whole",
        bool(verified) and not problems,
        "; ".join(problems) or f"{len(verified)} of {len(verified)}",
    )


def tidy(result: Result) -> Check:
    """Nothing half-written is left, and nothing that no manifest names."""
    rest, left = surplus(result.folder)
    rest += sorted(path.name for path in result.predictions.parent.glob("*.tmp"))
    detail = ", ".join(rest) or f"{left} files, all named"
    return Check("state folder: nothing left over", not rest, detail)


def surplus(folder: Path) -> tuple[list[str], int]:
    """Files that are half-written or that no manifest names, and how many files there are in all."""
    left = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "workers"]
    named = {"lock", "cuts.jsonl"}
    for path in left:
        if path.suffix == ".json":
            names = [f"{pack}.memory" for pack in json.loads(path.read_bytes())["packs"]]
            named.update([path.name, path.with_suffix(".parts").name, *names])
    return sorted(str(path.relative_to(folder)) for path in left if path.name not in named), len(left)


def _lines(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        yield from file
