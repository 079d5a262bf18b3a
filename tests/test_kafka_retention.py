"""What retention has deleted: records are missed, and never silently; marks of transactions are not."""

from __future__ import annotations

from pathlib import Path

from ops.kafka.broker import Broker
from tests.kafka import Message
from tests.kafka_worker import Run, new_place
from tests.processes import line
from tests.streams import vectors
from tests.test_kafka_topic_faults import NARROW, last_line

EVENTS = vectors(300)


def test_retention_that_has_passed_the_state(broker: Broker, tmp_path: Path) -> None:
    """Nothing is skipped silently: neither at a start, nor amid the reading."""
    place = new_place(broker, tmp_path)
    place.send(EVENTS[:50])
    with place.run(*NARROW) as run:
        place.until_kept(run, 50)
        # It asks for offset 50 already: what comes now it may be given, and no more.
        run.freeze(whole=True)
        place.send(EVENTS[50:60])
        place.send(EVENTS[60:100])
        place.delete_below(90)
        run.thaw()
        assert run.ends() == 3
    assert "the offsets to go on from are no longer in the log" in last_line(run.said)
    assert "retention has passed them" in last_line(run.said)
    at = place.reached()
    assert at in (50, 60)
    place.leave()
    gone = (
        f"the state goes on at offset {at} of {place.topic}:0, but the log begins at 90: retention has "
        f"passed it, up to {90 - at} records are gone (marks of transactions count too). Nothing was "
        "skipped: `streamlearn checkpoints use ID --skip-lost` (with these settings) goes on without them, "
        "or start with another source.group_id and checkpoint.folder"
    )
    named = place.named()
    assert named is not None
    for command in ("run", "check", ["checkpoints", "use", named]):
        with place.command(command) as run:
            assert run.ends() == 3
        place.leave()
        assert run.said.splitlines()[-1].endswith(f": {gone}"), command
    assert len(place.read()) in (50, 60)


def test_going_on_without_the_records_that_are_lost(broker: Broker, tmp_path: Path) -> None:
    """Only what the topic has lost is left out, on whichever partition, and only because it was asked for."""
    place = new_place(broker, tmp_path, partitions=2)
    place.send([Message(line(event).strip(), partition=n % 2) for n, event in enumerate(EVENTS[:60])])
    with place.run() as run:
        place.until_answered(run, 60)
        assert run.stops() == 0
    place.send([Message(line(event).strip(), partition=n % 2) for n, event in enumerate(EVENTS[60:100])])
    place.delete_below(45)  # of partition 0, where 30 to 49 are new
    named = place.named()
    assert named is not None
    with place.command(["checkpoints", "use", named, "--skip-lost"]) as run:
        assert run.ends() == 0
    assert f"{place.topic}:0: 15 records are skipped" in run.said
    place.leave()
    with place.run() as run:
        place.until_answered(run, 85)
        assert run.stops() == 0
    answered = [tuple(each["source"][1:]) for each in place.predictions()]
    assert sorted(answered) == [
        (partition, offset)
        for partition in (0, 1)
        for offset in range(50)
        if (partition or not 30 <= offset < 45)
    ]
    assert place.newest["position"]["offsets"][place.topic] == {"0": 50, "1": 50}


def test_retention_that_has_passed_a_mark_of_a_transaction_alone(broker: Broker, tmp_path: Path) -> None:
    """It is no record: whoever has read all goes on, over a rebalance and from a start."""
    place = new_place(broker, tmp_path)

    def until_at(run: Run, offset: int) -> None:
        run.until(lambda: place.committed()["", 0][0] == offset, f"P is {offset}: nothing lags")
        run.until(lambda: place.reached() == offset and place.named() == place.checkpoints()[-1], "C too")
        place.delete_below(offset)

    place.transact(EVENTS[:50])
    with place.run() as run:
        place.until_answered(run, 50)
        until_at(run, 51)
        with place.run() as other:
            other.says("standing by with checkpoint ")
            place.send(EVENTS[50:60])
            place.until_answered(run, 60)
            assert other.stops() == 0
        place.transact(EVENTS[60:100])
        place.until_answered(run, 100)
        until_at(run, 102)
        assert run.stops() == 0
    with place.run() as run:
        run.says("goes on from")
        place.send(EVENTS[100:120])
        place.until_answered(run, 120)
        assert run.stops() == 0
    assert [each["id"] for each in place.predictions()] == [event.id for event in EVENTS[:120]]


def test_retention_that_has_passed_what_was_no_record_while_no_worker_ran(
    broker: Broker, tmp_path: Path
) -> None:
    """Killed behind a transaction, its checkpoint before that: the commit says that no record lay between.

    (An aborted one: it has a mark, too, and no record that counts, so that C is known.)
    """
    place = new_place(broker, tmp_path)
    rarely = ("--checkpoint.seconds", "600")
    place.send(EVENTS[:50])
    with place.run(*rarely) as run:
        place.until_answered(run, 50)
        place.send([b'{"command": "checkpoint"}'], ".commands")
        run.until(lambda: place.reached() == 50 and place.named() == place.checkpoints()[-1], "C is 50")
        place.transact(EVENTS[50:53], commit=False)
        run.until(lambda: place.committed()["", 0][0] == 54, "P is 54: nothing lags")
        run.kill()
    place.delete_below(54)
    for _ in range(2):  # once more, without a checkpoint or a record between
        assert place.reached() == 50
        with place.run(*rarely) as run:
            run.says("goes on from")
            run.kill()
    place.leave()
    with place.command("check") as check:
        assert check.ends() == 0, check.said
    with place.command(["checkpoints", "use", str(place.named())]) as use:
        assert use.ends() == 0, use.said
    assert "records are skipped" not in use.said
    place.leave()
    with place.run() as run:
        place.send(EVENTS[60:80])
        place.until_answered(run, 70)
        assert run.stops() == 0
    ids = [each["id"] for each in place.predictions()]
    assert ids == [event.id for event in EVENTS[:50] + EVENTS[60:80]]
    place.send(EVENTS[80:90])
    place.delete_below(78)
    with place.run() as run:
        assert run.ends() == 3, "these were records"
