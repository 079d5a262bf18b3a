"""`--report DIR`: summary.json (figures, settings, seed, versions), curves.csv, and both as report.html."""

from __future__ import annotations

import csv
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
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


class Curve:
    """The figures over time of a worker that will write a report."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._stride = 1

    def add(self, seen: Observation) -> None:
        """Add a point, if enough was learned since the last one."""
        if self.rows and seen.learned - self.rows[-1]["events"] < self._stride:
            return
        kinds = {f"prequential_{kind}": f.accuracy for kind, f in seen.prequential.items()}
        row: dict[str, Any] = {"events": seen.learned, "classes": seen.known_classes, **kinds}
        if seen.continual is not None and seen.continual.evaluations:
            row |= curve_figures(seen.continual) | {"sets": set_figures(seen.continual)}
        self.rows.append(row)
        if len(self.rows) > MOST_POINTS:
            self.rows = self.rows[::2]
            self._stride *= 2


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


def knowledge(learner: OnlineLearner, continual: Continual | None = None) -> dict[str, Any]:
    """What a learner still knows of everything: continual evaluation, prototypes, what answers.

    `continual`: made with examples of one's own; the learner's own otherwise, with the standard error, at
    most, of its average accuracy.
    """
    if not learner.settled:
        return {}
    found: dict[str, Any] = {"serving": learner.serving.name}
    if continual is None:
        evaluator = learner.trainer.evaluator
        continual = evaluator.continual
        errors = [error for error in evaluator.errors if error is not None]
        found["standard_error"] = math.hypot(*errors) / len(errors) if errors else None
    if continual.evaluations:
        found["continual"] = continual_figures(continual)
    with torch.inference_mode():
        prototypes = learner.serving.prototypes()[:MOST_PROTOTYPES]
        cosines = (prototypes @ prototypes.T).cpu().numpy().astype(np.float64).round(4)
    labels = learner.classes.labels
    found["prototypes"] = {
        "labels": labels[: len(cosines)],
        "similarity": cosines,
        "pairs": [(labels[a], labels[b], round(c, 4)) for a, b, c in learner.serving.nearest(NEAREST)],
    }
    return found


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
    curves: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write the report of `learners` (their figures by name) into settings.report. Raises OSError.

    `curves`: rows of numbers, with the row's `learner` and `events`; accuracy by set in a mapping, `sets`.
    """
    assert settings.report is not None
    folder = Path(settings.report)
    folder.mkdir(parents=True, exist_ok=True)
    summary = {
        "learners": learners,
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
