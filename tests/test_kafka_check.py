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


def compact(place: Place, of: str, policy: str = "compact", lag: int = 0) -> None:
    configs = {"cleanup.policy": policy, "min.compaction.lag.ms": str(lag)}
    with administrator(place.broker) as admin:
        admin.alter_configs([ConfigResource("TOPIC", place.name(of), configs)])


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
    compact(place, "", lag=86_400_000)
    compact(place, of, "compact,delete")
    with place.command("check") as check:
        assert check.ends() == 0, check.said
    (warning,) = [line for line in check.said.splitlines() if line.startswith("warning: ")]
    assert warning == (
        f"warning: topic {place.name(of)} has cleanup.policy compact,delete: the broker refuses records "
        "without a key there, which would end the worker, and keeps only the last of those with one key: set "
        "it to delete"
    )


def test_a_cleaner_that_may_come_before_a_checkpoint_is_warned_of(broker: Broker, tmp_path: Path) -> None:
    """Where the events' topic is compacted: by `check`, and by a start, once."""
    place = new_place(broker, tmp_path)
    warning = (
        f"topic {place.topic} has cleanup.policy compact and min.compaction.lag.ms 60000 (60 s): events that "
        "a cleaner takes after they were answered and before a checkpoint holds what they teach are not "
        "learned after a crash. Set it longer than checkpoint.seconds and the longest time without a worker "
        "together; a day (86400000) or more silences this"
    )
    for lag, count in ((60_000, 1), (86_400_000, 0)):
        compact(place, "", lag=lag)
        with place.command("check") as check:
            assert check.ends() == 0, check.said
        assert check.said.count("has cleanup.policy compact") == count
        assert (f"warning: {warning}" in check.said) == bool(count)
        with place.run() as run:
            run.says("learns   ")
            assert run.stops() == 0
        assert run.said.count("has cleanup.policy compact") == count
        assert (warning in run.said) == bool(count)
    compact(place, "", lag=60_000)
    outputs = (
        "--sink.predictions",
        str(tmp_path / "p.jsonl"),
        "--sink.dead_letters",
        str(tmp_path / "d.jsonl"),
    )
    with place.command(
        "check", "--sink.connector", "connectors.file_sink:FileSink", *outputs, state="other"
    ) as check:
        assert check.ends() == 0, check.said
    assert check.said.count(warning) == 1, check.said


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
