"""What a group has committed: P of every partition, and the checkpoint that the commit names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from aiokafka.admin import AIOKafkaAdminClient

from connectors.kafka.boxes import Place
from connectors.kafka.options import Options
from streamlearn.events import StateMismatch


@dataclass(frozen=True)
class Committed:
    """published: P by partition, where there is one. checkpoint, epoch: of the metadata."""

    published: Mapping[Place, int] = field(default_factory=dict)
    checkpoint: str | None = None
    epoch: int = 0


async def read_committed(options: Options, strict: bool = True) -> Committed:
    """Ask the broker. Raises StateMismatch where the commits disagree or are not ours, if `strict`."""
    admin = AIOKafkaAdminClient(**options.connection)
    await admin.start()
    try:
        found = await admin.list_consumer_group_offsets(str(options.group))
    finally:
        await admin.close()
    by_place = {(tp.topic, tp.partition): at for tp, at in found.items() if at.offset >= 0}
    if not strict:
        return Committed({place: at.offset for place, at in by_place.items()})
    return interpret(str(options.group), {p: (at.offset, at.metadata) for p, at in by_place.items()})


def interpret(group: str, found: Mapping[Place, tuple[int, str]]) -> Committed:
    """found: offset and metadata by partition."""
    if not found:
        return Committed()
    named: dict[tuple[str | None, int], list[str]] = {}
    for (topic, partition), (_, metadata) in sorted(found.items()):
        named.setdefault(_parse(metadata), []).append(f"{topic}:{partition}")
    if len(named) > 1:
        said = "; ".join(f"{', '.join(places)}: {name}" for (name, _), places in named.items())
        raise StateMismatch(
            f"the offsets of group {group} name different checkpoints ({said}): they were set by hand, or "
            "by something else. `streamlearn checkpoints use ID` (with these settings) names one for all, or "
            "start with another source.group_id and checkpoint.folder"
        )
    ((checkpoint, epoch),) = named
    if checkpoint is None:
        raise StateMismatch(
            f"group {group} has committed offsets that name no checkpoint: another consumer uses the group, "
            "or they were reset by hand. `streamlearn checkpoints use ID` (with these settings) puts them "
            "right, or start with another source.group_id and checkpoint.folder"
        )
    return Committed({place: offset for place, (offset, _) in found.items()}, checkpoint, epoch)


def _parse(metadata: str) -> tuple[str | None, int]:
    try:
        body = json.loads(metadata)
        return str(body["checkpoint"]), int(body["epoch"])
    except (ValueError, KeyError, TypeError):
        return None, 0
