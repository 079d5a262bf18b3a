"""Publishing to a real Kafka: every format, every event exactly once, whatever happens in between."""

from __future__ import annotations

import gzip
import json
import random
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from ops.kafka.broker import Broker
from streamlearn.events import Fenced, StateMismatch, Unreachable, UsageError
from tests.kafka import administrator, fresh_topic, read_all
from tests.processes import DEADLINE, ROOT, Process, said, wait_for
from tests.publishing import after_sends, expect, numbers, send, write_numbers

pytestmark = [
    pytest.mark.slow,
    # kafka-python leaves sockets that couldn't be connected to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.usefixtures("rubbish", "own_state_home"),
]


def words(broker: Broker, topic: str, *more: str) -> list[str]:
    return ["publish", *more, "--source.bootstrap_servers", broker.address, "--source.topic", topic]


def more_than(broker: Broker, topic: str, count: int) -> bool:
    return len(read_all(broker, topic)) > count


def alive(process: Process) -> bool:
    return process.process.poll() is None


def more_than_or_ended(broker: Broker, topic: str, count: int, process: Process) -> bool:
    return more_than(broker, topic, count) or not alive(process)


# ---- what is sent


def test_every_format(broker: Broker, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    now = int(time.time())
    objects = [{"id": f"é{i}", "x": [i, 2.5], "y": "a", "ts": now - 100 + i} for i in range(30)]
    text = [json.dumps(each, ensure_ascii=i % 2 == 0).encode() for i, each in enumerate(objects)]
    packed = [msgpack.packb(each) for each in objects]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([*text, b"no JSON", b""]))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"\n".join(text) + b"\n"))
    (tmp_path / "a.msgpack").write_bytes(b"".join(packed))
    (tmp_path / "a.csv").write_text("a,b,y\n" + "".join(f"{i},x,{i % 3}\n" for i in range(30)))
    np.savez(tmp_path / "a.npz", x=np.arange(60, dtype=np.uint8).reshape(30, 2), y=np.arange(30))
    rows = [{"a": i, "b": "x", "y": str(i % 3)} for i in range(30)]
    for name, values in (("a.jsonl", [*text, b"no JSON"]), ("a.jsonl.gz", text), ("a.msgpack", packed)):
        topic = fresh_topic(broker)
        line = said(capfd, *words(broker, topic, str(tmp_path / name), "--key", "id"))
        assert line.startswith(f"sent {len(values)} events of {tmp_path / name} to {topic} in ")
        found = read_all(broker, topic)
        assert [each.value for each in found] == values
        assert [each.key for each in found[:30]] == [each["id"].encode() for each in objects]  # type: ignore[attr-defined]
        assert [each.timestamp for each in found[:30]] == [each["ts"] * 1000 for each in objects]  # type: ignore[operator]
    topic = fresh_topic(broker)
    said(capfd, *words(broker, topic, str(tmp_path / "a.csv")))
    assert [json.loads(each.value or b"") for each in read_all(broker, topic)] == rows
    topic = fresh_topic(broker)
    said(capfd, *words(broker, topic, str(tmp_path / "a.npz")))
    assert [msgpack.unpackb(each.value or b"")["y"] for each in read_all(broker, topic)] == list(range(30))
    topic = fresh_topic(broker, partitions=3)
    assert said(capfd, *words(broker, topic, "digits", "--limit", "50")).endswith("; that is the --limit\n")
    assert len(read_all(broker, topic)) == 50


