"""`streamlearn check`: what `run` would do with these settings, changing nothing."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from streamlearn.checkpoint import CheckpointStore, Locked
from streamlearn.durable import Learner, check_settings, restore, resume_of, untouched
from streamlearn.events import Event, Rejection, Resume, Source, Unreachable
from streamlearn.exporter import Exporter
from streamlearn.flags import load_settings
from streamlearn.group import group_of
from streamlearn.logs import setup
from streamlearn.observe import Vitals
from streamlearn.run import guarded
from streamlearn.settings import (
    FILE_SINK,
    KAFKA_SINK,
    Settings,
    SettingsError,
    commands_topic,
    outputs,
    sink_connector,
)
from streamlearn.wiring import (
    make_codec,
    make_sink,
    make_source,
    refuse_own_input,
    report_writable,
    stat_of,
    writable,
)

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
    refuse_own_input(settings)
    source = make_source(settings)
    sink = make_sink(settings, source)
    store = CheckpointStore(settings.checkpoint.folder, settings.checkpoint.keep)
    _refuse_locked(store.folder)
    group = group_of(source, sink, store, settings)
    claim = group.survey()
    found = store.newest(lambda text: print(f"warning: {text}")) if claim is None else group.found(claim)
    resume, marks = Resume(), None
    if claim is not None and found is None:
        resume = Resume(claim.start)
    if found is None:
        print(f"state: none in {settings.checkpoint.folder}; a first start")
    else:
        manifest, parts = found
        resume, marks = resume_of(manifest), manifest.body["outputs"]
        if not untouched(manifest, claim.published if claim is not None else None, sink):
            for change in check_settings(settings, manifest):
                print(f"setting adopted: {change}")
            restore(learner, manifest, parts)
        elif claim is None:
            resume = Resume()
        print(
            f"state: goes on from {manifest.id}, step {manifest.body['step']}, offsets {dict(resume.offsets)}"
        )
    if claim is not None:
        resume = replace(resume, commands=group.commands_at(claim, found, commands_topic(settings)))
    _check_outputs(settings)
    look: Callable[[Mapping[str, int] | None], list[str]] | None = getattr(sink, "look", None)
    for note in look(marks) if look is not None else ():
        print(f"warning: {note}")
    report_writable(settings)
    if settings.exporter.enabled:
        Exporter(
            Vitals(settings.exporter.stall_seconds), settings.exporter.host, settings.exporter.port
        ).probe()
    kind = _read_once(settings)
    if kind is None:
        _sample(settings, source, resume, learner)
    else:
        print(f"source: {kind} (not read by check)")
    if sink_connector(settings) == KAFKA_SINK:
        # To try that is to write, and to fence the worker that runs.
        print("sink: whether the broker lets us write was not tried (WRITE on topics and transactional id)")
    print("settings are fine")
    return 0


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


def _check_outputs(settings: Settings) -> None:
    """Can what `run` writes to be written? Raises OSError, Unreachable."""
    state = os.path.abspath(settings.checkpoint.folder)
    writable(state)
    if sink_connector(settings) != FILE_SINK:
        return
    for name, path in zip(("predictions", "dead_letters"), outputs(settings), strict=False):
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
    found = stat_of(path, 0)
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
