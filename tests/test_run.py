"""`streamlearn run` in this process: what it refuses, what stops it, how it goes on."""

from __future__ import annotations

import csv
import gc
import gzip
import json
import re
import shutil
import socket
from pathlib import Path

import pytest

from streamlearn import Learner
from streamlearn.checkpoint import CheckpointStore
from streamlearn.collector import seldom_collected
from tests.processes import (
    QUIET,
    Piped,
    count_lines,
    flags,
    hashes,
    here,
    line,
    newest,
    next_offset,
    outputs,
    piped,
    tree,
    write_events,
)
from tests.streams import vectors

EVENTS = vectors(120)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a run over EVENTS has ended; copy it, don't change it."""
    folder = tmp_path_factory.mktemp("finished")
    write_events(folder / "events.jsonl", EVENTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert again(folder) == 0
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, and the current folder: its input is named by the same relative path."""
    copy = Path(shutil.copytree(finished, tmp_path / "copy"))
    monkeypatch.chdir(copy)
    return copy


def again(folder: Path, *more: str) -> int:
    path = folder / "events.jsonl"
    return here(*flags(folder, path.name if Path.cwd() == folder else path, *more))


# ---- what is refused, and what isn't


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--memory.capacity", "50"], "memory.capacity was 2000, now 50"),
        (["--method.name", "finetune"], "method.name was 'prototype_replay', now 'finetune'"),
        (["--seed=3", "--model.width=9"], "model.width was None, now 9; seed was 0, now 3"),
    ],
)
def test_settings_that_shape_the_state_must_stay(
    folder: Path, capfd: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    before = tree(folder)
    assert again(folder, *more) == 3
    err = capfd.readouterr().err
    assert f"{newest(folder).id} was made with other settings: {said}. Set them back, or start with" in err
    del before["state/lock"]
    assert {name: value for name, value in tree(folder).items() if name != "state/lock"} == before


def test_other_settings_are_adopted_and_said(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_events(folder / "events.jsonl", vectors(121))
    write_events(folder / "events.jsonl", [*EVENTS, *vectors(5, seed=1)])
    assert again(folder, "--learning.top_k", "2", "--codec.max_classes=99") == 0
    err = capfd.readouterr().err
    assert "setting adopted: learning.top_k: 5 -> 2" in err
    assert "setting adopted: codec.max_classes: 10000 -> 99" in err
    lines = outputs(folder / "predictions.jsonl")
    assert [len(each["scores"]) for each in lines[119:]] == [5, 2, 2, 2, 2, 2]


def test_another_input(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_events(folder / "events.jsonl", vectors(300, seed=5))
    assert again(folder) == 3
    assert "events.jsonl is not the input this state has learned from" in capfd.readouterr().err
    write_events(folder / "events.jsonl", EVENTS[:60])
    assert again(folder) == 3
    assert "bytes of content, the state has learned up to byte" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["predictions.jsonl", "state/dead_letters.jsonl"])
def test_a_shorter_output(folder: Path, capfd: pytest.CaptureFixture[str], name: str) -> None:
    bad = b'{"x": [1, 2\n'
    with open(folder / "events.jsonl", "ab") as file:
        file.write(bad)
    assert again(folder) == 0
    (folder / name).write_bytes((folder / name).read_bytes()[:-10])
    assert again(folder) == 3
    assert f"{name} has " in (err := capfd.readouterr().err)
    assert "start with another --checkpoint.folder" in err


def test_a_folder_that_another_works_in(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    other = CheckpointStore(folder / "state")
    other.lock()
    assert again(folder) == 3
    other.unlock()
    assert re.search(r"process \d+ already works in", capfd.readouterr().err)
    assert again(folder) == 0


def test_a_damaged_checkpoint_is_named_and_an_older_one_taken(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    expected, last = hashes(folder), newest(folder)
    last.path.with_suffix(".parts").write_bytes(b"short")
    assert again(folder) == 0
    err = capfd.readouterr().err
    assert f"ERROR worker: checkpoint {last.id} is damaged: {last.path.with_suffix('.parts')}: cut" in err
    assert hashes(folder) == expected
    assert count_lines(folder / "predictions.jsonl") == 120, "they were there already"
    for path in folder.rglob("*.parts"):
        path.write_bytes(b"")
    assert again(folder) == 3
    assert "checkpoints in" in (err := capfd.readouterr().err) and "is whole" in err


def test_what_a_notebook_has_saved_is_no_place_to_go_on_from(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Learner().save(tmp_path / "state")
    write_events(tmp_path / "events.jsonl", EVENTS)
    assert again(tmp_path) == 3
    assert "was saved by Learner.save: it holds no place in a source" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        (
            ["--source.path", "/nowhere/events.jsonl"],
            4,
            "/nowhere/events.jsonl can't be opened: No such file",
        ),
        (["--source.path", "/tmp"], 2, "doesn't say which format"),
        (["--source.path", "/tmp", "--source.format", "csv"], 4, "/tmp is a folder"),
        (["--sink.predictions", "/nowhere/p"], 4, "/nowhere/p can't be written: there is no folder /nowhere"),
        (["--memory.capacitty", "5"], 2, "unknown setting memory.capacitty"),
        (["--memory.capacity", "0"], 2, "memory.capacity"),
        (["--model.net", "nothing:here"], 2, "model.net = 'nothing:here' can't be imported"),
        (["--model.net", "transformer"], 2, "transformer"),
        (["--method.name", "oracle"], 2, "oracle"),
        (["--model.device", "gpu"], 2, "model.device = 'gpu'"),
        (["--sink.dead_letters", "-", "--sink.predictions", "-"], 2, "name two files"),
        (["--source.path", "null"], 2, "no source of events"),
        (["--checkpoint.folder", "/proc/state"], 6, "/proc/state: the state can't be kept here"),
    ],
)
def test_statuses(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], more: list[str], status: int, said: str
) -> None:
    write_events(tmp_path / "events.jsonl", EVENTS)
    assert again(tmp_path, *more) == status
    err = capfd.readouterr().err
    assert said in err
    assert "Traceback" not in err
    # Whatever was wrong, nothing was learned: it can be put right and started again.
    assert again(tmp_path) == 0
    assert count_lines(tmp_path / "predictions.jsonl") == 120


def test_a_port_that_is_taken(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_events(tmp_path / "events.jsonl", EVENTS)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert again(tmp_path, "--exporter.enabled", "true", "--exporter.port", port) == 2
    assert "--exporter.port 0: any free one" in capfd.readouterr().err


def test_a_cut_source_keeps_what_was_learned(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = gzip.compress(b"".join(map(line, EVENTS)))
    path = tmp_path / "events.jsonl.gz"
    path.write_bytes(whole[:-200])
    assert here(*flags(tmp_path, path)) == 4
    assert "is a gzip file that was cut" in capfd.readouterr().err
    assert 0 < next_offset(tmp_path) == count_lines(tmp_path / "predictions.jsonl") < 120
    path.write_bytes(whole)
    assert here(*flags(tmp_path, path)) == 0
    assert next_offset(tmp_path) == count_lines(tmp_path / "predictions.jsonl") == 120


# ---- poison

GARBAGE = b"\x93garbage\n"


def test_a_thousand_dead_letters_in_a_row(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    good = [line(event) for event in EVENTS]
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"".join([*good[:50], GARBAGE * 999, *good[50:60], GARBAGE * 1000, *good[60:]]))
    assert again(tmp_path) == 5
    err = capfd.readouterr().err
    assert "1000 or more dead letters in a row, the last at" in err
    assert "events.jsonl:0:2058 (undecodable: " in err
    assert "a new start goes on behind them" in err
    stopped = next_offset(tmp_path)
    assert stopped >= 2059
    assert again(tmp_path) == 0
    assert next_offset(tmp_path) == 2119
    assert count_lines(tmp_path / "predictions.jsonl") == 120
    assert count_lines(tmp_path / "state/dead_letters.jsonl") == 1999


@pytest.mark.parametrize("good", [0, 3, 30])
def test_the_row_may_be_shorter_and_come_first(tmp_path: Path, good: int) -> None:
    """Garbage before any shape is known (0), with too few events to settle it (3), and after (30)."""
    path = tmp_path / "events.jsonl"
    rest = [line(event) for event in EVENTS]
    path.write_bytes(b"".join([*rest[:good], GARBAGE * 7, *rest[good:]]))
    row = ["--delivery.max_dead_letters_in_row", "7"]
    assert again(tmp_path, *row) == 5
    assert again(tmp_path, *row) == 0
    assert count_lines(tmp_path / "predictions.jsonl") == 120
    assert count_lines(tmp_path / "state/dead_letters.jsonl") == 7
    assert hashes(tmp_path)["memory"]


def test_nothing_but_garbage(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_bytes(GARBAGE * 20)
    assert again(tmp_path) == 0
    assert count_lines(tmp_path / "state/dead_letters.jsonl") == 20
    assert again(tmp_path) == 0
    assert count_lines(tmp_path / "state/dead_letters.jsonl") == 20


def test_classes_past_the_limit_are_no_poison(tmp_path: Path) -> None:
    strange = [json.dumps({"x": [0] * 5, "y": f"new {i}"}).encode() + b"\n" for i in range(30)]
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"".join([*map(line, EVENTS), *strange]))
    assert again(tmp_path, "--codec.max_classes", "6", "--delivery.max_dead_letters_in_row=9") == 0
    letters = outputs(tmp_path / "state/dead_letters.jsonl")
    assert [each["reason"] for each in letters] == ["too_many_classes"] * 30


# ---- going on


def test_a_file_that_grows(tmp_path: Path) -> None:
    path = write_events(tmp_path / "events.jsonl", EVENTS[:47])
    path.write_bytes(path.read_bytes()[:-1])  # its last line has no end yet
    assert again(tmp_path) == 0
    assert next_offset(tmp_path) == 47
    write_events(path, EVENTS)
    assert again(tmp_path) == 0
    assert next_offset(tmp_path) == 120
    lines = outputs(tmp_path / "predictions.jsonl")
    assert [each["id"] for each in lines] == [event.id for event in EVENTS]
    assert [each["source"] for each in lines] == [[str(path), 0, i] for i in range(120)]
    assert newest(tmp_path).body["events_learned"] == sum(event.y is not None for event in EVENTS)
    before = hashes(tmp_path)
    assert again(tmp_path) == 0
    assert hashes(tmp_path) == before, "nothing new, nothing learned"


def test_the_report(tmp_path: Path) -> None:
    write_events(tmp_path / "events.jsonl", EVENTS)
    assert again(tmp_path, "--report", str(tmp_path / "report")) == 0
    summary = json.loads((tmp_path / "report/summary.json").read_bytes())
    assert summary["learners"]["prototype_replay"]["predicted"] == 120
    assert summary["settings"]["memory.capacity"] == 2000
    assert count_lines(tmp_path / "report/curves.csv") > 1
    text = (tmp_path / "report/report.html").read_text("utf-8")
    assert "each before it was learned." in text and "Nothing was held out" in text


def test_the_report_is_of_the_end(tmp_path: Path) -> None:
    """The budget pays for no evaluation but those of new classes, when everything looks forgotten."""
    events = vectors(900, unlabeled=0.0)
    write_events(tmp_path / "events.jsonl", events)
    poor = ["--evaluation.held_out", "0.2", "--evaluation.images_per_image_learned", "1e-6"]
    assert again(tmp_path, *poor, "--report", str(tmp_path / "report")) == 0
    (learner,) = json.loads((tmp_path / "report/summary.json").read_bytes())["learners"].values()
    known = learner["continual"]["average_accuracy"]
    assert known > learner["prequential"]["window"]["accuracy"] - 0.15
    assert len(learner["continual"]["shifts"]) > 1
    with open(tmp_path / "report/curves.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert int(rows[-1]["events"]) == learner["events_learned"] > int(rows[-2]["events"])
    assert float(rows[-1]["average_accuracy"]) == known
    assert all(rows[-1][f"accuracy_{label}"] for label in {event.y for event in events})


def test_the_report_of_what_was_held_out(tmp_path: Path) -> None:
    write_events(tmp_path / "events.jsonl", vectors(600))
    held_out = ["--evaluation.held_out", "0.2", "--evaluation.images_per_image_learned", "1"]
    assert again(tmp_path, *held_out, "--report", str(tmp_path / "report")) == 0
    (learner,) = json.loads((tmp_path / "report/summary.json").read_bytes())["learners"].values()
    continual = learner["continual"]
    assert 0 <= continual["worst_case_accuracy"] <= continual["average_accuracy"] <= 1
    assert (
        learner["events_held_out"] > 10 and len(learner["prototypes"]["labels"]) == learner["known_classes"]
    )
    text = (tmp_path / "report/report.html").read_text("utf-8")
    assert f"{100 * continual['average_accuracy']:.1f}" in text and "Which classes look alike" in text
    assert f"{learner['events_held_out']} test examples that were never learned" in text
    assert f"at most {100 * learner['standard_error']:.1f} points" in text


@pytest.mark.slow  # scikit-learn is long in coming
def test_a_data_set_is_a_source_too(tmp_path: Path) -> None:
    words = ["run", "--source.dataset", "digits", "--checkpoint.folder", str(tmp_path / "state"), *QUIET]
    words += ["--sink.predictions", str(tmp_path / "predictions.jsonl"), "--model.width", "8"]
    assert here(*words) == 0
    assert newest(tmp_path).body["classes"]
    assert here(*words, "--source.order", "independent") == 3


# ---- a pipe that stays open


def answers(worker: Piped, folder: Path, count: int) -> None:
    worker.until(lambda: count_lines(folder / "predictions.jsonl") == count, f"{count} predictions")


def test_an_open_pipe_is_answered_at_once(tmp_path: Path) -> None:
    with piped(tmp_path) as worker:
        worker.send(b"".join(map(line, EVENTS[:10])))
        answers(worker, tmp_path, 10)
        for count, event in enumerate(EVENTS[10:25], 11):
            worker.send(line(event))
            answers(worker, tmp_path, count)
        worker.send(line(EVENTS[25])[:-1])
        assert worker.ends() == 0
    assert count_lines(tmp_path / "predictions.jsonl") == 26, "a last line needs no end"


def test_a_partial_batch_waits_no_longer_than_it_may(tmp_path: Path) -> None:
    with piped(tmp_path, "--learning.max_wait", "0.05") as worker:
        worker.send(b"".join(line(event) for event in EVENTS if event.y is not None)[:-1])
        learner = worker.worker.learner
        labeled = sum(event.y is not None for event in EVENTS) - 1
        worker.until(lambda: learner.counts.learned == labeled, "the partial batch is learned")
        worker.until(lambda: newest(tmp_path).body["events_learned"] == labeled, "and kept")
        assert labeled % 10
        assert worker.ends() == 0
    assert newest(tmp_path).body["events_learned"] == labeled + 1


def test_without_a_limit_it_waits_for_the_rest(tmp_path: Path) -> None:
    with piped(tmp_path) as worker:
        worker.send(b"".join(line(event) for event in EVENTS if event.y is not None))
        labeled = sum(event.y is not None for event in EVENTS)
        answers(worker, tmp_path, labeled)
        assert worker.worker.learner.counts.learned == labeled // 10 * 10 < labeled
        worker.worker.stop()
        worker.until(lambda: worker.status is not None, "the end")
        assert worker.status == 0
    assert newest(tmp_path).body["events_learned"] == labeled // 10 * 10
    assert newest(tmp_path).body["records"] == labeled


def test_garbage_before_any_shape_is_answered_once(tmp_path: Path) -> None:
    """Dead letters that left count, and C is behind them, whatever was read together with them."""
    events = vectors(30, unlabeled=0)
    source = tmp_path / "e.jsonl"
    source.write_bytes(b"garbage\n" * 1500 + b"".join(map(line, events)))
    statuses = [here(*flags(tmp_path, source)) for _ in range(2)]
    assert statuses == [5, 0]
    assert len(outputs(tmp_path / "state" / "dead_letters.jsonl")) == 1500
    assert len(outputs(tmp_path / "predictions.jsonl")) == 30
    assert newest(tmp_path).body["events_learned"] == 30
    assert next_offset(tmp_path) == 1530


def test_the_collector_is_as_it_was_afterwards() -> None:
    before = gc.get_threshold()
    with pytest.raises(OSError, match="full"), seldom_collected():
        assert gc.get_threshold() > before
        raise OSError("full")
    assert gc.get_threshold() == before
    assert gc.isenabled()
