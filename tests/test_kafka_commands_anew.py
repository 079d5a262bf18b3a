"""A topic of commands that was deleted and made anew: its commands are carried out, each answered once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from ops.kafka.broker import Broker
from tests.kafka import administrator
from tests.kafka_worker import Place, Run, new_place
from tests.processes import wait_for
from tests.streams import vectors
from tests.test_kafka_commands import answers, tell
from tests.test_kafka_topic_faults import SOON, last_line

EVENTS = vectors(60)
OLD = 5
"""Commands of the old topic: C is there, in a topic that begins at 0 again."""


def asked(place: Place, names: Sequence[str], command: str = "checkpoint") -> None:
    place.send([json.dumps({"command": command, "request": name}).encode() for name in names], ".commands")


def until_requests(place: Place, run: Run, names: Sequence[str]) -> None:
    """These are answered, in this order, and no others."""
    run.until(lambda: len(answers(place)) >= len(names), "all are answered")
    assert [each["request"] for each in answers(place)] == list(names)


def learned(place: Place, run: Run) -> list[str]:
    """Events are, and OLD commands carried out; the names of those."""
    old = [f"old{n}" for n in range(OLD)]
    place.send(EVENTS[:50])
    place.until_answered(run, 50)
    asked(place, old)
    until_requests(place, run, old)
    run.until(lambda: place.committed()[".commands", 0][0] == OLD, "P is behind them")
    return old


def delete(place: Place, of: str = ".commands") -> None:
    name = place.name(of)
    with administrator(place.broker) as admin:
        admin.delete_topics([name])
        wait_for(lambda: name not in admin.list_topics(), "it is gone")


def make_anew(place: Place, of: str = ".commands") -> None:
    delete(place, of)
    name = place.name(of)
    with administrator(place.broker) as admin:
        admin.create_topics({name: {"num_partitions": 1, "replication_factor": 1}})
        admin.wait_for_topics([name])


def goes_on(place: Place, run: Run, old: Sequence[str], at: int = OLD) -> None:
    run.says(
        f"topic {place.topic}.commands was deleted and made anew: its commands are carried out from its "
        f"beginning, offset 0; what had not been carried out of the old one's, from offset {at} on, is gone"
    )


@pytest.mark.parametrize("waiting", [0, OLD - 2, OLD + 2])
def test_commands_made_anew_while_no_worker_runs(waiting: int, broker: Broker, tmp_path: Path) -> None:
    """However many wait in the new topic: none is taken for one of the old one, C and P of which are gone."""
    place = new_place(broker, tmp_path)
    with place.run() as run:
        names = learned(place, run)
        assert run.stops() == 0
    make_anew(place)
    new = [f"new{n}" for n in range(waiting)]
    asked(place, new)
    with place.command("check") as check:
        assert check.ends() == 0, check.said
    with place.run() as run:
        goes_on(place, run, names)
        names += new
        until_requests(place, run, names)
        assert tell(place, "pause")["paused"]
        assert run.stops() == 0
    assert place.committed()[".commands", 0][0] == waiting + 1
    with place.run() as run:
        run.says("goes on from ")
        assert tell(place, "resume")["done"]
        place.send(EVENTS[50:])
        place.until_answered(run, 60)
        assert run.stops() == 0
        assert "made anew" not in run.said
    assert [each["command"] for each in answers(place)][len(names) :] == ["pause", "resume"]


def test_a_pause_outlives_a_run_without_commands(broker: Broker, tmp_path: Path) -> None:
    """Their topic is gone: the worker says what is to be done, and stays as it was asked to be."""
    place = new_place(broker, tmp_path)
    with place.run() as run:
        learned(place, run)
        assert tell(place, "pause")["paused"]
        assert run.stops() == 0
    delete(place)
    place.send(EVENTS[50:])
    for _ in range(2):  # a checkpoint of a run without commands knows of the pause too
        with place.run() as run:
            run.says(f"nothing can end the pause. `streamlearn topics` makes topic {place.topic}.commands;")
            run.says("goes on from ")
            assert run.stops() == 0
        assert (place.reached(), len(place.read())) == (50, 50)
    with place.command("topics") as topics:
        assert topics.ends() == 0
    with place.run() as run:
        run.says("goes on from ")
        assert tell(place, "checkpoint")["paused"]
        assert not tell(place, "resume")["paused"]
        place.until_answered(run, 60)
        assert run.stops() == 0


def test_commands_made_anew_over_a_kill_before_the_first_answer(broker: Broker, tmp_path: Path) -> None:
    """The commit names the checkpoint that knows the old topic, with P of the new one beside it."""
    place = new_place(broker, tmp_path)
    with place.run() as run:
        names = learned(place, run)
        assert run.stops() == 0
    make_anew(place)
    with place.run(**place.held) as run:
        goes_on(place, run, names)
        run.until(lambda: place.committed().get((".commands", 0), (-1,))[0] == 0, "P is at its beginning")
        place.hold.touch()
        asked(place, ["new0"], "pause")
        run.until(
            lambda: "new0" in [each["request"] for each in answers(place, "read_uncommitted")], "it is sent"
        )
        assert len(answers(place)) == OLD
        run.kill()
    asked(place, ["new1"])
    with place.run() as run:
        goes_on(place, run, names)
        names += ["new0", "new1"]
        until_requests(place, run, names)
        assert answers(place)[-1]["paused"]
        run.kill()
    with place.run() as run:
        assert tell(place, "resume")["done"]
        place.send(EVENTS[50:])
        place.until_answered(run, 60)
        assert run.stops() == 0
        assert "made anew" not in run.said
    assert len(answers(place)) == len(names) + 1


def test_going_back_to_a_checkpoint_that_knows_the_old_commands(broker: Broker, tmp_path: Path) -> None:
    """Its copy goes on with the new topic's, from the beginning, and answers none of them twice."""
    place = new_place(broker, tmp_path)
    with place.run("--checkpoint.keep", "20") as run:
        names = learned(place, run)
        assert run.stops() == 0
    old = place.named()
    make_anew(place)
    with place.run("--checkpoint.keep", "20") as run:
        goes_on(place, run, names)
        asked(place, new := [f"new{n}" for n in range(OLD + 2)])
        names += new
        until_requests(place, run, names)
        run.until(lambda: place.committed()[".commands", 0][0] == OLD + 2, "P is behind them")
        assert run.stops() == 0
    with place.command(f"checkpoints use {old}") as use:
        assert use.ends() == 0, use.said
    assert place.committed()[".commands", 0][0] == OLD + 2
    with place.run() as run:
        goes_on(place, run, names)
        assert tell(place, "checkpoint")["done"]
        assert run.stops() == 0
    assert len(answers(place)) == len(names) + 1
    with place.run() as run:
        assert tell(place, "checkpoint")["done"]
        assert run.stops() == 0
        assert "made anew" not in run.said
    assert len(answers(place)) == len(names) + 2


