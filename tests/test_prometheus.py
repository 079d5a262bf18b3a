"""The metrics as a real Prometheus has them: scraped from real workers, asked by expressions."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from ops.harness.prometheus import Prometheus, tool
from ops.kafka.broker import Broker
from streamlearn.observe import Observation, Vitals
from tests.kafka_worker import new_place
from tests.processes import Process, flags, line, wait_for
from tests.scrape import OPENMETRICS, parsed, serving
from tests.streams import vectors

pytestmark = pytest.mark.slow

EVENTS = vectors(2000)
EXPORT = ("--exporter.enabled", "true", "--exporter.port", "0")
LEARNS = ("--evaluation.held_out", "0.1", "--memory.capacity", "300", "--checkpoint.seconds", "0.5")
RECALLS = ("--method.name", "er", "--method.modifiers", "view_batch")

OF_EVERY_WORKER = """
build_info healthy ready outputs_stalled role paused resumed epoch model_step known_classes parameters
events_total dead_letters_total read_bytes_total skipped_steps_total pending_events images_per_event
memory_examples memory_capacity_examples next_offset checkpointed_offset
checkpoints_total checkpoint_failures_total checkpoint_bytes last_checkpoint_timestamp_seconds
checkpoint_duration_seconds_bucket checkpoint_pause_seconds_bucket
prediction_latency_seconds_bucket event_to_prediction_seconds_bucket label_delay_seconds_bucket
""".split()
OF_ONE_THAT_HAS_LEARNED = """
prequential_accuracy prequential_kappa prequential_kappa_majority prequential_kappa_no_change
prequential_log_loss class_recall loss average_accuracy forgetting min_accuracy worst_case_accuracy
windowed_forgetting windowed_plasticity stability_gap set_accuracy set_accuracy_standard_error
evaluation_interval_steps evaluations_total evaluated_images_total held_out_examples held_out_bytes
memory_bytes memory_classes memory_class_share memory_age_events
recall_interval_steps expected_recall_interval_steps prototype_nearest_distance prototype_distance
step_seconds_bucket serving_info
""".split()
OF_KAFKA = """
consumer_lag_events end_offset queue_depth rebalances_total fetch_pauses_total commits_total
records_lost_total last_broker_answer_timestamp_seconds partitions_held
""".split()
STAGES = "decode collate predict draw forward_backward update store evaluate publish flush".split()


def timed(index: int) -> bytes:
    """An event that says when it happened: a minute ago."""
    fields = json.loads(line(EVENTS[index]))
    return json.dumps(fields | {"ts": time.time() - 60}).encode() + b"\n"


def address(said: Callable[[], str]) -> str:
    """HOST:PORT of a worker's metrics, once it says it."""
    pattern = re.compile(r"  metrics  http://(\S+)/metrics")
    wait_for(lambda: pattern.search(said()), "the URL of the metrics")
    found = pattern.search(said())
    assert found is not None
    return found[1]


