"""What a group's offsets become when somebody goes back to an older checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from connectors.kafka.boxes import Place
from connectors.kafka.refusals import refuse_outside

log = logging.getLogger(__name__)

Offsets = Mapping[str, Mapping[int, int]]
"""By topic and partition."""


def flat(offsets: Offsets) -> dict[Place, int]:
    return {(topic, partition): o for topic, of in offsets.items() for partition, o in of.items()}


def skipped(
    wanted: Offsets, first: Mapping[Place, int], last: Mapping[Place, int], skip: bool
) -> dict[str, dict[int, int]]:
    """Where retention has passed what the checkpoint wants next: where the log (`first` to `last`) begins.

    Raises StateMismatch if such records are not to be skipped.
    """
    begin: dict[str, dict[int, int]] = {}
    for place, offset in flat(wanted).items():
        topic, partition = place
        if offset < first.get(place, 0):
            if not skip:
                refuse_outside(place, offset, first[place], last[place])
            log.error(
                "%s:%d: %d records are skipped",
                *(topic, partition, first[place] - offset),
                extra={"fields": {"topic": topic, "partition": partition, "offset": offset}},
            )
            begin.setdefault(topic, {})[partition] = first[place]
    return begin
