"""The forms in which state leaves the learner: copies that no later step changes.

Parts hold state only: no id, time, folder or setting that does not shape it, so that equal states have
equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from streamlearn.events import Array


@dataclass(frozen=True)
class Part:
    """Tensors (on the CPU) and plain values (what msgpack holds) of one part of the state."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SegmentedPart:
    """A large part in `count` segments, of which only those in `changed` were copied.

    A segment's bytes are those of its arrays, one after another. The segments that are not in `changed`
    are what they were in the snapshot before.
    """

    values: Mapping[str, Any]
    count: int
    changed: Mapping[int, tuple[Array, ...]]


class Slices(Mapping[int, tuple[Array, ...]]):
    """Copied segments by number: each `rows` rows of every array. Cut when asked for, by whoever writes them.

    numbers: which segments; places: for each, at which multiple of `rows` it lies in the arrays.
    """

    def __init__(
        self, numbers: Sequence[int], places: Sequence[int], arrays: Sequence[Array], rows: int
    ) -> None:
        self._place = dict(zip(numbers, places, strict=True))
        self._arrays, self._rows = arrays, rows

    def __getitem__(self, number: int) -> tuple[Array, ...]:
        start = self._place[number] * self._rows
        return tuple(array[start : start + self._rows] for array in self._arrays)

    def __iter__(self) -> Iterator[int]:
        return iter(self._place)

    def __len__(self) -> int:
        return len(self._place)


Snapshot = Mapping[str, Part | SegmentedPart]


def copy(tensor: Tensor) -> Tensor:
    """A copy on the CPU that shares no memory with `tensor`."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def fill(target: Tensor, source: Tensor, name: str) -> None:
    """Copy `source` into `target`; ValueError if shape or dtype differ."""
    if target.shape != source.shape or target.dtype != source.dtype:
        raise ValueError(
            f"{name}: the state holds {source.dtype} {tuple(source.shape)}, "
            f"this model has {target.dtype} {tuple(target.shape)}"
        )
    with torch.no_grad():
        target.copy_(source)
