"""Small streams that tests learn from, all from fixed seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import settings as hypothesis_settings

from streamlearn.config import CoreSettings, EvaluationSettings, MemorySettings, MethodSettings
from streamlearn.events import Event, Output, Prediction, Rejection
from streamlearn.state import Part, SegmentedPart, Snapshot

WHOLE_STREAMS = hypothesis_settings(max_examples=max(1, hypothesis_settings().max_examples // 2))
"""For properties that each example checks after every one of its events: half the examples are enough."""

CLASSES = 6
DIM = 5


def vectors(count: int, seed: int = 0, unlabeled: float = 0.1, classes: int = CLASSES) -> list[Event]:
    """Gaussian classes that appear one after another; some events have no label."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, DIM)) * 3
    events = []
    for i in range(count):
        known = min(classes, 1 + i * classes // max(1, count // 2))
        label = int(rng.integers(known))
        x = (centres[label] + rng.normal(size=DIM)).astype(np.float32)
        y = None if rng.random() < unlabeled else f"class {label}"
        events.append(Event(f"event {i}", x, y))
    return events


def images(count: int, seed: int = 0, side: int = 6, channels: int = 2) -> list[Event]:
    """uint8 images whose class is a bright corner."""
    rng = np.random.default_rng(seed)
    events = []
    for i in range(count):
        label = int(rng.integers(4))
        x = rng.integers(0, 90, size=(channels, side, side)).astype(np.uint8)
        row, column = side // 2 * (label // 2), side // 2 * (label % 2)
        x[:, row : row + side // 2, column : column + side // 2] += 120
        events.append(Event(f"image {i}", x, str(label)))
    return events


def hashed(count: int, seed: int = 0) -> list[Event]:
    """Sparse vectors, as hashed words make them; a class has words of its own."""
    rng = np.random.default_rng(seed)
    events = []
    for i in range(count):
        label = int(rng.integers(4))
        x = np.zeros(24, np.float32)
        x[rng.choice(24, 2, replace=False)] = 1
        x[6 * label + rng.choice(6, 3, replace=False)] = rng.choice([-1, 1])
        events.append(Event(f"text {i}", x, str(label)))
    return events


def settings(**sections: object) -> CoreSettings:
    """Core settings for a small learner."""
    base: dict[str, object] = {
        "method": MethodSettings(name="er"),
        "memory": MemorySettings(capacity=40),
        # Many held out, so that what they change shows in a few hundred events.
        "evaluation": EvaluationSettings(held_out=0.1, capacity=20),
    }
    return CoreSettings(**{**base, **sections})


def plain(part: Part | SegmentedPart) -> object:
    """A part as something that `==` compares bit by bit."""
    if isinstance(part, Part):
        tensors = {
            name: (str(tensor.dtype), tuple(tensor.shape), tensor.numpy().tobytes())
            for name, tensor in part.tensors.items()
        }
        return tensors, dict(part.values)
    segments = {i: b"".join(array.tobytes() for array in arrays) for i, arrays in part.changed.items()}
    return dict(part.values), part.count, segments


def bits(snapshot: Snapshot) -> dict[str, object]:
    """A full snapshot as something that `==` compares bit by bit."""
    return {name: plain(part) for name, part in snapshot.items()}


def answers(outputs: Sequence[Output]) -> list[object]:
    """What of the outputs is published."""
    return [
        (o.id, o.label, tuple(o.scores.items()), o.known_classes, o.model_step)
        if isinstance(o, Prediction)
        else (o.reason, o.detail)
        if isinstance(o, Rejection)
        else (o.id,)
        for o in outputs
    ]
