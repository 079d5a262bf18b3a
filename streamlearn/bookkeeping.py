"""What the learner keeps beside the model: counts, and its generators and layers in plain types."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from streamlearn.events import NOWHERE, Event, Item, Position, Record, Rejection, Tombstone
from streamlearn.forgetting import Blocked
from streamlearn.schema import blank
from streamlearn.state import Part


@dataclass
class Counts:
    """What became of the records so far."""

    records: int = 0
    labeled: int = 0
    learned: int = 0
    held_out: int = 0
    steps: int = 0
    skipped_steps: int = 0
    predicted: int = 0
    images: int = 0
    forwards: int = 0
    """Images beside those that went through forward only, to learn from: a teacher's."""
    rejected: Counter[str] = field(default_factory=Counter)
    forgotten: int = 0
    """Labeled events that were not learned, or held out, because their id had been forgotten."""

    @property
    def reasons(self) -> str:
        """The commonest reasons of what was rejected, for people."""
        return ", ".join(f"{reason}: {count}" for reason, count in self.rejected.most_common(3))


def plain_counts(counts: Counts) -> dict[str, object]:
    values: dict[str, object] = dict(vars(counts))
    values["rejected"] = dict(sorted(counts.rejected.items()))
    for name in ("forgotten", "forwards"):
        if not values[name]:
            del values[name]  # where nothing was, the state is what it is without any forgetting or teacher
    return values


def reject_event(event: Event, reason: str, detail: str) -> Rejection:
    record = event.record or Record(b"", event.position)
    return Rejection(reason, detail, record)


def plain_item(item: Item) -> dict[str, Any]:
    """An item in types that msgpack holds."""
    if isinstance(item, Tombstone):
        return {"tombstone": item.id}
    if isinstance(item, Rejection):
        return {"reason": item.reason, "detail": item.detail, "value": item.record.value}
    x = item.x
    raw = {"dtype": x.dtype.str, "shape": list(x.shape), "data": x.tobytes()}
    return {
        "id": item.id,
        "y": item.y,
        "ts": item.ts,
        "task": item.task,
        "x": raw,
        "position": list(item.position),
    }


def plain_held(held: Sequence[Item], forgotten: Collection[int], blocked: Blocked) -> dict[str, Any]:
    """What waits for the shape of x, in types that msgpack holds; of forgotten ids without their inputs.

    No answer needs those: before the first step there is no class to answer with.
    forgotten: places in `held` of events that are not to be learned.
    """
    items = [
        plain_item(replace(item, x=blank(item.x)))
        if isinstance(item, Event) and (place in forgotten or blocked.holds(item))
        else plain_item(item)
        for place, item in enumerate(held)
    ]
    return {"items": items} | ({"forgotten": sorted(forgotten)} if forgotten else {})


def item_from(plain: Mapping[str, Any]) -> Item:
    """What `plain_item` was made of."""
    if "tombstone" in plain:
        return Tombstone(plain["tombstone"], Record(b"", NOWHERE, tombstone=True))
    if "reason" in plain:
        return Rejection(plain["reason"], plain["detail"], Record(plain["value"], NOWHERE))
    raw = plain["x"]
    x = np.frombuffer(raw["data"], np.dtype(raw["dtype"])).reshape(raw["shape"])
    position = Position(*plain["position"])
    return Event(plain["id"], x, plain["y"], plain["ts"], position, task=plain["task"])


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
