"""`python -m ops.grafana` writes ops/grafana/dashboards/*.json, which Grafana's provisioning reads."""

from __future__ import annotations

from pathlib import Path

from ops.grafana.draw import draw
from ops.grafana.learning import LEARNING
from ops.grafana.worker import WORKER

FOLDER = Path(__file__).parent / "dashboards"
FILES = {"learning.json": LEARNING, "worker.json": WORKER}

if __name__ == "__main__":
    for name, spec in FILES.items():
        (FOLDER / name).write_text(draw(spec), "utf-8")
        print(f"{FOLDER / name}: {sum(1 for _ in spec.panels)} panels")
