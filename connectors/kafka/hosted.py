"""The process beside a worker that talks to Kafka, as the worker sees it (see `host`)."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from connectors.kafka.channel import SIGNALS, Channel, Gone, pair
from connectors.kafka.columns import columns_of_outputs, records_of_columns
from streamlearn import events
from streamlearn.events import Output, Record, Stalled, Stopped, Unreachable

LOOK_SECONDS = 0.2
ANSWER_SECONDS = 1.0
"""For so long who looks waits for the answer; then what was seen last counts."""
ALIKE = {"OSError": OSError, "MemoryError": MemoryError}
"""Errors of Python's that have an exit status of their own."""
AT_ONCE = 4
"""Flushes that may go on while the learner does."""
HUNG_SECONDS = 30.0
"""Whoever waits for a host that doesn't even say how it stands kills it after so long."""
BEGIN_SECONDS = 120.0
"""So long a host may take to load Kafka's client."""
END_SECONDS = 5.0
"""For so long a host whose worker has closed it may take to end."""


class Process(Protocol):
    """What we want of a process that was started (subprocess.Popen has it)."""

    def wait(self, timeout: float | None = None) -> int: ...
    def kill(self) -> None: ...


def start(ends: Sequence[socket.socket]) -> Process:
    """Start the host, which gets these ends."""
    numbers = [end.fileno() for end in ends]
    warnings = [f"-W{word}" for word in sys.warnoptions]
    command = [sys.executable, "-P", *warnings, "-m", "connectors.kafka.host", *map(str, numbers)]
    # Whatever makes this process find its modules: that one is to find the same, and none where it runs (-P).
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    # Until it can ignore them itself: it inherits that they wait.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        return subprocess.Popen(command, pass_fds=numbers, stdin=subprocess.DEVNULL, env=env)
    except OSError as error:
        raise Unreachable(
            f"no process can be started that talks to Kafka ({error.strerror}): are there limits of "
            "processes, or of memory?"
        ) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_prepared: list[Hosted] = []


def prepare() -> Callable[[], None]:
    """Start a host that nobody needs yet: what it loads takes a while. What is returned ends it, if that has
    not been done before."""
    host = Hosted()
    _prepared.append(host)

    def end() -> None:
        if host in _prepared:
            _prepared.remove(host)
        host.end(0.0)

    return end


def hosted() -> Hosted:
    """A host: the one that was prepared, if there is one."""
    return _prepared.pop() if _prepared else Hosted()


