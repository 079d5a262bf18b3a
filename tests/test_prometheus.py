"""The metrics as a real Prometheus has them: scraped from real workers, asked by expressions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from streamlearn.observe import Observation, Vitals
from tests.prometheus import Prometheus
from tests.scrape import serving

pytestmark = pytest.mark.slow


@pytest.fixture
def rules(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "rules.yml"
    path.write_text(
        '{"groups": [{"name": "one", "rules": [{"record": "twice", "expr": "2 * streamlearn_model_step"}]}]}'
    )
    yield path


def test_the_server_itself(tmp_path: Path, rules: Path) -> None:
    """Targets that come later, rules, expressions that are none."""
    vitals = Vitals(60)
    vitals.observation = Observation(step=7)
    with serving(vitals) as site, Prometheus(tmp_path / "prometheus", [], [rules], 0.2) as prometheus:
        assert prometheus.query("up") == []
        prometheus.scrape(f"127.0.0.1:{site.exporter.port}")
        (step,) = prometheus.until("streamlearn_model_step")
        assert step.value == 7
        assert step.labels["job"] == "streamlearn"
        assert [each.value for each in prometheus.until("twice")] == [14]
        assert prometheus.query("1 + 1")[0].value == 2
        with pytest.raises(AssertionError, match="parse error"):
            prometheus.query("1 +")
    prometheus.stop()