def test_the_same_command_sends_what_is_missing(
    broker: Broker, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, topic = write_numbers(tmp_path / "a.jsonl", 100), fresh_topic(broker)
    command = words(broker, topic, str(path))
    assert "sent 40 events" in said(capfd, *command, "--limit", "40")
    assert "; that is the --limit" in said(capfd, *command, "--limit", "40")
    assert "sent 60 events" in said(capfd, *command)
    assert said(capfd, *command).startswith("nothing to send: all 100 events")
    write_numbers(path, 20, 100)
    assert "sent 20 events" in said(capfd, *command)
    expect(broker, topic, range(120))
    (marker,) = (tmp_path / "state" / "streamlearn" / "publish").iterdir()
    assert json.loads(marker.read_text())["sent"] == 120
    path.write_text("")
    write_numbers(path, 130, 5)
    refused = said(capfd, *command, status=3)
    assert "no longer begins with the 120 events that were sent of it" in refused
    assert "sent 130 events" in said(capfd, *command, "--again")
    assert said(capfd, *command).startswith("nothing to send: all 130 events")
    assert sorted(numbers(read_all(broker, topic))) == sorted([*range(120), *range(5, 135)])


def test_standard_input(broker: Broker, tmp_path: Path) -> None:
    topic, progress = fresh_topic(broker), tmp_path / "p.json"
    content = write_numbers(tmp_path / "a.jsonl", 50).read_bytes()

    def pipe(content: bytes, *more: str) -> str:
        command = [sys.executable, "-m", "streamlearn", *words(broker, topic, "-", *more)]
        done = subprocess.run(
            command, input=content, capture_output=True, cwd=ROOT, timeout=2 * DEADLINE, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    first = content[: content.index(b'{"id": 20,')]
    assert "sent 20 events of standard input" in pipe(first, "--progress", str(progress))
    assert "sent 30 events" in pipe(content, "--progress", str(progress))
    expect(broker, topic, range(50))
    assert "sent 20 events" in pipe(first)  # another one each time
    assert "sent 20 events" in pipe(first)
    assert len(read_all(broker, topic)) == 90


def test_a_rate_is_kept(broker: Broker, tmp_path: Path) -> None:
    path, topic = write_numbers(tmp_path / "a.jsonl", 200), fresh_topic(broker)
    outcome = send(broker, topic, path, rate=100)
    assert outcome.sent == 200
    assert 1.8 < outcome.seconds < 6
    stamps = [message.timestamp or 0 for message in read_all(broker, topic)]
    assert stamps[-1] - stamps[0] > 1000


def test_a_record_that_is_too_large(
    broker: Broker, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, topic = write_numbers(tmp_path / "a.jsonl", 10), fresh_topic(broker, max_message_bytes=5000)
    with open(path, "a") as file:
        file.write(json.dumps({"id": 10, "x": "y" * 5000}) + "\n")
    write_numbers(path, 5, 11)
    for _ in range(2):
        text = said(capfd, *words(broker, topic, str(path)), status=2)
        assert f"record 10 of {path} (from 0) has 5019 bytes, more than topic {topic} takes" in text
        assert "which is 5000" in text
        expect(broker, topic, range(10))


def test_a_record_that_only_the_broker_finds_too_large(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, topic = write_numbers(tmp_path / "a.jsonl", 300), fresh_topic(broker, max_message_bytes=5000)
    with open(path, "a") as file:
        file.write(json.dumps({"id": 300, "x": "y" * 6000}) + "\n")
    monkeypatch.setattr("connectors.kafka.cluster.CONFIGS", ["retention.ms"])  # as where none may be read
    with pytest.raises(UsageError, match=r"record 300 of"):
        send(broker, topic, path)
    assert read_all(broker, topic) == []
    assert send(broker, topic, path, limit=300).sent == 300
    expect(broker, topic, range(300))


def test_what_a_topic_refuses_is_said_at_once(broker: Broker, tmp_path: Path) -> None:
    path, topic = write_numbers(tmp_path / "a.jsonl", 10), fresh_topic(broker, cleanup_policy="compact")
    with pytest.raises(Unreachable, match="refuses a message"):
        send(broker, topic, path)
    assert send(broker, topic, path, key="id").sent == 10


def test_no_such_topic(broker: Broker, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_numbers(tmp_path / "a.jsonl", 1)
    assert "`streamlearn topics` with the same settings creates it" in said(
        capfd, *words(broker, "nosuch", str(path)), status=4
    )


# ---- what Kafka forgot


def test_progress_that_kafka_forgot(broker: Broker, tmp_path: Path) -> None:
    path, topic = write_numbers(tmp_path / "a.jsonl", 10), fresh_topic(broker)
    send(broker, topic, path)
    (marker,) = (tmp_path / "markers").iterdir()
    group = f"streamlearn.publish.{json.loads(marker.read_text())['name']}"
    with administrator(broker) as admin:
        assert admin.delete_groups([group]) == {group: "OK"}
    with pytest.raises(StateMismatch, match=r"10 events of .* Kafka has forgotten"):
        send(broker, topic, path)
    assert send(broker, topic, path, again=True).sent == 10


def test_a_topic_made_anew_gets_everything(broker: Broker, tmp_path: Path) -> None:
    path, topic = write_numbers(tmp_path / "a.jsonl", 10), fresh_topic(broker)
    send(broker, topic, path)
    with administrator(broker) as admin:
        admin.delete_topics([topic])
        wait_for(lambda: topic not in admin.list_topics(), "the topic is deleted")
        admin.create_topics({topic: {"num_partitions": 1}}, wait_for_metadata=True)
    assert send(broker, topic, path).sent == 10
    expect(broker, topic, range(10))


def test_a_progress_file_of_another_topic(broker: Broker, tmp_path: Path) -> None:
    path, topics = write_numbers(tmp_path / "a.jsonl", 10), [fresh_topic(broker) for _ in range(2)]
    named: dict[str, Any] = {"marker": str(tmp_path / "p.json"), "marker_given": True}
    assert send(broker, topics[0], path, **named).sent == 10
    with pytest.raises(UsageError, match=r"p\.json is the progress of publishing to topic"):
        send(broker, topics[1], path, **named)
    assert send(broker, topics[0], path).sent == 10  # another publication
    assert send(broker, topics[0], path, **named).sent == 0


# ---- kills

AT = """
import os, sys
from kafka import KafkaProducer
import connectors.kafka.publish
connectors.kafka.publish.MOST = 100
name, number = sys.argv[1], int(sys.argv[2])
original, count = getattr(KafkaProducer, name), 0
def dies(self, *arguments, **more):
    global count
    count += 1
    found = original(self, *arguments, **more)
    if count == number:
        os.kill(os.getpid(), 9)
    return found
setattr(KafkaProducer, name, dies)
from streamlearn.cli import main
main(sys.argv[3:])
"""


def test_a_kill_at_every_point(broker: Broker, tmp_path: Path) -> None:
    """Behind every step of a transaction, which is in front of the next one."""
    path, topic = write_numbers(tmp_path / "a.jsonl", 1000), fresh_topic(broker, 3)
    command = words(broker, topic, str(path), "--key", "id")
    points = [("init_transactions", 1), ("send", 150), ("flush", 2)]
    points += [("send_offsets_to_transaction", 2), ("commit_transaction", 2)]
    for name, number in points:
        done = subprocess.run(
            [sys.executable, "-c", AT, name, str(number), *command],
            cwd=ROOT,
            timeout=2 * DEADLINE,
            check=False,
            capture_output=True,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    last = subprocess.run(
        [sys.executable, "-m", "streamlearn", *command],
        cwd=ROOT,
        timeout=2 * DEADLINE,
        check=True,
        capture_output=True,
    )
    assert b"1000 with those sent before" in last.stdout
    expect(broker, topic, range(1000))


def test_kills_at_any_moment(broker: Broker, tmp_path: Path) -> None:
    path, topic = write_numbers(tmp_path / "a.jsonl", 6000), fresh_topic(broker, 2)
    draw, kills = random.Random(5), 0
    while True:
        before = len(read_all(broker, topic))
        with Process(*words(broker, topic, str(path), "--key", "id", "--rate", "1500")) as process:
            wait_for(partial(more_than_or_ended, broker, topic, before, process), "it sends")
            try:
                process.process.wait(draw.uniform(0.0, 0.8))
            except subprocess.TimeoutExpired:
                process.process.kill()
                kills += 1
                continue
            assert process.process.returncode == 0, process.err
            break
    assert kills > 1
    expect(broker, topic, range(6000))


def test_a_signal_ends_the_transaction(broker: Broker, tmp_path: Path) -> None:
    path, topic = write_numbers(tmp_path / "a.jsonl", 3000), fresh_topic(broker)
    command = words(broker, topic, str(path))
    for number in (signal.SIGTERM, signal.SIGINT):
        before = len(read_all(broker, topic))
        with Process(*command, "--rate", "300") as process:
            running = partial(alive, process)
            wait_for(partial(more_than, broker, topic, before), "it sends", running)
            process.process.send_signal(number)
            assert process.process.wait(DEADLINE) == 0
        assert any("finishing the transaction" in line for line in process.err)
        assert process.out[-1].endswith("; stopped: the same command goes on from there")
    send_rest = subprocess.run(
        [sys.executable, "-m", "streamlearn", *command],
        cwd=ROOT,
        timeout=2 * DEADLINE,
        check=True,
        capture_output=True,
    )
    assert b"3000 with those sent before" in send_rest.stdout
    expect(broker, topic, range(3000))


def test_another_one_takes_over(broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, topic = write_numbers(tmp_path / "a.jsonl", 1000), fresh_topic(broker)
    monkeypatch.setattr("connectors.kafka.publish.MOST", 100)
    after_sends(monkeypatch, 3, lambda: None)
    begun, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        go_on.wait(60)

    raised: list[BaseException] = []

    def first() -> None:
        try:
            send(broker, topic, path, rate=0)
        except Fenced as error:
            raised.append(error)

    with monkeypatch.context() as patch:
        after_sends(patch, 3, wait)
        thread = threading.Thread(target=first)
        thread.start()
        assert begun.wait(60)
    second = send(broker, topic, path)
    go_on.set()
    thread.join(60)
    assert (second.before, second.sent) == (300, 700)
    assert "another `streamlearn publish`" in str(raised[0])
    expect(broker, topic, range(1000))
