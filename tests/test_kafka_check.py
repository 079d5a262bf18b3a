"""What `check` says of topics that don't fit, and what a run does with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from kafka.admin import ConfigResource

from ops.kafka.broker import Broker
from tests.kafka import administrator, fresh_topic
from tests.kafka_worker import Place, Run, new_place
from tests.processes import write_events
from tests.streams import vectors
from tests.test_kafka_topic_faults import last_line

EVENTS = vectors(50)


def compact(place: Place, of: str, policy: str = "compact") -> None:
    with administrator(place.broker) as admin:
        admin.alter_configs([ConfigResource("TOPIC", place.name(of), {"cleanup.policy": policy})])


def test_predictions_without_keys_for_a_compacted_topic(broker: Broker, tmp_path: Path) -> None:
    """The client has no name for the broker's code."""
    place = new_place(broker, tmp_path)
    compact(place, ".predictions")
    place.send(EVENTS[:50])
    with place.run() as run:
        assert run.ends() == 4
    assert "is cleanup.policy compact set on an output's topic? That takes no record" in last_line(run.said)
    with place.command("topics --check") as topics:
        assert topics.ends() == 0
    assert "those without a key are refused: set it to delete" in topics.said


@pytest.mark.parametrize("of", [".predictions", ".dead_letters", ".answers"])
def test_check_says_which_output_is_compacted(of: str, broker: Broker, tmp_path: Path) -> None:
    """As `run` would find out with the first output that has no key; the events' topic may be."""
    place = new_place(broker, tmp_path)
    compact(place, "")
    compact(place, of, "compact,delete")
    with place.command("check") as check:
        assert check.ends() == 0, check.said
    (warning,) = [line for line in check.said.splitlines() if line.startswith("warning: ")]
    assert warning == (
        f"warning: topic {place.name(of)} has cleanup.policy compact,delete: the broker refuses records "
        "without a key there, which would end the worker, and keeps only the last of those with one key: set "
        "it to delete"
    )


def test_check_looks_at_the_topics_of_a_sink_beside_a_file(broker: Broker, tmp_path: Path) -> None:
    events = write_events(tmp_path / "events.jsonl", EVENTS)
    predictions = fresh_topic(broker, cleanup_policy="compact")
    words = ["check", "--source.path", str(events), "--sink.bootstrap_servers", broker.address]
    words += ["--checkpoint.folder", str(tmp_path / "state"), "--exporter.enabled", "false"]
    words += ["--sink.predictions", predictions, "--sink.dead_letters"]
    with Run([*words, fresh_topic(broker)], tmp_path / "log") as check:
        assert check.ends() == 0, check.said
    assert f"warning: topic {predictions} has cleanup.policy compact" in check.said
    with Run([*words, "nowhere"], tmp_path / "other") as check:
        assert check.ends() == 4, check.said
    assert "there is no topic nowhere: `streamlearn topics` with" in last_line(check.said)
