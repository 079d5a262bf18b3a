"""Checkpoints on disk: what was written comes back, bit by bit, or its damage has a name."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from streamlearn import buffers, checkpoint, packs, parts
from streamlearn.checkpoint import CheckpointStore, Damaged, Locked, Manifest, NothingWhole, WrongFormat
from streamlearn.config import MemorySettings
from streamlearn.durable import describe
from streamlearn.learner import OnlineLearner
from streamlearn.state import SegmentedPart
from tests.streams import bits, settings, vectors

EVENTS = vectors(400)


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handful of examples fills a segment: 16 segments hold the memory of these tests."""
    monkeypatch.setattr(buffers, "SEGMENT_BYTES", 256)


def learner(policy: str = "reservoir") -> OnlineLearner:
    return OnlineLearner(settings(memory=MemorySettings(capacity=80, policy=policy)))


def begun(folder: Path, keep: int = 3, after: Manifest | None = None) -> CheckpointStore:
    store = CheckpointStore(folder, keep)
    store.begin(after)
    return store


def write(store: CheckpointStore, of: OnlineLearner) -> Manifest:
    return store.write(of.snapshot(), describe(of))


def hashes(manifest: Manifest) -> dict[str, str]:
    return {name: entry["sha256"] for name, entry in manifest.body["parts"].items()}


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def newest(folder: Path, complain: Callable[[str], None] = pytest.fail) -> Manifest:
    found = CheckpointStore(folder).newest(complain)
    assert found is not None
    return found[0]


def write_three(folder: Path) -> list[Manifest]:
    """Three checkpoints, each with a pack of its own."""
    store, one = begun(folder), learner()
    manifests = []
    for start in range(0, 240, 80):
        one.learn(EVENTS[start : start + 80])
        manifests.append(write(store, one))
    return manifests


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `write_three` has written; copy it, don't change it."""
    folder = tmp_path_factory.mktemp("written")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buffers, "SEGMENT_BYTES", 256)
        write_three(folder)
    return folder


@pytest.fixture
def three(written: Path, tmp_path: Path) -> list[Manifest]:
    """A copy of those, in `tmp_path`."""
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    store = CheckpointStore(tmp_path)
    return [store.read(name) for name in reversed(store.names())]


# ---- round trip


@pytest.mark.parametrize("policy", ["reservoir", "balanced"])
def test_what_was_written_comes_back(tmp_path: Path, policy: str) -> None:
    store, one = begun(tmp_path), learner(policy)
    for end in (0, 5, 63, 64, 250):
        one.learn(EVENTS[one.counts.records : end])
        manifest = write(store, one)
        found = CheckpointStore(tmp_path).newest(pytest.fail)
        assert found is not None
        assert found[0].body == manifest.body
        assert bits(found[1]) == bits(one.snapshot(full=True))
        twin = learner(policy)
        twin.restore(found[1])
        assert bits(twin.snapshot(full=True)) == bits(one.snapshot(full=True))


def test_only_changed_segments_are_written(tmp_path: Path) -> None:
    store, one = begun(tmp_path), learner()
    one.learn(EVENTS[:200])
    first = write(store, one)
    one.learn(EVENTS[200:212])
    snapshot = one.snapshot()
    memory = snapshot["memory"]
    assert isinstance(memory, SegmentedPart)
    assert 0 < len(memory.changed) < memory.count / 2
    second = store.write(snapshot, describe(one))
    assert second.body["packs"] == [second.path.stem], "the second copy is made whole, by itself"
    third = write(store, one)
    assert third.body["packs"] == [first.path.stem, third.path.stem]
    sizes = {path.stem: path.stat().st_size for path in third.path.parent.glob("*.memory")}
    assert sizes[third.path.stem] == sum(a.nbytes for s in memory.changed.values() for a in s)
    fourth = write(store, one)
    assert fourth.body["packs"] == second.body["packs"]
    assert not fourth.path.with_suffix(".memory").exists(), "nothing had changed since the second"
    assert hashes(fourth) == hashes(third) == hashes(second)


def test_equal_states_have_equal_hashes_whatever_their_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_the_end = learner()
    at_the_end.learn(EVENTS)
    expected = hashes(write(begun(tmp_path / "end"), at_the_end))
    assert set(expected) >= {"model", "optimiser", "memory", "generators", "metrics", "pending"}

    often, store = learner(), begun(tmp_path / "often")
    for start in range(0, 400, 50):
        often.learn(EVENTS[start : start + 50])
        manifest = write(store, often)
    assert hashes(manifest) == expected

    monkeypatch.setattr(packs, "MOST_PACKS", 4)
    compacted, store = learner(), begun(tmp_path / "compacted")
    for event in EVENTS:
        compacted.learn([event])
        if compacted.counts.records % 10 == 0:
            manifest = write(store, compacted)
    assert len(manifest.body["packs"]) <= 4
    assert hashes(manifest) == expected

    folder = tmp_path / "fallback"
    before, store = learner(), begun(folder)
    before.learn(EVENTS[:150])
    write(store, before)
    before.learn(EVENTS[150:170])
    write(store, before).path.with_suffix(".parts").write_bytes(b"")
    found = CheckpointStore(folder).newest(lambda text: None)
    assert found is not None
    after = learner()
    after.restore(found[1])
    store = begun(folder, after=found[0])
    after.learn(EVENTS[150:300])
    write(store, after)
    after.learn(EVENTS[300:])
    assert hashes(write(store, after)) == expected


