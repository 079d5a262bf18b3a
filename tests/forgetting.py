"""Learners that forget: what is kept of an id, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from streamlearn.config import EvaluationSettings
from streamlearn.events import Event, Position
from streamlearn.forgetting import identity
from streamlearn.learner import OnlineLearner
from streamlearn.state import SegmentedPart, Snapshot
from tests.streams import settings


def placed(events: Sequence[Event], partitions: int = 1) -> list[Event]:
    """The same events as records of a topic, dealt out to its partitions."""
    return [
        replace(event, position=Position("t", i % partitions, i // partitions))
        for i, event in enumerate(events)
    ]


def whole(of: OnlineLearner) -> Snapshot:
    """A full snapshot in the form that `restore` takes: through a file, as it always goes."""
    parts = dict(of.snapshot(full=True))
    memory = parts.get("memory")
    if isinstance(memory, SegmentedPart):
        raw = {i: b"".join(a.tobytes() for a in arrays) for i, arrays in memory.changed.items()}
        segments = {i: (np.frombuffer(segment, np.uint8),) for i, segment in raw.items()}
        parts["memory"] = SegmentedPart(memory.values, memory.count, segments)
    return parts


def resumed(of: OnlineLearner) -> OnlineLearner:
    twin = OnlineLearner(of.settings)
    twin.restore(whole(of))
    return twin


def kept(of: OnlineLearner) -> dict[str, set[int]]:
    """The hashes of the ids that something is kept of, by place."""
    if not of.settled:
        return {"memory": set(), "pending": set(), "held out": set()}
    held = of.trainer.evaluator.held
    return {
        "memory": {*of.memory.key[: of.memory.size].tolist()},
        "pending": {*of.pending_key[: of.pending].tolist()},
        "held out": {*held.part().tensors["choice"].tolist()},
    }


def traces(of: OnlineLearner, id: str) -> list[str]:
    """Where something of an id is."""
    first, second = identity(id)
    return [
        place for place, hashes in kept(of).items() if (second if place == "held out" else first) in hashes
    ]


def learner(**sections: object) -> OnlineLearner:
    return OnlineLearner(
        settings(**{"evaluation": EvaluationSettings(held_out=0.3, capacity=20), **sections})
    )


def someone(of: OnlineLearner, events: Sequence[Event], place: str) -> str:
    """An id of which something is there."""
    hashes = kept(of)[place]
    return next(event.id for event in events if identity(event.id)[place == "held out"] in hashes)
