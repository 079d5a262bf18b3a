"""Outputs on their way out of the worker, with patience for a full disk and for a slow reader."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from streamlearn.events import Sink, Stalled, Unreachable
from streamlearn.keeper import Keeper
from streamlearn.observe import Vitals
from streamlearn.settings import Settings
from streamlearn.stop import Stop

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0


class Outlet:
    """Flushes the sink. `marks`: what the last flush returned."""

    def __init__(
        self,
        settings: Settings,
        sink: Sink,
        vitals: Vitals,
        keeper: Keeper,
        stop: Stop,
        meanwhile: Callable[[], None],
    ) -> None:
        """meanwhile: called now and then while outputs wait."""
        self._meanwhile = meanwhile
        self.settings, self.sink, self.vitals, self.keeper = settings, sink, vitals, keeper
        self.marks: dict[str, int] = {}
        self._stop = stop

    def flush_once(self) -> None:
        """Raises what the sink raises."""
        self.marks = self.sink.flush()

    def flush(self) -> bool:
        """Hand outputs over, trying again while the disk is full; False when patience has run out."""
        since, patience = time.monotonic(), self.settings.checkpoint.patience
        said = False
        while True:
            try:
                self.flush_once()
            except Stalled as error:
                # Its own affair how long a reader takes; but a signal must not wait for it.
                self.vitals.output_problem = str(error)
                self._meanwhile()
                if self._stop.is_set():
                    raise Unreachable(
                        f"stopped while {error}: the last checkpoint stands, a new start goes on from it"
                    ) from error
                # (One that merely failed could not be tried again meanwhile: that counts later.)
                if self.keeper.hangs and self.keeper.impatient():
                    return False
            except OSError as error:
                if not said:
                    log.error("outputs can't be written (%s): nothing is read until they can", error)
                    said = True
                self.vitals.output_problem = str(error)
                self._meanwhile()
                self.keeper.waits()
                if time.monotonic() - since > patience or self._stop.wait(RETRY_SECONDS):
                    log.error("outputs could not be written (%s): giving up; nothing is lost", error)
                    return False
            else:
                self.vitals.output_problem = None
                return True
