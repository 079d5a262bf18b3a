"""A step in pieces: a small model, a filled memory, and the rows that a method would see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from streamlearn.buffers import Memory
from streamlearn.config import MemorySettings, MethodSettings, ModelSettings, ViewSettings
from streamlearn.method import Method, make_method
from streamlearn.model import Model
from streamlearn.normalise import Normaliser
from streamlearn.rows import Draw, Rows, make_rows
from streamlearn.views import Views

CPU = torch.device("cpu")
VECTOR, IMAGE = (5,), (2, 6, 6)


def make_model(
    shape: Sequence[int] = VECTOR, classes: int = 4, projector: int = 0, **settings: object
) -> Model:
    model = Model(ModelSettings(**{"width": 6, **settings}), shape, 0, CPU, projector)
    model.grow(classes, torch.Generator().manual_seed(1))
    return model


def make_views(
    shape: Sequence[int] = VECTOR,
    seed: int = 0,
    as_bytes: bool = False,
    normalise: bool = True,
    **settings: object,
) -> Views:
    normaliser = Normaliser(shape, 1000, CPU, normalise, as_bytes)
    return Views(ViewSettings(**settings), shape, normaliser, torch.Generator().manual_seed(seed))


def inputs(count: int, shape: Sequence[int] = VECTOR, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def make_memory(labels: Sequence[int], shape: Sequence[int] = VECTOR, capacity: int = 0) -> Memory:
    """A memory that holds an example of each of the labels, in order."""
    memory = Memory(MemorySettings(capacity=capacity or max(1, len(labels))), shape, torch.float32, CPU)
    if labels:
        y = np.array(labels, dtype=np.int64)
        memory.insert(inputs(len(y), shape, seed=5), y, np.arange(len(y)), np.random.default_rng(0))
    return memory


def make(name: str, modifiers: Sequence[str] = (), shape: Sequence[int] = VECTOR, **tables: object) -> Method:
    """A method planned for 8 images an event; tables: parameters of methods and modifiers."""
    method = make_method(MethodSettings(name=name, modifiers=list(modifiers), **tables), shape)
    method.plan(10, 80)
    return method


def rows_of(
    method: Method,
    labels: Sequence[int],
    memory: Memory,
    draw: Draw | None = None,
    views: Views | None = None,
) -> Rows:
    """The rows of a step on a stream batch with these labels; draw: all of the memory if not given."""
    shape = tuple(memory.x.shape[1:])
    stream = inputs(len(labels), shape, seed=9).numpy()
    draw = Draw(np.arange(memory.size)) if draw is None else draw
    y = np.array(labels)
    views = make_views(shape) if views is None else views
    return make_rows(stream, y, memory, draw, views, method.stream_views, method.memory_views)


def mixture(slots: Sequence[int], partner: Sequence[int], share: Sequence[float]) -> Draw:
    return Draw(np.array(slots), np.array(partner), np.array(share, dtype=np.float32))