# ---- damage


@pytest.mark.parametrize("suffix", [".json", ".parts", ".memory"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "deleted"])
def test_damage_is_named_and_the_newest_older_whole_one_taken(
    tmp_path: Path, three: list[Manifest], suffix: str, damage: str
) -> None:
    _, older, last = three
    path = last.path.with_suffix(suffix)
    whole = path.read_bytes()
    places = [0, 1, len(whole) // 3, len(whole) // 2, len(whole) - 1]
    for place in places if damage != "deleted" else [0]:
        if damage == "truncated":
            path.write_bytes(whole[:place])
        elif damage == "flipped":
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        elif suffix != ".json":
            path.unlink()
        complaints: list[str] = []
        found = CheckpointStore(tmp_path).newest(complaints.append)
        if damage == "deleted" and suffix == ".json":
            assert found is not None and found[0].id == last.id
            continue
        assert found is not None and found[0].id == older.id, place
        assert len(complaints) == 1
        assert complaints[0].startswith(f"checkpoint {last.id} is damaged: {path}: ")
        with pytest.raises(Damaged, match=path.name):
            CheckpointStore(tmp_path).verify(last.id)
        path.write_bytes(whole)
        assert newest(tmp_path).id == last.id


def test_no_two_successive_checkpoints_share_a_file(tmp_path: Path) -> None:
    """Whichever file of the newest one is lost, the one before it is whole."""
    store, one = begun(tmp_path), learner()
    one.learn(EVENTS[:200])
    manifests = []
    for event in EVENTS[200:206]:
        one.learn([event])
        manifests.append(write(store, one))
    for before, after in pairwise(manifests):
        assert set(before.body["packs"]).isdisjoint(after.body["packs"])
    for pack in manifests[-1].body["packs"]:
        (tmp_path / "000001" / f"{pack}.memory").unlink()
    assert newest(tmp_path, lambda text: None).id == manifests[-2].id


def test_what_was_found_damaged_is_not_kept_in_place_of_what_is_whole(
    tmp_path: Path, three: list[Manifest]
) -> None:
    oldest, *others = three
    for manifest in others:
        manifest.path.with_suffix(".parts").unlink()
    store = CheckpointStore(tmp_path, keep=3)
    found = store.newest(lambda text: None)
    assert found is not None and found[0].id == oldest.id
    store.begin(found[0])
    one = learner()
    one.restore(found[1])
    one.learn(EVENTS[300:320])
    write(store, one)
    assert len(store.names()) == 2
    assert all(store.verify(name) for name in store.names())


def test_numbers_grow_past_six_digits(tmp_path: Path) -> None:
    store, one = begun(tmp_path), learner()
    store.number = 999_998
    for i in range(4):
        one.learn(EVENTS[20 * i : 20 * i + 20])
        last = write(store, one)
    assert store.names()[0] == last.id and last.number == 1_000_001
    assert len(store.names()) == 3
    assert newest(tmp_path).id == last.id


def test_nothing_whole_and_nothing_at_all(tmp_path: Path, three: list[Manifest]) -> None:
    assert CheckpointStore(tmp_path / "new").newest(pytest.fail) is None
    for manifest in three:
        manifest.path.write_text("{}")
    complaints: list[str] = []
    with pytest.raises(NothingWhole, match="none of the 3"):
        CheckpointStore(tmp_path).newest(complaints.append)
    assert len(complaints) == 3


def reformat(manifest: Manifest, number: int) -> None:
    body = dict(manifest.body) | {"format": number}
    manifest.path.write_text(json.dumps(body | {"sha256": parts.seal(body)}))


def test_another_format_is_refused_and_not_passed_over(tmp_path: Path, three: list[Manifest]) -> None:
    last = three[-1]
    reformat(last, checkpoint.FORMAT + 1)
    with pytest.raises(
        WrongFormat,
        match=f"format {checkpoint.FORMAT + 1}, this version reads {checkpoint.FORMAT}: run the version",
    ):
        CheckpointStore(tmp_path).newest(pytest.fail)


def test_what_another_version_wrote_is_kept_whole(tmp_path: Path, three: list[Manifest]) -> None:
    """After `use` of an older checkpoint a newer version's may still lie there."""
    oldest, _, last = three
    reformat(last, checkpoint.FORMAT + 1)
    before = set(files(tmp_path))
    store = CheckpointStore(tmp_path, keep=5)
    store.use(oldest.id)
    one = learner()
    one.restore(store.load(store.read(oldest.id)))
    write(begun(tmp_path, keep=5, after=newest(tmp_path)), one)
    assert before <= set(files(tmp_path))


def test_names_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(Damaged, match="is no checkpoint id"):
        CheckpointStore(tmp_path).read("../../x")
    with pytest.raises(Damaged, match="No such file"):
        CheckpointStore(tmp_path).verify("000001-000001-00000000")


# ---- what stays and what goes


@pytest.mark.parametrize("keep", [1, 2, 4])
def test_so_many_are_kept_and_nothing_else(tmp_path: Path, keep: int) -> None:
    one, after = learner(), None
    for epoch in range(3):
        store = begun(tmp_path, keep, after)
        for i in range(5):
            start = (epoch * 5 + i) * 20
            one.learn(EVENTS[start : start + 20])
            after = write(store, one)
    names = store.names()
    assert len(names) == keep
    needed = set()
    for name in names:
        manifest = store.verify(name)
        paths = [manifest.path, manifest.path.with_suffix(".parts")]
        paths += [manifest.path.parent / f"{pack}.memory" for pack in manifest.body["packs"]]
        needed |= {str(path.relative_to(tmp_path)) for path in paths}
    if keep == 1:
        needed |= {name for name in files(tmp_path) if name.endswith(".memory")}  # of the other copy
    assert set(files(tmp_path)) == needed
    assert {path.name for path in tmp_path.iterdir()} == {name[:6] for name in names}


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    """The state folder may be one that holds other things, numbered ones too."""
    strange = tmp_path / "2026-11-21"
    strange.mkdir()
    for name in ("thesis.tmp", "a.memory", "b.parts", "c.json"):
        (strange / name).write_text("mine")
    write_three(tmp_path)
    assert sorted(path.name for path in strange.iterdir()) == ["a.memory", "b.parts", "c.json", "thesis.tmp"]
    assert len(CheckpointStore(tmp_path).names()) == 3


def test_half_written_files_are_cleared_at_the_next_start(tmp_path: Path, three: list[Manifest]) -> None:
    last = three[-1]
    before = set(files(tmp_path))
    for name in ("000003-00000000.parts.tmp", "000003-00000000.memory.tmp"):
        (last.path.parent / name).write_bytes(b"half")
    assert newest(tmp_path).id == last.id
    begun(tmp_path, after=last)
    assert not list(tmp_path.rglob("*.tmp"))
    assert before <= set(files(tmp_path))


def test_an_epoch_stands_alone(tmp_path: Path, three: list[Manifest]) -> None:
    last = three[-1]
    one = learner()
    one.restore(CheckpointStore(tmp_path).load(last))
    store = begun(tmp_path, after=last)
    one.learn(EVENTS[240:250])
    manifest = write(store, one)
    manifest = write(store, one)
    shared = [pack for pack in manifest.body["packs"] if pack in last.body["packs"]]
    assert shared
    for pack in shared:
        old, new = last.path.parent / f"{pack}.memory", manifest.path.parent / f"{pack}.memory"
        assert old.samefile(new), "a hard link, not a copy"
    for path in last.path.parent.iterdir():
        path.unlink()
    last.path.parent.rmdir()
    assert newest(tmp_path).id == manifest.id


def test_where_there_are_no_hard_links_packs_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    last = write_three(tmp_path)[-1]
    begun(tmp_path, after=last)
    used = CheckpointStore(tmp_path).use(last.id)
    assert hashes(CheckpointStore(tmp_path).verify(used.id)) == hashes(last)
    assert not list(tmp_path.rglob("*.tmp"))


def test_use_goes_back(tmp_path: Path, three: list[Manifest]) -> None:
    first, second, _ = three
    store = CheckpointStore(tmp_path)
    copy = store.use(first.id)
    assert (copy.epoch, copy.body["copy_of"]) == (2, first.id)
    assert newest(tmp_path).id == copy.id
    assert hashes(copy) == hashes(first)
    one = learner()
    one.restore(store.load(copy))
    one.learn(EVENTS[80:160])
    assert hashes(write(begun(tmp_path, after=copy), one)) == hashes(second)


def test_one_works_in_a_folder_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "for us"
    mine, other = CheckpointStore(folder), CheckpointStore(folder)
    mine.lock()
    with pytest.raises(Locked, match=f"process {os.getpid()} already works in"):
        other.lock()
    mine.unlock()
    mine.unlock()
    other.lock()
    other.unlock()
