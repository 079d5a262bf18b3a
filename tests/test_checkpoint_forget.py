"""After forgetting: no file holds the example any more, and what is left resumes to the bit."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from streamlearn import buffers
from streamlearn.checkpoint import CheckpointStore, Manifest, Withdrawn
from streamlearn.config import EvaluationSettings, MemorySettings, MethodSettings, ModelSettings
from streamlearn.durable import Learner, describe
from streamlearn.events import Event
from streamlearn.keeper import Keeper
from streamlearn.learner import OnlineLearner
from streamlearn.settings import CheckpointSettings, Settings
from tests.forgetting import placed, someone, traces
from tests.processes import line, newest, piped, said
from tests.streams import bits, images, settings, vectors
from tests.test_checkpoint import begun, files, hashes, small_segments
from tests.test_checkpoint import newest as newest_of

__all__ = ["small_segments"]  # a fixture of every test here, too

EVENTS = images(400)
NET = ModelSettings(width=8)


def learner(policy: str = "reservoir", **sections: object) -> OnlineLearner:
    evaluation = EvaluationSettings(held_out=0.3, capacity=20)
    memory = MemorySettings(capacity=80, policy=policy)
    return OnlineLearner(settings(memory=memory, evaluation=evaluation, model=NET, **sections))


def kept(store: CheckpointStore, of: OnlineLearner, confirmed: bool = True) -> Keeper:
    return Keeper(CheckpointSettings(), store, of, confirmed)


def write(keeper: Keeper) -> Manifest:
    keeper.begin(describe(keeper.learner), lambda: None)
    keeper.settle(wait=True)
    assert keeper.problem is None
    return keeper.store.read(keeper.figures.last_id)


def waiting(go: threading.Event) -> Callable[[], None]:
    """A sync that takes until `go`."""

    def sync() -> None:
        assert go.wait(60)

    return sync


def holding(folder: Path, event: Event, by: OnlineLearner | None = None) -> list[str]:
    """Files that hold the input of an event, in any form in which it is kept; by: whose origin it has."""
    forms = [event.x.tobytes(), event.x.astype(np.float32).tobytes(), event.x.astype(np.float64).tobytes()]
    if by is not None:
        forms.append(by.normaliser.relative(event.x.astype(np.float64)[None]).tobytes())
    return [name for name in files(folder) if any(form in (folder / name).read_bytes() for form in forms)]


def loaded(folder: Path, like: OnlineLearner) -> OnlineLearner:
    found = CheckpointStore(folder).newest(pytest.fail)
    assert found is not None
    twin = OnlineLearner(like.settings)
    twin.restore(found[1])
    return twin


# ---- what it is for


VIEW_BATCH = MethodSettings(name="er", modifiers=["view_batch"])


@pytest.fixture(scope="module")
def first_epochs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By policy: what a worker has written in its first epoch; copy it, don't change it."""
    folders = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buffers, "SEGMENT_BYTES", 256)
        for policy in ("reservoir", "balanced"):
            folders[policy] = tmp_path_factory.mktemp("epoch")
            one, events = learner(policy, method=VIEW_BATCH), placed(EVENTS)
            keeper = kept(begun(folders[policy], keep=8), one)
            for end in (60, 120, 150):
                one.learn(events[one.counts.records : end])
                write(keeper)
    return folders


