"""Where a worker on Kafka goes on from, and what it refuses: every row of the README's table.

One worker learns 60 events and stops. Each test takes a copy of that with a group of its own, changes
something, and starts; 40 more events wait.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from connectors.kafka.committed import read_committed
from connectors.kafka.options import options_of
from ops.kafka.broker import Broker
from tests.kafka import administrator
from tests.kafka_worker import Place, another_place, new_place
from tests.processes import wait_for
from tests.streams import vectors

EVENTS = vectors(100)
LEARNED = 60
MANY = ("--checkpoint.keep", "9")


@pytest.fixture(scope="module")
def used(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """60 events learned, four checkpoints or more, the last one named by the commit; 40 more events wait."""
    place = new_place(broker, tmp_path_factory.mktemp("used"))
    with place.run(*MANY) as run:
        for end in range(20, LEARNED + 1, 20):
            place.send(EVENTS[end - 20 : end])
            run.until(lambda end=end: place.reached() == end, f"a checkpoint at {end}")  # type: ignore[misc]
        assert run.stops() == 0
    assert len(place.checkpoints()) >= 4
    assert place.named() == place.checkpoints()[-1]
    place.send(EVENTS[LEARNED:])
    return place


@pytest.fixture(scope="module")
def never_stopped(used: Place, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """All of them, from the beginning."""
    place = another_place(used, tmp_path_factory.mktemp("whole"), committed=False)
    shutil.rmtree(place.folder / "state")
    goes_on(place, "a first start", answers=100)
    return place


def goes_on(place: Place, *saying: str, answers: int = 40) -> str:
    """A worker starts and reads to the end, each event answered once; what it said."""
    with place.run(*MANY) as run:
        for text in saying:
            run.says(text)
        place.until_answered(run, answers)
        assert run.stops() == 0
    assert [each["id"] for each in place.predictions()] == [e.id for e in EVENTS[100 - answers :]]
    return run.said


def refused(place: Place, command: str = "run", more: tuple[str, ...] = ()) -> str:
    """What it says, without the time; nothing has changed."""
    before, committed, read = place.checkpoints(), place.committed(), place.read()
    with place.command(command, *more) as run:
        assert run.ends() == 3, run.said
    place.leave()
    assert place.checkpoints() == before
    assert place.committed() == committed
    assert place.read() == read
    last = run.said.splitlines()[-1]
    assert " ERROR run: " in last
    return last.partition(" ERROR run: ")[2]


def use(place: Place, checkpoint: str, status: int = 0) -> str:
    """`streamlearn checkpoints use`; what it says."""
    with place.command(f"checkpoints use {checkpoint}") as run:
        assert run.ends() == status, run.said
    return run.said


def test_no_commit_and_only_checkpoint_zero_is_a_first_start_again(broker: Broker, tmp_path: Path) -> None:
    place = new_place(broker, tmp_path)
    for epoch in (1, 2):
        with place.run() as run:
            run.says(f"a first start, epoch {epoch}")
            assert run.stops() == 0
        place.forget_offsets()
        assert place.committed() == {}
        assert place.checkpoints() != []


def test_checkpoint_zero_behind_answers_is_of_its_settings(broker: Broker, tmp_path: Path) -> None:
    """Killed before the first real checkpoint: the answers that are seen came from a learner of those."""
    place = new_place(broker, tmp_path)
    rarely = ("--checkpoint.seconds", "600")
    place.send(EVENTS[:20])
    with place.run(*rarely) as run:
        place.until_answered(run, 20)
        run.until(lambda: place.committed()["", 0][0] == 20, "they are committed")
        run.kill()
    assert place.reached() == 0
    said = refused(place, more=("--memory.capacity", "70"))
    assert "was made with other settings: memory.capacity was 50, now 70. Set them back" in said
    assert refused(place, "check", ("--memory.capacity", "70")) == said
    place.send(EVENTS[20:])
    goes_on(place, f"goes on from {place.named()}", answers=100)


def test_no_commit_and_a_later_checkpoint_is_refused_until_one_is_chosen(
    used: Place, never_stopped: Place, tmp_path: Path
) -> None:
    """Committed offsets have expired: the older checkpoint that is chosen must not bring outputs again."""
    place = another_place(used, tmp_path, committed=False)
    said = refused(place)
    assert said.startswith("the group has committed nothing, but ")
    assert "which has learned: the committed offsets have expired" in said
    assert "`streamlearn checkpoints use ID` (with these settings) commits one" in said
    assert refused(place, "check") == said
    assert "outputs of records below {0: 60} don't come again" in use(place, place.checkpoints()[-2])
    goes_on(place, "epoch 3")
    assert place.hashes == never_stopped.hashes


def test_a_folder_whose_checkpoints_can_not_be_read_is_no_first_start(used: Place, tmp_path: Path) -> None:
    place = another_place(used, tmp_path, committed=False)
    for name in place.checkpoints():
        damage(place, name, ".json")
    assert ", which is damaged (" in refused(place)


def test_a_commit_without_metadata_is_refused_until_one_is_chosen(
    used: Place, never_stopped: Place, tmp_path: Path
) -> None:
    """As Kafka's own tool leaves it: `kafka-consumer-groups --reset-offsets`."""
    place = another_place(used, tmp_path)
    place.commit({("", 0): (10, "")})
    said = refused(place)
    assert (
        "has committed offsets that name no checkpoint: another consumer uses the group, or they were reset"
        in said
    )
    assert refused(place, "check") == said
    use(place, place.checkpoints()[-1])
    goes_on(place)
    assert place.hashes == never_stopped.hashes


