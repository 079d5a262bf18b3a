"""The process that talks to Kafka for a worker: source, sink, data plane, and nothing of the learner.

`python -m connectors.kafka.host` is started by `connectors.kafka.hosted`, with three sockets to the worker:
- work: calls of the learner's thread, each answered. An answer may be a question back (`stopped`, `standby`),
  and whoever is asked may call again before it answers.
- records: the learner asks for records, one question ahead of what it learns.
- looks: how it stands, asked several times a second. Who doesn't ask is stopped, or gone: with the worker
  stopped the Kafka loop stands still too, so that a group hears as little of it as of one process; with the
  worker gone this process ends at once.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import signal
import socket
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from connectors.kafka.boxes import Place
from connectors.kafka.channel import SIGNALS, Channel, Gone
from connectors.kafka.columns import columns_of_records, outputs_of_columns
from connectors.kafka.sink import KafkaSink
from connectors.kafka.source import KafkaSource
from streamlearn.events import Position, Resume, Stalled

HELD_SECONDS = 1.0
"""Without a look for so long the worker is stopped; it looks five times a second."""
THREADS, FRAMES = ("MainThread", "kafka"), 5
"""Whose place is told when something hangs, and how many calls of each."""
MOST_LINES = 1000
"""Lines for the log that wait for somebody to take them; of more the oldest are gone."""
COLLECTED = 20_000, 20, 20
"""So seldom does Python look for cycles: no record and no output is in one, and a look at a queue full of
them takes a tenth of a second."""
OF_SINK = ("write", "flush", "name", "pass", "settle")
LINES = 50
"""That go with one answer: more might fill the socket while the worker doesn't read."""
LOGGERS = ("connectors", "streamlearn", "py.warnings")


Options = Mapping[str, Any]


class Failed(Exception):
    """The worker's own function raised what it goes on with."""


class Lines(logging.Handler):
    """Keeps lines for the worker's log as plain values."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: deque[Sequence[Any]] = deque(maxlen=MOST_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        given = record.args if isinstance(record.args, tuple) else ()
        plain = [_plain(each) for each in given]
        fields = {name: _plain(each) for name, each in getattr(record, "fields", {}).items()}
        text = record.msg if given or not record.args else record.getMessage()
        if record.exc_info:
            where = logging.Formatter().formatException(record.exc_info)
            text, plain = "%s", [f"{record.getMessage()}\n{where}"]
        self._waiting.append((record.name, record.levelno, record.created, str(text), plain, fields))

    def take(self, most: int) -> list[Sequence[Any]]:
        """The first of them. From any thread."""
        self.acquire()
        try:
            return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        finally:
            self.release()


def _plain(value: Any) -> Any:
    """What msgpack takes as it is; else the words for it."""
    fits = isinstance(value, float | str | None) or (isinstance(value, int) and abs(value) < 1 << 63)
    return value if fits else str(value)


def loaded(name: str) -> Any:
    """The class behind an import string, which the settings have checked."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def raised(error: BaseException) -> list[Any]:
    """An error as plain values: names of its class and of those above it, the words, where it came from."""
    kinds = [kind.__name__ for kind in type(error).__mro__]
    return ["raised", kinds, str(error), "".join(traceback.format_exception(error))]


