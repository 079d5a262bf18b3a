"""`streamlearn run` and `check`: settings to a worker, signals to its stop, errors to a status."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch

from streamlearn import __version__
from streamlearn.checkpoint import CheckpointStore, Locked, NothingWhole, WrongFormat
from streamlearn.codec import Codec
from streamlearn.durable import Disagreement, Learner, check_settings, restore, resume_of, untouched
from streamlearn.events import (
    ConnectorError,
    Event,
    Rejection,
    Resume,
    Sink,
    Source,
    StateMismatch,
    UsageError,
)
from streamlearn.exporter import Exporter, ExporterError
from streamlearn.flags import load_settings
from streamlearn.logs import setup
from streamlearn.nets import NetError
from streamlearn.observe import Vitals
from streamlearn.report import figures, write_report
from streamlearn.settings import Settings, SettingsError, load_object, sink_connector, source_connector
from streamlearn.worker import Worker

log = logging.getLogger(__name__)

UNEXPECTED, USAGE, REFUSED, UNREACHABLE, NOT_WRITABLE = 1, 2, 3, 4, 6

REFUSALS = (StateMismatch, Disagreement, NothingWhole, WrongFormat, Locked)


def make_source(settings: Settings) -> Source:
    """The source of the settings. Raises SettingsError, UsageError."""
    factory: Callable[[dict[str, Any]], Source] = load_object(source_connector(settings))
    options = settings.source.model_dump() | {"seed": settings.seed, "data_dir": settings.data_dir}
    return factory(options | settings.source.options)


def make_sink(settings: Settings) -> Sink:
    """The sink of the settings. Raises SettingsError, UsageError."""
    factory: Callable[[dict[str, Any]], Sink] = load_object(sink_connector(settings))
    options = settings.sink.model_dump()
    if options["dead_letters"] is None:
        options["dead_letters"] = os.path.join(settings.checkpoint.folder, "dead_letters.jsonl")
    return factory(options)


def make_codec(settings: Settings) -> Codec:
    """The codec of the settings."""
    return cast(Codec, load_object(settings.codec.connector)(settings.codec))


@contextmanager
def stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """SIGINT and SIGTERM call `stop`; a second one of them ends the process at once."""

    def first(number: int, _: object) -> None:
        for name in before:
            signal.signal(name, signal.SIG_DFL)
        stop()
        # Said last: a second signal that answers to this line must find the default in place.
        log.info("%s: stopping after a checkpoint (again: stop at once)", signal.Signals(number).name)

    before = {name: signal.signal(name, first) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def run(words: Sequence[str]) -> int:
    """The worker. Returns the exit status."""
    settings = load_settings(words, os.environ)
    setup(settings.log.level, settings.log.format)
    return guarded(lambda: _run(settings))


def guarded(work: Callable[[], int]) -> int:
    """Do `work`; every error that has a status of its own becomes one clear line and that status."""
    try:
        return work()
    except (SettingsError, UsageError, ExporterError, NetError) as error:
        log.error("%s", error)
        return USAGE
    except REFUSALS as error:
        log.error("%s", error)
        return REFUSED
    except ConnectorError as error:
        log.error("%s", error)
        return UNREACHABLE
    except OSError as error:
        log.error("%s: %s", error.filename or "writing", error.strerror or error)
        return NOT_WRITABLE
    except Exception:
        log.exception("unexpected error (please report it)")
        return UNEXPECTED


def _run(settings: Settings) -> int:
    if settings.model.device == "cpu" or not torch.cuda.is_available():
        torch.use_deterministic_algorithms(True)
    store = CheckpointStore(settings.checkpoint.folder, settings.checkpoint.keep)
    source, codec = make_source(settings), make_codec(settings)
    vitals = Vitals(settings.exporter.stall_seconds)
    try:
        worker = Worker(settings, source, make_sink(settings), codec, store, vitals)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    exporter = Exporter(vitals, settings.exporter.host, settings.exporter.port)
    _lock(store)
    try:
        with stopped_by_signals(worker.stop):
            url = exporter.start() if settings.exporter.enabled else None
            status = worker.run(lambda: print(banner(settings, worker, url), file=sys.stderr, flush=True))
    finally:
        exporter.close()
        store.unlock()
    if settings.report is not None:
        write_report(settings, {settings.method.name: figures(vitals.observation)}, worker.curve)
    return status


def _lock(store: CheckpointStore) -> None:
    try:
        store.lock()
    except OSError as error:
        raise OSError(
            error.errno,
            f"the state can't be kept here ({error.strerror}); set checkpoint.folder",
            str(store.folder),
        ) from error


def banner(settings: Settings, worker: Worker, url: str | None) -> str:
    """What a person wants to know when it starts."""
    learner, model = worker.learner, settings.model
    dead = settings.sink.dead_letters or os.path.join(settings.checkpoint.folder, "dead_letters.jsonl")
    place = ", ".join(f"record {offset}" for offset in worker.offsets.values()) or "the start"
    resumed = worker.resumed
    came = f"goes on from {resumed.id}, step {resumed.body['step']}" if resumed else "a first start"
    modifiers = "".join(f" + {name}" for name in settings.method.modifiers)
    shape = list(learner.schema.shape) if learner.schema else "to be found in the first events"
    rows = {
        "reads": f"{worker.source.topic} from {place}",
        "writes": f"predictions to {_named(settings.sink.predictions)}, dead letters to {_named(dead)}",
        "state": f"{settings.checkpoint.folder}: {came}, epoch {worker.epoch}",
        "learns": f"{settings.method.name}{modifiers}, net {model.net}, shape of x {shape}, "
        f"memory {settings.memory.capacity} ({settings.memory.policy})",
        "on": f"{learner.device}, {model.threads} thread(s), torch {torch.__version__}",
        "metrics": f"{url}/metrics" if url else "off",
    }
    return "\n".join([f"streamlearn {__version__}", *(f"  {name:<8} {text}" for name, text in rows.items())])


def _named(path: str) -> str:
    return "standard output" if path == "-" else path


SAMPLE = 100
"""Records that `check` decodes."""


def check(words: Sequence[str]) -> int:
    """Say what `run` would do with these settings. Changes nothing."""
    settings = load_settings(words, os.environ)
    setup(settings.log.level, settings.log.format)
    return guarded(lambda: _check(settings))


def _check(settings: Settings) -> int:
    try:
        learner = Learner(settings)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    make_sink(settings)
    store = CheckpointStore(settings.checkpoint.folder, settings.checkpoint.keep)
    found = store.newest(lambda text: print(f"warning: {text}"))
    source = make_source(settings)
    resume = Resume()
    if found is None:
        print(f"state: none in {settings.checkpoint.folder}; a first start")
    else:
        manifest, parts = found
        if not untouched(manifest):
            for change in check_settings(settings, manifest):
                print(f"setting adopted: {change}")
            restore(learner, manifest, parts)
        resume = resume_of(manifest)
        print(
            f"state: goes on from {manifest.id}, step {manifest.body['step']}, offsets {dict(resume.offsets)}"
        )
    _check_writable(settings)
    if settings.source.path == "-":
        print("source: standard input (not read by check)")
    else:
        _sample(settings, source, resume, learner)
    print("settings are fine")
    return 0


def _check_writable(settings: Settings) -> None:
    """The folders that `run` writes to. Raises OSError."""
    folder = os.path.abspath(settings.checkpoint.folder)
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    folders = {folder}
    for path in (settings.sink.predictions, settings.sink.dead_letters):
        if path not in (None, "-"):
            folders.add(os.path.dirname(os.path.abspath(path)))
    for folder in sorted(folders):
        if not os.path.isdir(folder):
            raise UsageError(f"the folder {folder} does not exist: make it, or write elsewhere")
        if not os.access(folder, os.W_OK):
            raise OSError(13, "not writable", folder)


def _sample(settings: Settings, source: Source, resume: Resume, learner: Learner) -> None:
    source.open(resume)
    try:
        records = source.poll(SAMPLE, 5.0)
    finally:
        source.close()
    items = make_codec(settings).decode(records)
    outputs = [*learner.learn(items), *learner.settle_now()]
    bad = [output for output in outputs if isinstance(output, Rejection)]
    labels = {item.y for item in items if isinstance(item, Event) and item.y is not None}
    print(f"source: {source.topic}: {len(records)} records read, {len(bad)} of them dead letters")
    for rejection in bad[:5]:
        print(f"  record {rejection.position.offset}: {rejection.reason}: {rejection.detail}")
    if learner.schema is not None:
        print(f"x: shape {list(learner.schema.shape)}, {learner.schema.dtype}; labels so far: {len(labels)}")
