"""`streamlearn run` and `check`: settings to a worker, signals to its stop, errors to a status."""

from __future__ import annotations

import errno
import gc
import logging
import signal
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import torch

from streamlearn import __version__
from streamlearn.checkpoint import CheckpointStore, Locked, NothingWhole, WrongFormat
from streamlearn.cli import STOP
from streamlearn.collector import seldom_collected
from streamlearn.durable import Disagreement
from streamlearn.events import (
    ConnectorError,
    Fenced,
    StateMismatch,
    Stopped,
    UsageError,
)
from streamlearn.exporter import Exporter, ExporterError
from streamlearn.logs import about, setup, sweep
from streamlearn.nets import NetError
from streamlearn.observe import Vitals
from streamlearn.report import figures, knowledge, last_word, own_error, write_report
from streamlearn.settings import (
    Settings,
    SettingsError,
    outputs,
)
from streamlearn.trainer import BudgetError
from streamlearn.watchdog import Watchdog
from streamlearn.wiring import make_both, make_codec, named, refuse_own_input, report_writable
from streamlearn.worker import Worker

log = logging.getLogger(__name__)

OF_SETTINGS = (SettingsError, UsageError, ExporterError, NetError, BudgetError)
"""Errors that say what to set otherwise."""

UNEXPECTED, USAGE, REFUSED, UNREACHABLE, NOT_WRITABLE, FENCED = 1, 2, 3, 4, 6, 7

REFUSALS = (StateMismatch, Disagreement, NothingWhole, WrongFormat, Locked)


def run(settings: Settings) -> int:
    """The worker. Returns the exit status."""
    setup(settings.log.level, settings.log.format)

    def work() -> int:
        try:
            return _run(settings)
        finally:
            sweep(last=True)  # before the last word

    with seldom_collected():
        return guarded(work)


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
    except Fenced as error:
        log.error("%s", error)
        return FENCED
    except ConnectorError as error:
        log.error("%s", error)
        return UNREACHABLE
    except BrokenPipeError:
        raise  # whoever read our standard output is gone: `main` knows what to do
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
    refuse_own_input(settings)
    report_writable(settings)
    store = CheckpointStore(settings.checkpoint.folder, settings.checkpoint.keep)
    codec = make_codec(settings)
    try:
        source, sink = make_both(settings, lambda: STOP.asked is not None)
    except Stopped as stopped:
        log.info("%s", stopped)
        return 0
    vitals = Vitals(settings.exporter.stall_seconds)
    try:
        worker = Worker(settings, source, sink, codec, store, vitals)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    exporter = Exporter(vitals, settings.exporter.host, settings.exporter.port)
    if STOP.asked is not None:
        log.info("%s: stopped before anything was begun", STOP.asked.name)
        source.close()
        return 0

    def stop(number: signal.Signals) -> None:
        worker.stop()
        # Said last: a second signal that answers to this line must find the default in place.
        log.info("%s: stopping after a checkpoint (again: stop at once)", number.name)

    def started() -> None:
        gc.freeze()
        about(lambda: {"step": worker.learner.counts.steps, "epoch": worker.epoch})
        if settings.log.format == "json":
            log.info("started", extra={"fields": begins(settings, worker, metrics)})
        else:
            print(banner(settings, worker, metrics), file=sys.stderr, flush=True)

    _lock(store, shared=bool(worker.group))
    STOP.tell(stop)
    try:
        url = exporter.start() if settings.exporter.enabled else None
        metrics = f"{url}/metrics" if url else "off"
        if exporter.everywhere:
            metrics += " (all interfaces)"
        vitals.cast = lambda role: log.info(
            "group %s: %s, metrics %s", settings.source.group_id, role, metrics
        )
        with Watchdog(vitals):
            status = worker.run(started)
    finally:
        STOP.tell(None)
        about(dict)
        exporter.close()
        # A write that hangs may yet go on: the lock goes with the process.
        if not worker.keeper.hangs:
            store.unlock()
    if status == 0 and STOP.asked is None:
        _doubt(settings, worker)
    if settings.report is not None:
        learner, seen, asked = worker.learner, vitals.observation, last_word(worker.learner)
        found = figures(seen) | own_error(learner) | knowledge(learner, asked)
        curve = worker.instruments.curve
        rows = curve.rows if asked is None else curve.ended(seen, asked)
        write_report(settings, {settings.method.name: found}, rows, datetime.now(UTC))
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
            counts.reasons,
            named(outputs(settings).dead_letters),
        )
    elif counts.records and not counts.labeled:
        log.warning(
            "no event had a label: is codec.label right? (it is %r; all %d events were predicted, "
            "nothing was learned)",
            settings.codec.label,
            counts.records,
        )


def _lock(store: CheckpointStore, shared: bool) -> None:
    try:
        store.lock(shared)
    except OSError as error:
        raise OSError(
            error.errno,
            f"the state can't be kept here ({error.strerror}); set checkpoint.folder",
            str(store.folder),
        ) from error


def resumes_at(offsets: Mapping[int, int]) -> str:
    """Where it goes on, in one line however many partitions there are."""
    nexts = [offset for _, offset in sorted(offsets.items())]
    if not any(nexts):
        return "the start"
    if len(nexts) == 1:
        return f"record {nexts[0]}"
    said = ", ".join(map(str, nexts)) if len(nexts) <= 8 else f"{min(nexts)} to {max(nexts)}"
    return f"{len(nexts)} partitions, records {said}"


def banner(settings: Settings, worker: Worker, metrics: str) -> str:
    """What a person wants to know when it starts."""
    rows = begins(settings, worker, metrics)
    return "\n".join([f"streamlearn {__version__}", *(f"  {name:<8} {text}" for name, text in rows.items())])


def begins(settings: Settings, worker: Worker, metrics: str) -> dict[str, str]:
    """What is read and written, where the state is, what learns on which device, where the metrics are."""
    learner, model = worker.learner, settings.model
    answers = outputs(settings)
    place = resumes_at(worker.offsets)
    resumed = worker.resumed
    came = f"goes on from {resumed.id}, step {resumed.body['step']}" if resumed else "a first start"
    modifiers = "".join(f" + {name}" for name in settings.method.modifiers)
    shape = list(learner.schema.shape) if learner.schema else "to be found in the first events"
    net = model.net
    if net == "auto":
        net = ("conv" if len(shape) == 3 else "mlp") if learner.schema else "by the shape of x"
    read = settings.source
    where = f", Kafka at {read.bootstrap_servers}, group {read.group_id}" if read.bootstrap_servers else ""
    return {
        "reads": f"{worker.source.topic} from {place}{where}",
        "writes": f"predictions to {named(answers.predictions)}, "
        f"dead letters to {named(answers.dead_letters)}",
        "state": f"{settings.checkpoint.folder}: {came}, epoch {worker.epoch}",
        "learns": f"{settings.method.name}{modifiers}, net {net}, shape of x {shape}, "
        f"memory {settings.memory.capacity} ({settings.memory.policy})",
        "on": f"{learner.device}, {model.threads} thread(s), torch {torch.__version__}",
        "metrics": metrics,
    }