@pytest.mark.parametrize("reset_to", [0, 100])
def test_an_offset_that_is_not_ours_says_nothing_of_what_was_published(
    reset_to: int, used: Place, never_stopped: Place, tmp_path: Path
) -> None:
    """A reset to the latest must not leave answers out: they come, from the furthest checkpoint on."""
    place = another_place(used, tmp_path)
    place.commit({("", 0): (reset_to, "")})
    refused(place)
    said = use(place, place.checkpoints()[0])
    assert "outputs of records below {0: 60} don't come again" in said
    assert f"answers of {place.topic}:0 are visible (its offset was reset or has expired)" in said
    assert "those of records from 60 to 99 come, and may come again" in said
    goes_on(place)
    assert place.hashes == never_stopped.hashes


def test_an_offset_set_back_by_hand_is_refused(used: Place, never_stopped: Place, tmp_path: Path) -> None:
    """Records are not learned twice."""
    place = another_place(used, tmp_path)
    named = json.dumps(used.committed()["", 0][1])
    place.commit({("", 0): (59, named)})
    said = refused(place)
    assert said.startswith("the group's offset of partition 0 is 59, below 60, where checkpoint ")
    assert refused(place, "check") == said
    use(place, place.checkpoints()[-1])
    goes_on(place)
    assert place.hashes == never_stopped.hashes


def test_an_offset_set_beyond_the_log_is_refused(used: Place, never_stopped: Place, tmp_path: Path) -> None:
    """Outputs would be left out."""
    place = another_place(used, tmp_path)
    place.commit({("", 0): (1000, json.dumps(used.committed()["", 0][1]))})
    said = refused(place)
    assert f"has committed offset 1000 of {place.topic}:0, but the log ends at 100" in said
    assert refused(place, "check") == said


def test_partitions_that_name_different_checkpoints_are_refused(broker: Broker, tmp_path: Path) -> None:
    place = new_place(broker, tmp_path, partitions=2)
    place.send([bytes(json.dumps({"id": e.id, "x": e.x.tolist(), "y": e.y}), "utf-8") for e in EVENTS[:40]])
    with place.run(*MANY) as run:
        place.until_answered(run, 40)
        assert run.stops() == 0
    first, last = place.checkpoints()[0], place.named()
    found = place.committed()
    (offset, said), other = found["", 0], json.dumps({"checkpoint": first, "epoch": 1})
    place.commit({("", 0): (offset, other)})
    text = refused(place)
    assert text.startswith(
        f"the offsets of group {place.group} name different checkpoints ({place.topic}:0: "
    )
    assert f"{place.topic}:1: {last}" in text
    assert said["checkpoint"] == last
    assert "`streamlearn checkpoints use ID` (with these settings) names one for all" in text
    use(place, str(last))
    with place.run() as run:
        run.says("goes on from")
        assert run.stops() == 0
    assert place.committed()["", 0][0] == offset