@pytest.mark.parametrize("place", ["memory", "held out", "pending"])
@pytest.mark.parametrize("policy", ["reservoir", "balanced"])
@pytest.mark.parametrize("confirmed", [True, False])
def test_no_file_holds_the_example_and_what_is_left_resumes(
    tmp_path: Path, first_epochs: dict[str, Path], policy: str, place: str, confirmed: bool
) -> None:
    """Over two epochs, several checkpoints, both chains; and the checkpoints that follow."""
    shutil.copytree(first_epochs[policy], tmp_path, dirs_exist_ok=True)
    events = placed(EVENTS)
    one = loaded(tmp_path, learner(policy, method=VIEW_BATCH))
    keeper = kept(begun(tmp_path, keep=8, after=newest_of(tmp_path)), one, confirmed)
    for end in (170, 195, 204):
        one.learn(events[one.counts.records : end])
        write(keeper)
    event = next(e for e in events if e.id == someone(one, events, place))
    assert holding(tmp_path, event)
    found = one.forget(event.id, {0: 250})
    assert found.memory + found.held_out + found.waiting
    keeper.forget()
    clean = write(keeper)
    if not confirmed:
        assert len(CheckpointStore(tmp_path).names()) == 7 and holding(tmp_path, event)
        keeper.confirm(clean)
    assert CheckpointStore(tmp_path).names() == [clean.id]
    assert holding(tmp_path, event) == []
    assert len(list(tmp_path.iterdir())) == 1, "no folder of the epoch before"

    CheckpointStore(tmp_path).verify(clean.id)
    two = loaded(tmp_path, one)
    assert bits(two.snapshot(full=True)) == bits(one.snapshot(full=True))
    for each in (one, two):
        each.learn(events[204:260])
    last = write(keeper)
    assert bits(loaded(tmp_path, one).snapshot(full=True)) == bits(two.snapshot(full=True))
    assert hashes(last) == hashes(kept_alone(tmp_path / "alone", two))
    assert holding(tmp_path, event) == [] == traces(two, event.id)


def kept_alone(folder: Path, of: OnlineLearner) -> Manifest:
    return begun(folder).write(of.snapshot(full=True), describe(of))


def test_vectors_leave_neither_their_bytes_nor_what_is_stored_of_them(tmp_path: Path) -> None:
    """What is stored is relative to the origin: that form goes, too."""
    events = vectors(205)
    one = learner()
    keeper = kept(begun(tmp_path), one)
    one.learn(events)
    write(keeper)
    for place in ("memory", "held out", "pending"):
        event = next(e for e in events if e.id == someone(one, events, place))
        stored = replace(event, x=one.normaliser.relative(event.x.astype(np.float64)))
        assert holding(tmp_path, event) + holding(tmp_path, stored), place
        one.forget(event.id, {})
        keeper.forget()
        write(keeper)
        assert holding(tmp_path, event) + holding(tmp_path, stored) == [], place


# ---- the store


def four(folder: Path, of: OnlineLearner, keep: int = 9) -> tuple[CheckpointStore, list[Manifest]]:
    store, manifests = begun(folder, keep), []
    for end in (100, 120, 140, 160):
        of.learn(EVENTS[of.counts.records : end])
        manifests.append(store.write(of.snapshot(), describe(of)))
    return store, manifests


def forget(store: CheckpointStore, of: OnlineLearner) -> Manifest:
    """Forget some id and write the checkpoint that no longer holds it."""
    of.forget(someone(of, EVENTS, "memory"), {})
    of.memory.mark_all_changed()
    store.forget()
    return store.write(of.snapshot(), describe(of))


def test_the_next_checkpoint_shares_no_file_with_the_older_ones(tmp_path: Path) -> None:
    one = learner()
    store, older = four(tmp_path, one)
    clean = forget(store, one)
    assert clean.body["packs"] == [clean.path.stem] and clean.body["clean"] == clean.id
    assert all(set(clean.body["packs"]).isdisjoint(manifest.body["packs"]) for manifest in older)
    one.learn(EVENTS[160:165])
    later = store.write(one.snapshot(), describe(one))
    assert later.body["packs"] == [later.path.stem], "the second copy is made of the new one"
    assert later.body["clean"] == clean.id
    assert "clean" not in older[-1].body


def test_nothing_goes_before_it_is_said_which_one_to_start_from(tmp_path: Path) -> None:
    one = learner()
    store, older = four(tmp_path, one)
    clean = forget(store, one)
    assert store.erase(older[-1]) == [] and len(store.names()) == 5, "that one has forgotten nothing"
    assert store.erase(clean) == []
    assert store.names() == [clean.id]
    one.learn(EVENTS[160:180])
    store.write(one.snapshot(), describe(one))
    assert store.erase(clean) == [] and len(store.names()) == 2, "what is newer stays"
    assert all(store.verify(name) for name in store.names())


