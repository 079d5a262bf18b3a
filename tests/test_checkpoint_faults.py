"""Checkpoints when the disk fails, and over a long time: nothing half, nothing lost, no growth."""

from __future__ import annotations

import builtins
import errno
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from streamlearn import packs, parts
from streamlearn.checkpoint import CheckpointStore, Manifest
from streamlearn.durable import describe
from streamlearn.keeper import Keeper
from streamlearn.learner import OnlineLearner
from streamlearn.settings import CheckpointSettings
from tests.streams import bits
from tests.test_checkpoint import EVENTS, begun, files, hashes, learner, newest, small_segments, write

__all__ = ["small_segments"]  # a fixture of every test here, too


class FullDisk:
    """Lets `left` operations through (opening, writing, syncing, renaming); the next ones find no space."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.struck = False
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> FullDisk:
        for name in ("fsync", "rename", "link", "mkdir"):
            self._patch.setattr(os, name, self._limited(getattr(os, name)))
        self._patch.setattr(parts, "open", self._open, raising=False)
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()

    def tick(self) -> None:
        self.left -= 1
        if self.left < 0:
            self.struck = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _limited(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def limited(*arguments: Any, **more: Any) -> Any:
            self.tick()
            return operation(*arguments, **more)

        return limited

    def _open(self, path: Path, mode: str) -> Any:
        if mode == "rb":
            return builtins.open(path, mode)
        self.tick()
        return _File(builtins.open(path, mode), self)


class _File:
    def __init__(self, file: Any, disk: FullDisk) -> None:
        self._file, self._disk = file, disk

    def write(self, data: bytes) -> int:
        self._disk.tick()
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def kept(store: CheckpointStore, of: OnlineLearner) -> Keeper:
    return Keeper(CheckpointSettings(), store, of)


def attempt(keeper: Keeper, sync: Callable[[], None] = lambda: None) -> None:
    keeper.begin(describe(keeper.learner), sync)
    keeper.settle(wait=True)


def test_a_full_disk_at_every_step(tmp_path: Path) -> None:
    one, store = learner(), begun(tmp_path)
    one.learn(EVENTS[:100])
    keeper = kept(store, one)
    attempt(keeper)
    before, durable = files(tmp_path), newest(tmp_path).id
    for left in itertools.count():
        one.learn([EVENTS[one.counts.records % 400]])
        with FullDisk(left) as disk:
            attempt(keeper)
        if not disk.struck:
            break
        assert isinstance(keeper.problem, OSError) and keeper.problem.errno == errno.ENOSPC
        assert files(tmp_path) == before, f"left behind when operation {left + 1} failed"
        assert newest(tmp_path).id == durable
    assert left > 30, "every segment's write is an operation"
    assert keeper.problem is None
    assert keeper.figures.failures == left
    found = CheckpointStore(tmp_path).newest(pytest.fail)
    assert found is not None and found[0].id != durable
    assert bits(found[1]) == bits(one.snapshot(full=True)), "segments of failed attempts were lost"
    keeper.close()


def test_what_is_free_is_known_also_when_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up is seen at each attempt, not as it was at the last that succeeded."""
    one = learner()
    one.learn(EVENTS[:100])
    keeper = kept(begun(tmp_path), one)
    for left, free in ((10**6, 5000), (0, 70), (0, 6), (10**6, 4000)):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder, free=free: SimpleNamespace(free=free))
        with FullDisk(left):
            attempt(keeper)
        assert (keeper.problem is None) == (left > 0)
        assert keeper.figures.free_bytes == free
    assert keeper.figures.failures == 2
    keeper.close()


def test_outputs_that_are_not_durable_stop_the_manifest(tmp_path: Path) -> None:
    one = learner()
    one.learn(EVENTS[:30])
    keeper = kept(begun(tmp_path), one)
    attempt(keeper)
    before = files(tmp_path)

    def sync() -> None:
        raise OSError(errno.EIO, "no")

    one.learn(EVENTS[30:60])
    attempt(keeper, sync)
    assert keeper.problem is not None
    assert files(tmp_path) == before
    keeper.close()


@pytest.mark.parametrize("damage", ["deleted", "flipped"])
def test_a_pack_lost_while_it_works_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """The state in memory is whole: a damaged older file is no reason to stop."""
    monkeypatch.setattr(packs, "SPARSE", 2.0)  # every old segment is moved
    one, store = learner(), begun(tmp_path)
    one.learn(EVENTS[:200])
    keeper = kept(store, one)
    attempt(keeper)
    (pack,) = tmp_path.rglob("*.memory")
    if damage == "deleted":
        pack.unlink()
    else:
        pack.write_bytes(bytes(byte ^ 1 for byte in pack.read_bytes()))
    one.learn(EVENTS[200:220])
    attempt(keeper)
    assert pack.name in str(keeper.problem) and "is damaged" not in str(keeper.problem)
    attempt(keeper)
    assert keeper.problem is None
    found = CheckpointStore(tmp_path).newest(pytest.fail)
    assert found is not None
    assert bits(found[1]) == bits(one.snapshot(full=True))
    keeper.close()


def test_what_cannot_be_deleted_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, store = learner(), begun(tmp_path, keep=1)
    one.learn(EVENTS[:50])
    write(store, one)

    def stuck(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "no")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", stuck)
        one.learn(EVENTS[50:60])
        write(store, one)
    assert len(store.names()) == 2
    one.learn(EVENTS[60:70])
    write(store, one)
    assert len(store.names()) == 1


