"""What the learner keeps beside the model: counts, and its generators and layers in plain types."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from streamlearn.state import Part


@dataclass
class Counts:
    """What became of the records so far. dead_in_row: rejections since the last event, poison only."""

    records: int = 0
    labeled: int = 0
    learned: int = 0
    steps: int = 0
    skipped_steps: int = 0
    predicted: int = 0
    images: int = 0
    dead_in_row: int = 0
    rejected: Counter[str] = field(default_factory=Counter)


def plain_counts(counts: Counts) -> dict[str, object]:
    values: dict[str, object] = dict(vars(counts))
    values["rejected"] = dict(sorted(counts.rejected.items()))
    return values


def rng_state(rng: np.random.Generator) -> dict[str, object]:
    """The generator's state in types that msgpack holds: its integers have 128 bits."""
    state = rng.bit_generator.state
    inner = {name: f"{value:x}" for name, value in state["state"].items()}
    return {"state": inner, "has_uint32": int(state["has_uint32"]), "uinteger": int(state["uinteger"])}


def rng_from(plain: dict[str, dict[str, str]]) -> dict[str, object]:
    inner = {name: int(value, 16) for name, value in plain["state"].items()}
    return {**plain, "bit_generator": "PCG64", "state": inner}


def merge_layers(parts: Sequence[Part]) -> Part:
    """One part of several layers, names prefixed with the layer's number."""
    return Part(
        {f"{i}.{name}": tensor for i, part in enumerate(parts) for name, tensor in part.tensors.items()},
        {"layers": [dict(part.values) for part in parts]},
    )


def split_layers(part: Part) -> list[Part]:
    layers = part.values["layers"]
    return [
        Part({n.partition(".")[2]: t for n, t in part.tensors.items() if n.startswith(f"{i}.")}, layers[i])
        for i in range(len(layers))
    ]
