"""How far the partitions go, asked by a learner that has time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container, Mapping

from connectors.kafka.boxes import Place
from connectors.kafka.link import Link
from connectors.kafka.options import Options
from connectors.kafka.plane import DataPlane
from streamlearn.events import Stopped, Unreachable

log = logging.getLogger(__name__)

ASK_AGAIN_SECONDS = 0.2


def ends_of(
    link: Link, options: Options, stopped: Callable[[], bool], waits: Callable[[], None]
) -> dict[Place, int]:
    """The next offset of every partition that is read.

    Waits for a partition without a leader, and a broker that is away, as long as reading does; `waits` is
    called now and then. Raises Unreachable; Stopped: whoever asked is asked anew at the next start.
    """
    since, said = time.monotonic(), False
    while True:
        try:
            return link.call(link.plane.bounds, stopped)[1]
        except Unreachable as error:
            if link.plane.failure is not None:
                raise link.plane.failure from error
            if stopped():
                raise Stopped(f"stopped while waiting for {options.where}") from error
            if time.monotonic() - since > options.patience:
                raise
            if not said:
                log.warning("waiting for the ends of the partitions: %s", error)
            said = True
            waits()
            time.sleep(ASK_AGAIN_SECONDS)


def lag_of(
    topic: str,
    plane: DataPlane,
    drained: Container[Place],
    reads: Mapping[Place, int],
    offsets: Mapping[int, int],
) -> tuple[dict[int, int], dict[int, int]]:
    """By partition the next offset, and how many records wait behind `offsets`, what was applied.

    drained: see `Watch`; reads: the next of what is read, looked up after that. From any thread.
    """
    # Looked up now and then: what has been read since is below the end, too.
    ends = {
        partition: max(end, reads.get((topic, partition), 0))
        for (of, partition), end in plane.watch.ends.items()
        if of == topic
    }
    lag = {}
    for partition, end in ends.items():
        place = (topic, partition)
        at = plane.gaps.over(place, offsets.get(partition, 0))
        # Behind the last record there may be marks of transactions, which are no records.
        all_read = place in drained and at >= reads.get(place, 0)
        lag[partition] = 0 if all_read else max(0, end - at)
    return ends, lag