def damage(place: Place, name: str, suffix: str = ".parts") -> None:
    epoch, _, stem = name.partition("-")
    path = place.folder / "state" / epoch / f"{stem}{suffix}"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_of_a_damaged_checkpoint_the_one_before_is_as_good(
    used: Place, never_stopped: Place, tmp_path: Path
) -> None:
    place = another_place(used, tmp_path)
    *_, before, named = place.checkpoints()
    damage(place, named)
    said = goes_on(
        place, f"going on from the older checkpoint {before}: what was learned since is read and learned"
    )
    assert f"checkpoint {named}, which the group's commit names, is damaged: " in said
    assert place.hashes == never_stopped.hashes


def test_without_a_whole_one_nothing_is_started(used: Place, tmp_path: Path) -> None:
    place = another_place(used, tmp_path)
    for name in place.checkpoints():
        damage(place, name)
    said = refused(place)
    assert f"checkpoint {used.named()}, which the group's commit names, is damaged: " in said
    assert "no older one there is whole and of this topic and group" in said
    assert refused(place, "check") == said


def test_newer_ones_that_no_commit_names_are_not_loaded(
    used: Place, never_stopped: Place, tmp_path: Path
) -> None:
    """The worker was killed between checkpoint and commit: what the checkpoint holds is learned again."""
    place = another_place(used, tmp_path)
    older, *_ = [name for name in place.checkpoints() if place.reached(name) == 40]
    epoch = used.committed()["", 0][1]["epoch"]
    place.commit({("", 0): (40, json.dumps({"checkpoint": older, "epoch": epoch}))})
    newest = place.checkpoints()[-1]
    assert f"no commit has named checkpoint {newest}" in use(place, newest, status=3)
    goes_on(place, f"goes on from {older}", answers=60)
    assert place.hashes == never_stopped.hashes


def test_a_folder_of_another_topic_is_refused(used: Place, broker: Broker, tmp_path: Path) -> None:
    other = new_place(broker, tmp_path)
    shutil.copytree(used.folder / "state", tmp_path / "state")
    assert refused(other).startswith("the group has committed nothing, but ")
    with other.run(state="own") as run:
        run.says("a first start")
        assert run.stops() == 0
    other.leave()
    said = refused(other)
    assert f"checkpoint {other.named()}, which the group's commit names, is not in {tmp_path}/state;" in said
    assert "Is checkpoint.folder right?" in said
    # Of a group that is not ours, for this topic: the state of its folder would be loaded.
    other.commit({("", 0): (LEARNED, json.dumps({"checkpoint": used.named(), "epoch": 5}))})
    assert "is not the one that this state has learned from" in refused(other)


def test_a_checkpoint_of_another_topic_is_not_committed(used: Place, broker: Broker, tmp_path: Path) -> None:
    """It would be refused by the next start, whose advice is to choose a checkpoint."""
    other = new_place(broker, tmp_path)
    other.send(EVENTS[:5])
    shutil.copytree(used.folder / "state", tmp_path / "state")
    checkpoints = other.checkpoints()
    assert f"topic {other.topic} is not the one that this state has learned from" in use(
        other, checkpoints[-1], status=3
    )
    assert other.committed() == {}
    assert other.checkpoints() == checkpoints


def test_a_topic_made_anew_is_another_topic(broker: Broker, tmp_path: Path) -> None:
    place = new_place(broker, tmp_path)
    place.send(EVENTS[:20])
    with place.run() as run:
        place.until_answered(run, 20)
        assert run.stops() == 0
    for events in (5, 30):
        with administrator(broker) as admin:
            admin.delete_topics([place.topic])
            wait_for(lambda: place.topic not in admin.list_topics(), "it is gone")
            admin.create_topics({place.topic: {"num_partitions": 1, "replication_factor": 1}})
            admin.wait_for_topics([place.topic])
        place.send(EVENTS[:events])
        said = refused(place)
        # Kafka forgets the offsets of a topic that is deleted.
        assert said.startswith("the group has committed nothing, but ")
        place.commit({("", 0): (5, json.dumps({"checkpoint": place.checkpoints()[-1], "epoch": 1}))})
        assert "below 20, where" in refused(place)
        place.commit({("", 0): (20, json.dumps({"checkpoint": place.checkpoints()[-1], "epoch": 1}))})
        said = refused(place)
        assert said.startswith(f"topic {place.topic} is not the one that this state has learned from ")
        assert "it was deleted and made anew" in said


