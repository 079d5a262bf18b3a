"""Names and paths that are empty: refused, with what to give in their place."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.files import FileSource
from streamlearn.config import CodecSettings
from streamlearn.events import UsageError
from tests.processes import flags, here, write_events
from tests.streams import vectors


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--codec.features", "[]"], "codec.features (flag --codec.features): is empty: name where it is"),
        (
            ["--codec.features", '["a", ""]'],
            "codec.features (flag --codec.features): holds a name",
        ),
        (["--codec.features="], "codec.features (flag --codec.features): is empty: name where it is"),
        (["--codec.id="], "codec.id (flag --codec.id): is empty: name where it is in a record"),
        (["--codec.label="], "codec.label (flag --codec.label): is empty: name where it is in a record"),
        (["--codec.time="], "codec.time (flag --codec.time): is empty: name where it is in a record"),
        (["--codec.task="], "codec.task (flag --codec.task): is empty: name where it is in a record"),
        (
            ["--source.path="],
            "source.path (flag --source.path): is empty: name a file, or - for",
        ),
        (["--checkpoint.folder="], "checkpoint.folder (flag --checkpoint.folder): is empty: name a folder"),
    ],
)
def test_what_is_empty_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], command: str, more: list[str], words: str
) -> None:
    path = write_events(tmp_path / "events.jsonl", vectors(20))
    assert here(command, *flags(tmp_path, path, *more)[1:]) == 2
    err = capfd.readouterr().err
    assert words in err and "Traceback" not in err
    assert not (tmp_path / "state").exists()


def test_names_that_are_not_empty_are_taken() -> None:
    assert CodecSettings(features=["a"]).features == ["a"] and CodecSettings(features=" ").features == " "


def test_a_source_made_by_hand_does_not_take_an_empty_path_for_standard_input() -> None:
    with pytest.raises(UsageError):
        FileSource({"path": ""})
    assert FileSource({}).topic == "-" and FileSource({"path": None}).topic == "-"
