"""Settings of the test run: hypothesis draws the same examples everywhere, so that a failure is a failure.

And what is there once for all tests: disks and servers that nothing waits for, a real Kafka.
"""

from __future__ import annotations

import gc
import logging
import os
import stat
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from socketserver import BaseServer

import pytest
from hypothesis import settings

from ops.kafka.broker import Broker

settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True, max_examples=40)
settings.register_profile("search", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("STREAMLEARN_TEST_PROFILE", "ci"))


@pytest.hookimpl(tryfirst=True)  # before `-m` looks at the markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "broker" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
    # For processes that share the work, files with most to do first; before them a single test of minutes.
    work = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (item.path.name != "test_compose.py", -work[item.path]))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported stays: the garbage collector need not look at it again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """Garbage is looked for once more; what is left after it pytest need not look at twice again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """No power is cut here: what is written to a file is there, durable or not. (Other processes do wait.)"""
    fsync = os.fsync

    def check(descriptor: int) -> None:
        mode = os.fstat(descriptor).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            fsync(descriptor)  # it may well be refused

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", check)
        yield


@pytest.fixture(scope="session", autouse=True)
def servers_end_at_once() -> Iterator[None]:
    """Closing a server takes until it looks up; here it does so every few milliseconds."""
    serve = BaseServer.serve_forever

    def serve_forever(self: BaseServer, poll_interval: float = 0.5) -> None:
        serve(self, min(poll_interval, 0.005))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseServer, "serve_forever", serve_forever)
        yield


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A real Kafka, started at its first use and shared by all tests: with topics and groups of their own.

    Stop, kill or freeze only one of your own: tests.kafka.running.
    """
    shared = Broker(tmp_path_factory.mktemp("kafka"))
    shared.start()
    yield shared
    shared.kill()


@pytest.fixture
def rubbish() -> Iterator[None]:
    """Sockets are let go here: neither kept by log records, nor found later by the garbage collector."""
    library = logging.getLogger("kafka")
    before = library.level
    library.setLevel(logging.CRITICAL + 1)
    yield
    gc.collect()
    library.setLevel(before)


@pytest.fixture
def own_state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What publish keeps between its runs is kept for one test."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
