"""A learner's state as parts, and back."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import torch

from streamlearn import bookkeeping
from streamlearn.bookkeeping import Counts
from streamlearn.classes import ClassIndex
from streamlearn.schema import Schema
from streamlearn.state import Part, SegmentedPart, Snapshot

if TYPE_CHECKING:
    from streamlearn.learner import OnlineLearner


def snapshot(learner: OnlineLearner, full: bool) -> Snapshot:
    """See `OnlineLearner.snapshot`."""
    parts: dict[str, Part | SegmentedPart] = {
        "classes": Part(values={"labels": list(learner.classes.labels)}),
        "generators": learner.generators.part(),
        "metrics": learner.prequential.part(),
        "counts": Part(values=bookkeeping.plain_counts(learner.counts) | {"losses": dict(learner.losses)}),
        "schema": Part(values=learner.schema.plain() if learner.schema else {}),
    }
    if learner.blocked:
        parts["blocked"] = learner.blocked.part()
    if learner.ledger is not None:
        parts["ledger"] = learner.ledger.part()
    if learner.settled:
        parts |= learner.trainer.snapshot(full)
        parts["pending"] = Part(
            {
                "x": torch.from_numpy(learner.pending_x[: learner.pending].copy()),
                "y": torch.from_numpy(learner.pending_y[: learner.pending].copy()),
                "key": torch.from_numpy(learner.pending_key[: learner.pending].copy()),
            }
        )
    return parts


def restore(learner: OnlineLearner, parts: Snapshot) -> None:
    """See `OnlineLearner.restore`."""
    plain = {name: part for name, part in parts.items() if isinstance(part, Part)}
    if learner.ledger is not None:
        if "ledger" not in plain:
            raise ValueError("no ledger was kept so far; delivery.ledger must be on from the first start")
        learner.ledger.load(plain["ledger"])
    learner.classes = ClassIndex(learner.settings.codec.max_classes, plain["classes"].values["labels"])
    learner.generators.load(plain["generators"])
    learner.prequential.load(plain["metrics"])
    counts = dict(plain["counts"].values)
    learner.losses = dict(counts.pop("losses"))
    learner.counts = Counts(**counts | {"rejected": Counter(counts["rejected"])})
    learner.blocked.load(plain.get("blocked", Part(values={"ends": []})))
    learner.held, learner.held_events, learner.held_dead, learner.held_forgotten = [], 0, 0, set()
    if "held" in plain:
        held = plain["held"].values
        learner.learn([bookkeeping.item_from(values) for values in held["items"]])
        learner.held_forgotten = set(held.get("forgotten", ()))
    schema = plain["schema"].values
    if not schema:
        return
    learner.build(Schema.from_plain(schema))
    learner.trainer.load(parts)
    pending = plain["pending"].tensors
    learner.pending = len(pending["y"])
    learner.pending_x[: learner.pending] = pending["x"].numpy()
    learner.pending_y[: learner.pending] = pending["y"].numpy()
    learner.pending_key[: learner.pending] = pending["key"].numpy()