def test_many_checkpoints_take_bounded_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "MOST_PACKS", 8)
    monkeypatch.setattr(packs, "MOST_REWRITTEN", 2000)
    one, store = learner(), begun(tmp_path, keep=1)
    most_packs, most_bytes, most_written, before = 0, 0, 0, 0
    for i in range(150):
        one.learn([EVENTS[(2 * i) % 400], EVENTS[(2 * i + 1) % 400]])
        snapshot = one.snapshot()
        manifest = store.write(snapshot, describe(one))
        own = manifest.path.with_suffix(".memory")
        new = sum(a.nbytes for s in getattr(snapshot.get("memory"), "changed", {}).values() for a in s)
        if own.exists():
            # a copy also takes what had changed when the other one was written
            most_written = max(most_written, own.stat().st_size - new - before)
        before = new
        most_packs = max(most_packs, len(manifest.body["packs"]))
        most_bytes = max(most_bytes, sum(path.stat().st_size for path in tmp_path.rglob("*.memory")))
    whole = sum(a.nbytes for s in one.memory.snapshot(full=True).changed.values() for a in s)
    assert most_packs <= 8 + 1
    assert most_bytes <= 2 * (2 * whole + 2000), "two copies, each at least half in use"
    assert most_written <= 2000, "compaction is spread over several checkpoints"
    assert bits(store.load(manifest)) == bits(one.snapshot(full=True))


# ---- anything in any order

STEP = 7
"""Events of one learning step of the machine below; no multiple of the stream batch."""


class Reference:
    """The hashes of the state after every number of steps, from a learner that nothing happened to."""

    def __init__(self, folder: Path) -> None:
        self._learner, self._store = learner(), begun(folder, keep=1)
        self._hashes: list[dict[str, str]] = [hashes(write(self._store, self._learner))]

    def after(self, steps: int) -> dict[str, str]:
        while len(self._hashes) <= steps:
            start = (len(self._hashes) - 1) * STEP
            self._learner.learn(EVENTS[start : start + STEP])
            self._hashes.append(hashes(write(self._store, self._learner)))
        return self._hashes[steps]


class Life(RuleBasedStateMachine):
    """A worker's life: it learns, writes checkpoints, fails to, is killed, is started, finds damage."""

    reference: Reference

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="streamlearn-"))
        self.damaged: set[str] = set()
        self.steps_at: dict[str, int] = {}
        self.steps = 0
        self.begin(None)
        self.checkpoint()

    def begin(self, after: Manifest | None) -> None:
        self.learner, self.store = learner(), CheckpointStore(self.folder, keep=3)
        if after is not None:
            self.learner.restore(self.store.load(after))
        self.store.begin(after)
        self.keeper = kept(self.store, self.learner)

    def learned_steps(self) -> int:
        """Until the shape is settled events are only held: C stays at the start, they are read again."""
        return self.steps if self.learner.settled else 0

    @rule(steps=st.integers(1, 5))
    def learn(self, steps: int) -> None:
        for _ in range(steps):
            if self.steps < len(EVENTS) // STEP:
                self.learner.learn(EVENTS[self.steps * STEP : (self.steps + 1) * STEP])
                self.steps += 1

    @rule()
    def checkpoint(self) -> None:
        attempt(self.keeper)
        assert self.keeper.problem is None
        self.steps_at[self.store.names()[0]] = self.learned_steps()

    @rule(left=st.integers(0, 40))
    def checkpoint_on_a_full_disk(self, left: int) -> None:
        before = self.store.names()
        with FullDisk(left):
            attempt(self.keeper)
        if self.keeper.problem is None:
            self.steps_at[self.store.names()[0]] = self.learned_steps()
        else:
            assert self.store.names() == before

    @precondition(lambda self: len(set(self.store.names()) - self.damaged) > 1)
    @rule(suffix=st.sampled_from([".json", ".parts"]))
    def damage_the_newest(self, suffix: str) -> None:
        name = next(name for name in self.store.names() if name not in self.damaged)
        path = self.store._path(name).with_suffix(suffix)
        path.write_bytes(path.read_bytes()[:-3])
        self.damaged.add(name)

    @rule()
    def killed_and_started(self) -> None:
        whole = [name for name in self.store.names() if name not in self.damaged]
        (self.folder / whole[0][:6] / "000009-00000000.parts.tmp").write_bytes(b"half")
        found = CheckpointStore(self.folder).newest(lambda text: None)
        assert found is not None and found[0].id == whole[0]
        self.steps = self.steps_at[whole[0]]
        self.keeper.close()
        self.begin(found[0])

    @invariant()
    def every_whole_checkpoint_is_that_of_a_quiet_life(self) -> None:
        names = self.store.names()
        assert 1 <= len(names) <= 3
        for name in names:
            if name not in self.damaged:
                assert hashes(self.store.verify(name)) == self.reference.after(self.steps_at[name])

    def teardown(self) -> None:
        self.keeper.close()
        shutil.rmtree(self.folder)


def test_anything_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "MOST_PACKS", 4)
    reference = Reference(tmp_path)

    class OneLife(Life):
        pass

    OneLife.reference = reference
    run_state_machine_as_test(
        OneLife, settings=hypothesis.settings(max_examples=15, stateful_step_count=20, deadline=None)
    )
