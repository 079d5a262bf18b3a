"""The learner with a place on disk: what the worker runs and what notebooks use."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch

from streamlearn.bookkeeping import plain_held
from streamlearn.checkpoint import CheckpointStore, Manifest, NothingWhole
from streamlearn.config import CoreSettings
from streamlearn.events import Resume, Sink, Source
from streamlearn.learner import OnlineLearner
from streamlearn.ledger import Ledger
from streamlearn.model import choose_device
from streamlearn.settings import Settings, state_settings
from streamlearn.state import Part, Snapshot

log = logging.getLogger(__name__)

OTHERWISE = (
    "remove the predictions and dead letters that were written with them, or start with another "
    "--checkpoint.folder and other output files"
)


class Disagreement(Exception):
    """The checkpoint was made with other settings; the message names each of them."""


class Learner(OnlineLearner):
    """`OnlineLearner` that can be saved to a folder and loaded from one."""

    def __init__(self, settings: CoreSettings | None = None) -> None:
        super().__init__(settings if settings is not None else Settings())
        if isinstance(self.settings, Settings) and self.settings.delivery.ledger:
            self.ledger = Ledger()

    def save(self, folder: Path | str) -> str:
        """Write a checkpoint into `folder`; returns its id. Raises OSError, Locked."""
        store = CheckpointStore(folder)
        store.lock()
        try:
            store.begin(None)
            parts = dict(self.snapshot(full=True))
            if self.held:
                # A worker reads again what is held until the shape is settled; here nobody would.
                parts["held"] = Part(values=plain_held(self.held, self.held_forgotten, self.blocked))
            return store.write(parts, describe(self)).id
        finally:
            store.unlock()

    @classmethod
    def load(cls, folder: Path | str) -> Learner:
        """The learner of the newest whole checkpoint. Raises FileNotFoundError, NothingWhole."""
        found = CheckpointStore(folder).newest(log.error)
        if found is None:
            raise FileNotFoundError(f"there is no checkpoint in {folder}")
        manifest, parts = found
        learner = cls(Settings(**manifest.body["settings"]))
        learner.restore(parts)
        return learner


def runtime(settings: CoreSettings) -> dict[str, Any]:
    """What the bits of a result depend on beside state and records."""
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "threads": settings.model.threads,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "device": str(choose_device(settings.model.device)),
    }


def describe(learner: OnlineLearner) -> dict[str, Any]:
    """What a manifest says of the learner beside its parts."""
    core = {name: getattr(learner.settings, name) for name in CoreSettings.model_fields}
    return {
        "step": learner.counts.steps,
        "events_learned": learner.counts.learned,
        "events_held_out": learner.counts.held_out,
        "events_forgotten": learner.counts.forgotten,
        "records": learner.counts.records,
        "classes": list(learner.classes.labels),
        "settings": CoreSettings(**core).model_dump(mode="json"),
        "runtime": runtime(learner.settings),
        **({"ledger": learner.ledger.plain()} if learner.ledger is not None else {}),
    }


def shape_of(learner: OnlineLearner) -> str:
    """What was found out from the first events."""
    schema, model = learner.schema, learner.model
    assert schema is not None
    net = type(model.encoder).__name__
    return f"x has shape {list(schema.shape)}, {schema.dtype}: {net} with {model.flat.numel()} parameters"


def sums_of(learner: OnlineLearner) -> str:
    """What became of the records."""
    counts, dead = learner.counts, sum(learner.counts.rejected.values())
    return f"{counts.records + dead} records, {counts.learned} learned, {dead} dead letters"


def check_settings(settings: Settings, manifest: Manifest) -> list[str]:
    """Compare with a checkpoint. Raises Disagreement where state depends on it; returns what is adopted."""
    core = CoreSettings(**manifest.body["settings"])
    before, now = _flat(core), _flat(settings)
    shaping = set(state_settings(settings)) | set(state_settings(core))
    differing = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    refused = [name for name in differing if name in shaping]
    if refused:
        # Nothing was learned with them, but something was answered: that is all that would have to go.
        of_outputs = bool(manifest.body.get("outputs")) and untouched(manifest)
        pairs = "; ".join(f"{name} was {before.get(name)!r}, now {now.get(name)!r}" for name in refused)
        raise Disagreement(
            f"checkpoint {manifest.id} was made with other settings: {pairs}. "
            f"Set them back, or {OTHERWISE if of_outputs else 'start with another --checkpoint.folder'}."
        )
    return [f"{name}: {before.get(name)!r} -> {now.get(name)!r}" for name in differing]


def _flat(settings: CoreSettings) -> dict[str, Any]:
    """Core settings by dotted name."""
    flat: dict[str, Any] = {"seed": settings.seed}
    for section in CoreSettings.model_fields:
        value = getattr(settings, section)
        if section != "seed":
            flat |= {f"{section}.{name}": item for name, item in value.model_dump(mode="json").items()}
    return flat


def take(settings: Settings, learner: OnlineLearner, manifest: Manifest, parts: Snapshot) -> None:
    """Load a checkpoint into a fresh learner, and say what is otherwise than it was. Raises Disagreement."""
    for level, sentence in adopt(settings, manifest):
        log.log(level, "%s", sentence)
    restore(learner, manifest, parts)


def restore(learner: OnlineLearner, manifest: Manifest, parts: Snapshot) -> None:
    """Load a checkpoint into a fresh learner. Raises Disagreement."""
    try:
        learner.restore(parts)
    except (ValueError, KeyError) as error:
        raise Disagreement(f"checkpoint {manifest.id} doesn't fit this learner: {error}") from error


def untouched(
    manifest: Manifest, published: Mapping[int, int] | None = None, sink: Sink | None = None
) -> bool:
    """Was it taken before the first record? Then a start is a first start, with whatever settings.

    published: P by partition, where a group has one: what is answered beyond the checkpoint was answered by a
    learner of its settings. sink: one that is asked for such answers, and raises what its `open` would.
    """
    position = manifest.body.get("position")
    if position is None or manifest.body["records"] or manifest.body.get("clean"):
        return False
    start = position.get("start", {})
    offsets = position["offsets"].get(position["topic"], {})
    answered = {str(partition): offset for partition, offset in (published or {}).items()}
    if not all(offset == start.get(p, 0) == answered.get(p, offset) for p, offset in offsets.items()):
        return False
    ask: Callable[[Mapping[str, int]], bool] = getattr(sink, "answered", lambda marks: False)
    return not ask(manifest.body["outputs"])


def resume_of(manifest: Manifest) -> Resume:
    """Where a checkpoint's source goes on. Raises Disagreement if no worker has written it."""
    place = manifest.body.get("position")
    if place is None:
        raise Disagreement(
            f"checkpoint {manifest.id} was saved by Learner.save: it holds no place in a source to go on "
            "from. Start with another --checkpoint.folder."
        )
    return Resume(offsets_of(place), by_partition(place["cursors"]), place["fingerprint"], place["topic"])


