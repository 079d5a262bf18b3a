"""One learner of several workers: who stands by, who takes over, and what becomes of one that comes back."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from connectors.kafka.boxes import Parcel
from connectors.kafka.committer import Committer
from ops.kafka.broker import Broker
from tests.kafka_worker import HOLD, Place, Run, new_place
from tests.processes import DEADLINE
from tests.streams import vectors

EVENTS = vectors(400)


@contextmanager
def standing_by(place: Place, *more: str) -> Iterator[Run]:
    with place.run(*more) as run:
        run.says("standing by with checkpoint ")
        yield run


def each_once(place: Place) -> None:
    assert [each["id"] for each in place.predictions()] == [event.id for event in EVENTS]


def epochs(place: Place) -> list[int]:
    return [json.loads(message.value or b"")["epoch"] for message in place.read()]


def test_when_the_learner_is_killed_another_goes_on(broker: Broker, tmp_path: Path) -> None:
    place, whole = new_place(broker, tmp_path), new_place(broker, tmp_path / "whole")
    whole.folder.mkdir()
    whole.send(EVENTS)
    place.send(EVENTS[:100])
    with place.run() as first:
        place.until_answered(first, 100)
        with standing_by(place) as second:
            place.send(EVENTS[100:200])
            place.until_answered(first, 200)
            # The newest that a commit names, always.
            second.until(
                lambda: f"standing by with checkpoint {place.named()}" in second.said, "the newest one"
            )
            assert "streamlearn 0" not in second.said
            place.send(EVENTS[200:300])
            place.until_answered(first, 230)
            first.kill()
            second.says("goes on from ")
            place.send(EVENTS[300:])
            place.until_answered(second, 400)
            assert second.stops() == 0
    each_once(place)
    assert set(epochs(place)) == {1, 2}
    assert epochs(place) == sorted(epochs(place))
    with whole.run() as run:
        whole.until_answered(run, 400)
        assert run.stops() == 0
    assert place.hashes == whole.hashes


def test_those_that_come_and_go_do_not_move_the_learner(broker: Broker, tmp_path: Path) -> None:
    """Each makes the group hand out its partitions anew, amid the reading; nothing is skipped or repeated."""
    place = new_place(broker, tmp_path)
    place.send(EVENTS[:10])
    with place.run("--sink.commit_interval", "0.02") as learner:
        place.until_answered(learner, 10)
        sent = 10
        for _ in range(3):
            with place.run() as other:
                while "standing by with checkpoint " not in other.said:
                    if sent < 350:
                        place.send(EVENTS[sent : sent + 5])
                        sent += 5
                    place.until_answered(learner, sent)
                    assert other.running()
                other.send(signal.SIGTERM)
                assert other.ends() == 0
                assert "INFO worker: stopped while " in other.said
        place.send(EVENTS[sent:])
        place.until_answered(learner, 400)
        assert learner.stops() == 0
    each_once(place)
    assert set(epochs(place)) == {1}


def test_one_that_was_killed_and_comes_back_soon_goes_on_itself(broker: Broker, tmp_path: Path) -> None:
    """It is known by its name in the group (static membership): nobody waits for its session to end."""
    place = new_place(broker, tmp_path)
    place.send(EVENTS[:200])
    long = ("--source.client.session_timeout_ms", "30000")
    with place.run(*long) as learner:
        place.until_answered(learner, 200)
        with standing_by(place, *long) as other:
            learner.kill()
            place.send(EVENTS[200:])
            with place.run(*long) as again:
                again.says("goes on from ")
                place.until_answered(again, 400)
                assert "goes on from" not in other.said
                assert other.stops() == 0
                assert again.stops() == 0
    each_once(place)


def test_one_with_other_settings_does_not_stand_by(broker: Broker, tmp_path: Path) -> None:
    """It could not go on from what the learner makes: that is said at once, not when it is needed."""
    place = new_place(broker, tmp_path)
    place.send(EVENTS[:50])
    with place.run() as learner:
        place.until_kept(learner, 50)
        with place.run("--memory.capacity", "70") as other:
            assert other.ends() == 3
            assert "was made with other settings: memory.capacity was 50, now 70. Set them" in other.said
            assert "standing by with checkpoint" not in other.said
        place.send(EVENTS[50:])
        place.until_answered(learner, 400)
        assert learner.stops() == 0
    each_once(place)


def test_other_settings_are_seen_before_the_first_real_checkpoint(broker: Broker, tmp_path: Path) -> None:
    """Once the learner surely lives, though there is no record yet; then as soon as it has answered one."""
    place = new_place(broker, tmp_path)
    rarely = ("--checkpoint.seconds", "600")
    other = ("--memory.capacity", "70")
    with place.run(*rarely) as learner:
        learner.says("a first start")
        assert place.named() == place.checkpoints()[0]
        for events in (EVENTS[:0], EVENTS[:20]):
            if events:
                place.send(events)
                place.until_answered(learner, 20)
                learner.until(lambda: place.committed()["", 0][0] == 20, "that is committed")
            with place.run(*rarely, *other) as refused:
                assert refused.ends() == 3, refused.said
                assert "was made with other settings: memory.capacity was 50, now 70" in refused.said
            assert ("standing by with checkpoint" in refused.said) == (not events)
        with standing_by(place, *rarely) as same:
            place.send(EVENTS[20:])
            place.until_answered(learner, 400)
            assert same.stops() == 0
        assert learner.stops() == 0
    each_once(place)


def test_other_settings_than_those_of_a_dead_one_that_has_learned_nothing(
    broker: Broker, tmp_path: Path
) -> None:
    """It is a first start again, also where the broker takes the dead one for the learner at first."""
    place = new_place(broker, tmp_path)
    with place.run() as run:
        run.says("a first start")
        run.kill()
    shutil.rmtree(tmp_path / "state" / "workers")  # so that it isn't known by its name
    with place.run("--memory.capacity", "70") as run:
        run.says("standing by with checkpoint ")
        run.says("a first start")
        place.send(EVENTS)
        place.until_answered(run, 400)
        assert run.stops() == 0
    each_once(place)


def hold_outputs() -> None:
    """In the worker's process: while the file HOLD is there, outputs wait before they are sent."""
    commit, hold = Committer._commit, Path(os.environ[HOLD])

    async def held(self: Committer, parcel: Parcel) -> None:
        if hold.exists() and len(parcel.messages) > 50:
            print("HELD", file=sys.stderr, flush=True)
            while hold.exists():
                await asyncio.sleep(0.02)
        await commit(self, parcel)

    setattr(Committer, "_commit", held)  # noqa: B010  # of a method that mypy knows


