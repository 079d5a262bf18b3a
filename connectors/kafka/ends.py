"""How far the partitions go, asked by a learner that has time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from connectors.kafka.boxes import Place
from connectors.kafka.link import Link
from connectors.kafka.options import Options
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
