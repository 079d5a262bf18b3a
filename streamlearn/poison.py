"""Dead letters in a row: one is an accident, a thousand are a producer that has gone wrong."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from streamlearn.events import Output, Position, Rejection
from streamlearn.logs import sweep

log = logging.getLogger(__name__)


class Poison:
    """Counts dead letters that have no good event between them. `found` once there are `limit`."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._in_row = 0
        self._last: Rejection | None = None

    def see(self, outputs: Iterable[Output]) -> None:
        """Outputs in order. An event past the class limit is a dead letter, but no poison."""
        for output in outputs:
            if not isinstance(output, Rejection):
                self._in_row = 0
            elif output.reason != "too_many_classes":
                self._in_row += 1
                # The reason is part of the text that repetitions are told by: each is seen at least once.
                log.warning(
                    f"dead letter, {output.reason}: %s: %s",
                    _where(output.position),
                    output.detail,
                    extra={"fields": {**output.position._asdict(), "reason": output.reason}},
                )
                if self._in_row >= self.limit:
                    self._last = output

    @property
    def found(self) -> bool:
        return self._last is not None

    def say(self) -> None:
        last = self._last
        assert last is not None
        sweep(last=True)
        log.error(
            "%d or more dead letters in a row, the last at %s (%s: %s): stopping, something is wrong with "
            "what produces them. They are in the dead letters; a new start goes on behind them.",
            self.limit,
            _where(last.position),
            last.reason,
            last.detail,
            extra={"fields": {**last.position._asdict(), "reason": last.reason}},
        )


def _where(position: Position) -> str:
    return f"{position.topic}:{position.partition}:{position.offset}"
