"""`--report DIR`: summary.json (figures, settings, seed, versions), curves.csv, and both as report.html."""

from __future__ import annotations

import csv
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch

from streamlearn import __version__
from streamlearn.observe import Observation
from streamlearn.page import page
from streamlearn.settings import Settings, other_settings, state_settings


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
        "predicted": observation.predicted,
        "dead_letters": dict(observation.rejected),
        "known_classes": observation.known_classes,
        "images_per_event": observation.images_per_event,
        "prequential": {
            kind: asdict(f) | {"kappa_majority": f.kappa_majority, "kappa_no_change": f.kappa_no_change}
            for kind, f in observation.prequential.items()
        },
        "prequential_kappa": observation.kappa,
        "prequential_log_loss": observation.log_loss,
        "loss": dict(observation.losses),
    }


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
    options = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
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
