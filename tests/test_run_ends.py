"""`streamlearn run` in this process: what it says before, around and after its work."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from streamlearn import run, wiring
from streamlearn.events import Sink, Source
from streamlearn.run import guarded
from streamlearn.settings import Settings
from tests.processes import ROOT, count_lines, flags, here, line, tree, write_events
from tests.streams import vectors
from tests.test_run import GARBAGE, again

EVENTS = vectors(120)

# ---- what is said at the end


def test_nothing_that_can_be_used_is_said_loudly(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "events.jsonl").write_bytes(GARBAGE * 20)
    assert again(tmp_path) == 0
    err = capfd.readouterr().err
    assert "ERROR run: not one of 20 records could be used: all are dead letters (undecodable: 20)" in err
    assert f"{tmp_path / 'state/dead_letters.jsonl'} holds the records" in err
    with open(tmp_path / "events.jsonl", "ab") as file:
        file.write(b"".join(map(line, EVENTS)))
    assert again(tmp_path) == 0
    assert "not one of" not in capfd.readouterr().err


def test_labels_that_are_nowhere_are_asked_about(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "events.jsonl"
    write_events(path, EVENTS)
    assert again(tmp_path, "--codec.label", "target") == 0
    err = capfd.readouterr().err
    assert "WARNING run: no event had a label: is codec.label right? (it is 'target'; all 120 events" in err
    assert again(tmp_path, "--codec.label", "y") == 3, "it shapes the state"
    assert "codec.label was 'target', now 'y'" in capfd.readouterr().err
    assert again(tmp_path, "--checkpoint.folder", str(tmp_path / "state2")) == 0
    assert "no event had a label" not in capfd.readouterr().err


def test_an_empty_file_is_nothing_to_worry_about(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "events.jsonl").touch()
    assert again(tmp_path) == 0
    err = capfd.readouterr().err
    assert "ERROR" not in err and "WARNING" not in err


# ---- outputs are not inputs


@pytest.mark.parametrize("setting", ["--sink.predictions", "--sink.dead_letters"])
@pytest.mark.parametrize("how", ["same", "link", "hard"])
def test_an_output_that_is_the_input(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], setting: str, how: str
) -> None:
    path = write_events(tmp_path / "events.jsonl", EVENTS)
    other = path if how == "same" else tmp_path / "other.jsonl"
    if how == "link":
        other.symlink_to(path.name)
    elif how == "hard":
        other.hardlink_to(path)
    before = tree(tmp_path)
    words = flags(tmp_path, path, setting, str(other))
    assert here(*words) == 2
    assert "is the file that is read: it would be appended to your input" in capfd.readouterr().err
    assert here("check", *words[1:]) == 2
    assert "is the file that is read" in capfd.readouterr().err
    assert tree(tmp_path) == before


def test_standard_input_may_be_that_file_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_events(tmp_path / "events.jsonl", EVENTS)
    with open(path, "rb") as file:
        more = ["--source.options.fd", str(file.fileno()), "--sink.predictions", str(path)]
        assert here(*flags(tmp_path, "-", *more)) == 2
    assert "is the file that is read" in capfd.readouterr().err
    assert here(*flags(tmp_path, path, "--sink.predictions", "/dev/null")) == 0


@pytest.mark.parametrize("setting", ["predictions", "dead_letters"])
@pytest.mark.parametrize("name", ["state/lock", "state/p.jsonl", "state/deep/p", "state", "link/p", "p.link"])
def test_an_output_inside_the_state_s_folder(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], setting: str, name: str
) -> None:
    path = write_events(tmp_path / "events.jsonl", EVENTS)
    assert here(*flags(tmp_path, path)) == 0
    (tmp_path / "link").symlink_to("state")
    (tmp_path / "p.link").symlink_to("state/lock")
    before = tree(tmp_path)
    words = flags(tmp_path, path, f"--sink.{setting}", str(tmp_path / name))
    for command in (words, ["check", *words[1:]]):
        capfd.readouterr()
        assert here(*command) == 2
        assert f"sink.{setting} is {tmp_path / name}, inside checkpoint.folder" in capfd.readouterr().err
    assert tree(tmp_path) == before


def test_the_dead_letters_have_a_place_in_the_state_s_folder(tmp_path: Path) -> None:
    path = write_events(tmp_path / "events.jsonl", EVENTS)
    letters = str(tmp_path / "state" / "dead_letters.jsonl")
    assert here(*flags(tmp_path, path, "--sink.dead_letters", letters)) == 0
    assert here(*flags(tmp_path, path, "--sink.predictions", letters, "--sink.dead_letters", "-")) == 2
    beside = str(tmp_path / "state.predictions")
    assert here(*flags(tmp_path, path, "--sink.predictions", beside, "--sink.dead_letters", letters)) == 3


# ---- a report is a folder


@pytest.mark.parametrize("command", ["run", "check", "demo", "bench"])
def test_a_report_that_is_a_file_is_said_before_anything_runs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    words = flags(tmp_path, write_events(tmp_path / "events.jsonl", EVENTS))[1:]
    if command in ("demo", "bench"):
        words = []
    if command == "bench":
        config = str(ROOT / "ops/bench/smoke.toml")
        words = ["--config", config, "--results", str(tmp_path / "results.jsonl")]
    report = tmp_path / "report.html"
    report.write_text("an older one")
    before = tree(tmp_path)
    for name in (report, report / "folder"):
        assert here(command, *words, "--report", str(name)) == 2
        captured = capfd.readouterr()
        assert f"report is {name}, but {report}: not a folder;" in captured.err
        assert "learned" not in captured.out
    assert tree(tmp_path) == before


# ---- memory


def refused(words: str) -> Callable[[], int]:
    def work() -> int:
        raise RuntimeError(words)

    return work


def test_too_little_memory_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    works: list[Callable[[], object]] = [
        lambda: torch.empty(1 << 50),
        lambda: torch.empty(1 << 62, 4),
        lambda: np.zeros(1 << 50),
        refused("CUDA out of memory. Tried to allocate 6.00 GiB"),
    ]
    for work in works:
        caplog.clear()
        assert guarded(lambda work=work: bool(work())) == 2  # type: ignore[misc]
        (record,) = caplog.records
        assert record.exc_info is None
        assert "there is not enough memory (" in record.message
        assert "set memory.capacity, codec.shape or model.width lower" in record.message
    caplog.clear()
    assert guarded(refused("an illegal memory access was encountered")) == 1
    assert "please report it" in caplog.text


def test_a_reader_that_is_gone_is_left_to_main() -> None:
    def write() -> int:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        guarded(write)


# ---- signals


def test_a_signal_after_the_work_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_events(tmp_path / "events.jsonl", EVENTS)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    monkeypatch.setattr("streamlearn.run.write_report", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert again(tmp_path, "--report", str(tmp_path / "report")) == 0
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert "stopping after a checkpoint" not in caplog.text
    assert count_lines(tmp_path / "predictions.jsonl") == 120


def test_a_signal_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_events(tmp_path / "events.jsonl", EVENTS)
    before, make = tree(tmp_path), wiring.make_both

    def signalled(settings: Settings, stopped: Callable[[], bool]) -> tuple[Source, Sink]:
        os.kill(os.getpid(), signal.SIGINT)
        return make(settings, stopped)

    with monkeypatch.context() as patch:
        patch.setattr(run, "make_both", signalled)
        assert again(tmp_path) == 0
    assert "SIGINT: stopped before anything was begun" in capfd.readouterr().err
    assert tree(tmp_path) == before
    assert again(tmp_path) == 0
    assert count_lines(tmp_path / "predictions.jsonl") == 120


# ---- the banner


@pytest.mark.parametrize(
    ("more", "net"),
    [
        ([], "by the shape of x"),
        (["--codec.shape", "5"], "mlp"),
        (["--codec.shape", "4,4"], "conv"),
        (["--model.net", "mlp"], "mlp"),
    ],
)
def test_the_banner_names_the_net(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], more: list[str], net: str
) -> None:
    write_events(tmp_path / "events.jsonl", EVENTS[:20])
    for known in (net, "mlp" if net == "by the shape of x" else net):
        assert again(tmp_path, *more) == 0
        assert f", net {known}, shape of x" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("offsets", "said"),
    [
        ({}, "the start"),
        ({0: 0}, "the start"),
        ({0: 7}, "record 7"),
        ({2: 9, 0: 0, 1: 4}, "3 partitions, records 0, 4, 9"),
        (dict.fromkeys(range(64), 5) | {3: 99}, "64 partitions, records 5 to 99"),
    ],
)
def test_the_banner_says_where_it_goes_on(offsets: dict[int, int], said: str) -> None:
    assert run.resumes_at(offsets) == said
