"""The Kafka thread's event loop: it looks seldom, and misses nothing."""

from __future__ import annotations

import asyncio
import selectors
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from connectors.kafka.loop import ROUNDS, SeldomSelector, new_loop


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


def test_news_is_seen_within_so_many_looks(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    selector = SeldomSelector()
    selector.register(ours, selectors.EVENT_READ)
    for _ in range(3):
        theirs.send(b"x")
        looks = [bool(selector.select(0)) for _ in range(2 * ROUNDS)]
        assert looks.count(True) == 2
        assert looks.index(True) < ROUNDS
    # Whoever waits is told at once.
    assert selector.select(None)
    assert selector.select(5.0)
    selector.close()


def test_a_flood_of_callbacks_starves_nobody(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair

    async def main() -> None:
        loop = asyncio.get_running_loop()
        rounds, seen, told, timed = 0, asyncio.Event(), asyncio.Event(), asyncio.Event()

        def flood() -> None:
            nonlocal rounds
            rounds += 1
            if not (seen.is_set() and told.is_set() and timed.is_set()):
                loop.call_soon(flood)

        loop.add_reader(ours, seen.set)
        loop.call_later(0.01, timed.set)
        loop.call_soon(flood)
        other = threading.Thread(target=lambda: (theirs.send(b"x"), loop.call_soon_threadsafe(told.set)))
        other.start()
        for event in (seen, told, timed):
            await asyncio.wait_for(event.wait(), 30.0)
        other.join()
        loop.remove_reader(ours)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


def test_it_sleeps_while_nothing_happens() -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        begun = time.thread_time()
        runner.run(asyncio.sleep(0.3))
        assert time.thread_time() - begun < 0.1
