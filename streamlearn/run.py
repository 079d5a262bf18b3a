"""`streamlearn run` and `check`: settings to a worker, signals to its stop, errors to a status."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import signal
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from streamlearn import __version__
from streamlearn.checkpoint import CheckpointStore, Locked, NothingWhole, WrongFormat
from streamlearn.cli import STOP
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
    Unreachable,
    UsageError,
)
from streamlearn.exporter import Exporter, ExporterError
from streamlearn.flags import load_settings
from streamlearn.logs import setup
from streamlearn.nets import NetError
from streamlearn.observe import Vitals
from streamlearn.report import figures, knowledge, write_report
from streamlearn.settings import Settings, SettingsError, load_object, sink_connector, source_connector
from streamlearn.trainer import BudgetError
from streamlearn.worker import Worker

log = logging.getLogger(__name__)

OF_SETTINGS = (SettingsError, UsageError, ExporterError, NetError, BudgetError)
"""Errors that say what to set otherwise."""

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
    return factory(settings.sink.model_dump() | {"dead_letters": dead_letters(settings)})


def dead_letters(settings: Settings) -> str:
    """The file of the dead letters."""
    return settings.sink.dead_letters or os.path.join(settings.checkpoint.folder, "dead_letters.jsonl")


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
            if not isinstance(item, Event):
                raise SettingsError(f"{reader.topic}: {item.reason}: {item.detail}")
            item.record = None
            found.append(item)
    reader.close()
    return found


def run(words: Sequence[str]) -> int:
    """The worker. Returns the exit status."""
    settings = load_settings(words, os.environ)
    setup(settings.log.level, settings.log.format)
    return guarded(lambda: _run(settings))


def guarded(work: Callable[[], int]) -> int:
    """Do `work`; every error that has a status of its own becomes one clear line and that status."""
    try:
        return work()
    except OF_SETTINGS as error:
        log.error("%s", error)
        return USAGE
    except REFUSALS as error:
        log.error("%s", error)
        return REFUSED
    except ConnectorError as error:
        log.error("%s", error)
        return UNREACHABLE
    except OSError as error:
        if error.errno == errno.ENOMEM:
            return _no_memory(error)
        log.error("%s: %s", error.filename or "writing", error.strerror or error)
        return NOT_WRITABLE
    except Exception as error:
        if isinstance(error, MemoryError) or (
            isinstance(error, RuntimeError) and any(words in str(error) for words in ALLOCATION)
        ):
            return _no_memory(error)
        log.exception("unexpected error (please report it)")
        return UNEXPECTED


ALLOCATION = (
    "DefaultCPUAllocator",
    "Storage size calculation overflowed",
    "out of memory",
    "allocate memory",
    "not enough memory",
)
"""What torch says, with a RuntimeError, where there is no memory."""


def _no_memory(error: Exception) -> int:
    log.error(
        "there is not enough memory (%s): set memory.capacity, codec.shape or model.width lower",
        str(error).partition("\n")[0] or type(error).__name__,
    )
    return USAGE


def _run(settings: Settings) -> int:
    if settings.model.device == "cpu" or not torch.cuda.is_available():
        torch.set_deterministic_debug_mode("error")
    _refuse_own_input(settings)
    _report_writable(settings)
    store = CheckpointStore(settings.checkpoint.folder, settings.checkpoint.keep)
    source, codec = make_source(settings), make_codec(settings)
    vitals = Vitals(settings.exporter.stall_seconds)
    try:
        worker = Worker(settings, source, make_sink(settings), codec, store, vitals)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    exporter = Exporter(vitals, settings.exporter.host, settings.exporter.port)
    if STOP.asked is not None:
        log.info("%s: stopped before anything was begun", STOP.asked.name)
        return 0

    def stop(number: signal.Signals) -> None:
        worker.stop()
        # Said last: a second signal that answers to this line must find the default in place.
        log.info("%s: stopping after a checkpoint (again: stop at once)", number.name)

    _lock(store)
    STOP.tell(stop)
    try:
        url = exporter.start() if settings.exporter.enabled else None
        status = worker.run(lambda: print(banner(settings, worker, url), file=sys.stderr, flush=True))
    finally:
        STOP.tell(None)
        exporter.close()
        # A write that hangs may yet go on: the lock goes with the process.
        if not worker.keeper.hangs:
            store.unlock()
    if status == 0 and STOP.asked is None:
        _doubt(settings, worker)
    if settings.report is not None:
        found = figures(vitals.observation) | knowledge(worker.learner)
        write_report(settings, {settings.method.name: found}, worker.curve)
    return status


def _doubt(settings: Settings, worker: Worker) -> None:
    """Say it, and loudly, where a finite source has ended and nothing came of it."""
    counts = worker.learner.counts
    dead = sum(counts.rejected.values())
    if dead and not counts.records:
        log.error(
            "not one of %d records could be used: all are dead letters (%s). Do codec.features and the "
            "other codec settings say where things are? %s holds the records and what was wrong with each",
            dead,
            ", ".join(f"{reason}: {count}" for reason, count in counts.rejected.most_common(3)),
            _named(dead_letters(settings)),
        )
    elif counts.records and not counts.labeled:
        log.warning(
            "no event had a label: is codec.label right? (it is %r; all %d events were predicted, "
            "nothing was learned)",
            settings.codec.label,
            counts.records,
        )


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
    dead = dead_letters(settings)
    place = ", ".join(f"record {offset}" for offset in worker.offsets.values()) or "the start"
    resumed = worker.resumed
    came = f"goes on from {resumed.id}, step {resumed.body['step']}" if resumed else "a first start"
    modifiers = "".join(f" + {name}" for name in settings.method.modifiers)
    shape = list(learner.schema.shape) if learner.schema else "to be found in the first events"
    net = model.net
    if net == "auto":
        net = ("conv" if len(shape) == 3 else "mlp") if learner.schema else "by the shape of x"
    rows = {
        "reads": f"{worker.source.topic} from {place}",
        "writes": f"predictions to {_named(settings.sink.predictions)}, dead letters to {_named(dead)}",
        "state": f"{settings.checkpoint.folder}: {came}, epoch {worker.epoch}",
        "learns": f"{settings.method.name}{modifiers}, net {net}, shape of x {shape}, "
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
    sink = make_sink(settings)
    _refuse_own_input(settings)
    store = CheckpointStore(settings.checkpoint.folder, settings.checkpoint.keep)
    _refuse_locked(store.folder)
    found = store.newest(lambda text: print(f"warning: {text}"))
    source = make_source(settings)
    resume, marks = Resume(), None
    if found is None:
        print(f"state: none in {settings.checkpoint.folder}; a first start")
    else:
        manifest, parts = found
        if not untouched(manifest):
            for change in check_settings(settings, manifest):
                print(f"setting adopted: {change}")
            restore(learner, manifest, parts)
        resume, marks = resume_of(manifest), manifest.body["outputs"]
        print(
            f"state: goes on from {manifest.id}, step {manifest.body['step']}, offsets {dict(resume.offsets)}"
        )
    _check_outputs(settings)
    look: Callable[[Mapping[str, int] | None], list[str]] | None = getattr(sink, "look", None)
    for note in look(marks) if look is not None else ():
        print(f"warning: {note}")
    _report_writable(settings)
    if settings.exporter.enabled:
        Exporter(
            Vitals(settings.exporter.stall_seconds), settings.exporter.host, settings.exporter.port
        ).probe()
    kind = _read_once(settings)
    if kind is None:
        _sample(settings, source, resume, learner)
    else:
        print(f"source: {kind} (not read by check)")
    print("settings are fine")
    return 0


def _refuse_own_input(settings: Settings) -> None:
    """Outputs must not be appended to the very file that is read. Raises UsageError."""
    read = _stat(settings.source.path, int(settings.source.options.get("fd") or 0))
    if read is None or not stat.S_ISREG(read.st_mode) or settings.sink.connector is not None:
        return
    for name, path in (("predictions", settings.sink.predictions), ("dead_letters", dead_letters(settings))):
        written = _stat(path, 1)
        if written is not None and os.path.samestat(read, written):
            raise UsageError(
                f"sink.{name} ({_named(path)}) is the file that is read: it would be appended to your input; "
                "name another file"
            )


def _stat(path: str | None, descriptor: int) -> os.stat_result | None:
    """Of a file, or of `descriptor` where the path is "-"; None if there is no such file."""
    try:
        return None if path is None else os.fstat(descriptor) if path == "-" else os.stat(path)
    except (OSError, ValueError):
        return None


def _refuse_locked(folder: Path) -> None:
    """Raises Locked if a worker runs there. Makes nothing, and lets go at once."""
    if not (folder / "lock").is_file():
        return
    with open(folder / "lock") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = handle.read().strip() or "unknown"
            raise Locked(f"process {owner} already works in {folder}: `run` would be refused") from None


def _report_writable(settings: Settings) -> None:
    if settings.report is not None:
        _writable(settings.report)


def _writable(folder: str) -> None:
    """Is it there and writable, or can it be made? Raises OSError."""
    folder = os.path.abspath(folder)
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        raise OSError(errno.ENOTDIR, "not a folder", folder)
    if not os.access(folder, os.W_OK):
        raise OSError(errno.EACCES, "not writable", folder)


def _check_outputs(settings: Settings) -> None:
    """Can what `run` writes to be written? Raises OSError, Unreachable."""
    state = os.path.abspath(settings.checkpoint.folder)
    _writable(state)
    if settings.sink.connector is not None:
        return
    for name, path in (("predictions", settings.sink.predictions), ("dead_letters", dead_letters(settings))):
        if path == "-":
            continue
        folder = os.path.dirname(os.path.abspath(path))
        # The state's own folder (and those above it) will have been made by then.
        if not os.path.isdir(folder) and not f"{state}/".startswith(f"{folder}/"):
            raise Unreachable(f"{path} can't be written: the folder {folder} does not exist; make it")
        if os.path.isdir(path):
            raise Unreachable(f"{path} can't be written: it is a folder; sink.{name} names a file")
        target = path if os.path.exists(path) else folder
        if os.path.exists(target) and not os.access(target, os.W_OK):
            raise Unreachable(f"{path} can't be written: {target} is not writable")


def _read_once(settings: Settings) -> str | None:
    """What the source is, if reading it would take its records from the worker."""
    path = settings.source.path
    if path == "-":
        return "standard input"
    found = _stat(path, 0)
    if found is None or stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode):
        return None
    return f"{path}, which is no regular file"


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
