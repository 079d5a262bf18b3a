"""The command line: help, what is there, what `checkpoints` shows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from streamlearn import __version__, cli, methods, modifiers
from streamlearn.checkpoint import CheckpointStore
from streamlearn.flags import LEAVES
from streamlearn.method import available
from tests.processes import ROOT, count_lines, flags, hashes, here, newest, said, tree, write_events
from tests.streams import vectors

EVENTS = vectors(60)


# ---- help


def test_help_of_everything_is_complete(capfd: pytest.CaptureFixture[str]) -> None:
    overview = said(capfd, "--help")
    assert all(f"\n  {name}" in overview for name in cli.COMMANDS)
    assert said(capfd, "help") == said(capfd, "-h") == overview
    for name in cli.COMMANDS:
        text = said(capfd, name, "--help")
        assert text.startswith(f"usage: streamlearn {name} ")
        assert said(capfd, name, "--seed", "1", "-h") == text
        for leaf in LEAVES.values():
            assert f"--{leaf.key} " in text
        for status in range(8):
            assert f"\n  {status}  " in text


def test_help_answers_before_torch_is_loaded() -> None:
    script = (
        "import sys; from streamlearn.cli import main\n"
        f"for name in {[*cli.COMMANDS]!r}: main([name, '--help'])\n"
        "main(['--help']); main(['--version']); main(['runn']); main([])\n"
        "assert not {'torch', 'numpy', 'sklearn', 'rich'} & sys.modules.keys()"
    )
    command = [sys.executable, "-W", "error", "-c", script]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert ended.returncode == 0, ended.stderr


def test_what_is_not_there(capfd: pytest.CaptureFixture[str]) -> None:
    near = said(capfd, "checkpoint", "list", status=2)
    assert near == "streamlearn: there is no command 'checkpoint': did you mean checkpoints?\n"
    far = said(capfd, "xyz", status=2)
    assert far.endswith("; there is demo, run, check, checkpoints, bench, publish, topics, tell, methods\n")
    assert "did you mean memory.capacity?" in said(capfd, "run", "--memory.capacty", "3", status=2)
    assert said(capfd, status=2).endswith(said(capfd, "--help"))
    assert said(capfd, "--version") == f"streamlearn {__version__}\n"


def test_methods_are_all_listed(capfd: pytest.CaptureFixture[str]) -> None:
    text = said(capfd, "methods")
    for cls in [*available(methods).values(), *available(modifiers).values()]:
        assert cls.summary in text
        for parameter in cls.Params.model_fields:
            assert f".{parameter} (default " in text
    assert "takes no arguments" in said(capfd, "methods", "er", status=2)


@pytest.mark.slow
def test_as_a_module_whose_reader_leaves() -> None:
    """`| head` and the like end it quietly."""
    for words in (["--help"], ["methods"]):
        run = subprocess.Popen(
            [sys.executable, "-m", "streamlearn", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
        )
        assert run.stdout is not None and run.stderr is not None
        run.stdout.close()
        assert run.stderr.read() == b""
        run.stderr.close()
        assert run.wait(60) == 4


# ---- checkpoints


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three checkpoints: before the first record, after 30 and after 60 records."""
    path = tmp_path / "events.jsonl"
    for count in (30, 60):
        write_events(path, EVENTS[:count])
        assert here(*flags(tmp_path, path)) == 0
    return tmp_path


def as_json(capfd: pytest.CaptureFixture[str], *words: str, status: int = 0) -> Any:
    return json.loads(said(capfd, "checkpoints", *words, "--json", status=status))