def offsets_of(place: Mapping[str, Any]) -> dict[int, int]:
    """The offsets of a manifest's `position` in its own topic, by partition."""
    return by_partition(place["offsets"].get(place["topic"], {}))


def by_partition(numbers: Mapping[str, int]) -> dict[int, int]:
    """Keys as they were before JSON made text of them."""
    return {int(partition): int(number) for partition, number in numbers.items()}


def place_of(
    source: Source,
    offsets: Mapping[int, int],
    cursors: Mapping[int, int],
    start: Mapping[int, int],
    commands: tuple[str, str, int] | None,
    paused: bool,
) -> dict[str, Any]:
    """What `resume_of` reads: C, and how to find and recognise the source at C.

    commands: their topic and its id, and their C. paused: has one of them paused the worker, perhaps in a
    run before this one, in which they are off?
    """
    reached = {source.topic: {str(p): o for p, o in sorted(offsets.items())}}
    asked: dict[str, Any] = {"paused": True} if paused else {}
    if commands is not None:
        topic, id, at = commands
        asked = {"commands": topic, "commands_id": id, "paused": paused}
        reached[topic] = {"0": at}
    return {
        "topic": source.topic,
        **asked,
        "offsets": reached,
        "cursors": {str(p): c for p, c in cursors.items()},
        "fingerprint": source.fingerprint(cursors),
        **({"start": {str(p): o for p, o in start.items()}} if start else {}),
    }


def adopt(settings: Settings, manifest: Manifest) -> list[tuple[int, str]]:
    """What is to be said, at which level, of going on from a checkpoint. Raises Disagreement."""
    said = [(logging.INFO, f"setting adopted: {change}") for change in check_settings(settings, manifest)]
    if differences := "; ".join(warn_runtime(settings, manifest)):
        sentence = "not what the checkpoint was made with, bits may differ from here on"
        said.append((logging.WARNING, f"{sentence}: {differences}"))
    return said


def warn_runtime(settings: CoreSettings, manifest: Manifest) -> list[str]:
    """What differs from where the checkpoint was written: from here on, bits may differ."""
    theirs: Mapping[str, Any] = manifest.body["runtime"]
    return [f"{n}: {theirs.get(n)} -> {v}" for n, v in runtime(settings).items() if theirs.get(n) != v]


__all__ = [
    "Disagreement",
    "Learner",
    "NothingWhole",
    "adopt",
    "by_partition",
    "check_settings",
    "describe",
    "offsets_of",
    "place_of",
    "restore",
    "resume_of",
    "runtime",
    "shape_of",
    "untouched",
]
