"""What a worker of a group keeps on disk: never is a checkpoint deleted that a commit names, or may name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from shutil import copytree
from typing import Any, cast

import pytest

from streamlearn import standby
from streamlearn.checkpoint import CheckpointStore, Manifest
from streamlearn.durable import describe
from streamlearn.events import Claim, GroupSink, GroupSource, Standing, StateMismatch, Traffic
from streamlearn.group import Group
from streamlearn.learner import OnlineLearner
from streamlearn.observe import Vitals
from streamlearn.settings import Settings
from streamlearn.standby import StandBy
from tests.streams import settings, vectors


class Sink:
    """Commits when it is told to."""

    def __init__(self) -> None:
        self.named: str | None = None
        self.given: list[str] = []
        self.reached: list[Mapping[str, Mapping[int, int]]] = []

    def name(self, checkpoint: str, offsets: Mapping[str, Mapping[int, int]], *_: object) -> None:
        self.given.append(checkpoint)
        self.reached.append(offsets)

    def commit(self) -> None:
        self.named = self.given[-1]


class Source:
    topic = "t"

    def __init__(self, claim: Claim | None = None, ends: Mapping[int, int] | None = None) -> None:
        self.given, self.ends = claim, ends or {}
        self.seen: list[Standing] = []
        self.now = Standing()

    def claim(self, instance: str, standby: Callable[[], None], stopped: Callable[[], bool]) -> Claim | None:
        while self.seen:
            self.now = self.seen.pop(0)
            standby()
        return self.given

    def standing(self) -> Standing:
        return self.now

    def fingerprint(self, cursors: Mapping[int, int]) -> dict[str, Any]:
        return {}

    def traffic(self, offsets: Mapping[int, int]) -> Traffic:
        lag = {partition: end - offsets.get(partition, 0) for partition, end in self.ends.items()}
        return Traffic(self.ends, lag, {}, {}, 0.0, False, True)


class Life:
    """A worker's start, as far as its group and its folder are concerned."""

    def __init__(self, folder: Path, claimed: str | None, keep: int) -> None:
        self.store, self.sink = CheckpointStore(folder, keep), Sink()
        self.group = Group(cast(GroupSource, Source()), cast(GroupSink, self.sink), self.store, Settings())
        self.learner = OnlineLearner(settings())
        self.offset = 0
        found = self.group.found(Claim(claimed, 1, {0: 0}, {0: 1000}))
        self.store.begin(found[0] if found is not None else None)

    def checkpoint(self) -> Manifest:
        """Learn, and write a checkpoint, which may be named from now on."""
        self.learner.learn(vectors(20))
        self.group.pin()
        self.offset += 20
        place: dict[str, Any] = {"topic": "t", "offsets": {"t": {"0": self.offset}}, "cursors": {"0": 0}}
        about = {**describe(self.learner), "position": place | {"fingerprint": {}}, "outputs": {}}
        manifest = self.store.write(self.learner.snapshot(), about)
        self.group.name(manifest)
        return manifest


def test_what_a_predecessor_committed_stays_until_we_have_committed(tmp_path: Path) -> None:
    first = Life(tmp_path, None, keep=1)
    named = first.checkpoint()
    first.sink.commit()
    # Killed again and again before a commit of its own: the commit still names the first one.
    for _ in range(3):
        again = Life(tmp_path, named.id, keep=1)
        again.checkpoint()
        assert named.id in again.store.names()
    again.sink.commit()
    again.checkpoint()
    assert named.id not in again.store.names()


def test_while_nothing_can_be_committed_all_that_may_be_named_stays(tmp_path: Path) -> None:
    life = Life(tmp_path, None, keep=1)
    written = [life.checkpoint().id for _ in range(4)]
    assert life.store.names() == written[::-1]
    life.sink.commit()
    newest = life.checkpoint().id
    assert life.store.names() == [newest, written[-1]]


