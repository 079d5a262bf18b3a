"""When a broker last answered a worker that doesn't read yet; of one that does the watch knows it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from connectors.kafka.options import Options
from connectors.kafka.watch import SAID_SECONDS

log = logging.getLogger(__name__)


class Contact:
    """Belongs to the worker's thread; what is a property may be asked from any."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._last = time.monotonic()
        """Of nobody who has answered yet: when the asking began."""
        self._asks: float | None = None
        """Since when there has been no first answer."""
        self._said = False

    def answered(self) -> None:
        """A broker has."""
        self._last = time.monotonic()
        if self._said:
            log.info("%s: a broker answers", self._options.where)
        self._asks, self._said = None, False

    def asks(self, stopped: Callable[[], bool]) -> Callable[[], bool]:
        """`stopped`, for a call that asks it while it waits for the first answer: that this takes is said."""
        self._asks = time.monotonic()

        def asked() -> bool:
            if not self._said and (away := self.away) is not None:
                self._said = True
                log.warning("%s", away)
            return stopped()

        return asked

    @property
    def silence(self) -> float:
        """Seconds since the last answer."""
        return time.monotonic() - self._last

    @property
    def at(self) -> float:
        """When that was, in seconds since 1970."""
        return time.time() - self.silence

    @property
    def away(self) -> str | None:
        """That there is no first answer, once that is worth a line."""
        options, since = self._options, self._asks
        if since is None or time.monotonic() - since <= SAID_SECONDS:
            return None
        return (
            f"{options.where}: no broker answers yet: waiting for up to {options.deadline:.0f} s "
            "(source.deadline); is it running, and is source.bootstrap_servers right?"
        )
