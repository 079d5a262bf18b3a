"""A batch that a source's end or a clock has cut is cut there again by whoever reads the records again."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamlearn import cuts
from streamlearn.checkpoint import CheckpointStore
from streamlearn.cuts import Cuts
from streamlearn.events import Position, Record
from streamlearn.settings import Settings
from tests.processes import DEADLINE, ROOT, flags, hashes, here, line, newest, outputs, piped
from tests.processes import write_events as write
from tests.streams import vectors

EVENTS = vectors(711, classes=4)
FIRST = 307
"""So many the source holds when it ends; no multiple of the stream batch."""
OPTIONS = ("--checkpoint.events", "60", "--checkpoint.keep", "100", "--memory.capacity", "100")


def words(*more: str) -> list[str]:
    return flags(Path(), "events.jsonl", *OPTIONS, *more)


def run(*more: str) -> int:
    """Of the file events.jsonl in the folder that we are in, with everything written there."""
    return here(*words(*more))


def lines() -> list[dict[str, Any]]:
    return outputs(Path("predictions.jsonl"))


Quiet = tuple[dict[str, str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run to the end of the first events leaves; copy it, don't change it."""
    folder = tmp_path_factory.mktemp("ended")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        learned = 0
        for end in (149, FIRST):
            write(Path("events.jsonl"), EVENTS[:end])
            assert run() == 0
            learned, before = newest(Path()).body["events_learned"], learned
            assert (learned - before) % 10, "no batch was cut"
    return folder


def go_on(ended: Path, folder: Path) -> Quiet:
    with pytest.MonkeyPatch.context() as patch:
        shutil.copytree(ended, folder, dirs_exist_ok=True)
        patch.chdir(folder)
        write(Path("events.jsonl"), EVENTS)
        assert run() == 0
        return hashes(Path()), lines()


@pytest.fixture(scope="module")
def quiet(ended: Path, tmp_path_factory: pytest.TempPathFactory) -> Quiet:
    """State and predictions of the run that goes on when the source has grown and nothing else happened."""
    return go_on(ended, tmp_path_factory.mktemp("quiet"))


