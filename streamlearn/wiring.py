"""What the settings name, made: source, sink and codec; and what they rule out."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from streamlearn.clashes import refuse_clashes
from streamlearn.codec import Codec
from streamlearn.events import ConnectorError, Event, Rejection, Resume, Sink, Source, UsageError
from streamlearn.options import settled
from streamlearn.settings import (
    FILE_SINK,
    KAFKA_SINK,
    KAFKA_SOURCE,
    Settings,
    SettingsError,
    SourceSettings,
    load_object,
    outputs,
    sink_connector,
    source_connector,
)


def named(path: str) -> str:
    """A file as people call it."""
    return "standard output" if path == "-" else path


def prepare(settings: Settings) -> Callable[[], None]:
    """Begin what `make_both` wants and takes a while: a process that loads Kafka's client. Raises nothing.

    What is returned ends it, if that has not been done before.
    """
    with suppress(SettingsError, ConnectorError):
        if (source_connector(settings), sink_connector(settings)) == (KAFKA_SOURCE, KAFKA_SINK):
            begin: Callable[[], Callable[[], None]] = load_object("connectors.kafka.hosted:prepare")
            return begin()
    return lambda: None


def make_both(settings: Settings, stopped: Callable[[], bool]) -> tuple[Source, Sink]:
    """Source and sink for a worker. Raises SettingsError, UsageError.

    On Kafka they work in a process beside this one, whose interpreter they needn't share with the learner.
    That may take a while to begin: raises Stopped if `stopped` says so meanwhile, Unreachable if it doesn't.
    """
    source, sink = source_connector(settings), sink_connector(settings)
    if sink == KAFKA_SINK and (source == KAFKA_SOURCE or getattr(load_object(source), "beside", False)):
        beside: Callable[..., tuple[Source, Sink]] = load_object("connectors.kafka.beside:beside")
        return beside(source, _source_options(settings), sink, _sink_options(settings), stopped)
    made = make_source(settings)
    return made, make_sink(settings, made)


def make_source(settings: Settings) -> Source:
    """The source of the settings. Raises SettingsError, UsageError.

    Its options are the settings of `source`, `seed`, `data_dir`, which columns the codec reads (`scalars`:
    id, label, time and task; `features`), and what `source.options` holds.
    """
    factory: Callable[[dict[str, Any]], Source] = load_object(source_connector(settings))
    return factory(_source_options(settings))


def _source_options(settings: Settings) -> dict[str, Any]:
    name, source, codec = source_connector(settings), settings.source, settings.codec
    problems: list[str] = []
    elsewhere = [*(f"source.{key}" for key in SourceSettings.model_fields), "seed", "data_dir"]
    given = settled(name, source.options, elsewhere, problems)
    if problems:
        raise SettingsError(*problems)
    features = [codec.features] if isinstance(codec.features, str) else codec.features
    options = source.model_dump() | {"seed": settings.seed, "data_dir": settings.data_dir}
    options |= {"scalars": [codec.id, codec.label, codec.time, codec.task], "features": features}
    return options | given


def make_sink(settings: Settings, source: Source) -> Sink:
    """The sink of the settings, which on Kafka works with the source. Raises SettingsError, UsageError."""
    factory: Callable[[dict[str, Any]], Sink] = load_object(sink_connector(settings))
    return factory(_sink_options(settings) | {"source": source})


def _sink_options(settings: Settings) -> dict[str, Any]:
    options = settings.sink.model_dump() | outputs(settings)._asdict()
    options |= {"mode": settings.delivery.mode}
    for name in ("bootstrap_servers", "security", "deadline", "patience"):
        options[name] = options.get(name) or settings.source.model_dump()[name]
    return options


def make_codec(settings: Settings) -> Codec:
    """The codec of the settings."""
    return cast(Codec, load_object(settings.codec.connector)(settings.codec))


def read_events(settings: Settings, **source: Any) -> list[Event]:
    """All events of the settings' source, without their records. `source`: what differs in its settings."""
    differing = settings.source.model_copy(update=source)
    reader, codec = make_source(settings.model_copy(update={"source": differing})), make_codec(settings)
    reader.open(Resume())
    found: list[Event] = []
    while not reader.ended:
        for item in codec.decode(reader.poll(1024, 0.0)):
            if isinstance(item, Rejection):
                raise SettingsError(f"{reader.topic}: {item.reason}: {item.detail}")
            if isinstance(item, Event):
                item.record = None
                found.append(item)
    reader.close()
    return found


def read_tests(settings: Settings, split: str = "test") -> list[Event]:
    """Examples of the settings' data set to ask about: all of the split, whatever the stream takes of its
    own part."""
    options = {name: n for name, n in settings.source.options.items() if name == "validation"}
    return read_events(settings, split=split, order="as_is", options=options)


def refuse_own_input(settings: Settings) -> None:
    """Outputs must not go to the very file, or topic, that is read. Raises UsageError, SettingsError."""
    refuse_clashes(settings)
    read = stat_of(settings.source.path, settings.source.options.get("fd") or 0)
    if read is None or not stat.S_ISREG(read.st_mode) or sink_connector(settings) != FILE_SINK:
        return
    for name, path in zip(("predictions", "dead_letters"), outputs(settings), strict=False):
        written = stat_of(path, 1)
        if written is not None and os.path.samestat(read, written):
            raise UsageError(
                f"sink.{name} ({named(path)}) is the file that is read: it would be appended to your input; "
                "name another file"
            )


def stat_of(path: str | None, descriptor: Any) -> os.stat_result | None:
    """Of a file, or of `descriptor` where the path is "-"; None if there is no such file.

    descriptor: as the settings have it. What can't be one, the source refuses with a sentence.
    """
    try:
        return None if path is None else os.fstat(int(descriptor)) if path == "-" else os.stat(path)
    except (OSError, ValueError, TypeError, OverflowError):
        return None


def report_writable(settings: Settings) -> None:
    """Can the report be written, once there is one? Raises UsageError, OSError."""
    if settings.report is None:
        return
    try:
        writable(settings.report)
    except NotADirectoryError as error:
        raise UsageError(
            f"report is {settings.report}, but {error.filename}: not a folder; the report is several files: "
            "name a folder, which will be made"
        ) from None


def writable(folder: str) -> None:
    """Is it there and writable, or can it be made? Raises OSError."""
    folder = os.path.abspath(folder)
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        raise OSError(errno.ENOTDIR, "not a folder", folder)
    if not os.access(folder, os.W_OK):
        raise OSError(errno.EACCES, "not writable", folder)
