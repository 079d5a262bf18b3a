"""`streamlearn topics` and `publish` without a broker: their words, what they want, what they say."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from streamlearn.broker_commands import Words, client_options, guarded, number, split, state_folder
from streamlearn.clashes import refuse_clashes
from streamlearn.events import Fenced, StateMismatch, Unreachable, UsageError
from streamlearn.publish import find_input, lines, shown, summary
from streamlearn.settings import Settings, SettingsError
from streamlearn.topics import wanted_topics
from tests.processes import ROOT, here, said

BROKER = ("--source.bootstrap_servers", "127.0.0.1:1")
TOPIC = (*BROKER, "--source.topic", "t")


def settings(sink: dict[str, Any] | None = None, **source: Any) -> Settings:
    return Settings.model_validate({"source": source, "sink": sink or {}})


# ---- words


def test_words_are_split() -> None:
    words = ["a", "--check", "--n", "3", "--seed", "1", "--m=x", "--source.path=b", "c", "--log.level"]
    assert split(words, {"check"}, {"n", "m"}) == Words(
        ["a", "c"], {"check": "", "n": "3", "m": "x"}, ["--seed", "1", "--source.path=b", "--log.level"]
    )


def test_words_behind_two_dashes_are_plain() -> None:
    words = ["forget", "--n=--x", "--seed", "1", "--", "--check", "--", "-h"]
    assert split(words, {"check"}, {"n"}) == Words(
        ["forget", "--check", "--", "-h"], {"n": "--x"}, ["--seed", "1"]
    )


@pytest.mark.parametrize("words", [["--check=1"], ["--n"], ["--n", "--check"]])
def test_words_that_can_not_be_split(words: list[str]) -> None:
    with pytest.raises(SettingsError):
        split(words, {"check"}, {"n"})


def test_numbers() -> None:
    assert number({}, "n", 1) is None
    assert number({"n": "12"}, "n", 1) == 12
    for text in ("0", "-1", "x", "1.5", "", "٣"):
        with pytest.raises(SettingsError, match="--n is"):
            number({"n": text}, "n", 1)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("publish",), "wants a FILE"),
        (("publish", "a", "b", *TOPIC), "wants one of a, b"),
        (("publish", "digits"), "no topic"),
        (("publish", "digits", *TOPIC, "--rate", "-1"), "--rate is '-1'"),
        (("publish", "digits", *TOPIC, "--rate", "nan"), "--rate is 'nan'"),
        (("publish", "digits", *TOPIC, "--limit", "0"), "--limit is '0'"),
        (("publish", "digits", *TOPIC, "--format", "avro"), "--format is 'avro'"),
        (("publish", "digits", *TOPIC, "--limt", "3"), "unknown setting limt"),
        (("publish", "/no/such/file.jsonl", *TOPIC), "there is no file /no/such/file.jsonl"),
        (("publish", "digitz", *TOPIC), "digitz"),
        (("publish", "digits", *BROKER, "--source.topic", "a b"), "source.topic is 'a b'"),
        (("topics",), "no topic is named"),
        (("tell", "forget", "--", "--help"), "tell needs the broker"),
        (("tell", "forget", "--id=--x"), "tell needs the broker"),
        (("tell", "forget", "--id", "--x"), "flag --id needs a value (one that begins with --: --id=…)"),
        (("tell", "forget", "a", "--id", "b"), "forget wants the ID of an event, and nothing else"),
        (("tell", "forget", "--", "a", "--timeout"), "forget wants the ID of an event, and nothing else"),
        (("tell", "pause", "--id=a"), "pause takes no argument"),
        (("topics", "t", *TOPIC), "unexpected argument 't'"),
        (("topics", *TOPIC, "--partitions", "0"), "--partitions is '0'"),
        (("topics", *TOPIC, "--sink.predictions", "t"), "a topic has one purpose"),
        (("topics", *TOPIC, "--source.commands", "c/d"), "source.commands is 'c/d'"),
        (("topics", *TOPIC, "--source.security.ca_file", "/x"), "source.security.ca_file"),
    ],
)
def test_usage(words: tuple[str, ...], sentence: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert sentence in said(capfd, *words, status=2)


@pytest.mark.parametrize("command", ["topics", "publish"])
def test_no_broker(command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = [command, *(["digits"] if command == "publish" else []), *TOPIC, "--source.deadline", "0.2"]
    assert "no Kafka broker answers within 0.2 seconds (127.0.0.1:1: connection refused)" in said(
        capfd, *words, status=4
    )


@pytest.mark.slow
def test_commands_load_no_torch() -> None:
    names = "streamlearn.topics, streamlearn.publish, connectors.kafka.publish, connectors.kafka.admin"
    names += ", streamlearn.tell, connectors.kafka.tell"
    script = f"import sys, {names}\nassert not {{'torch', 'sklearn', 'rich', 'faust'}} & sys.modules.keys()"
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert ended.returncode == 0, ended.stderr


# ---- what is wanted


def test_wanted_topics() -> None:
    both = settings(bootstrap_servers="a:1", topic="t", group_id="g")
    assert wanted_topics(both) == {
        "a:1": {
            "events": "t",
            "predictions": "t.predictions",
            "dead letters": "t.dead_letters",
            "commands": "g.commands",
            "answers": "g.answers",
        }
    }
    to_kafka = settings({"bootstrap_servers": "b:1"}, path="x.jsonl")
    assert [*wanted_topics(to_kafka)["b:1"]] == ["predictions", "dead letters"]
    to_files = settings({"connector": "connectors.file_sink:FileSink"}, bootstrap_servers="a:1", topic="t")
    assert [*wanted_topics(to_files)["a:1"]] == ["events", "commands", "answers"]
    with pytest.raises(SettingsError, match="no topic is named"):
        wanted_topics(settings(path="x.jsonl"))


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--source.commands", "t"), "source.topic and source.commands are both t: a topic has"),
        (
            ("--source.commands", "t.predictions"),
            "source.commands and sink.predictions are both t.predictions",
        ),
        (("--source.commands", "t.dead_letters"), "source.commands and sink.dead_letters are both"),
        (("--source.commands", "a", "--sink.answers", "a"), "source.commands and sink.answers are both a"),
        (("--sink.answers", "t"), "source.topic and sink.answers are both t"),
        (("--sink.answers", "p", "--sink.predictions", "p"), "sink.answers and sink.predictions are both p"),
        (("--sink.answers", "t.dead_letters"), "sink.answers and sink.dead_letters are both"),
        (("--sink.predictions", "t"), "source.topic and sink.predictions are both t"),
        (("--sink.predictions", "p", "--sink.dead_letters", "p"), "sink.dead_letters are both p"),
        (("--source.group_id", "x", "--sink.dead_letters", "x.commands"), "source.commands and sink.dead_l"),
        (("--sink.bootstrap_servers", "b:1"), "writes to the same cluster, since no transaction spans two"),
    ],
)
def test_settings_that_clash(
    flags: tuple[str, ...], sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert sentence in said(capfd, "tell", "pause", *TOPIC, *flags, status=2)


@pytest.mark.parametrize("command", ["run", "check", "topics"])
def test_settings_that_clash_are_refused_before_a_broker_is_asked(
    command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = (*TOPIC, "--sink.predictions", "t", "--checkpoint.folder", str(tmp_path / "state"))
    said_so = said(capfd, command, *words, "--sink.bootstrap_servers", "b:1", status=2)
    assert "source.topic and sink.predictions are both t" in said_so
    assert "no transaction spans two" in said_so
    assert not (tmp_path / "state").exists()


def test_settings_that_do_not_clash() -> None:
    refuse_clashes(settings(path="x.jsonl"))
    refuse_clashes(settings({"bootstrap_servers": "b:1"}, path="x.jsonl"))
    refuse_clashes(settings({"bootstrap_servers": "b:1, a:1"}, bootstrap_servers="a:1,b:1", topic="t"))
    refuse_clashes(settings({"bootstrap_servers": "a:9092, b"}, bootstrap_servers="a", topic="t"))
    far = {"bootstrap_servers": "b:1", "predictions": "s"}
    refuse_clashes(settings(far, path="x.jsonl", bootstrap_servers="a:1", commands="s"))
    to_files = {"connector": "connectors.file_sink:FileSink", "predictions": "t", "dead_letters": "u"}
    refuse_clashes(settings(to_files, bootstrap_servers="a:1", topic="t"))


def test_client_options() -> None:
    given = settings(bootstrap_servers="a:1", topic="t", deadline=3, security={"password": "hush"})
    options = client_options(given, "b:2")
    assert (options["bootstrap_servers"], options["deadline"]) == ("b:2", 3)
    assert options["security"]["password"] == "hush"
    with pytest.raises(SettingsError, match="no broker"):
        client_options(settings())


def test_statuses(caplog: pytest.LogCaptureFixture) -> None:
    def fail(error: Exception) -> int:
        def work() -> int:
            raise error

        return guarded("topics", work)

    errors = [
        (UsageError("u"), 2),
        (SettingsError("s"), 2),
        (StateMismatch("m"), 3),
        (Unreachable("r"), 4),
        (Fenced("f"), 7),
        (OSError(28, "full", "x"), 6),
        (RuntimeError("bug"), 1),
    ]
    assert [fail(error) for error, _ in errors] == [status for _, status in errors]
    assert [record.getMessage() for record in caplog.records][-2:] == [
        "x: full",
        "unexpected error (please report it)",
    ]
    with pytest.raises(BrokenPipeError):
        fail(BrokenPipeError())


# ---- the input


def test_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text("{}\n")
    (tmp_path / "iris").write_text("{}\n")
    given = settings(bootstrap_servers="a:1", topic="t")
    found = find_input(given, "a.jsonl")
    assert found.settings.source.path == "a.jsonl"
    assert found.settings.source.topic is None
    assert found.size == 3
    assert (
        found.identity
        == f"file:{os.path.realpath(tmp_path)}/a.jsonl"
        == find_input(given, "./a.jsonl").identity
    )
    assert find_input(given, "iris").settings.source.path == "iris"
    assert find_input(given, "-")[1:] == (None, None)
    digits = find_input(given, "digits")
    assert digits.settings.source.dataset == "digits"
    assert digits.settings.source.path is None
    other = given.model_copy(update={"seed": 4})
    assert len({find_input(each, "digits").identity for each in (given, other)}) == 2
    (tmp_path / "a.npz").write_bytes(b"x")
    assert find_input(given, "a.npz").size is None


def test_state_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert state_folder("publish") == "/state/streamlearn/publish"
    monkeypatch.setenv("XDG_STATE_HOME", "")
    monkeypatch.setenv("HOME", "/home/u")
    assert state_folder("publish") == "/home/u/.local/state/streamlearn/publish"


# ---- what is said


@dataclass
class Done:
    before: int = 0
    sent: int = 0
    seconds: float = 2.0
    ended: bool = True
    keyless: int = 0
    clocked: int = 0


OF = {"input": "a.jsonl", "topic": "t", "again": False, "limit": None, "key": "user"}


def test_the_final_line() -> None:
    assert summary(Done(sent=10), OF, True) == "sent 10 events of a.jsonl to t in 2.0 s (5 events/s)"
    assert "10 with those sent before" in summary(Done(before=4, sent=6), OF, True)
    assert summary(Done(before=4), OF, True).startswith("nothing to send: all 4 events of a.jsonl are in t")
    stopped = Done(sent=6, ended=False, keyless=2, clocked=1)
    text = summary(stopped, OF, True)
    assert text.endswith("; stopped: the same command goes on from there")
    assert "2 without a key: they have no user; 1 with the present time" in text
    assert "without --again goes on" in summary(stopped, OF | {"again": True}, True)
    assert "with --progress FILE it could" in summary(stopped, OF | {"input": "-"}, False)
    assert summary(stopped, OF | {"limit": 6}, True).endswith("; that is the --limit")


def test_lines_of_progress(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    times = iter([0.0, 1.0, 6.0, 7.0, 12.0])
    tell = lines(OF, 200, lambda: next(times))
    for count in (5, 10, 15, 20, 25):
        tell(count, 2 * count)
    assert [record.getMessage() for record in caplog.records] == [
        "5 events were sent before: going on from there",
        "15 events sent to t (15% of the file), 2/s",
        "25 events sent to t (25% of the file), 2/s",
    ]


def test_help_says_what_they_take(capfd: pytest.CaptureFixture[str]) -> None:
    for name, own in (
        ("topics", "check partitions replication"),
        ("publish", "rate limit key format progress again"),
    ):
        text = said(capfd, name, "--help")
        assert all(f"\n  --{flag} " in text for flag in own.split())
    assert here("topics", "--help") == 0


def test_a_bar_is_shown_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with shown({"input": "a.jsonl", "topic": "t", "limit": None}, 100) as tell:
        tell(3, 50)
        tell(7, 100)
    assert "a.jsonl to t" in terminal.getvalue()
    assert "7 events" in terminal.getvalue()