def test_offsets_that_are_gone_and_commands_that_nobody_has_read(broker: Broker, tmp_path: Path) -> None:
    """`checkpoints use` skips none of them: not of a topic made anew, nor where the checkpoint's C is 0."""
    place = new_place(broker, tmp_path)
    with place.run() as run:
        names = learned(place, run)
        assert run.stops() == 0
    make_anew(place)
    asked(place, ["new0"])
    names += ["new0"]
    place.forget_offsets()
    with place.command(f"checkpoints use {place.checkpoints()[-1]}") as use:
        assert use.ends() == 0, use.said
    with place.run() as run:
        until_requests(place, run, names)
        assert run.stops() == 0


@pytest.mark.parametrize("more", [(), SOON])
def test_commands_made_anew_while_the_worker_runs(
    more: tuple[str, ...], broker: Broker, tmp_path: Path
) -> None:
    """The worker ends, says so, and a new start (or a standby) goes on with the new topic."""
    place = new_place(broker, tmp_path)
    with place.run(*more) as run:
        names = learned(place, run)
        with place.run(*more) as other:
            other.says("standing by with checkpoint ")
            make_anew(place)
            place.send(EVENTS[50:55])
            assert run.ends() == 3
            said = last_line(run.said)
            assert f"run: topic {place.topic}.commands was deleted and made anew while it was read" in said
            assert "a new start goes on with the same state, and carries out the commands of the new" in said
            goes_on(place, other, names)
            assert tell(place, "checkpoint")["done"]
            place.until_answered(other, 55)
            assert other.stops() == 0
    place.send(EVENTS[55:])
    with place.run() as run:
        place.until_answered(run, 60)
        assert tell(place, "checkpoint")["done"]
        assert run.stops() == 0
        assert "made anew" not in run.said
    assert [each["id"] for each in place.predictions()] == [event.id for event in EVENTS]
    assert len(answers(place)) == OLD + 2
