"""What a group's offsets become when somebody goes back to an older checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from connectors.kafka.boxes import Place
from connectors.kafka.refusals import is_other, refuse_outside

log = logging.getLogger(__name__)

Offsets = Mapping[str, Mapping[int, int]]
"""By topic and partition."""


def flat(offsets: Offsets) -> dict[Place, int]:
    return {(topic, partition): o for topic, of in offsets.items() for partition, o in of.items()}


def read_now(
    reached: Sequence[tuple[str, Offsets, str]], commands: str, id: str
) -> list[tuple[str, Offsets]]:
    """Id and C of checkpoints, those of `commands` left out where that topic had another id then: it was made
    anew, and they say nothing of it."""
    return [
        (name, {t: of for t, of in offsets.items() if t != commands or not is_other(known, id)})
        for name, offsets, known in reached
    ]


def skipped(
    wanted: Offsets,
    first: Mapping[Place, int],
    last: Mapping[Place, int],
    skip: bool,
    over: Callable[[Place, int], int],
) -> dict[str, dict[int, int]]:
    """Where retention has passed what the checkpoint wants next: where the log (`first` to `last`) begins.

    over: where whoever has all below an offset may go on as well; up to there nothing is lost.

    Raises StateMismatch if such records are not to be skipped.
    """
    begin: dict[str, dict[int, int]] = {}
    for place, offset in flat(wanted).items():
        topic, partition = place
        if offset < first.get(place, 0) <= over(place, offset):
            begin.setdefault(topic, {})[partition] = over(place, offset)
        elif offset < first.get(place, 0):
            if not skip:
                refuse_outside(place, offset, first[place], last[place])
            log.error(
                "%s:%d: %d records are skipped",
                *(topic, partition, first[place] - offset),
                extra={"fields": {"topic": topic, "partition": partition, "offset": offset}},
            )
            begin.setdefault(topic, {})[partition] = first[place]
    return begin


def furthest(
    committed: Mapping[Place, int], checkpoints: Sequence[Offsets], last: Mapping[Place, int]
) -> dict[Place, int]:
    """P of every partition of `last`, where each ends: as our own commit says, and no less than any C of the
    checkpoints that one may have named.

    Without such a commit outputs beyond that C may be visible, or not: they come again rather than never.
    """
    known = [committed, *map(flat, checkpoints)]
    published = {p: min(end, max(offsets.get(p, 0) for offsets in known)) for p, end in last.items()}
    for (topic, partition), offset in published.items():
        if (topic, partition) not in committed and any(topic in each for each in checkpoints):
            end = last[topic, partition]
            if offset < end:
                log.warning(
                    "no commit of a worker says which answers of %s:%d are visible (its offset was reset or "
                    "has expired): those of records from %d to %d come, and may come again",
                    *(topic, partition, offset, end - 1),
                    extra={"fields": {"topic": topic, "partition": partition, "offset": offset}},
                )
    return published