def test_what_is_pinned_stays_until_it_is_not(tmp_path: Path) -> None:
    one = learner()
    store, older = four(tmp_path, one, keep=2)
    names = store.names()
    assert names == [older[3].id, older[2].id]
    store.pinned = {older[2].id}
    clean = forget(store, one)
    one.learn(EVENTS[160:180])
    later = store.write(one.snapshot(), describe(one))
    assert store.names() == [later.id, clean.id, older[2].id], "two are kept, and the one that is pinned"
    assert store.erase(later) == [older[2].id]
    assert store.verify(older[2].id)
    store.pinned = {later.id}
    assert store.erase(later) == []
    assert store.names() == [later.id, clean.id]
    assert all(store.verify(name) for name in store.names())


def test_a_start_finishes_what_a_crash_left(tmp_path: Path) -> None:
    """The manifests were gone, and not the rest; or nothing was; and half a file of a write that failed."""
    one = learner()
    store, older = four(tmp_path, one)
    event = next(e for e in EVENTS if e.id == someone(one, EVENTS, "memory"))
    one.forget(event.id, {})
    one.memory.mark_all_changed()
    store.forget()
    clean = store.write(one.snapshot(), describe(one))
    for manifest in older[:2]:
        manifest.path.unlink()
    (older[0].path.parent / "000009-00000000.memory.tmp").write_bytes(event.x.tobytes())
    assert holding(tmp_path, event)
    store = begun(tmp_path, keep=9, after=clean)
    assert store.erase(clean) == []
    assert holding(tmp_path, event) == []
    later = store.write(loaded(tmp_path, one).snapshot(full=True), describe(one))
    assert later.body["clean"] == clean.id, "known to the next epoch"


def test_going_back_behind_a_forgetting_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    one = learner()
    store, older = four(tmp_path, one)
    clean = forget(store, one)
    before = files(tmp_path)
    with pytest.raises(
        Withdrawn, match=f"{older[1].id} is older than {clean.id}, with which an id was forgotten"
    ):
        CheckpointStore(tmp_path).use(older[1].id)
    text = said(capfd, "checkpoints", "use", older[1].id, str(tmp_path), status=3)
    assert "would bring its examples back" in text
    assert [name for name in files(tmp_path) if name != "lock"] == before
    copy = CheckpointStore(tmp_path).use(clean.id)
    assert copy.body["clean"] == clean.id
    store = begun(tmp_path, after=copy)
    store.erase(copy)
    assert set(store.names()) == {clean.id, copy.id}


def test_what_cannot_be_deleted_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = learner()
    store, _ = four(tmp_path, one)
    keeper = kept(store, one)
    one.forget(someone(one, EVENTS, "memory"), {})
    keeper.forget()
    unlink = Path.unlink

    def stuck(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))

    monkeypatch.setattr(Path, "unlink", stuck)
    with caplog.at_level(logging.ERROR):
        clean = write(keeper)
    assert "what was forgotten is still in" in caplog.text
    assert len(store.names()) == 5 and keeper.problem is None, "the checkpoint stands all the same"
    monkeypatch.setattr(Path, "unlink", unlink)
    last = write(keeper)
    assert store.names() == [last.id, clean.id]


# ---- the keeper


def test_a_checkpoint_that_is_being_written_is_an_older_one(tmp_path: Path) -> None:
    """It was copied before: its bytes must go, too."""
    one = learner()
    store = begun(tmp_path, keep=9)
    keeper = kept(store, one, confirmed=False)
    one.learn(EVENTS[:204])
    event = next(e for e in EVENTS if e.id == someone(one, EVENTS, "memory"))
    go = threading.Event()
    keeper.begin(describe(one), waiting(go))
    assert one.forget(event.id, {}).memory == 1
    keeper.forget()
    go.set()
    keeper.settle(wait=True)
    assert keeper.due(one.counts) is False, "by the clock, as always"
    assert holding(tmp_path, event)
    clean = write(keeper)
    keeper.confirm(clean)
    assert store.names() == [clean.id] and holding(tmp_path, event) == []


