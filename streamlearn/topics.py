"""`streamlearn topics`: creates the topics that a worker needs, or checks them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from streamlearn.broker_commands import UNREACHABLE, USAGE, client_options, guarded, number, split
from streamlearn.clashes import refuse_clashes
from streamlearn.flags import load_settings
from streamlearn.logs import complain, setup
from streamlearn.settings import (
    KAFKA_SINK,
    Settings,
    SettingsError,
    commands_topic,
    load_object,
    outputs,
    sink_connector,
)

ENSURE = "connectors.kafka.admin:ensure_topics"


class Line(Protocol):
    """What the connector says of one topic."""

    purpose: str
    name: str
    partitions: int
    created: bool
    notes: list[str]
    problems: list[str]


def topics(words: Sequence[str]) -> int:
    """Create or check the topics. Returns the exit status."""
    plain, own, flags = split(words, {"check"}, {"partitions", "replication"})
    if plain:
        raise SettingsError(f"unexpected argument {plain[0]!r}: topics are named by settings, see --help")
    partitions, replication = number(own, "partitions", 1), number(own, "replication", 1)
    settings = load_settings(flags, os.environ)
    setup(settings.log.level, settings.log.format)
    return guarded("topics", lambda: _topics(settings, partitions, replication, "check" in own))


def _topics(settings: Settings, partitions: int | None, replication: int | None, check: bool) -> int:
    ensure: Callable[..., list[Line]] = load_object(ENSURE)
    lines: list[Line] = []
    refuse_clashes(settings)
    for servers, wanted in wanted_topics(settings).items():
        of_events = next((line.partitions for line in lines if line.purpose == "events"), 0) or None
        options = client_options(settings, servers)
        lines += ensure(options, wanted, partitions, replication, check, of_events)
    show(lines)
    missing = [line.name for line in lines if not line.partitions]
    if missing:
        complain(
            f"missing: {', '.join(missing)}. `streamlearn topics` without --check creates what is missing"
        )
    problems = [line.name for line in lines if line.problems]
    if problems:
        complain(f"can't be used as they are: {', '.join(problems)}")
    return UNREACHABLE if missing else USAGE if problems else 0


def wanted_topics(settings: Settings) -> Mapping[str, dict[str, str]]:
    """By servers: what for, and the topic's name, the events first. Raises SettingsError."""
    source, sink, names = settings.source, settings.sink, outputs(settings)
    found: dict[str, dict[str, str]] = {}

    def want(servers: str | None, **topics: str) -> None:
        known: Any = client_options(settings, servers)["bootstrap_servers"]
        found.setdefault(known, {}).update({key.replace("_", " "): name for key, name in topics.items()})

    if source.topic is not None:
        want(source.bootstrap_servers, events=source.topic)
    if sink_connector(settings) == KAFKA_SINK:
        want(sink.bootstrap_servers, predictions=names.predictions, dead_letters=names.dead_letters)
    if source.topic is not None:
        want(source.bootstrap_servers, commands=commands_topic(settings), answers=names.answers)
    if not found:
        raise SettingsError(
            "no topic is named: give --source.bootstrap_servers HOST:PORT --source.topic NAME"
        )
    return found


def show(lines: Sequence[Line]) -> None:
    """On standard output: purpose, name, partitions, created or there already; then what is to be said."""
    wide = max(len(line.name) for line in lines)
    for line in lines:
        many = f"{line.partitions} partition{'s' if line.partitions != 1 else ''}"
        state = "created" if line.created else "there already" if line.partitions else "missing"
        print(f"{line.purpose:<12}  {line.name:<{wide}}  {many if line.partitions else '-':<13}  {state}")
        for word, texts in (("note", line.notes), ("problem", line.problems)):
            for text in texts:
                print(f"{'':<12}  {word}: {text}")