def test_list(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    state = str(folder / "state")
    rows = as_json(capfd, "list", state)
    topic = str(folder / "events.jsonl")
    assert [row["offsets"].get(topic, {}).get("0") for row in rows] == [60, 30, None]
    assert [row["id"] for row in rows] == CheckpointStore(state).names()
    assert rows[0].keys() >= {"id", "created", "epoch", "step", "events_learned", "known_classes", "bytes"}
    text = said(capfd, "checkpoints", "list", "--checkpoint.folder", state)
    assert [text.startswith(rows[0]["id"]), len(text.splitlines())] == [True, 3]
    assert "next start" in text.splitlines()[2]
    (only,) = as_json(capfd, "list", state, rows[1]["id"])
    assert only == rows[1]
    empty = folder / "empty"
    empty.mkdir()
    assert said(capfd, "checkpoints", "list", str(empty)) == f"there is no checkpoint in {empty}\n"
    assert as_json(capfd, "list", str(empty)) == []


def test_show(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    state = str(folder / "state")
    shown = as_json(capfd, "show", state)
    assert shown["parts"] == hashes(folder)
    assert shown["parts"].keys() >= {"model", "optimiser", "memory", "generators", "classes"}
    assert shown["events_learned"] == sum(event.y is not None for event in EVENTS)
    assert len(shown["classes"]) == 6
    assert shown["outputs"]["predictions"] == (folder / "predictions.jsonl").stat().st_size
    older = CheckpointStore(state).names()[1]
    assert as_json(capfd, "show", state, older)["id"] == older
    assert as_json(capfd, "show", older, state)["id"] == older, "in either order"
    assert as_json(capfd, "show", older, "--checkpoint.folder", state)["id"] == older
    text = said(capfd, "checkpoints", "show", state)
    assert f"\n  model         {shown['parts']['model']}\n" in text
    CheckpointStore(state)._path(shown["id"]).write_text("{")
    captured = said(capfd, "checkpoints", "show", state)
    assert older in captured, "the newest whole one"


def test_verify(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    state = str(folder / "state")
    names = CheckpointStore(state).names()
    assert said(capfd, "checkpoints", "verify", state) == "".join(f"{name}  whole\n" for name in names)
    parts = CheckpointStore(state)._path(names[1]).with_suffix(".parts")
    raw = bytearray(parts.read_bytes())
    raw[len(raw) // 2] ^= 1
    parts.write_bytes(raw)
    text = said(capfd, "checkpoints", "verify", state, status=3)
    assert f"{names[1]}  DAMAGED: {parts}: bytes " in text
    results = as_json(capfd, "verify", state, status=3)
    assert [row["whole"] for row in results] == [True, False, True]
    assert said(capfd, "checkpoints", "verify", state, names[0]) == f"{names[0]}  whole\n"
    said(capfd, "checkpoints", "verify", state, "000001-000009-00000000", status=3)


def test_use(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    state, expected = str(folder / "state"), hashes(folder)
    older = CheckpointStore(state).names()[1]
    assert "wants the ID of a checkpoint" in said(capfd, "checkpoints", "use", state, status=2)
    copy = as_json(capfd, "use", state, older)
    assert copy["copy_of"] == older
    assert newest(folder).id == copy["id"]
    assert here(*flags(folder, folder / "events.jsonl")) == 0
    assert hashes(folder) == expected
    assert count_lines(folder / "predictions.jsonl") == 60, "what is read again is not published again"
    before = tree(folder)
    said(capfd, "checkpoints", "use", state, "000001-000009-00000000", status=3)
    assert tree(folder).keys() == before.keys()
    locked = CheckpointStore(state)
    locked.lock()
    assert "already works in" in said(capfd, "checkpoints", "use", state, older, status=3)
    locked.unlock()


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        ([], 2, "wants one of list, show, verify, use"),
        (["shw"], 2, "wants one of list, show, verify, use"),
        (["list", "/nowhere"], 2, "/nowhere is no folder"),
        (["show", "/", "xyz"], 2, "'xyz' is no checkpoint id"),
        (["show", "xyz", "/"], 2, "'xyz' is no checkpoint id"),
        (["show", "000001-000001-00000000", "000001-000002-00000000"], 2, "000002-00000000 is no folder"),
        (["list", "--json", "--seedd", "1"], 2, "unknown setting seedd"),
        (["show", "/proc/self/fdinfo"], 3, "there is no checkpoint in"),
    ],
)
def test_checkpoints_says_what_is_wrong(
    capfd: pytest.CaptureFixture[str], words: list[str], status: int, text: str
) -> None:
    assert text in said(capfd, "checkpoints", *words, status=status)


@pytest.fixture
def pruned(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A worker at work prunes the newest checkpoint between its listing and its reading."""
    state = folder / "state"
    listed = CheckpointStore.names

    def names(store: CheckpointStore) -> list[str]:
        found = listed(store)
        monkeypatch.setattr(CheckpointStore, "names", listed)
        store._path(found[0]).unlink()
        return found

    monkeypatch.setattr(CheckpointStore, "names", names)
    return state


def test_list_beside_a_worker(pruned: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = as_json(capfd, "list", str(pruned))
    assert [row["id"] for row in rows] == CheckpointStore(pruned).names()
    assert len(rows) == 2 and not any("damaged" in row for row in rows)


def test_verify_beside_a_worker(pruned: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = as_json(capfd, "verify", str(pruned))
    assert [(row["id"], row["whole"]) for row in rows] == [(n, True) for n in CheckpointStore(pruned).names()]


def test_show_beside_a_worker(pruned: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    assert here("checkpoints", "show", str(pruned), "--json") == 0
    captured = capfd.readouterr()
    assert json.loads(captured.out)["id"] == CheckpointStore(pruned).names()[0]
    assert captured.err == "", "nothing is damaged"


def test_show_where_all_that_was_listed_has_gone(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = folder / "state"
    there, listed = CheckpointStore(state).names()[0], CheckpointStore.names

    def names(store: CheckpointStore) -> list[str]:
        monkeypatch.setattr(CheckpointStore, "names", listed)
        return ["000001-000007-00000000"]

    monkeypatch.setattr(CheckpointStore, "names", names)
    assert as_json(capfd, "show", str(state))["id"] == there


def test_show_where_nothing_is_whole(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for path in (folder / "state").rglob("*.parts"):
        path.write_bytes(b"")
    text = said(capfd, "checkpoints", "show", str(folder / "state"), status=3)
    assert "none of the 3 checkpoints in" in text and text.count(" is damaged: ") == 3


@pytest.mark.slow
def test_the_reader_of_a_list_leaves(folder: Path) -> None:
    """`checkpoints list | head -1`; unbuffered, so that it is `print` that finds out."""
    run = subprocess.Popen(
        [sys.executable, "-u", "-m", "streamlearn", "checkpoints", "list", str(folder / "state")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    assert run.stdout is not None and run.stderr is not None
    run.stdout.close()
    assert run.stderr.read() == b""
    run.stderr.close()
    assert run.wait(60) == 4


def test_the_readme_s_table_of_statuses_is_that_of_the_help() -> None:
    readme = (ROOT / "README.md").read_text()
    table = dict(re.findall(r"^\| (\d) \| (.*) \|$", readme, re.MULTILINE))
    helped = dict(re.findall(r"^  (\d)  (.*)$", cli.STATUS, re.MULTILINE))
    assert table.keys() == helped.keys() == set("01234567")
    assert table["0"] == helped["0"]
    assert table["6"].startswith(helped["6"].replace("checkpoint.patience", "`checkpoint.patience`"))
    assert table["6"].endswith("until then it learns on, but reads nothing while outputs can't be written")
