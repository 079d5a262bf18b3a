"""`--report DIR`: summary.json (figures, settings, seed, versions), curves.csv, and both as report.html."""

from __future__ import annotations

import csv
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import orjson
import torch

from streamlearn import __version__
from streamlearn.continual import Continual, ContinualFigures
from streamlearn.learner import OnlineLearner
from streamlearn.observe import Observation
from streamlearn.page import page
from streamlearn.settings import Settings, other_settings, state_settings

MOST_PROTOTYPES = 100
"""Classes, the first, whose prototypes are compared."""
MOST_SETS = 1000
"""Sets that the curves follow."""
NEAREST = 10
"""Pairs of classes that are named."""


MOST_POINTS = 2000
"""Of a curve; when there are more, every second one goes."""
FEW_EVENTS = 100
"""Between two points of a curve of a quick learner."""


class Curve:
    """The figures over time of a worker that will write a report."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._stride = 1

    def wants(self, learned: int) -> bool:
        """Whether so many events are worth a point, however quickly they were learned."""
        return learned >= (self.rows[-1]["events"] if self.rows else 0) + max(FEW_EVENTS, self._stride)

    def add(self, seen: Observation) -> None:
        """Add a point, if enough was learned since the last one."""
        if self.rows and seen.learned - self.rows[-1]["events"] < self._stride:
            return
        self.rows.append(_row(seen, seen.continual))
        if len(self.rows) > MOST_POINTS:
            self.rows = self.rows[::2]
            self._stride *= 2

    def ended(self, seen: Observation, asked: Continual) -> list[dict[str, Any]]:
        """The rows, up to the end as `seen`, where continual evaluation found what `asked` says."""
        before = [row for row in self.rows if row["events"] < seen.learned]
        return [*before, _row(seen, asked.figures())]


def _row(seen: Observation, known: ContinualFigures | None) -> dict[str, Any]:
    kinds = {f"prequential_{kind}": f.accuracy for kind, f in seen.prequential.items()}
    row: dict[str, Any] = {"events": seen.learned, "classes": seen.known_classes, **kinds}
    if known is not None and known.evaluations:
        row |= curve_figures(known) | {"sets": set_figures(known)}
    return row


def versions() -> dict[str, str]:
    """What the figures were made with."""
    return {
        "streamlearn": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def figures(observation: Observation) -> dict[str, Any]:
    """The final figures of one learner."""
    return {
        "steps": observation.step,
        "events_learned": observation.learned,
        "events_held_out": observation.held_out,
        "events_forgotten": observation.forgotten,
        "predicted": observation.predicted,
        "dead_letters": dict(observation.rejected),
        "known_classes": observation.known_classes,
        "memory_examples": observation.memory_examples,
        "images_per_event": observation.images_per_event,
        "prequential": {
            kind: asdict(f) | {"kappa_majority": f.kappa_majority, "kappa_no_change": f.kappa_no_change}
            for kind, f in observation.prequential.items()
        },
        "prequential_kappa": observation.kappa,
        "prequential_log_loss": observation.log_loss,
        "loss": dict(observation.losses),
    }


def last_word(learner: OnlineLearner) -> Continual | None:
    """What continual evaluation finds at the end, on the learner's held-out examples; None before the first.

    The last evaluation within the budget may lie far back, of a short stream right behind the newest class,
    where everything looks forgotten.
    """
    if not learner.settled:
        return None
    return learner.trainer.evaluator.asked_again(learner.counts.steps, learner.counts.learned)


def own_error(learner: OnlineLearner) -> dict[str, Any]:
    """The standard error, at most, of the average accuracy on the learner's held-out examples."""
    if not learner.settled:
        return {}
    errors = [error for error in learner.trainer.evaluator.errors if error is not None]
    return {"standard_error": math.hypot(*errors) / len(errors) if errors else None}


