"""What goes wrong around a worker on a real Kafka: settings that change, odd neighbours, odd records."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

import pytest

from connectors.kafka import watch
from ops.kafka.broker import Broker
from streamlearn.checkpoint import CheckpointStore
from streamlearn.worker import Worker
from tests.kafka import administrator
from tests.kafka_worker import new_place
from tests.streams import vectors
from tests.test_kafka_commands import tell

EVENTS = vectors(200)
OFF = ("--source.commands", "nobody.commands")
STUCK = "STREAMLEARN_TEST_STUCK"


@pytest.mark.parametrize("codec", ["gzip", "lz4", "snappy", "zstd"])
def test_compressed_topics(broker: Broker, tmp_path: Path, codec: str) -> None:
    """Events, commands and answers, by the broker: the worker and `tell` read them all."""
    place = new_place(broker, tmp_path, without=("", ".commands", ".answers"))
    configs = {"compression.type": codec}
    with administrator(broker) as admin:
        topic = {"num_partitions": 1, "replication_factor": 1, "configs": configs}
        made = {place.name(of): topic for of in ("", ".commands", ".answers")}
        admin.create_topics(made, wait_for_metadata=True)
    place.send(EVENTS[:50])
    with place.run() as run:
        place.until_answered(run, 50)
        assert tell(place, "checkpoint")["done"]
        assert run.stops() == 0


def test_check_says_that_it_has_written_nothing(broker: Broker, tmp_path: Path) -> None:
    """Where ACLs forbid that, it would find all fine."""
    place = new_place(broker, tmp_path)
    with place.command("check") as check:
        assert check.ends() == 0
    *_, note, last = check.said.splitlines()
    assert "whether the broker lets us write was not tried" in note
    assert last == "settings are fine"
    assert place.committed() == {}


def test_commands_are_switched_off_and_the_worker_is_killed(broker: Broker, tmp_path: Path) -> None:
    """The member is another one at once, and its commits name checkpoints all the same."""
    place = new_place(broker, tmp_path)
    place.send(EVENTS[:50])
    with place.run() as run:
        place.until_answered(run, 50)
        assert tell(place, "checkpoint")["done"]
        assert run.stops() == 0
    for _ in range(2):
        with place.run(*OFF) as run:
            run.says("goes on from ")
            run.until(place.named, "a checkpoint is named")
            run.kill()
    place.send(EVENTS[50:60])
    with place.run(*OFF) as run:
        place.until_answered(run, 60)
        assert run.stops() == 0


def test_a_standby_that_reads_more_topics_does_not_move_the_learner(broker: Broker, tmp_path: Path) -> None:
    place = new_place(broker, tmp_path, without=(".commands", ".answers"))
    place.send(EVENTS[:50])
    with place.run() as one:
        place.until_answered(one, 50)
        with place.command("topics") as topics:
            assert topics.ends() == 0
        with place.run() as two:
            two.says("standing by with checkpoint ")
            place.send(EVENTS[50:100])
            place.until_answered(one, 100)
            assert "goes on from" not in two.said
            two.kill()
        place.send(EVENTS[100:150])
        place.until_answered(one, 150)
        assert one.stops() == 0


def test_another_group_is_kept_out_of_the_folder(broker: Broker, tmp_path: Path) -> None:
    """Also at its first start, when nothing but untouched checkpoints is there."""
    place, other = new_place(broker, tmp_path), new_place(broker, tmp_path)
    with place.run() as run:
        run.says("a first start")
        with other.run() as wrong:
            assert wrong.ends() == 3
        assert "a worker of another group or topic is at work in " in wrong.said
        place.send(EVENTS[:50])
        place.until_answered(run, 50)
        assert run.stops() == 0


def stick() -> None:
    apply = Worker._apply

    def stuck(self: Worker, records: object) -> None:
        if os.path.exists(os.environ[STUCK]):
            print("STUCK NOW", file=sys.stderr, flush=True)
        while os.path.exists(os.environ[STUCK]):
            threading.Event().wait(0.05)
        apply(self, records)  # type: ignore[arg-type]

    Worker._apply = stuck  # type: ignore[method-assign]
    from connectors.kafka import options

    options.Options.learner_patience = 2.0
    defaults = options.Options.__init__.__defaults__
    assert defaults is not None
    options.Options.__init__.__defaults__ = tuple(2.0 if each == 600.0 else each for each in defaults)


def test_a_learner_that_hangs_is_replaced(broker: Broker, tmp_path: Path) -> None:
    place, flag = new_place(broker, tmp_path), tmp_path / "stuck"
    place.send(EVENTS[:50])
    with place.run(before=stick, env={STUCK: str(flag)}) as one:
        place.until_answered(one, 50)
        with place.run() as two:
            two.says("standing by with checkpoint ")
            flag.touch()
            place.send(EVENTS[50:60])
            one.says("STUCK NOW")
            place.send(EVENTS[60:150])
            place.until_answered(two, 150)
            flag.unlink()
            assert one.ends() == 7
            assert two.stops() == 0


def stick_slowly() -> None:
    """The same, and an epoch begins slowly, as in a folder far away: looks at the learner come before it."""
    stick()
    watch.WATCH_SECONDS = 0.05
    begin = CheckpointStore.next_epoch

    def slow(self: CheckpointStore) -> int:
        threading.Event().wait(0.7)
        return begin(self)

    CheckpointStore.next_epoch = slow  # type: ignore[method-assign]


def test_one_that_has_stood_by_for_long_is_not_taken_for_a_learner_that_hangs(
    broker: Broker, tmp_path: Path
) -> None:
    """It had nothing to take for longer than a learner may take nothing: the session of the dead one."""
    place = new_place(broker, tmp_path)
    place.send(EVENTS[:50])
    with place.run() as one:
        place.until_answered(one, 50)
        with place.run(before=stick_slowly, env={STUCK: str(tmp_path / "stuck")}) as two:
            two.says("standing by with checkpoint ")
            place.send(EVENTS[50:150])
            one.kill()
            place.until_answered(two, 150)
            assert two.stops() == 0


def test_what_is_forgotten_before_anything_is_learned_stays_forgotten(broker: Broker, tmp_path: Path) -> None:
    """Five events: not enough to find out what x is."""
    place = new_place(broker, tmp_path)
    place.send(EVENTS[:5])
    forgotten = next(event.id for event in EVENTS[:5] if event.y is not None)
    with place.run() as run:
        run.says("a first start")
        assert tell(place, ("forget", forgotten))["done"]
        assert run.stops() == 0
    with place.run() as run:
        place.send(EVENTS[5:40])
        place.until_answered(run, 40)
        assert run.stops() == 0
    assert place.newest["events_forgotten"] == 1


def test_commands_that_make_no_answer_small_enough(broker: Broker, tmp_path: Path) -> None:
    place = new_place(broker, tmp_path)
    long = "\x7f" * 300_000
    bodies = [
        {"command": long, "request": "a"},
        {"command": "pause", "request": long},
        {"command": "forget", "id": long, "request": "b"},
    ]
    with place.run() as run:
        run.says("a first start")
        place.send([json.dumps(body, ensure_ascii=False).encode() for body in bodies], ".commands")
        assert tell(place, "resume")["done"]
        assert run.stops() == 0
    said = [json.loads(message.value or b"") for message in place.read(".answers")]
    assert [(each["request"], each["done"]) for each in said[:3]] == [
        ("a", False),
        (None, True),
        ("b", False),
    ]


def test_others_write_to_the_answers(broker: Broker, tmp_path: Path) -> None:
    place = new_place(broker, tmp_path)
    with place.run() as run:
        run.says("a first start")
        run.freeze()
        with place.command(["tell", "checkpoint"]) as told:
            run.until(lambda: place.read(".commands"), "it is sent")
            place.send([b"[1]", b"nothing"], ".answers")
            run.thaw()
            assert told.ends() == 0
        assert run.stops() == 0


def test_a_stop_does_not_wait_for_a_long_commit_interval(broker: Broker, tmp_path: Path) -> None:
    place = new_place(broker, tmp_path)
    place.send(EVENTS[:20])
    with place.run("--sink.commit_interval", "60") as run:
        run.says("a first start")
        run.until(place.named, "it has committed")
        place.send(EVENTS[20:40])
        assert run.stops() == 0
