"""`source.options`: what our own sources take, what they refuse, and that --help says it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from connectors.datasets import DatasetSource
from connectors.files import FileSource
from connectors.kafka import KafkaSource
from connectors.memory import MemorySource
from streamlearn.events import Resume
from streamlearn.flags import load_settings
from streamlearn.options import OPTIONS
from streamlearn.publish import find_input
from streamlearn.settings import Settings, SettingsError, SourceSettings, load_object
from streamlearn.wiring import make_source, read_events
from tests.processes import flags, here, said, write_events
from tests.streams import vectors

DIGITS = ["--source.dataset", "digits"]


def options(text: str) -> Settings:
    """Of digits; `text`: a JSON table."""
    return load_settings([*DIGITS, "--source.options", text], {})


def refusal(settings: Settings) -> str:
    with pytest.raises(SettingsError) as caught:
        make_source(settings)
    return str(caught.value)


class Own:
    """A source of a user's own."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given = given


class OwnFiles(FileSource):
    """One that is made of ours."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        super().__init__(given)
        self.given = given


def test_every_source_of_ours_says_what_it_takes() -> None:
    assert {load_object(name) for name in OPTIONS} == {FileSource, DatasetSource, KafkaSource, MemorySource}
    for kind in OPTIONS.values():
        # One of a setting's name would overrule that setting.
        assert not {*kind.model_fields} & {*SourceSettings.model_fields, "seed", "data_dir"}
        assert all(field.description for field in kind.model_fields.values())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([*DIGITS, "--source.options.blurr", ".3"], "did you mean source.options.blur?"),
        ([*DIGITS, "--source.options.gruops", "3"], "did you mean source.groups?"),
        ([*DIGITS, "--source.options.order", "recurring"], "give source.order instead"),
        ([*DIGITS, "--source.options.seed", "3"], "setting of its own: give seed instead"),
        ([*DIGITS, "--source.options.fd", "3"], "unknown option source.options.fd: "),
        (["--source.path", "e.jsonl", "--source.options.foo", "3"], "files have fd, max_npz_bytes"),
        (["--source.path", "e.jsonl", "--source.options.foo", "null"], "files have fd, max_npz_bytes"),
        (["--source.path", "e.jsonl", "--source.options.patience", "3"], "give source.patience instead"),
        (["--source.path", "e.jsonl", "--source.options.max_npz_byte", "3"], "source.options.max_npz_bytes?"),
        (["--source.connector", "connectors.memory:MemorySource", "--source.options.record=1"], "records?"),
        (
            ["--source.bootstrap_servers=a:1", "--source.topic=t", "--source.options.instanc=a"],
            "did you mean source.options.instance?",
        ),
    ],
)
def test_what_a_source_of_ours_does_not_take(words: list[str], sentence: str) -> None:
    assert sentence in refusal(load_settings(words, {}))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"limit": -5}', "source.options.limit: -5 must be at least 1"),
        ('{"limit": true}', "source.options.limit: True is not a valid integer"),
        ('{"limit": 1.5}', "source.options.limit: 1.5 is not a valid integer"),
        ('{"classes": -1}', "source.options.classes: -1 must be at least 1"),
        ('{"per_class": 0}', "source.options.per_class: 0 must be at least 1"),
        ('{"repeats": "x"}', "source.options.repeats: 'x' is not a valid integer"),
        ('{"repeats": 1000000000}', "source.options.repeats: 1000000000 must be at most 100000"),
        ('{"blur": 1.5}', "source.options.blur: 1.5 must be at most 1.0"),
        ('{"blur": true}', "source.options.blur: True is not a valid number"),
        ('{"validation": 0}', "source.options.validation: 0 must be at least 1"),
        ('{"shuffle_classes": "maybe"}', "source.options.shuffle_classes: 'maybe' is neither true nor false"),
        ('{"shuffle_classes": 0}', "source.options.shuffle_classes: 0 is neither true nor false"),
    ],
)
def test_a_wrong_value_is_named(text: str, sentence: str) -> None:
    assert refusal(options(text)) == sentence


def test_every_wrong_option_is_named_at_once() -> None:
    assert len(refusal(options('{"limit": 0, "blurr": 1, "classes": -1}')).splitlines()) == 3


def test_what_is_right_reaches_the_source() -> None:
    def labels(text: str) -> list[str | None]:
        return [event.y for event in read_events(options(text))]

    drawn, plain = labels("{}"), labels('{"shuffle_classes": "false"}')
    assert {*plain[:100]} == {"0", "1"} and list(dict.fromkeys(drawn)) != list(dict.fromkeys(plain))
    assert plain == labels('{"shuffle_classes": false}')
    assert len(labels('{"limit": 7, "blur": null}')) == 7
    assert len(set(labels('{"classes": 3}'))) == 3


def test_records_of_a_notebook_stay_what_they_are() -> None:
    connector = "connectors.memory:MemorySource"
    records = [{"id": "a", "x": [1]}]
    source = make_source(Settings(source=SourceSettings(connector=connector, options={"records": records})))
    source.open(Resume())
    assert source.poll(9, 0)[0].fields is records[0]


def test_sources_of_ones_own_take_what_they_like() -> None:
    for name in ("Own", "OwnFiles"):
        words = [f"--source.connector=tests.test_options:{name}", "--source.options.foo", "3"]
        source = make_source(load_settings([*words, "--codec.label=target"], {}))
        assert isinstance(source, (Own, OwnFiles))
        assert source.given["foo"] == 3 and source.given["scalars"] == ["id", "target", "ts", "task"]


def test_publish_refuses_it_too() -> None:
    kafka = ["--source.bootstrap_servers=a:1", "--source.topic=t", "--source.options.blurr=3"]
    assert "source.options.blur?" in refusal(find_input(load_settings(kafka, {}), "digits").settings)
    words = ["publish", "digits", *kafka]
    assert here(*words) == 2


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_command_ends_with_status_2(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    path = write_events(tmp_path / "events.jsonl", vectors(20))
    assert here(command, *flags(tmp_path, path, "--source.options.foo", "3")[1:]) == 2
    assert "unknown option source.options.foo" in capfd.readouterr().err
    assert not (tmp_path / "state").exists()


def test_help_tells_of_every_option_and_order(capfd: pytest.CaptureFixture[str]) -> None:
    for command in ("run", "check", "publish"):
        text = " ".join(said(capfd, command, "--help").split())
        for kind in OPTIONS.values():
            assert all(f"--source.options.{name} " in text for name in kind.model_fields)
        assert "in the time of others (default: 0.1; at least 0; at most 1)" in text
        for order in ("as_is", "independent", "class_incremental", "blurry", "recurring"):
            assert f" {order}: " in text


# ---- TOML: dots in quotes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('"memory.capacity" = 4', "write the line [memory] and below it capacity = 4"),
        ('[source]\n"options.limit" = 3', "write the line [source.options] and below it limit = …"),
        (
            '["source.security"]\nusername = "u"',
            'write the line [source.security] and below it username = "u"',
        ),
        ('["source.security"]\npassword = "hush"', "[source.security] and below it password = ***"),
        ('"method.er.weight" = 2', "write the line [method.er] and below it weight = 2"),
    ],
)
def test_a_quoted_name_with_dots_is_explained(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "dot.toml").write_text(text, "utf-8")
    with pytest.raises(SettingsError) as caught:
        load_settings(["--config", str(tmp_path / "dot.toml")], {})
    (problem,) = caught.value.problems
    assert "did you mean" not in problem and words.replace("…", "***") in problem


def test_a_quoted_name_that_is_none_is_unknown_as_ever(tmp_path: Path) -> None:
    (tmp_path / "dot.toml").write_text('"memory.capacty" = 4', "utf-8")
    with pytest.raises(SettingsError, match=r"did you mean memory\.capacity\?"):
        load_settings(["--config", str(tmp_path / "dot.toml")], {})


# ---- errors as JSON


def as_json(capfd: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    capfd.readouterr()
    assert here(*words) in (2, 3, 4)
    return [json.loads(line) for line in capfd.readouterr().err.splitlines()]


def test_settings_errors_are_log_lines_where_the_log_is(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (line,) = as_json(capfd, "run", "--memory.capacty", "4", "--log.format", "json")
    assert (line["level"], line["logger"]) == ("error", "streamlearn") and "memory.capacity?" in line[
        "message"
    ]
    two = ["run", "--seed=x", "--model.width=x", "--log.format=json"]
    assert len(as_json(capfd, *two)[0]["message"].splitlines()) == 2
    assert "did you mean run?" in as_json(capfd, "runn", "--log.format=json")[0]["message"]
    assert as_json(capfd, "publish", "--again", "--log.format", "json")
    assert as_json(capfd, "bench", "--table", "--log.format", "json")
    assert as_json(capfd, "checkpoints", "list", str(tmp_path / "none"), "--log.format", "json")
    (tmp_path / "run.toml").write_text('[log]\nformat = "json"\n[memory]\ncapacity = "x"\n', "utf-8")
    assert as_json(capfd, "check", "--config", str(tmp_path / "run.toml"))
    # The last one who says it counts.
    assert here("check", "--config", str(tmp_path / "run.toml"), "--log.format=human") == 2
    assert capfd.readouterr().err.startswith("streamlearn: memory.capacity (file ")
    monkeypatch.setenv("STREAMLEARN_LOG__FORMAT", "json")
    assert as_json(capfd, "run", "--seed", "x")
    assert as_json(capfd, "methods", "er")


def test_refusals_of_checkpoints_are_log_lines_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "state").mkdir()
    (line,) = as_json(capfd, "checkpoints", "show", str(tmp_path / "state"), "--log.format", "json")
    assert line["level"] == "error"
    assert here("checkpoints", "show", str(tmp_path / "state")) == 3
    assert capfd.readouterr().err.startswith("streamlearn: ")