def knowledge(learner: OnlineLearner, continual: Continual | None) -> dict[str, Any]:
    """What a learner still knows of everything: continual evaluation, prototypes, what answers."""
    if not learner.settled:
        return {}
    found: dict[str, Any] = {"serving": learner.serving.name}
    if continual is not None and continual.evaluations:
        found["continual"] = continual_figures(continual)
    with torch.inference_mode():
        prototypes = learner.serving.prototypes()[:MOST_PROTOTYPES]
        cosines = (prototypes @ prototypes.T).cpu().numpy().astype(np.float64).round(4)
    labels = learner.classes.labels
    found["prototypes"] = {
        "labels": labels[: len(cosines)],
        "similarity": cosines,
        "pairs": nearest_pairs(learner),
    }
    return found


def nearest_pairs(learner: OnlineLearner) -> list[tuple[str, str, float]]:
    """The classes that are easiest to confuse: (one, other, cosine of their prototypes), nearest first."""
    labels = learner.classes.labels
    return [(labels[a], labels[b], round(c, 4)) for a, b, c in learner.serving.nearest(NEAREST)]


def continual_figures(continual: Continual) -> dict[str, Any]:
    """Figures and shifts (the newest 256) of a continual evaluation; `stability_gap` is their mean."""
    now = continual.figures()
    gaps = [shift.gap for shift in continual.shifts if shift.gap is not None]
    return {
        **curve_figures(now),
        "windowed_forgetting": {str(w): value for w, value in now.windowed_forgetting.items()},
        "windowed_plasticity": {str(w): value for w, value in now.windowed_plasticity.items()},
        "stability_gap": sum(gaps) / len(gaps) if gaps else None,
        "stability_gap_last": now.stability_gap,
        "evaluations": now.evaluations,
        "shifts": [asdict(shift) | {"gap": shift.gap} for shift in continual.shifts],
    }


def curve_figures(now: ContinualFigures) -> dict[str, float | None]:
    """The figures that the curves follow, by the columns' names."""
    return {
        "worst_case_accuracy": now.worst_case_accuracy,
        "average_accuracy": now.average_accuracy,
        "forgetting": now.forgetting,
        "min_accuracy": now.min_accuracy,
    }


def set_figures(now: ContinualFigures) -> dict[str, float]:
    """Accuracy by set, of the first MOST_SETS: a row's `sets`."""
    first = now.sets[:MOST_SETS]
    return {each.name: round(each.fixed, 4) for each in first if each.fixed is not None}


def write_report(
    settings: Settings,
    learners: Mapping[str, Mapping[str, Any]],
    curves: Sequence[Mapping[str, Any]],
    made: datetime,
    about: Mapping[str, Any] = MappingProxyType({}),
) -> Path:
    """Write the report of `learners` (their figures by name) into settings.report. Raises OSError.

    `curves`: rows of numbers, with the row's `learner` and `events`; accuracy by set in a mapping, `sets`.
    made: the moment, which the caller knows. about: what else summary.json says beside the learners:
    test_per_class, where all but the final accuracy is of so many test examples of a class; and
    of several runs their seeds, when they ended (runs_ended) and whose the settings are (settings_of).
    """
    assert settings.report is not None
    folder = Path(settings.report)
    folder.mkdir(parents=True, exist_ok=True)
    summary = {
        "learners": learners,
        "made": made.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        **about,
        "seed": settings.seed,
        "settings": state_settings(settings) | other_settings(settings),
        "versions": versions(),
    }
    options = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY
    written = orjson.dumps(summary, option=options)
    (folder / "summary.json").write_bytes(written)
    with open(folder / "curves.csv", "w", newline="", encoding="utf-8") as file:
        rows = [flat(row) for row in curves]
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    # What the page shows is what the file says.
    (folder / "report.html").write_text(page(orjson.loads(written), curves), "utf-8")
    return folder


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row for CSV: a column `accuracy_<set>` for each set; `_` is added to a name that is taken."""
    columns = {name: value for name, value in row.items() if name != "sets"}
    taken = set(columns)
    for name, value in row.get("sets", {}).items():
        column = f"accuracy_{name}"
        columns[f"{column}_" if column in taken else column] = value
    return columns