def checked(target: str) -> None:
    """What it exports now is clean for promtool, and for the parser of OpenMetrics."""
    with urlopen(f"http://{target}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    done = subprocess.run(
        [tool("promtool"), "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    request = Request(f"http://{target}/metrics", headers={"Accept": OPENMETRICS})
    with urlopen(request, timeout=20) as answer:
        assert answer.headers["Content-Type"].startswith(OPENMETRICS)
        families = list(parsed(answer.read().decode(), OPENMETRICS))
    ours = [family for family in families if family.name.startswith("streamlearn_")]
    assert len(ours) > 30
    assert all(family.documentation for family in ours)


def values(prometheus: Prometheus, expression: str) -> list[float]:
    return [each.value for each in prometheus.query(expression)]


def missing(prometheus: Prometheus, names: list[str]) -> list[str]:
    return [name for name in names if not prometheus.query(f"streamlearn_{name}")]


def test_the_server_itself(tmp_path: Path) -> None:
    """Targets that come later, rules, expressions that are none."""
    rules = tmp_path / "rules.yml"
    twice = {"record": "twice", "expr": "2 * streamlearn_model_step"}
    rules.write_text(json.dumps({"groups": [{"name": "one", "rules": [twice]}]}))
    vitals = Vitals(60)
    vitals.observation = Observation(step=7)
    with serving(vitals) as site, Prometheus(tmp_path / "prometheus", [], [rules], 0.5) as prometheus:
        assert prometheus.query("up") == []
        prometheus.scrape(f"127.0.0.1:{site.exporter.port}")
        (step,) = prometheus.until("streamlearn_model_step")
        assert step.value == 7
        assert step.labels["job"] == "streamlearn"
        assert [each.value for each in prometheus.until("twice")] == [14]
        assert values(prometheus, "1 + 1") == [2]
        with pytest.raises(AssertionError, match="parse error"):
            prometheus.query("1 +")
    prometheus.stop()


def test_a_worker_over_a_file(tmp_path: Path) -> None:
    """Fresh, when it has learned, and when it goes on from a checkpoint."""
    words = [*flags(tmp_path, "-", *EXPORT, *LEARNS, *RECALLS), "--sink.dead_letters", str(tmp_path / "dead")]
    with Prometheus(tmp_path / "prometheus", [], interval=1.0) as prometheus:
        with Process(*words, stdin=True) as worker:
            target = address(lambda: worker.errors)
            checked(target)
            prometheus.scrape(target)
            prometheus.until("streamlearn_ready == 1")
            assert missing(prometheus, OF_EVERY_WORKER) == ["next_offset", "checkpointed_offset"]
            assert missing(prometheus, OF_ONE_THAT_HAS_LEARNED) == OF_ONE_THAT_HAS_LEARNED
            records = [*map(timed, range(1000)), b"garbage\n", *map(timed, range(1000, 1900))]
            worker.send(b"".join(records))
            prometheus.until('sum(streamlearn_events_total{outcome=~"predicted|dead_lettered"}) == 1901')
            prometheus.until("streamlearn_checkpointed_offset == 1901")
            checked(target)
            found = missing(prometheus, OF_EVERY_WORKER + OF_ONE_THAT_HAS_LEARNED)
            assert found == []
            stages = {each.labels["stage"] for each in prometheus.query("streamlearn_step_seconds_count")}
            assert stages == set(STAGES)
            assert values(prometheus, "streamlearn_known_classes") == [6]
            assert values(prometheus, "sum(streamlearn_memory_class_share)") == [pytest.approx(1)]
            assert values(prometheus, 'streamlearn_dead_letters_total{reason="undecodable"}') == [1]
            assert values(
                prometheus, 'increase(streamlearn_dead_letters_total{reason="undecodable"}[5m]) > 0'
            )
            assert values(prometheus, 'streamlearn_dead_letters_total{reason="bad_label"}') == [0]
            labeled = sum(event.y is not None for event in EVENTS[:1900])
            assert values(prometheus, "streamlearn_label_delay_seconds_count") == [labeled]
            (delay,) = values(
                prometheus, "streamlearn_label_delay_seconds_sum / streamlearn_label_delay_seconds_count"
            )
            assert 60 <= delay < 120
            sent = sum(len(record.strip()) for record in records)
            assert values(prometheus, "streamlearn_read_bytes_total") == [sent]
            (oldest,) = values(prometheus, 'streamlearn_memory_age_events{statistic="oldest"}')
            (mean,) = values(prometheus, 'streamlearn_memory_age_events{statistic="mean"}')
            assert 0 < mean < oldest <= labeled
            assert values(prometheus, "process_resident_memory_bytes > 1e7")
            worker.process.kill()
        with Process(*words, stdin=True) as again:
            again.send(b"".join(records))
            prometheus.scrape(address(lambda: again.errors))
            prometheus.until("streamlearn_resumed == 1 and streamlearn_epoch == 2")
            (age,) = values(prometheus, "time() - streamlearn_last_checkpoint_timestamp_seconds")
            assert 0 < age < 300
            assert values(prometheus, "streamlearn_checkpoint_bytes > 0")
            again.hang_up()
            assert again.ends() == 0


def test_from_kafka_to_a_file(broker: Broker, tmp_path: Path) -> None:
    """No group, so no commits: but a topic, brokers and a lag all the same."""
    place = new_place(broker, tmp_path)
    place.send(EVENTS[:100])
    words = flags(tmp_path, "-", *EXPORT)
    at = words.index("--source.path")
    words[at : at + 2] = ["--source.bootstrap_servers", broker.address, "--source.topic", place.topic]
    words += ["--sink.connector", "connectors.file_sink:FileSink", "--sink.dead_letters", str(tmp_path / "d")]
    words += ["--delivery.mode", "at_least_once", "--source.commands", f"{place.topic}.none"]
    with Process(*words) as worker:
        target = address(lambda: worker.errors)
        wanted = 'streamlearn_events_total{outcome="predicted"} 100.0'

        def page() -> str:
            with urlopen(f"http://{target}/metrics", timeout=20) as answer:
                return str(answer.read().decode())

        wait_for(lambda: wanted in page(), "all are answered")
        where = f'{{partition="0",topic="{place.topic}"}}'
        wait_for(lambda: f"streamlearn_consumer_lag_events{where} 0.0" in page(), "no lag")
        assert f"streamlearn_end_offset{where} 100.0" in page()


def test_a_worker_on_kafka(broker: Broker, tmp_path: Path) -> None:
    place = new_place(broker, tmp_path)
    place.send(EVENTS[:600])
    with place.run(*EXPORT, *LEARNS) as run, Prometheus(tmp_path / "p", [], interval=1.0) as prometheus:
        target = address(lambda: run.said)
        prometheus.scrape(target)
        prometheus.until('streamlearn_events_total{outcome="predicted"} == 600')
        prometheus.until("sum(streamlearn_consumer_lag_events) == 0")
        prometheus.until("streamlearn_checkpointed_offset == 600")
        checked(target)
        assert missing(prometheus, OF_EVERY_WORKER + OF_KAFKA) == []
        topic = f'topic="{place.topic}",partition="0"'
        for name in ("next_offset", "end_offset"):
            assert values(prometheus, f"streamlearn_{name}{{{topic}}} == 600"), name
        assert values(prometheus, 'streamlearn_role{role="learner"}') == [1]
        assert values(prometheus, "streamlearn_partitions_held") == [1]
        assert values(prometheus, "streamlearn_commits_total > 0")
        prometheus.until("streamlearn_event_to_prediction_seconds_count == 600")
        assert values(prometheus, "time() - streamlearn_last_broker_answer_timestamp_seconds < 30")
        with place.run(*EXPORT, *LEARNS) as standby:
            standby.says("standing by")
            prometheus.until("increase(streamlearn_rebalances_total[5m]) > 0")
            place.send(EVENTS[600:700])
            prometheus.until('streamlearn_events_total{outcome="predicted"} == 700')
            standby.kill()
        assert run.stops() == 0
