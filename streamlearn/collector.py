"""Python's cycle collector, kept out of the way of the stream."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

YOUNG, MIDDLE, OLD = 20_000, 20, 20
"""So many new objects until the collector looks at them, and so many looks until one goes deeper."""


@contextmanager
def seldom_collected() -> Iterator[None]:
    """The collector looks seldom; `gc.freeze` at the end of a start spares it what was made until then.

    A look at everything that is loaded takes a fifth of a second, in which nothing is read, learned or
    answered, and a queue full of records brought one about every 50,000 events. No record and no output
    waits for the collector: no cycle holds one.
    """
    before = gc.get_threshold()
    gc.set_threshold(YOUNG, MIDDLE, OLD)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
