"""Log lines on standard error, for people or for machines, and no flood of them.

Only the loggers of streamlearn, of its connectors and of Python's warnings are set up: the loggers of
libraries, and a program that uses streamlearn as one, keep theirs.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from copy import copy
from datetime import UTC, datetime
from typing import Any, TextIO

import orjson

LOGGERS = ("streamlearn", "connectors", "py.warnings")
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
INTERVAL = 10.0
"""Seconds for which a repeated warning or error is held back."""
MOST_KEYS = 1000
"""Different messages that are remembered for it."""

_PLACEHOLDER, _LETTERS = re.compile(r"%[^a-zA-Z]*[a-zA-Z]"), re.compile("[a-zA-Z]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def setup(level: str = "info", format: str = "human", stream: TextIO | None = None) -> None:
    """Log from `level` (a key of LEVELS) up, as "human" or "json", to `stream` (default: standard error).

    Called again it replaces what it had set up. Raises ValueError for another level or format.
    """
    if level not in LEVELS:
        raise ValueError(f"level must be one of {', '.join(LEVELS)}, not {level!r}")
    if format not in ("human", "json"):
        raise ValueError(f"format must be human or json, not {format!r}")
    teardown()
    handler = _Handler(stream, RateLimit())
    handler.setFormatter(Human() if format == "human" else Json())
    for name in LOGGERS:
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(LEVELS[level])
    logging.captureWarnings(True)


def about(facts: Callable[[], Mapping[str, Any]]) -> None:
    """What every line says beside its own from now on: `facts`, asked for each. As JSON all of them, for
    people the `step`, of warnings and errors. From any thread; replaced by the next call, and by `setup`."""
    for handler in _handlers():
        handler.about = facts


def sweep(last: bool = False) -> None:
    """Say what was held back for long enough (`last`: all of it): the last one of its kind may never come."""
    for handler in _handlers():
        handler.sweep(last)


def complain(text: str, level: int = logging.ERROR, before: str = "streamlearn: ") -> None:
    """A command's own word on standard error: a plain line, or like all others where `setup` said json."""
    if any(isinstance(handler.formatter, Json) for handler in _handlers()):
        logging.getLogger("streamlearn").log(level, "%s", text)
    else:
        print(f"{before}{text}", file=sys.stderr, flush=True)


def _handlers() -> set[_Handler]:
    found = (one for name in LOGGERS for one in logging.getLogger(name).handlers)
    return {one for one in found if isinstance(one, _Handler)}


def teardown() -> None:
    """Undo `setup`."""
    sweep(last=True)
    logging.captureWarnings(False)
    for name in LOGGERS:
        logger = logging.getLogger(name)
        for handler in [one for one in logger.handlers if isinstance(one, _Handler)]:
            logger.removeHandler(handler)
            logger.setLevel(logging.NOTSET)


class _Handler(logging.Handler):
    """Writes to a stream, or to what sys.stderr is at that moment."""

    def __init__(self, stream: TextIO | None, limit: RateLimit) -> None:
        super().__init__()
        self.stream, self._limit = stream, limit
        self.addFilter(limit)
        self.about: Callable[[], Mapping[str, Any]] = dict

    def sweep(self, last: bool) -> None:
        self.acquire()
        try:
            for record in self._limit.sweep(last):
                self.emit(record)
        finally:
            self.release()

    def handle(self, record: logging.LogRecord) -> bool:
        record.about = dict(self.about())  # now: a line that is held back is of this moment
        return super().handle(record)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            stream = self.stream or sys.stderr
            stream.write(self.format(record) + "\n")
            stream.flush()
        except Exception:
            self.handleError(record)


class RateLimit(logging.Filter):
    """Lets a warning or error through once in `interval` seconds; the next one, or `sweep`, says how many
    were held back.

    Two records are the same if logger, level and message are, the message before its arguments are put in.
    Differences in the arguments are lost in between: a list of things belongs into one message.
    """

    def __init__(self, interval: float = INTERVAL, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.interval, self.clock = interval, clock
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, int, str], tuple[float, int, logging.LogRecord | None]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        template = str(record.msg)
        if not _LETTERS.search(_PLACEHOLDER.sub("", template)):  # "%s: %s" says nothing by itself
            template = record.getMessage()
        key = (record.name, record.levelno, template)
        now = self.clock()
        with self._lock:
            last, held, _ = self._seen.get(key, (None, 0, None))
            if last is not None and now - last < self.interval:
                kept = copy(record)
                kept.exc_info = None  # the first one told it; frames hold on to what is in them
                self._seen[key] = (last, held + 1, kept)
                return False
            # Put behind the others, so that the first ones are always the oldest.
            self._seen.pop(key, None)
            self._seen[key] = (now, 0, None)
            if len(self._seen) > MOST_KEYS:
                del self._seen[next(iter(self._seen))]
        record.suppressed = held
        return True

    def sweep(self, last: bool = False) -> list[logging.LogRecord]:
        """The newest of each kind that was held back, once it has been for `interval` (`last`: all)."""
        found = []
        with self._lock:
            now = self.clock()
            for key, (since, held, record) in list(self._seen.items()):
                if record is not None and (last or now - since >= self.interval):
                    record.suppressed = held - 1
                    found.append(record)
                    del self._seen[key]
                    self._seen[key] = (now, 0, None)
        return found


def _message(record: logging.LogRecord) -> str:
    text = record.getMessage().strip()
    held = getattr(record, "suppressed", 0)
    return f"{text} (… {held} more like this in between)" if held else text


def _time(record: logging.LogRecord, timespec: str) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


class Human(logging.Formatter):
    """`2026-11-21T06:00:00Z WARNING worker [step 7]: message`. Messages may quote what strangers
    wrote: a line that they smuggle in is indented, and control characters don't reach the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        name = record.name.removeprefix("streamlearn.")
        step = getattr(record, "about", {}).get("step")
        if step is not None and record.levelno >= logging.WARNING:
            name += f" [step {step}]"
        text = f"{_time(record, 'seconds')} {record.levelname} {name}: {_message(record)}"
        for more in (record.exc_info and self.formatException(record.exc_info), record.stack_info):
            if more:
                text += f"\n{more}"
        return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text).replace("\n", "\n    ")


class Json(logging.Formatter):
    """One JSON object a line: time, level, logger, message, what `about` and `extra={"fields": {…}}` gave,
    exception."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record, "milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        if held := getattr(record, "suppressed", 0):
            line["suppressed"] = held
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        more = getattr(record, "about", {}) | dict(getattr(record, "fields", None) or {})
        for name, value in more.items():
            line[f"{name}_" if name in line else str(name)] = value
        try:
            return _dumps(line)
        except TypeError:  # a lone surrogate, a number of more than 64 bits, a value that refers to itself
            return _dumps({_clean(name): _clean(value) for name, value in line.items()})


def _dumps(line: dict[str, Any]) -> str:
    options = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
    return orjson.dumps(line, default=str, option=options).decode()


def _clean(value: object) -> str:
    return str(value).encode("utf-8", "backslashreplace").decode()
