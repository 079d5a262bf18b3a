"""The wish that a worker ends, which a signal handler may utter at any moment."""

from __future__ import annotations

import queue
from contextlib import suppress


class Stop:
    """As a threading.Event that is never cleared; but `set` may be called amid a `wait` of the same thread.

    That is what a signal handler does: it runs between two steps of the main thread. An Event would wait
    there for ever for the lock that its own thread holds. (`SimpleQueue.put` may be called at any time.)
    """

    def __init__(self) -> None:
        self._asked = False
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()

    def set(self) -> None:
        self._asked = True
        self._news.put(None)

    def is_set(self) -> bool:
        return self._asked

    def wait(self, timeout: float) -> bool:
        """Until it is set, `timeout` seconds at most. Is it?"""
        if not self._asked:
            with suppress(queue.Empty):
                self._news.get(timeout=timeout)
                self._news.put(None)  # for whoever else waits
        return self._asked
