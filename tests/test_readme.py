"""Every command of the README's tour does what it says: they are run one after another, as a reader would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```", README, re.M | re.S)


def test_every_test_that_it_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", README))
    there: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        there |= set(re.findall(r"^def (test_\w+)\(", path.read_text("utf-8"), re.M))
    assert len(named) > 30
    assert named <= there, f"no such tests: {sorted(named - there)}"


@pytest.mark.slow
def test_the_tour(tmp_path: Path) -> None:
    assert len(BLOCKS) > 6
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "CHECKOUT": str(ROOT)}
    said: list[str] = []
    for block in BLOCKS:
        script = f"set -euo pipefail\n{block}"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        said.append(done.stdout)
    assert '"label":"owl"' in said[0] or '"label":"cat"' in said[0] or '"label":"dog"' in said[0]
    assert "learned 29" in said[1] and " ['cat', 'dog', 'owl']" in said[1] and "whole" in said[1]
    assert "PASS" in said[2]
    dead = next(text for text in said if '"reason"' in text)
    assert '"undecodable"' in dead and '"not_finite"' in dead
    assert any('"events_learned"' in text or '"learned"' in text for text in said[6:])
    assert any(text.startswith("dog\n00000") for text in said)
    assert "er_ace" in said[-1] and "settings are fine" in said[-1]