def test_confirming_waits_for_the_write_under_way(tmp_path: Path) -> None:
    one = learner()
    store, _ = four(tmp_path, one)
    keeper = kept(store, one, confirmed=False)
    one.forget(someone(one, EVENTS, "memory"), {})
    keeper.forget()
    clean = write(keeper)
    one.learn(EVENTS[160:170])
    go = threading.Event()
    keeper.begin(describe(one), waiting(go))
    keeper.confirm(clean)
    assert len(store.names()) == 5
    go.set()
    keeper.settle(wait=True)
    assert store.names() == [keeper.figures.last_id, clean.id]
    assert all(store.verify(name) for name in store.names())


@pytest.mark.parametrize("failures", [1, 3])
def test_a_write_that_fails_is_whole_the_next_time(tmp_path: Path, failures: int) -> None:
    one = learner()
    store, _ = four(tmp_path, one)
    keeper = kept(store, one)
    event = next(e for e in EVENTS if e.id == someone(one, EVENTS, "memory"))
    one.forget(event.id, {})
    keeper.forget()

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for _ in range(failures):
        keeper.begin(describe(one), full)
        keeper.settle(wait=True)
        assert keeper.problem is not None and holding(tmp_path, event)
        one.learn(EVENTS[one.counts.records : one.counts.records + 1])
    write(keeper)
    assert len(store.names()) == 1 and holding(tmp_path, event) == []
    assert bits(loaded(tmp_path, one).snapshot(full=True)) == bits(one.snapshot(full=True))


def test_there_is_something_to_keep_though_no_record_came(tmp_path: Path) -> None:
    one = learner()
    one.learn(EVENTS[:100])
    keeper = Keeper(CheckpointSettings(seconds=1e-6), begun(tmp_path), one)
    write(keeper)
    assert not keeper.due(one.counts)
    one.forget("image 5", {})
    keeper.forget()
    assert keeper.due(one.counts)


def test_forgetting_before_the_shape_is_settled(tmp_path: Path) -> None:
    one = learner()
    keeper = kept(begun(tmp_path), one)
    one.learn(EVENTS[:3])
    first = write(keeper)
    one.forget("image 1", {0: 3})
    keeper.forget()
    clean = write(keeper)
    assert keeper.store.names() == [clean.id] != [first.id]
    assert len(loaded(tmp_path, one).blocked) == 1


# ---- the worker


def test_a_worker_that_starts_deletes_what_was_left(tmp_path: Path) -> None:
    """It had written the clean checkpoint, and was killed before it could delete the others."""
    events = images(300)
    records, words = b"".join(map(line, events)), ("--checkpoint.keep", "9", "--checkpoint.events", "100")
    with piped(tmp_path, *words) as worker:
        worker.send(records)
        assert worker.ends() == 0
    before = newest(tmp_path)
    store = CheckpointStore(tmp_path / "state", 9)
    store.begin(before)
    one = Learner(Settings(**before.body["settings"]))
    one.restore(store.load(before))
    event = next(e for e in events if e.id == someone(one, events, "memory"))
    assert one.forget(event.id, {}).memory == 1
    one.memory.mark_all_changed()
    store.forget()
    about = {**describe(one), "position": before.body["position"], "outputs": before.body["outputs"]}
    clean = store.write(one.snapshot(), about)
    assert len(store.names()) > 2 and holding(tmp_path / "state", event, one)
    with piped(tmp_path, *words) as worker:
        worker.send(records)
        worker.until(lambda: store.names() == [clean.id], "the others go before there is a new one")
        assert worker.ends() == 0
    assert holding(tmp_path / "state", event, one) == []
    assert newest(tmp_path).body["clean"] == clean.id
