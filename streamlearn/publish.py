"""`streamlearn publish`: sends the events of a file or a data set to a topic, each exactly once."""

from __future__ import annotations

import json
import logging
import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from streamlearn.broker_commands import client_options, guarded, number, split, state_folder
from streamlearn.cli import STOP
from streamlearn.flags import load_settings
from streamlearn.logs import setup
from streamlearn.settings import Settings, SettingsError, load_object
from streamlearn.wiring import make_source

log = logging.getLogger(__name__)

PUBLISH = "connectors.kafka.publish:publish"
FORMATS = ("json", "msgpack")
LINE_EVERY = 5.0
"""Seconds between two lines of progress where there is no terminal."""

Tell = Callable[[int, int], None]


class Outcome(Protocol):
    """What the connector says in the end."""

    before: int
    sent: int
    seconds: float
    ended: bool
    keyless: int
    clocked: int


class Input(NamedTuple):
    """The settings that read it, what tells it from other inputs, its bytes; None where that isn't known."""

    settings: Settings
    identity: str | None
    size: int | None


def publish(words: Sequence[str]) -> int:
    """Send events. Returns the exit status."""
    plain, own, flags = split(words, {"again"}, {"rate", "limit", "key", "format", "progress"})
    if len(plain) != 1:
        what = f"one of {', '.join(plain)}" if plain else "a FILE (- is standard input) or a DATASET to send"
        raise SettingsError(f"streamlearn publish wants {what}")
    format = own.get("format")
    if format is not None and format not in FORMATS:
        raise SettingsError(f"--format is {format!r}: it must be one of {', '.join(FORMATS)}")
    limit, rate = number(own, "limit", 1), _rate(own.get("rate", "0"))
    settings = load_settings(flags, os.environ)
    if settings.source.topic is None:
        raise SettingsError("no topic: give --source.bootstrap_servers HOST:PORT --source.topic NAME")
    setup(settings.log.level, settings.log.format)
    of = {
        "topic": settings.source.topic,
        "input": plain[0],
        "again": "again" in own,
        "limit": limit,
        "rate": rate,
        "key": own.get("key"),
        "format": format,
        "marker": own.get("progress", state_folder("publish")),
        "marker_given": "progress" in own,
    }
    return guarded("publish", lambda: _publish(settings, of))


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0 <= rate < float("inf"):
        raise SettingsError(f"--rate is {text!r}: it must be events a second, or 0 for as fast as it goes")
    return rate


def _publish(settings: Settings, of: dict[str, Any]) -> int:
    send: Callable[..., Outcome] = load_object(PUBLISH)
    given = find_input(settings, of["input"])
    source = make_source(given.settings)
    codec = settings.codec.model_dump()
    options = client_options(settings) | of | {"identity": given.identity, "codec": codec}

    def ask(number: signal.Signals) -> None:
        log.info("%s: finishing the transaction (again: stop at once)", number.name)

    STOP.tell(ask)
    try:
        with shown(of, given.size) as tell:
            outcome = send(source, options, tell, lambda: STOP.asked is not None)
    finally:
        STOP.tell(None)
    print(summary(outcome, of, given.identity is not None or of["marker_given"]))
    return 0


def find_input(settings: Settings, word: str) -> Input:
    """A file of that name, else a data set. Raises SettingsError."""
    source = settings.source
    plain = {"topic": None, "connector": None}
    if word != "-" and not os.path.lexists(word) and not any(sign in word for sign in "./\\"):
        reading = source.model_copy(update=plain | {"path": None, "dataset": word})
        parts = [word, source.split, source.order, source.groups, settings.seed, source.options]
        identity = f"dataset:{json.dumps(parts, sort_keys=True, default=str)}"
        return Input(settings.model_copy(update={"source": reading}), identity, None)
    reading = source.model_copy(update=plain | {"path": word, "dataset": None})
    found = settings.model_copy(update={"source": reading})
    if word == "-":
        return Input(found, None, None)
    try:
        about = os.stat(word)
    except FileNotFoundError:
        raise SettingsError(f"there is no file {word} (and no data set has such a name)") from None
    size = about.st_size if stat.S_ISREG(about.st_mode) and _by_bytes(word, source.format) else None
    return Input(found, f"file:{os.path.realpath(word)}", size)


def _by_bytes(path: str, format: str | None) -> bool:
    """Whether the cursor of its records counts the bytes of the file."""
    return format != "npz" and not path.lower().endswith((".gz", ".gzip", ".npz"))


def summary(outcome: Outcome, of: Mapping[str, Any], resumable: bool) -> str:
    """The final line."""
    of_all = outcome.before + outcome.sent
    name, topic = "standard input" if of["input"] == "-" else of["input"], of["topic"]
    if outcome.ended and not outcome.sent and outcome.before:
        return f"nothing to send: all {of_all} events of {name} are in {topic} (--again sends them once more)"
    pace = f" in {outcome.seconds:.1f} s ({outcome.sent / max(outcome.seconds, 1e-9):.0f} events/s)"
    text = f"sent {outcome.sent} events of {name} to {topic}{pace if outcome.sent else ''}"
    if outcome.before:
        text += f", {of_all} with those sent before"
    notes = []
    if outcome.keyless:
        notes.append(f"{outcome.keyless} without a key: they have no {of['key']}")
    if outcome.clocked:
        notes.append(f"{outcome.clocked} with the present time in place of their own")
    if not outcome.ended:
        on = f"the same command{' without --again' if of['again'] else ''} goes on from there"
        if of["limit"] is not None and of_all >= of["limit"]:
            notes.append("that is the --limit")
        else:
            notes.append(f"stopped: {on if resumable else 'with --progress FILE it could be gone on with'}")
    return "; ".join([text, *notes])


@contextmanager
def shown(of: Mapping[str, Any], size: int | None) -> Iterator[Tell]:
    """Shows on standard error how far it is: a bar, or a line every few seconds."""
    if not sys.stderr.isatty():
        yield lines(of, size, time.monotonic)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[events]} events"),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        total = of["limit"] or size
        bar = progress.add_task(f"{of['input']} to {of['topic']}", total=total, events=0)

        def move(count: int, cursor: int) -> None:
            done = count if of["limit"] else cursor
            progress.update(bar, completed=done if total else 0, events=count)

        yield move


def lines(of: Mapping[str, Any], size: int | None, clock: Callable[[], float]) -> Tell:
    """Says it in a log line, every LINE_EVERY seconds of `clock`."""
    last, before = clock(), -1

    def say(count: int, cursor: int) -> None:
        nonlocal last, before
        if before < 0:
            before = count
            if count:
                log.info("%d events were sent before: going on from there", count)
            return
        now = clock()
        if now - last >= LINE_EVERY:
            share = f" ({cursor / size:.0%} of the file)" if size else ""
            log.info(
                "%d events sent to %s%s, %.0f/s", count, of["topic"], share, (count - before) / (now - last)
            )
            last, before = now, count

    return say