@pytest.mark.parametrize("mode", ["exactly_once", "at_least_once"])
def test_one_that_comes_back_from_a_long_stop_shows_nothing_and_exits(
    mode: str, broker: Broker, tmp_path: Path
) -> None:
    """Frozen past its session, amid outputs; what it had open is aborted, what it still sends is refused.

    Where no transaction hides it, with outputs pending: they are not sent.
    """
    place = new_place(broker, tmp_path)
    given = ("--delivery.mode", mode)
    pending = mode == "at_least_once"
    place.send(EVENTS[:100])
    with place.run(*given, before=hold_outputs, env={HOLD: str(place.hold)}) as zombie:
        place.until_answered(zombie, 100)
        with standing_by(place, *given) as other:
            if pending:
                place.hold.touch()
            place.send(EVENTS[100:300])
            if pending:
                zombie.says("HELD")
            else:
                place.until_answered(zombie, 110)
            zombie.freeze(whole=pending)  # else its Kafka process sends what it holds within that second
            place.hold.unlink(missing_ok=True)
            seen = len(place.read())
            assert seen <= 250 or not pending
            other.says("goes on from ")
            place.until_answered(other, 300)
            assert len(place.read()) > seen or seen == 300
            zombie.thaw()
            assert zombie.ends() == 7
            assert "Traceback" not in zombie.said
            last = zombie.said.splitlines()[-1]
            assert "ERROR run: " in last
            assert "another worker of " in last
            place.send(EVENTS[300:])
            place.until_answered(other, 400)
            assert other.stops() == 0
    each_once(place)
    assert epochs(place) == sorted(epochs(place))
    assert set(epochs(place)) == {1, 2}
    assert place.committed()["", 0][1]["epoch"] == 2


@pytest.mark.parametrize("mode", ["exactly_once", "at_least_once"])
def test_two_workers_with_one_instance_name(mode: str, broker: Broker, tmp_path: Path) -> None:
    """The broker takes the newer one for the older, restarted: that one ends, and says why it may be."""
    place = new_place(broker, tmp_path)
    place.send(EVENTS[:100])
    given = ("--source.options.instance", "one", "--delivery.mode", mode)
    with place.run(*given) as older:
        place.until_kept(older, 100)
        with place.run(*given) as newer:
            newer.says("goes on from ")
            place.send(EVENTS[100:])
            assert older.ends() == 7
            assert (
                "share a source.options.instance: give each its own, or none" in older.said.splitlines()[-1]
            )
            newer.until(lambda: place.committed()["", 0][0] == 400, "all are answered")
            assert newer.stops() == 0
    if mode == "exactly_once":
        each_once(place)


def test_a_standby_of_one_that_is_at_least_once_does_not_stop_it(broker: Broker, tmp_path: Path) -> None:
    """Commits are refused while a rebalance goes on: they come after it."""
    place = new_place(broker, tmp_path)
    mode = ("--delivery.mode", "at_least_once", "--sink.commit_interval", "0.01")
    place.send(EVENTS[:10])
    with place.run(*mode) as learner:
        place.until_answered(learner, 10)
        sent = 10
        for _ in range(2):
            with place.run(*mode) as other:
                while "standing by with checkpoint " not in other.said:
                    if sent < 350:
                        place.send(EVENTS[sent : sent + 5])
                        sent += 5
                    place.until_answered(learner, sent)
                    assert other.running()
                assert other.stops() == 0
        place.send(EVENTS[sent:])
        place.until_answered(learner, 400)
        assert learner.stops() == 0
    each_once(place)


def test_a_group_of_other_consumers_is_not_joined(broker: Broker, tmp_path: Path) -> None:
    """And a worker goes on whatever others try to join its group."""
    place = new_place(broker, tmp_path)
    place.send(EVENTS[:50])
    words = ["kcat", "-b", broker.address, "-G", place.group, place.topic, "-X", "auto.offset.reset=earliest"]
    with subprocess.Popen([*words, "-u", "-q"], stdout=subprocess.PIPE, text=True) as stranger:
        try:
            assert stranger.stdout is not None
            assert stranger.stdout.readline()
            with place.run() as run:
                assert run.ends() == 2
                assert "other consumers, which are no workers of streamlearn, are in this group" in run.said
                assert "set another source.group_id" in run.said
        finally:
            stranger.terminate()
    place.forget_offsets()
    with place.run() as run:
        place.until_answered(run, 50)
        done = subprocess.run(
            [*words, "-e", "-q", "-m", "5"], capture_output=True, timeout=DEADLINE, text=True, check=False
        )
        assert done.stdout == ""
        place.send(EVENTS[50:60])
        place.until_answered(run, 60)
        assert run.stops() == 0
