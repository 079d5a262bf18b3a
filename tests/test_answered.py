"""A worker that was killed after its first answers and before its first checkpoint with anything in it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from connectors.datasets import DatasetSource
from connectors.files import FileSource
from connectors.inputs import HEAD
from streamlearn.checkpoint import CheckpointStore
from streamlearn.events import Event, Resume, StateMismatch
from tests.processes import QUIET, count_lines, flags, hashes, here, line, newest, said, tree, write_events
from tests.streams import vectors

EVENTS = vectors(60)


def msgpacked(events: Sequence[Event]) -> bytes:
    import msgpack

    return b"".join(msgpack.packb({"id": e.id, "x": e.x.tolist(), "y": e.y}) for e in events)


def rows(events: Sequence[Event]) -> bytes:
    head = b"id,a,b,c,d,e,y\n"
    return head + b"".join(f"{e.id},{','.join(map(str, e.x))},{e.y}\n".encode() for e in events)


def lines(events: Sequence[Event]) -> bytes:
    return b"".join(map(line, events))


def write_npz(path: Path, events: Sequence[Event]) -> None:
    np.savez(path, x=np.array([e.x for e in events]), y=np.array([str(e.y) for e in events]))


def write_gz(path: Path, events: Sequence[Event]) -> None:
    path.write_bytes(gzip.compress(lines(events)))


def write_npz_gz(path: Path, events: Sequence[Event]) -> None:
    write_npz(path.with_suffix(""), events)
    path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))


INPUTS: dict[str, Callable[[Path, Sequence[Event]], Any]] = {
    "e.jsonl": lambda path, events: path.write_bytes(lines(events)),
    "e.msgpack": lambda path, events: path.write_bytes(msgpacked(events)),
    "e.csv": lambda path, events: path.write_bytes(rows(events)),
    "e.jsonl.gz": write_gz,
    "e.npz": write_npz,
    "e.npz.gz": write_npz_gz,
}


def killed(folder: Path, path: Path, *more: str) -> None:
    """All is answered, and nothing but checkpoint 0 is there."""
    assert here(*flags(folder, path, *more)) == 0
    store = CheckpointStore(folder / "state")
    for name in sorted(store.names())[1:]:
        store.read(name).path.unlink()
    (folder / "state" / "cuts.jsonl").unlink(missing_ok=True)  # it was killed before the file's end
    assert newest(folder).body["records"] == 0


def refused(capfd: pytest.CaptureFixture[str], folder: Path, path: Path, *more: str) -> str:
    """What `run` says, which changes nothing; `check` says the same."""
    words, before = flags(folder, path, *more), tree(folder)
    text = said(capfd, *words, status=3).splitlines()[-1].partition(": ")[2]
    assert {**before, "state/lock": 0} == {**tree(folder), "state/lock": 0}
    assert text in said(capfd, "check", *words[1:], status=3)
    return text


@pytest.mark.parametrize("name", ["predictions.jsonl", "state/dead_letters.jsonl"])
def test_answers_of_other_settings_are_not_kept(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    """Either output will do: a crash may have left nothing in the other."""
    path = write_events(tmp_path / "events.jsonl", EVENTS)
    with open(path, "ab") as file:
        file.write(b"garbage\n")
    killed(tmp_path, path)
    for other in {"predictions.jsonl", "state/dead_letters.jsonl"} - {name}:
        (tmp_path / other).write_bytes(b"")
    text = refused(capfd, tmp_path, path, "--seed", "9")
    assert (
        "was made with other settings: seed was 0, now 9. Set them back, or remove the predictions and"
        in text
    )
    (tmp_path / name).write_bytes(b"")
    assert here(*flags(tmp_path, path, "--seed", "9")) == 0, "without them it is a first start"
    assert newest(tmp_path).body["settings"]["seed"] == 9
    assert count_lines(tmp_path / "predictions.jsonl") == 60


def test_the_same_settings_go_on_and_answer_the_rest(tmp_path: Path) -> None:
    path, never, folder = tmp_path / "events.jsonl", tmp_path / "never", tmp_path / "killed"
    never.mkdir()
    folder.mkdir()
    write_events(path, EVENTS[:40])
    killed(folder, path)
    answered = (folder / "predictions.jsonl").read_bytes()
    write_events(path, EVENTS)
    torn = answered[:-1000]
    (folder / "predictions.jsonl").write_bytes(torn)
    for each in (folder, never):
        assert here(*flags(each, path, "--learning.top_k", "3")) == 0
    assert hashes(folder) == hashes(never)
    found = (folder / "predictions.jsonl").read_bytes()
    assert found.startswith(torn[: torn.rindex(b"\n") + 1])
    assert [json.loads(text)["source"][2] for text in found.splitlines()] == list(range(60))


@pytest.mark.parametrize("name", INPUTS)
def test_another_input_than_the_one_that_was_answered(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    path = tmp_path / name
    INPUTS[name](path, EVENTS[:40])
    killed(tmp_path, path)
    INPUTS[name](path, vectors(60, seed=4))
    text = refused(capfd, tmp_path, path)
    assert f"{path} is not the input that was answered (the" in text.replace("(its", "(the")
    assert "give the same input, which may have grown, or remove the predictions and dead letters" in text
    INPUTS[name](path, EVENTS)
    assert here(*flags(tmp_path, path)) == 0, "it may have grown"
    assert count_lines(tmp_path / "predictions.jsonl") == 60


@pytest.mark.parametrize("name", INPUTS)
def test_nothing_answered_is_a_first_start_with_whatever_input(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    INPUTS[name](path, EVENTS[:40])
    killed(tmp_path, path)
    (tmp_path / "predictions.jsonl").unlink()
    INPUTS[name](path, vectors(60, seed=4))
    words = flags(tmp_path, path, "--seed", "9")
    assert here("check", *words[1:]) == 0
    assert here(*words) == 0
    assert count_lines(tmp_path / "predictions.jsonl") == 60


@pytest.mark.parametrize("packed", [False, True])
def test_what_is_compared_of_an_input_that_was_only_answered(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / ("f.jsonl.gz" if packed else "f.jsonl")

    def give(data: bytes) -> FileSource:
        path.write_bytes(gzip.compress(data) if packed else data)
        return FileSource({"path": str(path)})

    data = b"0123456\n" * 25_000
    source = give(data)
    source.open(Resume())
    known = source.fingerprint({})
    assert known["head_bytes"] == HEAD
    source.poll(10, 1)
    assert source.fingerprint({}) == known
    source.close()
    give(data[:HEAD] + b"something else").open(Resume(fingerprint=known))
    for other in (b"x" + data[1:], data[: HEAD - 1] + b"x", data[: HEAD - 1], b""):
        with pytest.raises(StateMismatch, match="not the input that was answered"):
            give(other).open(Resume(fingerprint=known))
    source = give(b"")
    source.open(Resume())
    empty = source.fingerprint({})
    source.close()
    give(data).open(Resume(fingerprint=empty))


def test_a_data_set_in_another_order() -> None:
    source = DatasetSource({"dataset": "digits", "limit": 80})
    source.open(Resume())
    known = source.fingerprint({})
    DatasetSource({"dataset": "digits", "limit": 90}).open(Resume(fingerprint=known))
    with pytest.raises(StateMismatch):
        DatasetSource({"dataset": "digits", "seed": 1}).open(Resume(fingerprint=known))


def test_a_user_s_file_after_standard_output_is_appended_to(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_events(tmp_path / "events.jsonl", EVENTS[:30])
    to_stdout = ["--source.path", str(path), "--checkpoint.folder", str(tmp_path / "state"), *QUIET]
    assert here("run", *to_stdout) == 0
    write_events(path, EVENTS)
    mine = tmp_path / "predictions.jsonl"
    mine.write_bytes(b"precious\n" * 1000)
    assert "warning" not in said(capfd, "check", *flags(tmp_path, path)[1:])
    assert here(*flags(tmp_path, path)) == 0
    found = mine.read_bytes()
    assert found.startswith(b"precious\n" * 1000) and found.count(b"\n") == 1030
    assert "cut" not in capfd.readouterr().err


def test_one_output_of_every_record_after_a_limit_has_changed(tmp_path: Path) -> None:
    """Read again from an older checkpoint: what was a prediction would now be a dead letter, and back."""
    path = tmp_path / "events.jsonl"
    padded = [
        line(event)[:-2] + b', "pad": "%s"}\n' % (b"x" * (i % 5 * 100)) for i, event in enumerate(EVENTS)
    ]
    path.write_bytes(b"".join(padded))
    killed(tmp_path, path, "--codec.max_bytes", "450")
    dead = count_lines(tmp_path / "state/dead_letters.jsonl")
    assert 0 < dead < 60
    for limit in ("250", "10000"):
        files = [tmp_path / "predictions.jsonl", tmp_path / "state/dead_letters.jsonl"]
        files[0].write_bytes(files[0].read_bytes()[:-700])
        files[1].write_bytes(files[1].read_bytes()[:-100])
        killed(tmp_path, path, "--codec.max_bytes", limit)
        found = [json.loads(text)["source"][2] for file in files for text in file.read_bytes().splitlines()]
        assert sorted(found) == list(range(60))
