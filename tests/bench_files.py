"""A small benchmark settings file for tests, and results that were never measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from streamlearn.bench_plan import Plan, Run, make_plan
from streamlearn.flags import read_layers

FILE = """
[bench]
budgets = [4]
memory = [100]
seeds = [0, 1, 2]
baseline = "er"

[evaluation]
held_out = 0

[model]
net = "conv"
width = 4

[[streams]]
dataset = "digits"
per_class = 20

[[rows]]
name = "er"
method.name = "er"

[[rows]]
name = "ace"
method.name = "er_ace"
model.head = "linear"
"""
ROW_OF_ITS_OWN = '\n[[rows]]\nname = "finetune"\nmethod.name = "finetune"\nreference = true\n'


def plan_of(folder: Path, text: str = FILE, *flags: str, tune: bool = False, **env: str) -> Plan:
    """The plan of a settings file of this text."""
    path = folder / "some.toml"
    path.write_text(text)
    return make_plan(read_layers(["--config", str(path), *flags], env), tune)


def result(run: Run, images: float = 4.0, **figures: Any) -> dict[str, Any]:
    """A line of the results, with these figures."""
    own: Mapping[str, Any] = {
        "final_accuracy": 0.5,
        "worst_case_accuracy": 0.4,
        "forgetting": 0.1,
        "stability_gap": 0.2,
        "learning_curve_area": 0.7,
        "backward_transfer": -0.125,
        "performance_maintenance": None,
        "images_per_event": images,
        "by_predictor": {},
    }
    return {
        "key": run.key,
        "figures": {**own, **figures},
        "measured": {"seconds": 2.0, "cpu_seconds": 1.0},
        "versions": {"streamlearn": "0", "torch": "2", "code": "abc"},
        "host": {"cpu": "a"},
    }