class Hosted:
    """Starts it, asks it, ends it. All but `look` and what that finds belongs to the learner's thread."""

    def __init__(self) -> None:
        ends = [pair() for _ in range(3)]
        self.functions: dict[str, Callable[[], Any]] = {}
        """What it may ask for."""
        self.named: str | None = None
        self.commands, self.gap = False, None
        """Whether commands wait; where there are none in their topic."""
        self.silence, self.answered_at, self.away = 0.0, time.time(), None
        try:
            self._process = start([theirs for _, theirs in ends])
        finally:
            for _, theirs in ends:
                theirs.close()
        self._work, self._records, self._looks = [Channel(ours, HUNG_SECONDS) for ours, _ in ends]
        self._waiting: list[Any] = []
        """Outputs that are not sent yet."""
        self._flushing = 0
        """Flushes that are not answered yet."""
        self._stalled: Stalled | None = None
        self.asked = False
        """Whether records were asked for that have not come yet."""
        self._looking, self._looked_at, self._unanswered = threading.Lock(), time.monotonic(), False
        self._begun = False
        """Whether it has ever said how it stands: to load all that it needs may take long."""
        self._ended = threading.Event()
        self._error: BaseException | None = None
        atexit.register(self.end)
        threading.Thread(target=self._beat, name="looks", daemon=True).start()

    # -- calls

    def call(self, name: str, *given: Any) -> Any:
        """What it answers. Raises what it raises, Unreachable once it has ended."""
        try:
            self._settle()
            if self._waiting:
                self._write()
            self._work.send((name, given))
            return self._answer()
        except Gone:
            raise self._gone() from None

    def write(self, outputs: Sequence[Output]) -> None:
        self._waiting.append(columns_of_outputs(outputs))

    def flush(self) -> None:
        """Hand over what was written; its answer is for the next call. Raises what the last one came to."""
        try:
            self._settle(AT_ONCE - 1)
            self._work.send(("flush", (self._taken(),)))
            self._flushing += 1
            if self._stalled is not None:
                # While nothing is taken nothing more is made.
                self._stalled = None
                self._settle()
                if self._stalled is not None:
                    raise self._stalled
        except Gone:
            raise self._gone() from None

    def _taken(self) -> list[Any]:
        waiting, self._waiting = self._waiting, []
        return waiting

    def _write(self) -> None:
        self._work.send(("write", (self._taken(),)))
        self._answer()

    def _settle(self, most: int = 0) -> None:
        """See how flushes have ended, and wait until no more than `most` go on; one that stalled is kept."""
        while self._flushing and (self._flushing > most or self._work.waits):
            self._flushing -= 1
            try:
                self._answer()
            except Stalled as stalled:
                self._stalled = stalled

    def _answer(self) -> Any:
        while True:
            kind, *found = self._received()
            if kind == "back":
                self._give(found[0])
                continue
            self.named, self.commands, self.gap, lines = found.pop()
            _say(lines)
            error, self._error = self._error, None
            if kind == "done" and error is None:
                return found[0]
            raise error or _error(*found)

    def _received(self) -> Any:
        """Of a call that may take any time; but not of a process that does nothing at all."""
        waited = 0.0
        while True:
            try:
                return self._work.receive(ANSWER_SECONDS)
            except TimeoutError:
                waited += ANSWER_SECONDS
                if not self._begun:
                    self._begins(waited)
                elif self._unseen > HUNG_SECONDS:
                    # It may be this process that was stopped, and nobody that has looked since.
                    self.look()
                    if self._unseen > HUNG_SECONDS:
                        self._process.kill()
                        raise Gone("it hangs") from None

    def _begins(self, waited: float) -> None:
        """It loads what it needs, which may take long; but whoever stops doesn't wait for that."""
        if self.functions["stopped"]():
            raise Stopped("stopped while the process that talks to Kafka was loading its modules")
        if waited > BEGIN_SECONDS:
            raise Unreachable(
                f"the process that talks to Kafka has not loaded its modules within {BEGIN_SECONDS:g} s: "
                "does the disk answer on which Python's packages lie?"
            )

    def _give(self, name: str) -> None:
        """Answer a question back, for which more may be asked meanwhile."""
        try:
            answer = "gave", self.functions[name]()
        except BaseException as error:
            # The host unwinds what it was at, and then it goes on here.
            self._error, answer = error, ("failed", None)
        self._work.send(answer)

    def records(self, most: int, timeout: float, ahead: bool) -> list[Record]:
        """Records; with `ahead` those are asked for at once that will be wanted next."""
        try:
            if not self.asked:
                self._records.send((most, timeout))
                self.asked = True
            try:
                kind, *found = self._records.receive(timeout + ANSWER_SECONDS)
            except TimeoutError:
                return []  # it hangs, and whoever asks has more to do than to wait for it
            self.asked = False
            if kind != "done":
                raise _error(*found)
            if ahead:
                self._records.send((most, timeout))
                self.asked = True
            return records_of_columns(found[0])
        except Gone:
            raise self._gone() from None

    # -- looks

    def look(self, ask: Mapping[int, int] | str | None = None) -> Any:
        """Find out how it stands. From any thread.

        ask: what besides: offsets (the traffic), or "threads" (where they are); None: not known in time.
        Or to be told: "waits" (see `Source`).
        """
        lines: list[Any] = []
        found = None
        with self._looking, suppress(Gone, TimeoutError):
            if self._unanswered:
                self._seen(lines)
            self._looks.send(ask)
            self._unanswered = True
            found = self._seen(lines)
        _say(lines)
        return found

    def _seen(self, lines: list[Any]) -> Any:
        self.silence, answered_at, self.away, more, found = self._looks.receive(ANSWER_SECONDS)
        self.answered_at = answered_at or self.answered_at
        self._unanswered, self._begun, self._looked_at = False, True, time.monotonic()
        lines += more
        return found

    @property
    def hung(self) -> float:
        """Seconds for which nothing of it has moved. From any thread."""
        return max(self.silence, self._unseen)

    @property
    def _unseen(self) -> float:
        return time.monotonic() - self._looked_at - ANSWER_SECONDS

    def _beat(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            self.look()

    # -- its end

    def _gone(self) -> Exception:
        try:
            status = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            # It has closed its ends, or takes nothing that is sent: in any case it is of no more use.
            self._process.kill()
            status = -signal.SIGKILL
        if status > 0:
            return RuntimeError("the process that talks to Kafka has failed: what it said stands above")
        how = f"was killed by signal {-status}" if status < 0 else "has ended"
        return Unreachable(
            f"the process that talks to Kafka {how}: nothing is lost, a new start goes on from the last "
            "commit"
        )

    def close(self) -> None:
        """Say goodbye to the brokers, then end. What was written and not flushed goes nowhere."""
        if self._ended.is_set():
            return
        self._waiting.clear()
        try:
            while self._flushing:
                with suppress(Exception):  # it was said before, or nobody is left to whom it matters
                    self._settle()
            with suppress(Exception):
                self.call("close")
        finally:
            self.end()

    def end(self, patience: float = END_SECONDS) -> None:
        """Nothing is asked of it any more; after so many seconds it is killed. May be called again."""
        if self._ended.is_set():
            return
        self._ended.set()
        atexit.unregister(self.end)
        with self._looking:
            for channel in (self._work, self._records, self._looks):
                channel.close()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _say(lines: Iterable[Sequence[Any]]) -> None:
    """Lines of the host's log, as if they were of here."""
    for name, level, created, text, given, fields in lines:
        logger = logging.getLogger(name)
        if logger.isEnabledFor(level):
            more = {"fields": fields} if fields else None
            record = logger.makeRecord(name, level, "", 0, text, tuple(given), None, extra=more)
            record.created = created
            logger.handle(record)


def _error(kinds: Sequence[str], text: str, where: str) -> Exception:
    """What the host has raised: the same, where it is of the connectors' own kinds."""
    for kind in kinds:
        found = getattr(events, kind, ALIKE.get(kind))
        if isinstance(found, type) and issubclass(found, Exception):
            return found(text)
    error = RuntimeError(f"{kinds[0]}: {text}")
    error.add_note(where)
    return error