@pytest.fixture
def grown(ended: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what the first run left, that we are in, the source grown since."""
    shutil.copytree(ended, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    write(Path("events.jsonl"), EVENTS)
    return tmp_path


def names() -> list[str]:
    return CheckpointStore("state").names()


def path_of(name: str) -> Path:
    return CheckpointStore("state")._path(name)


def unlink_newest() -> None:
    path_of(names()[0]).unlink()


def cut_newest() -> None:
    parts = path_of(names()[0]).with_suffix(".parts")
    parts.write_bytes(parts.read_bytes()[:-100])


def cut_all_but_the_first() -> None:
    for name in names()[:-1]:
        path_of(name).with_suffix(".parts").write_bytes(b"")


def use_older() -> None:
    of_the_first_run = next(name for name in names() if name.startswith("000001-"))
    assert here("checkpoints", "use", of_the_first_run, "state") == 0


def use_the_first() -> None:
    assert here("checkpoints", "use", names()[-1], "state") == 0


SETBACKS = [unlink_newest, cut_newest, cut_all_but_the_first, use_older, use_the_first]


@pytest.mark.parametrize("setback", SETBACKS)
def test_going_on_from_an_older_checkpoint_is_exact(
    setback: Callable[[], None], grown: Path, quiet: Quiet
) -> None:
    setback()
    assert run() == 0
    assert (hashes(grown), lines()) == quiet


def goes_on_alike(folder: Path, setback: Callable[[], None], patch: pytest.MonkeyPatch) -> Quiet:
    """State and predictions of the run that goes on here; those of its twin after a setback are the same."""
    shutil.copytree(folder, folder / "twin")
    assert run() == 0
    expected = hashes(folder), lines()
    patch.chdir(folder / "twin")
    setback()
    assert run() == 0
    assert (hashes(Path()), lines()) == expected
    return expected


@pytest.mark.parametrize("setback", [cut_newest, cut_all_but_the_first])
def test_a_second_setback_and_a_second_end_are_exact_too(
    setback: Callable[[], None], grown: Path, quiet: Quiet, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(grown / "events.jsonl", EVENTS[: FIRST + 4])
    assert run() == 0
    write(grown / "events.jsonl", EVENTS)
    assert goes_on_alike(grown, setback, monkeypatch) != quiet, "the second end has cut another batch"


DIES = """
import os, signal, sys
import streamlearn.worker
from streamlearn.cli import main
from streamlearn.keeper import Keeper
settle = Keeper.settle
def dies(self, wait):
    settle(self, True)
    if self.figures.written == 2:
        os.kill(os.getpid(), signal.SIGKILL)
Keeper.settle = dies
streamlearn.worker.MOST_RECORDS = 16
main(sys.argv[1:])
"""
"""A worker of small turns that waits for each checkpoint, the second is its end."""


@pytest.mark.slow
def test_a_kill_while_records_are_read_again(grown: Path, quiet: Quiet) -> None:
    cut_all_but_the_first()
    command = [sys.executable, "-c", DIES, *words("--checkpoint.events", "20")]
    there = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=there, timeout=DEADLINE, check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert 0 < newest(grown).body["records"] < FIRST
    assert run() == 0
    assert (hashes(grown), lines()) == quiet


def test_a_line_without_its_end_that_got_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The place's cursor is then another one when the record is read again."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "events.jsonl", EVENTS[:FIRST])
    source = tmp_path / "events.jsonl"
    source.write_bytes(source.read_bytes()[:-1])
    assert run() == 0
    write(source, EVENTS)
    goes_on_alike(tmp_path, cut_newest, monkeypatch)


def test_an_end_before_the_shape_is_settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "events.jsonl", EVENTS[:7])
    assert run() == 0
    write(tmp_path / "events.jsonl", EVENTS[:90])
    goes_on_alike(tmp_path, cut_newest, monkeypatch)


def offset(folder: Path) -> int:
    """C, on standard input; -1 before there is a checkpoint."""
    if not CheckpointStore(folder / "state").names():
        return -1
    return int(newest(folder).body["position"]["offsets"]["-"].get("0", 0))


def test_what_a_clock_has_cut(tmp_path: Path) -> None:
    """A pipe whose writer paused, fed again without a pause."""
    own = ("--learning.max_wait", "0.05", *OPTIONS)
    with piped(tmp_path, *own) as worker:
        for end in (33, 66, 99):
            worker.send(b"".join(map(line, EVENTS[end - 33 : end])))
            worker.until(lambda end=end: offset(tmp_path) == end, "the checkpoint of a cut")  # type: ignore[misc]
        worker.send(b"".join(map(line, EVENTS[99:300])))
        assert worker.ends() == 0
    expected, steps, state = hashes(tmp_path), newest(tmp_path).body["step"], str(tmp_path / "state")
    first = CheckpointStore(state).names()[-1]
    assert len(cuts.read(CheckpointStore(state), pytest.fail)) >= 3
    assert here("checkpoints", "use", first, state) == 0
    with piped(tmp_path, *own) as worker:
        worker.send(b"".join(map(line, EVENTS[:300])))
        assert worker.ends() == 0
    assert newest(tmp_path).body["step"] == steps
    assert hashes(tmp_path) == expected


# ---- what is none of ours


def fresh(folder: Path, *more: str) -> dict[str, str]:
    """The state of a run that nothing came before."""
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shutil.copy("../events.jsonl", ".")
        assert run(*more) == 0
        return hashes(folder)


def test_of_another_input_nothing_is_cut(grown: Path, caplog: pytest.LogCaptureFixture) -> None:
    use_the_first()
    write(grown / "events.jsonl", vectors(600, seed=3))
    (grown / "predictions.jsonl").unlink()
    assert run() == 0
    assert hashes(grown) == fresh(grown / "fresh")


def test_with_other_settings_checkpoint_0_begins_anew(grown: Path) -> None:
    use_the_first()
    (grown / "predictions.jsonl").unlink()
    assert run("--seed", "5") == 0
    assert hashes(grown) == fresh(grown / "fresh", "--seed", "5")


def test_where_there_is_no_checkpoint_a_file_of_cuts_says_nothing(grown: Path) -> None:
    for folder in (grown / "state").glob("0*"):
        shutil.rmtree(folder)
    (grown / "predictions.jsonl").unlink()
    assert run() == 0
    assert hashes(grown) == fresh(grown / "fresh")


# ---- the file


@pytest.mark.slow
def test_a_changed_byte_is_named(grown: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """By `verify`, and by the start, which goes on without that line."""
    path, store = Path("state", cuts.NAME), CheckpointStore("state")
    whole = path.read_bytes()
    assert len(cuts.read(store, pytest.fail)) == 2
    for place in range(len(whole)):
        for changed in (
            whole[:place],
            whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :],
            whole[:place] + b" " + whole[place + 1 :],
        ):
            path.write_bytes(changed)
            complaints: list[str] = []
            found = cuts.read(store, complaints.append)
            assert bool(complaints) == (changed != whole) and len(found) <= 2, place
    path.write_bytes(whole[:-30])
    assert here("checkpoints", "verify", "state") == 3
    assert f"{cuts.NAME}  DAMAGED: {path}: cut" in capfd.readouterr().out
    assert run() == 0
    assert f"ERROR cuts: {path}: cut" in capfd.readouterr().err
    assert here("checkpoints", "verify", "state") == 0, "the next cut is written without it"


class Full:
    """No room for cuts while `full`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full, self._rename = True, os.rename
        monkeypatch.setattr(os, "rename", self.rename)

    def rename(self, source: Path, target: Path) -> None:
        if self.full and target.name == cuts.NAME:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        self._rename(source, target)


def test_no_room_for_a_cut_is_no_room_for_its_checkpoint(
    grown: Path, quiet: Quiet, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = newest(grown).id
    with monkeypatch.context() as patch:
        Full(patch)
        assert run("--checkpoint.events", "0", "--checkpoint.patience", "0") == 6
    assert "No space left" in capfd.readouterr().err
    assert newest(grown).id == before
    assert not list(grown.rglob("*.tmp"))
    assert run() == 0
    assert (hashes(grown), lines()) == quiet


def test_the_file_does_not_grow_for_ever(grown: Path) -> None:
    """What lies below every checkpoint goes when the next one is written."""
    size = 0
    for end in range(FIRST + 4, 460, 7):
        write(grown / "events.jsonl", EVENTS[:end])
        assert run("--checkpoint.keep", "2") == 0
        found = cuts.read(CheckpointStore("state"), pytest.fail)
        size = max(size, len(found))
    assert found and 1 < size <= 4


def test_what_is_added_twice_is_kept_once(grown: Path) -> None:
    store = CheckpointStore("state")
    *_, cut = cuts.read(store, pytest.fail)
    before = Path("state", cuts.NAME).stat().st_mtime_ns
    one = Cuts(store, Settings())
    one.add(cut.body)
    one.begin(None, cut.topic, {})
    assert not Path("state", cuts.NAME).exists()
    one.add(cut.body)
    one.keep()
    assert cuts.read(store, pytest.fail) == [cut]
    after = Path("state", cuts.NAME).stat().st_mtime_ns
    one.keep()
    assert before < after == Path("state", cuts.NAME).stat().st_mtime_ns


@pytest.mark.parametrize(
    ("goes_on", "sizes"), [(100, [49, 158, 193]), (149, [0, 158, 193]), (150, [157, 193]), (308, [192])]
)
def test_what_lies_behind_the_start_is_not_cut_again(goes_on: int, sizes: list[int], grown: Path) -> None:
    """At the start itself it may be: a checkpoint may have been taken there before the end was seen."""
    store = CheckpointStore("state")
    one = Cuts(store, Settings(**newest(grown).body["settings"]))
    one.begin(newest(grown), "events.jsonl", {0: goes_on})
    assert one.repeats({0: goes_on}) == (goes_on < FIRST)
    records = [Record(b"", Position("events.jsonl", 0, offset)) for offset in range(goes_on, 500)]
    pieces = list(one.pieces(records))
    assert [len(piece) for piece, _ in pieces] == sizes
    assert [record for piece, _ in pieces for record in piece] == records
    places = [cut.offsets[0] for _, cut in pieces if cut is not None]
    assert places == [place for place in (149, FIRST) if place >= goes_on]
    assert list(one.pieces(records)) == [(records, None)], "once is enough"