def test_going_back_while_a_worker_runs_is_refused(used: Place, tmp_path: Path) -> None:
    place = another_place(used, tmp_path)
    oldest = place.checkpoints()[1]
    shutil.copytree(tmp_path / "state", tmp_path / "other")
    with place.run(*MANY) as run:
        run.says("goes on from")
        assert "already works in" in use(place, oldest, status=3)
        with place.command(f"checkpoints use {oldest}", state="other") as command:
            assert command.ends() == 3
        assert f"a worker of group {place.group} is running, or was killed a few seconds ago" in command.said
        place.until_answered(run, 40)
        assert run.stops() == 0
    assert len(list((tmp_path / "other").glob("*/*.json"))) == len(used.checkpoints())


def test_going_back_on_purpose(used: Place, never_stopped: Place, tmp_path: Path) -> None:
    """What is read again is learned again and not published again; the end is the same."""
    place = another_place(used, tmp_path)
    oldest = next(name for name in place.checkpoints() if place.reached(name) == 20)
    said = use(place, oldest)
    copy = place.checkpoints()[-1]
    assert f"{copy} is now the newest, a copy of {oldest}" in said
    assert place.committed()["", 0] == (LEARNED, {"checkpoint": copy, "epoch": 2})
    goes_on(place, f"goes on from {copy}")
    assert place.hashes == never_stopped.hashes
    assert "No such file" in use(place, "000001-000099-00000000", status=3)


def test_what_was_committed_of_commands_names_no_checkpoint(used: Place, tmp_path: Path) -> None:
    """They were off for a while, or in another topic: then that commit is older."""
    place = another_place(used, tmp_path)
    place.commit({(".commands", 0): (0, json.dumps({"checkpoint": "older", "epoch": 1}))})
    goes_on(place, f"goes on from {used.named()}")
    assert place.committed()[".commands", 0][1]["checkpoint"] == place.named()


def test_check_says_what_would_be_done_and_changes_nothing(used: Place, tmp_path: Path) -> None:
    place = another_place(used, tmp_path)
    with administrator(place.broker) as admin:
        offsets, groups = place.committed(), [one["group_id"] for one in admin.list_groups()]
    with place.command("check") as run:
        assert run.ends() == 0, run.said
    assert f"state: goes on from {used.named()}, step " in run.said
    assert "40 records read, 0 of them dead letters" in run.said
    with administrator(place.broker) as admin:
        assert place.committed() == offsets
        assert [one["group_id"] for one in admin.list_groups()] == groups
        assert admin.describe_groups([place.group])[place.group]["members"] == []
    assert place.read() == []


def test_an_answer_that_was_refused_is_not_taken_for_no_commit(
    used: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiokafka doesn't look at the error of the answer: while a coordinator loads, it seems empty."""

    async def empty(*_: object) -> dict[object, object]:
        return {}

    monkeypatch.setattr(AIOKafkaAdminClient, "list_consumer_group_offsets", empty)
    options = options_of({"bootstrap_servers": used.broker.address})
    options.group = used.group
    found = asyncio.run(read_committed(options, used.topic))
    assert (found.published[used.topic, 0], found.checkpoint) == (LEARNED, used.named())


def test_a_first_start_at_the_end(broker: Broker, tmp_path: Path) -> None:
    """`source.start = latest`: what was there before it is nobody's; from there on nothing is left out."""
    place, late = new_place(broker, tmp_path), ("--source.start", "latest")
    place.send(EVENTS[:20])
    with place.run(*late) as run:
        run.says("a first start")
        place.send(EVENTS[20:40])
        place.until_answered(run, 20)
        run.kill()
    place.send(EVENTS[40:70])
    with place.run(*late) as run:
        place.until_answered(run, 50)
        assert run.stops() == 0
    assert [each["id"] for each in place.predictions()] == [event.id for event in EVENTS[20:70]]
