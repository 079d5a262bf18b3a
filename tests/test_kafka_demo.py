"""The README's third command: the demo's stream over a real Kafka, from nothing to predictions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ops.kafka.ports import free_ports
from tests.processes import ROOT


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_publisher_a_worker_and_a_consumer() -> None:
    if not (Path(sys.prefix) / "streamlearn.dev").exists():
        pytest.skip("this environment was not made by ops/test: the command would make one of its own")
    (port,) = free_ports(1)
    there = {**os.environ, "STREAMLEARN_VENV": sys.prefix, "STREAMLEARN_DEMO_PORT": str(port)}
    done = subprocess.run(
        ["bash", "ops/kafka_demo"],
        cwd=ROOT,
        env=there,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "1000 predictions, each visible once"
    assert sum(" -> " in line for line in done.stdout.splitlines()) == 10, "the last of every hundred"
