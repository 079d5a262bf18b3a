"""The Kafka loop: a thread that runs a Faust app with the data plane as its service."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import faust
from faust.app.base import BootStrategy

from connectors.kafka.errors import explain
from connectors.kafka.loop import new_loop
from connectors.kafka.options import Options
from connectors.kafka.plane import DataPlane
from streamlearn.events import Stopped, Unreachable

T = TypeVar("T")

LIBRARIES = ("aiokafka", "kafka", "faust", "mode", "asyncio")
STOP_SECONDS = 30.0
BEAT_SECONDS = 0.5

for _name in LIBRARIES:
    # What they report while a broker is away is said by us, once; a program may set them up as it likes.
    logging.getLogger(_name).addHandler(logging.NullHandler())
    logging.getLogger(_name).propagate = False


class _OnlyServices(BootStrategy):
    """Faust's service tree without its consumer, producer, tables and web server: the data plane has ours."""

    enable_kafka = False
    enable_web = False

    def agents(self) -> list[Any]:
        return []

    def tables(self) -> list[Any]:
        return []


class _App(faust.App):
    BootStrategy = _OnlyServices
    logger = logging.getLogger("faust")

    async def on_first_start(self) -> None:
        """Faust makes folders for its tables in the working directory, which may be read-only: not ours."""


class Link:
    """One data plane on a loop of its own, called from other threads."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.plane: DataPlane
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="kafka", daemon=True)
        self._beat = 0.0

    def start(self) -> None:
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            raise explain(self._error, self.options.where) from self._error

    def call(
        self,
        work: Callable[[], Coroutine[Any, Any, T]],
        stopped: Callable[[], bool] = lambda: False,
        timeout: float | None = None,
    ) -> T:
        """Do `work` on the loop and wait for it. Raises what it raises; Stopped once `stopped` is true."""
        if self._loop is None or not self._thread.is_alive():
            raise Unreachable(f"{self.options.where}: the connection is closed")
        future = asyncio.run_coroutine_threadsafe(work(), self._loop)
        waited = 0.0
        while True:
            try:
                return future.result(0.2)
            except concurrent.futures.TimeoutError:
                if future.done():
                    # It ended in the very moment, or with such an error of its own.
                    return future.result()
                waited += 0.2
                if stopped():
                    future.cancel()
                    raise Stopped(f"stopped while waiting for {self.options.where}") from None
                if timeout is not None and waited > timeout:
                    future.cancel()
                    raise Unreachable(f"{self.options.where}: no answer within {timeout:g} s") from None

    @property
    def silence(self) -> float:
        """Seconds for which the loop has not come round, more than a few of them: something in it hangs."""
        running = self._loop is not None and self._thread.is_alive() and self._beat
        return max(0.0, time.monotonic() - self._beat - BEAT_SECONDS) if running else 0.0

    def hold(self, until: Callable[[], object]) -> None:
        """Let the loop stand still until `until` returns, as it does in a process that is stopped."""
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(until)

    async def _beats(self) -> None:
        while True:
            self._beat = time.monotonic()
            await asyncio.sleep(BEAT_SECONDS)

    def stop(self) -> None:
        """End everything. May be called again."""
        if self._thread.is_alive() and self._loop is not None:
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=new_loop) as runner:
                runner.run(self._main())
        except BaseException as error:
            self._error = error
            if self._ready.is_set():
                self.plane.fail(explain(error, self.options.where))
        finally:
            self._ready.set()

    async def _main(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        beats = asyncio.create_task(self._beats())
        app = _App(f"streamlearn.{self.options.group}", broker="kafka://", autodiscover=False)
        self.plane = DataPlane(self.options)
        app.add_dependency(self.plane)
        await app.start()
        self._ready.set()
        try:
            await self._end.wait()
        finally:
            await app.stop()
            beats.cancel()
