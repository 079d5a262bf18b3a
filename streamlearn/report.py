"""`--report DIR`: summary.json (figures, settings, seed, versions) and curves.csv."""

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
        "events_held_out": observation.held_out,
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
    """Write the report of `learners` (their figures by name) into settings.report. Raises OSError."""
    assert settings.report is not None
    folder = Path(settings.report)
    folder.mkdir(parents=True, exist_ok=True)
    summary = {
        "learners": learners,
        "seed": settings.seed,
        "settings": state_settings(settings) | other_settings(settings),
        "versions": versions(),
    }
    (folder / "summary.json").write_bytes(
        orjson.dumps(summary, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY)
    )
    with open(folder / "curves.csv", "w", newline="") as file:
        names = list(dict.fromkeys(name for row in curves for name in row))
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(curves)
    return folder