def claimed(folder: Path, *seen: Standing) -> list[str]:
    """Roles that a worker has while it sees this, and then."""
    source, vitals, roles = Source(Claim("c", 1, {0: 0}, {0: 0})), Vitals(1.0), list[str]()
    source.seen = list(seen)
    group = Group(cast(GroupSource, source), cast(GroupSink, Sink()), CheckpointStore(folder, 1), Settings())
    vitals.cast = roles.append
    group.claim(vitals, lambda: False)
    for handle in (group._standing_by._held, group._standing_by._of):
        assert handle is not None
        handle.close()  # held as long as a process, else
    return [*roles, vitals.role]


def test_only_where_another_has_the_partitions_it_stands_by(tmp_path: Path) -> None:
    """Not while the group forms, nor while its dead predecessor is remembered: no standby would be gone."""
    forms, taken = Standing(), Standing(elsewhere=True)
    assert claimed(tmp_path, forms, forms) == ["starting"]
    # Amid a rebalance, or with no broker that answers, it stays what it was.
    assert claimed(tmp_path, forms, taken, forms, taken) == ["standby", "starting", "starting"]


def test_nothing_is_decided_by_the_clock_while_records_are_read_again(tmp_path: Path) -> None:
    # Of partition 1, P is behind the last record: a mark of a transaction, which is never read.
    source = Source(Claim("c", 1, {0: 0, 1: 0}, {0: 100, 1: 51}), {0: 500, 1: 50})
    store = CheckpointStore(tmp_path, 1)
    group = Group(cast(GroupSource, source), cast(GroupSink, Sink()), store, Settings())
    group.claim(Vitals(1.0), lambda: False)
    for handle in (group._standing_by._held, group._standing_by._of):
        assert handle is not None
        handle.close()  # held as long as a process, else
    assert group.repeats({0: 99, 1: 50})
    assert not group.repeats({0: 100, 1: 50})
    assert not group.repeats({0: 400, 1: 50})


def test_a_copied_folder_is_another_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def name(folder: Path) -> str:
        standing_by = StandBy(CheckpointStore(folder, 1), Settings())
        found = standing_by.member()
        assert standing_by._held is not None
        standing_by._held.close()  # the end of its process
        return found

    first = name(tmp_path / "state")
    assert name(tmp_path / "state") == first
    copytree(tmp_path / "state", tmp_path / "copy")
    other = name(tmp_path / "copy")
    assert other != first
    assert (name(tmp_path / "copy"), name(tmp_path / "state")) == (other, first)
    (tmp_path / "machine-id").write_text("another machine, with the same inodes")
    monkeypatch.setattr(standby, "MACHINE", tmp_path / "machine-id")
    assert name(tmp_path / "state") != first


def test_commands_made_anew_are_read_from_their_beginning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """C of the old topic is none of the new one, and must not keep commits from naming the checkpoint."""
    sink, store = Sink(), CheckpointStore(tmp_path, 1)
    group = Group(cast(GroupSource, Source()), cast(GroupSink, sink), store, Settings())

    def manifest(id: str) -> Manifest:
        place = {"topic": "t", "commands": "c", "commands_id": id, "offsets": {"t": {"0": 3}, "c": {"0": 5}}}
        return Manifest(tmp_path, {"id": f"of {id}", "position": place})

    def claim(at: int, id: str) -> Claim:
        return Claim("c1", 1, {0: 0}, {0: 3}, at, 2, id)

    assert group.commands_at(claim(6, "one"), (manifest("one"), {}), "c") == 5
    assert not caplog.messages
    with pytest.raises(StateMismatch, match="below 5, where checkpoint of one goes on: it was set back"):
        group.commands_at(claim(4, "one"), (manifest("one"), {}), "c")
    for unknown in ((claim(6, ""), "one"), (claim(6, "one"), "")):
        assert group.commands_at(unknown[0], (manifest(unknown[1]), {}), "c") == 5
    # Another topic is none that was made anew: there it goes on at P.
    assert group.commands_at(claim(4, "two"), (manifest("one"), {}), "d") == 4
    for at in (2, 4, 9):
        assert group.commands_at(claim(at, "two"), (manifest("one"), {}), "c") == 2
    assert "made anew: its commands are carried out from its beginning, offset 2" in caplog.messages[-1]
    group.name(manifest("one"))
    group.name(manifest("two"))
    assert sink.reached == [{"t": {0: 3}}, {"t": {0: 3}, "c": {0: 5}}]
