"""What a read_committed reader finds in the topics of predictions and dead letters, and what it must find."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ops.harness.compare import EPOCH, Check
from ops.harness.topics import Message
from streamlearn.ledger import plain, tally, together

Position = tuple[int, int]
"""Partition and offset of an event."""

ERRORS = "__connect.errors."


@dataclass(frozen=True)
class Expected:
    """What must become of the events of a topic."""

    messages: Mapping[Position, Message]
    predicted: frozenset[Position]
    dead: frozenset[Position]
    labeled: frozenset[Position]
    """Those of the predicted ones that are learned or held out."""


@dataclass(frozen=True)
class Output:
    """A prediction or a dead letter: which event it is of, in which epoch it was made (0: not said), and
    everything that must be the same in every run."""

    of: Position
    epoch: int
    content: tuple[Any, ...]


def predictions(found: Sequence[Message]) -> list[Output]:
    outputs = []
    for message in found:
        value = message.value or b""
        body = json.loads(value)
        of = (int(body["source"][1]), int(body["source"][2]))
        content = (message.partition, message.key, message.headers, EPOCH.sub(b"", value))
        outputs.append(Output(of, int(body["epoch"]), content))
    return outputs


def dead_letters(found: Sequence[Message]) -> list[Output]:
    outputs = []
    for message in found:
        said = dict(message.headers)
        of = int(said[f"{ERRORS}partition"]), int(said[f"{ERRORS}offset"])
        outputs.append(Output(of, 0, (message.partition, message.key, message.headers, message.value)))
    return outputs


def answered(found: Sequence[Output], wanted: frozenset[Position], name: str, once: bool) -> Check:
    """Every event that must have this kind of output has it, exactly once (`once`) or at least once."""
    counts = Counter(output.of for output in found)
    missing, surplus = wanted - counts.keys(), counts.keys() - wanted
    repeats = sum(count - 1 for count in counts.values())
    kept = not missing and not surplus and (not repeats or not once) and bool(found)
    some = f", e.g. {sorted(missing)[:3]}" if missing else f", e.g. {sorted(surplus)[:3]}" if surplus else ""
    detail = f"{len(found)} found, {len(missing)} missing, {len(surplus)} unexpected, {repeats} repeats{some}"
    return Check(f"{name}: each {'exactly' if once else 'at least'} once", kept, detail)


def alike(found: Sequence[Output], name: str) -> Check:
    """An output that is there several times is the same each time, but for the epoch."""
    first: dict[Position, Output] = {}
    differing = [o.of for o in found if first.setdefault(o.of, o).content != o.content]
    detail = f"{len(found) - len(first)} repeats, {len(differing)} differ" + (
        f", e.g. of {differing[:3]}" if differing else ""
    )
    return Check(f"{name}: repeats are identical but for the epoch", not differing, detail)


def as_reference(found: Sequence[Output], reference: Sequence[Output], name: str, once: bool) -> Check:
    """The same as those of the uninterrupted run but for the epoch: bytes, keys, headers, partitions;
    in the same order too where each is there once."""
    title = f"{name}: identical to the reference but for the epoch"
    if once and [o.of for o in found] != [o.of for o in reference]:
        return Check(title, False, "another order, or others")
    theirs = {output.of: output.content for output in reference}
    differing = [o for o in found if theirs.get(o.of) != o.content]
    if differing:
        one = differing[0]
        detail = f"{len(differing)} differ, e.g. of {one.of}: {one.content} in place of {theirs.get(one.of)}"
        return Check(title, False, detail)
    return Check(title, bool(found), f"{len(found)} equal")


def as_sent(found: Sequence[Output], expected: Expected, dead: bool, name: str) -> Check:
    """Key and headers are those of the event; of a dead letter the bytes too."""
    differing = []
    for output in found:
        sent = expected.messages.get(output.of)
        if sent is None:
            differing.append(output.of)
            continue
        _, key, headers, value = output.content
        passed = tuple(header for header in headers if not header[0].startswith(ERRORS))
        same = key == sent.key and passed == sent.headers and (not dead or value == sent.value)
        if not same:
            differing.append(output.of)
    what = "key, headers and bytes" if dead else "key and headers"
    detail = f"{len(differing)} differ" + (f", e.g. of {differing[:3]}" if differing else "")
    return Check(f"{name}: {what} of the event", not differing and bool(found), detail)


def epochs(found: Sequence[Output]) -> Check:
    """Within a partition of the predictions epochs never go back."""
    newest: dict[int, int] = {}
    back = []
    for output in found:
        partition = output.content[0]
        if output.epoch < newest.get(partition, 1):
            back.append(output.of)
        newest[partition] = output.epoch
    count = len({output.epoch for output in found})
    detail = f"{count} epochs" + (f", back at {back[:3]}" if back else "")
    return Check("predictions: epochs never go back", not back and bool(found), detail)


def ledger(shown: Mapping[str, Any], expected: Expected, name: str) -> Check:
    """Every labeled good event was learned, or held out, or waits for its step: once."""
    kept = shown.get("ledger")
    title = f"{name}: ledger, each event learned or held out exactly once"
    if kept is None:
        return Check(title, False, "the state holds no ledger")
    found = together(kept["learned"], kept["held_out"], kept["waiting"])
    wanted = plain(tally(sorted(expected.labeled)))
    wrong = sorted(p for p in found.keys() | wanted.keys() if found.get(p) != wanted.get(p))
    counts = {kind: sum(count for count, _ in kept[kind].values()) for kind in kept}
    detail = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    if wrong:
        of = "; ".join(f"partition {p}: {found.get(p)} in place of {wanted.get(p)}" for p in wrong)
        return Check(title, False, f"{detail}; {of}")
    return Check(title, True, f"{detail}, {len(wanted)} checksums equal")


def learned(shown: Mapping[str, Any], expected: Expected, name: str) -> Check:
    """C stands at the end of every partition; learned, held out and waiting make up the labeled ones."""
    ends: Counter[str] = Counter(str(partition) for partition, _ in expected.messages)
    (offsets,) = shown["offsets"].values()
    kept = shown.get("ledger", {}).get("waiting", {})
    found = shown["events_learned"] + shown["events_held_out"] + sum(count for count, _ in kept.values())
    right = found == len(expected.labeled) and offsets == dict(ends)
    detail = f"{found} of {len(expected.labeled)} events, C {sum(offsets.values())} of {sum(ends.values())}"
    return Check(f"{name}: events learned", right, detail)
