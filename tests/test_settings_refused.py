"""Settings that would be ignored, misread or too large to be computed with: refused, status 2, by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamlearn.bench_settings import read_file
from streamlearn.flags import LEAVES, Said, load_settings, said_in
from streamlearn.section import LARGEST
from streamlearn.settings import SettingsError
from streamlearn.settings_help import settings_help
from tests.processes import flags, here, write_events
from tests.streams import vectors


def refused(folder: Path, capfd: pytest.CaptureFixture[str], command: str, *more: str) -> str:
    """What is said where it ends with status 2 and has made nothing."""
    path = write_events(folder / "events.jsonl", vectors(20))
    assert here(command, *flags(folder, path, *more)[1:]) == 2
    err = capfd.readouterr().err
    assert "Traceback" not in err and not (folder / "state").exists()
    return err


# ---- tables of methods and modifiers, in use or not


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--method.er.memmory", "3"], "method.er.memmory: there is no such parameter; er has none"),
        (
            ["--method.view_batch.veiws", "3"],
            "method.view_batch.veiws: there is no such parameter, did you mean method.view_batch.views? "
            "view_batch has ",
        ),
        (
            ["--method.name=onpro", "--method.onpro.mixx=1"],
            "method.onpro.mixx: there is no such parameter, did you mean method.onpro.mix? "
            "onpro has cross_entropy, ",
        ),
        (["--method.onpro.mix", "2"], "method.onpro.mix: Input should be less than or equal to 1"),
        (["--method.onpro", '{"mix": {"er": 1}}'], "method.onpro.mix: Input should be a valid number"),
        (["--method.finetun.a", "1"], "did you mean method.finetune?"),
        (["--method.er", "3"], "method.er (flag --method.er) is a table of parameters: give method.er.NAME"),
        (["--method.err", "3"], "unknown setting method.err (flag --method.err): did you mean method.er?"),
        (
            ["--method.modifiers", "view_batch,momentum_teacher,view_batch"],
            "method.modifiers: view_batch is there twice",
        ),
        (["--method.name", "err"], "there is no method 'err', did you mean er? there is er, "),
    ],
)
def test_a_parameter_that_its_method_does_not_have(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], command: str, more: list[str], words: str
) -> None:
    assert words in refused(tmp_path, capfd, command, *more)


def test_every_wrong_parameter_is_named_at_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    more = ("--method.er.a=1", "--method.onpro.mixx=1", "--method.onpro.feedback=x")
    err = refused(tmp_path, capfd, "check", *more)
    assert all(f"method.{name}: " in err for name in ("er.a", "onpro.mixx", "onpro.feedback"))


def test_a_wrong_parameter_in_a_variable(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMLEARN_METHOD__ER__FOO", "five")
    assert "method.er.foo: there is no such parameter" in refused(tmp_path, capfd, "check")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("[method.finetun]", "did you mean method.finetune?"),
        ("[method.er.memmory]", "method.er.memmory: there is no such parameter"),
        ("[method]\ner = 3", "is a table of parameters: give method.er.NAME a value"),
    ],
)
def test_a_wrong_table_in_the_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], table: str, words: str
) -> None:
    (tmp_path / "run.toml").write_text(table, "utf-8")
    assert words in refused(tmp_path, capfd, "check", "--config", str(tmp_path / "run.toml"))


def test_tables_that_are_right_stay_though_nothing_uses_them(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("[method.er]\n[method.onpro]\nmix = 0.5\n", "utf-8")
    path = write_events(tmp_path / "events.jsonl", vectors(20))
    more = ("--config", str(tmp_path / "run.toml"), "--method.view_batch.views", "2")
    assert here(*flags(tmp_path, path, *more)) == 0


# ---- numbers that nothing can be computed with


def numbers(name: str) -> list[str]:
    """The settings that are an INTEGER or a NUMBER, as --help has it; `source.options`: see test_options."""
    words = (line.split() for line in settings_help().splitlines() if line.startswith("  --"))
    found = [word[0].removeprefix("--") for word in words if name in word[1]]
    return [key for key in found if not key.startswith("source.options.")]


def test_there_are_numbers_to_be_tried() -> None:
    assert {"seed", "memory.capacity", "codec.shape", "evaluation.windows"} <= set(numbers("INTEGER"))
    assert {"learning.learning_rate", "checkpoint.seconds"} <= set(numbers("NUMBER"))
    assert {*numbers("INTEGER"), *numbers("NUMBER")} <= {leaf.key for leaf in LEAVES.values()}


@pytest.mark.parametrize("key", numbers("INTEGER"))
def test_an_integer_that_overflows_is_named(key: str) -> None:
    for sign in ("", "-"):
        with pytest.raises(SettingsError) as caught:
            load_settings([f"--{key}={sign}{10**20}"], {})
        assert str(caught.value).startswith(f"{key} (flag --{key}): ")


@pytest.mark.parametrize("key", numbers("NUMBER"))
def test_a_number_that_is_not_finite_is_named(key: str) -> None:
    for text in ("nan", "inf", "-inf", "1e999", "9" * 400):
        with pytest.raises(SettingsError) as caught:
            load_settings([f"--{key}={text}"], {})
        assert str(caught.value).startswith(f"{key} (flag --{key}): ")


@pytest.mark.parametrize(
    "key",
    [
        "source.deadline",
        "source.patience",
        "source.merge_idle",
        "sink.commit_interval",
        "checkpoint.seconds",
        "checkpoint.patience",
        "exporter.stall_seconds",
        "learning.max_wait",
    ],
)
def test_a_time_that_no_clock_can_tell_is_named(key: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings([f"--{key}=1e308"], {})
    assert str(caught.value).startswith(f"{key} (flag --{key}): '1e308' must be at most ")


def test_the_largest_integer_is_taken_and_the_next_is_not() -> None:
    assert load_settings([f"--checkpoint.events={LARGEST}"], {}).checkpoint.events == LARGEST
    with pytest.raises(SettingsError, match=f"'{LARGEST + 1}' must be at most {LARGEST}"):
        load_settings([f"--checkpoint.events={LARGEST + 1}"], {})
    # What is only passed on may be larger: an account's number.
    assert load_settings([f"--source.client.user={10**20}"], {}).source.client == {"user": 10**20}


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--memory.capacity", "9" * 20], f"memory.capacity (flag --memory.capacity): '{'9' * 20}' must be"),
        (["--model.threads", str(2**53)], "model.threads (flag --model.threads): "),
        (["--learning.learning_rate", "1e308"], "learning.learning_rate (flag --learning.learning_rate): "),
        (["--learning.images_per_event", "1e308"], "learning.images_per_event (flag --learning.images_per"),
        (
            ["--method.modifiers=view_batch", f"--method.view_batch.views={10**20}"],
            f"method.view_batch.views: Input should be less than or equal to {LARGEST}",
        ),
        (
            ["--method.modifiers=momentum_teacher", "--method.momentum_teacher.temperature=1e308"],
            "method.momentum_teacher.temperature: Input should be less than or equal to 1000",
        ),
        (["--source.options.fd", str(10**20)], f"source.options.fd: {10**20} must be at most {2**31 - 1}"),
        (["--source.options.fd", "x"], "source.options.fd: 'x' is not a valid integer"),
    ],
)
def test_a_number_that_is_too_large_ends_with_a_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], command: str, more: list[str], words: str
) -> None:
    assert words in refused(tmp_path, capfd, command, *more)


@pytest.mark.parametrize("command", ["run", "check"])
def test_more_memory_than_there_is(tmp_path: Path, capfd: pytest.CaptureFixture[str], command: str) -> None:
    path = write_events(tmp_path / "events.jsonl", vectors(20))
    assert here(command, *flags(tmp_path, path, f"--memory.capacity={LARGEST}")[1:]) == 2
    assert "set memory.capacity, codec.shape or model.width lower" in capfd.readouterr().err


# ---- a truth value is no number, a number no truth value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[learning]\nstream_batch = true", "learning.stream_batch (file {}): True is not a valid integer"),
        ("[memory]\ncapacity = true", "memory.capacity (file {}): True is not a valid integer"),
        ("[model]\nwidth = false", "model.width (file {}): False is not a valid integer"),
        ("[checkpoint]\nseconds = true", "checkpoint.seconds (file {}): True is not a valid number"),
        ("[exporter]\nenabled = 1", "exporter.enabled (file {}): 1 is neither true nor false"),
        ("[views]\nflip = 0.0", "views.flip (file {}): 0.0 is neither true nor false"),
        ("[codec]\nshape = [3, true, 2]", "codec.shape (file {}): [3, True, 2] holds true or false in place"),
        ("[evaluation]\nwindows = [true]", "evaluation.windows (file {}): [True] holds true or false in"),
        ("[method.view_batch]\nviews = true", "method.view_batch.views: Input should be a valid integer"),
        ("[method.onpro]\nmix = true", "method.onpro.mix: Input should be a valid number"),
        ("[method.onpro]\nrotations = true", "method.onpro.rotations: Input should be a valid integer"),
    ],
)
def test_a_value_of_another_type_in_the_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    config = tmp_path / "run.toml"
    config.write_text(text, "utf-8")
    path = write_events(tmp_path / "events.jsonl", vectors(20))
    assert here("check", "--source.path", str(path), "--config", str(config)) == 2
    assert words.format(config) in capfd.readouterr().err


def test_text_is_read_by_the_type_as_ever(tmp_path: Path) -> None:
    for text in ("1", "true", "on", "yes"):
        env = {"STREAMLEARN_VIEWS__FLIP": text}
        settings = load_settings([f"--delivery.ledger={text}"], env)
        assert settings.delivery.ledger is True and settings.views.flip is True
    (tmp_path / "run.toml").write_text("[memory]\nhorizon = 3.0\n[checkpoint]\nseconds = 2\n", "utf-8")
    settings = load_settings(["--config", str(tmp_path / "run.toml")], {})
    assert settings.memory.horizon == 3 and settings.checkpoint.seconds == 2.0


def test_text_for_a_benchmark_is_too() -> None:
    said = [
        *said_in({"streams": [{"dataset": "digits"}], "rows": [{"name": "er"}]}, "file"),
        *(Said(("bench", name), "1", "flag") for name in ("unequal", "tolerance", "baseline", "seeds")),
    ]
    problems: list[str] = []
    file = read_file(said, "file", problems)
    assert file is not None and file.bench.unequal is True and file.bench.tolerance == 1.0
    assert file.bench.baseline == "1" and file.bench.seeds == [1]


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_bytes(b"\xef\xbb\xbfseed = 3\r\n[memory]\r\ncapacity = 4\r\n")
    settings = load_settings(["--config", str(config)], {})
    assert (settings.seed, settings.memory.capacity) == (3, 4)