class Host:
    """Answers a worker. `serve` is called once."""

    def __init__(
        self, work: Channel, records: Channel, looks: Channel, leave: Callable[[int], object] = os._exit
    ) -> None:
        """leave: ends the process, with this status."""
        self._work, self._records, self._looks, self._leave = work, records, looks, leave
        self._lines = Lines()
        self._made: tuple[KafkaSource, KafkaSink] | None = None
        self._closed = False
        self._failure: Exception | None = None
        """Of the sink. What comes after it isn't done: it would raise P over outputs that never came."""
        self._seen = threading.Event()

    def serve(self) -> None:
        """Until the worker has closed its source, or is gone; then the process ends."""
        for work in (self._feed, self._watch):
            threading.Thread(target=self._guarded, args=(work,), daemon=True).start()
        self._guarded(self._obey)

    def _guarded(self, work: Callable[[], None]) -> None:
        """Work of one thread, which ends with the worker; without one of them the process is of no use."""
        status = 1
        try:
            work()
            status = 0
        except Gone:
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            self._leave(status)

    def _obey(self) -> None:
        while not self._closed:
            self._answer(self._work.receive())

    @property
    def _source(self) -> KafkaSource:
        assert self._made is not None
        return self._made[0]

    @property
    def _sink(self) -> KafkaSink:
        assert self._made is not None
        return self._made[1]

    # -- the learner's calls

    def _answer(self, call: Sequence[Any]) -> None:
        name, given = call
        try:
            if name in OF_SINK and self._failure is not None:
                raise self._failure
            answer = ["done", getattr(self, f"on_{name}")(*given)]
        except Exception as error:
            if name in OF_SINK and not isinstance(error, Stalled):
                self._failure = error
            answer = raised(error)
        self._work.send([*answer, self._more()])

    def _ask(self, name: str) -> Any:
        """Call the worker's function of this name; while it works it may call here. Raises Failed."""
        self._work.send(["back", name])
        while True:
            kind, *found = self._work.receive()
            if kind == "gave":
                return found[0]
            if kind == "failed":
                raise Failed
            self._answer([kind, *found])

    def _more(self) -> Sequence[Any]:
        """What the learner wants to know at every turn, so that it needn't ask: the checkpoint that a commit
        names, whether commands wait, and the gap in their topic; and lines for the log."""
        plane = self._made[0].plane if self._made is not None else None
        # Behind the last answer nothing else is sent.
        lines = self._lines.take(MOST_LINES if self._closed else LINES)
        if plane is None:
            return None, False, None, lines
        gap = plane.gaps.last((plane.commands_topic, 0))
        return plane.committer.named, plane.commands.depth > 0, gap, lines

    def on_make(
        self, level: int, source: str, of: Mapping[str, Any], sink: str, to: Mapping[str, Any]
    ) -> str:
        for name in LOGGERS:
            logging.getLogger(name).addHandler(self._lines)
            logging.getLogger(name).setLevel(level)
        made: KafkaSource = loaded(source)(of)
        self._made = made, loaded(sink)({**to, "source": made})
        return made.topic

    def on_claim(self, instance: str | None) -> Mapping[str, Any]:
        return vars(self._source.claim(instance, lambda: self._ask("standby"), self._stopped))

    def on_standing(self) -> Mapping[str, Any]:
        return vars(self._source.standing())

    def on_open(self, resume: Mapping[str, Any]) -> None:
        self._source.open(Resume(**resume, stopped=self._stopped))

    def _stopped(self) -> bool:
        return bool(self._ask("stopped"))

    def on_poll(self) -> None:
        self._source.poll(0, 0.0)

    def on_fingerprint(self, cursors: Mapping[int, int]) -> Mapping[str, Any]:
        return self._source.fingerprint(cursors)

    def on_decide(self) -> bool:
        return self._source.decide()

    def on_commands(self) -> Any:
        return columns_of_records(self._source.commands())

    def on_ends(self) -> Mapping[int, int]:
        return self._source.ends()

    def on_passed(self, offsets: Mapping[int, int]) -> Mapping[int, int]:
        return self._source.passed(offsets)

    def on_ages(self) -> Any:
        return self._source.ages()

    def on_close(self) -> None:
        self._closed = True
        self._source.close()

    def on_begin(self, marks: Mapping[str, int] | None, epoch: int) -> None:
        self._sink.open(marks, epoch)

    def on_write(self, outputs: Any) -> None:
        for some in outputs:
            self._sink.write(outputs_of_columns(some))

    def on_flush(self, outputs: Any) -> None:
        self.on_write(outputs)
        self._sink.flush()

    def on_name(self, checkpoint: str, offsets: Any, answered: Sequence[Any] | None, answer: bytes) -> None:
        self._sink.name(checkpoint, offsets, Position(*answered) if answered is not None else None, answer)

    def on_pass(self, place: Sequence[Any], offset: int) -> None:
        self._sink.passed(cast(Place, tuple(place)), offset)

    def on_settle(self, timeout: float) -> bool:
        return self._sink.settle(timeout)

    # -- beside

    def _feed(self) -> None:
        """Records, for whoever asks."""
        while True:
            most, timeout = self._records.receive()
            try:
                answer = ["done", self._next(most, timeout)]
            except Exception as error:
                answer = raised(error)
            self._records.send(answer)
            del answer

    def _next(self, most: int, timeout: float) -> Any:
        inbox = self._source.link.plane.inbox
        # It comes for these when it asks for more: until then a learner that hangs has them to take.
        inbox.ahead = 0
        found = self._source.poll(most, timeout)
        inbox.ahead = len(found)
        return columns_of_records(found)

    def _watch(self) -> None:
        """How it stands, for whoever looks; what happens when nobody does, see above."""
        while True:
            try:
                ask = self._looks.receive(HELD_SECONDS)
            except TimeoutError:
                if self._made is None or self._source.plane is None:
                    continue
                self._seen.clear()
                self._source.link.hold(self._seen.wait)
                ask = self._looks.receive()
            self._seen.set()
            self._looks.send(self._state(ask))

    def _state(self, ask: Mapping[int, int] | str | None) -> Sequence[Any]:
        """Silence, when a broker answered, that none does, lines for the log; and what is asked besides."""
        if self._made is None:
            return 0.0, None, None, self._lines.take(LINES), None
        source, found = self._source, None
        if ask == "threads":
            found = threads()
        elif ask == "waits":
            source.waits()
        elif isinstance(ask, dict) and (traffic := source.traffic(ask)) is not None:
            found = vars(traffic)
        return source.silence, source.answered_at, source.away, self._lines.take(LINES), found


def threads() -> Any:
    """Where the Kafka loop and who waits for it are: see `BesideSource.threads`."""
    frames, found = sys._current_frames(), []
    for thread in threading.enumerate():
        if thread.name in THREADS and (frame := frames.get(thread.ident or 0)) is not None:
            calls = reversed(traceback.extract_stack(frame)[-FRAMES:])
            found.append((thread.name, [(call.name, call.filename, call.lineno) for call in calls]))
    return found


def host(ends: Sequence[socket.socket]) -> None:
    """Serve the worker at the other ends. Never returns: the process ends."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    logging.captureWarnings(True)
    gc.freeze()
    gc.set_threshold(*COLLECTED)
    work, records, looks = map(Channel, ends)
    Host(work, records, looks).serve()


if __name__ == "__main__":
    host([socket.socket(fileno=int(word)) for word in sys.argv[1:]])
