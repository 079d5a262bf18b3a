"""Commands to a running worker: records of a topic of their own, read by whoever learns.

A command takes effect at a checkpoint that holds its effect; the answer leaves with the commit that names
that checkpoint. So an answer that is seen says what will not be undone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from streamlearn.events import Position, Record
from streamlearn.reasons import abbreviate

if TYPE_CHECKING:  # who only sends commands loads no torch
    from streamlearn.learner import OnlineLearner

LONGEST = 1000
"""Characters of an id, or of what the sender knows the answer by: answers hold them."""
KINDS = ("checkpoint", "pause", "resume", "forget")


@dataclass(frozen=True)
class Command:
    """One record. `problem`: why it can't be carried out; it is answered all the same.

    request: what the sender knows the answer by; None if it gave nothing. id: of the event to forget.
    """

    kind: str
    position: Position
    request: str | None = None
    id: str | None = None
    problem: str | None = None


def parse_command(record: Record) -> Command:
    """`{"command": "forget", "id": "a1", "request": "..."}`. Never raises."""
    try:
        body = orjson.loads(record.value)
    except orjson.JSONDecodeError as error:
        return Command("", record.position, problem=f"not JSON: {error}")
    if not isinstance(body, dict):
        return Command("", record.position, problem="not a JSON object")
    request = body.get("request")
    request = request if isinstance(request, str) and len(request) <= LONGEST else None
    kind, of = body.get("command"), body.get("id")
    if kind not in KINDS:
        problem = f"there is no command {abbreviate(kind)}; there is {', '.join(KINDS)}"
        return Command("", record.position, request, problem=problem)
    if kind == "forget" and not (isinstance(of, str) and of):
        return Command(kind, record.position, request, problem="forget needs the id of an event, as text")
    if isinstance(of, str) and len(of) > LONGEST:
        return Command(kind, record.position, request, problem=f"an id has at most {LONGEST} characters")
    return Command(kind, record.position, request, of if kind == "forget" else None)


def encode_command(kind: str, request: str, id: str | None = None) -> bytes:
    """The record of a command."""
    return orjson.dumps({"command": kind, "request": request} | ({"id": id} if id is not None else {}))


def encode_answer(command: Command, **more: Any) -> bytes:
    """What is answered: done or not, and `more` of it."""
    said = {"request": command.request, "command": command.kind or None, "done": command.problem is None}
    if command.id is not None:
        said["id"] = command.id
    if command.problem is not None:
        said["problem"] = command.problem
    return orjson.dumps(said | more)


def forget(command: Command, learner: OnlineLearner, unread: Mapping[int, int]) -> dict[str, Any]:
    """Forget the example; returns what is answered. unread: by partition, below which offset it may come."""
    assert command.id is not None
    found = learner.forget(command.id, unread)
    return {
        "removed": {"memory": found.memory, "held_out": found.held_out, "waiting": found.waiting},
        "not_removed": "what weights, averages and figures have learned of it stays; older checkpoints that "
        "hold it are deleted once this answer is committed",
        "blocked_below": {str(partition): offset for partition, offset in unread.items()},
    }
