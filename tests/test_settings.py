"""The settings: three layers, what is wrong with them, what shapes the state."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from streamlearn.config import CoreSettings, EvaluationSettings
from streamlearn.flags import LEAVES, NOT_SETTINGS, load_settings
from streamlearn.settings import (
    HIDDEN,
    Settings,
    SettingsError,
    load_object,
    other_settings,
    sink_connector,
    source_connector,
    state_settings,
)
from streamlearn.settings_help import settings_help


def problems(*flags: str, env: dict[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load_settings(flags, env or {})
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def toml(folder: Path, text: str) -> str:
    path = folder / "settings.toml"
    path.write_text(text, "utf-8")
    return str(path)


# ---- layers


def test_nothing_said_gives_the_defaults() -> None:
    assert load_settings([], {}) == Settings()


def test_later_layers_win(tmp_path: Path) -> None:
    config = toml(tmp_path, "seed = 1\n[memory]\ncapacity = 11\nhorizon = 12\n[model]\nthreads = 13\n")
    env = {"STREAMLEARN_MEMORY__CAPACITY": "21", "STREAMLEARN_MODEL__THREADS": "22"}
    base = {"seed": 5, "source": {"dataset": "digits"}}
    settings = load_settings(["--config", config, "--model.threads=31"], env, base)
    assert (settings.seed, settings.memory.capacity, settings.memory.horizon) == (1, 21, 12)
    assert (settings.model.threads, settings.source.dataset) == (31, "digits")
    assert base == {"seed": 5, "source": {"dataset": "digits"}}


def test_the_environment_names_the_file_and_the_flag_another(tmp_path: Path) -> None:
    config = toml(tmp_path, "seed = 7")
    assert load_settings([], {"STREAMLEARN_CONFIG": config}).seed == 7
    assert load_settings([f"--config={config}"], {"STREAMLEARN_CONFIG": "/nowhere"}).seed == 7


@pytest.mark.parametrize(
    ("flags", "key", "value"),
    [
        (["--seed", "3"], "seed", 3),
        (["--data-dir", "X"], "data_dir", "X"),
        (["--data_dir=X=Y"], "data_dir", "X=Y"),
        (["--source.path", "-"], "source.path", "-"),
        (["--learning.max-wait", "0.5"], "learning.max_wait", 0.5),
        (["--model.normalise", "false"], "model.normalise", False),
        (["--model.width", "null"], "model.width", None),
        (["--codec.shape", "3,32,32"], "codec.shape", [3, 32, 32]),
        (["--codec.shape", "[64]"], "codec.shape", [64]),
        (["--codec.shape", "64"], "codec.shape", [64]),
        (["--codec.shape", "8,9"], "codec.shape", [1, 8, 9]),
        (["--seed", str(2**63 - 1)], "seed", 2**63 - 1),
        (["--source.order", "null"], "source.order", None),
        (["--codec.features", "data.x"], "codec.features", "data.x"),
        (["--codec.features", "a, b"], "codec.features", ["a", "b"]),
        (["--codec.features", '["a"]'], "codec.features", ["a"]),
        (["--method.modifiers", "a,b"], "method.modifiers", ["a", "b"]),
        (["--method.modifiers", ""], "method.modifiers", []),
        (["--seed", "1", "--seed", "2"], "seed", 2),
    ],
)
def test_flags_are_parsed_by_the_type_of_the_setting(flags: list[str], key: str, value: Any) -> None:
    settings = load_settings(flags, {})
    found = {**state_settings(settings), **other_settings(settings)}[key]
    assert found == value and type(found) is type(value)


def test_free_tables_take_values_of_any_type(tmp_path: Path) -> None:
    config = toml(
        tmp_path, "[method.er]\nweight = 1\nkept = 2\n[source.options]\nurl = 'u'\n[method.finetune]\n"
    )
    flags = [
        "--config",
        config,
        "--method.er.weight",
        "0.5",
        "--method.er.names",
        '["a"]',
        "--method.er.on=true",
    ]
    env = {"STREAMLEARN_SOURCE__OPTIONS__DEEP__PORT": "9", "STREAMLEARN_METHOD__ER__TEXT": "NaN"}
    settings = load_settings(flags, env)
    expected = {"weight": 0.5, "kept": 2, "names": ["a"], "on": True, "text": "NaN"}
    assert settings.method.table("er") == expected
    assert settings.source.options == {"url": "u", "deep": {"port": 9}}
    assert load_settings(["--method.er", '{"weight": 2}'], {}).method.table("er") == {"weight": 2}
    assert load_settings(["--source.options", '{"a": 2}'], {}).source.options == {"a": 2}


def test_tables_of_methods_that_are_not_chosen_may_stand_in_a_file(tmp_path: Path) -> None:
    flags = ["--method.name", "mine", "--method.mine.a", "1", "--method.finetune.b", "2"]
    assert load_settings(flags, {}).method.table("mine") == {"a": 1}


def test_variables_that_are_no_settings_are_left_alone() -> None:
    env = {name.replace("*", "X"): "5" for name in NOT_SETTINGS if name != "STREAMLEARN_CONFIG"}
    assert load_settings([], {**env, "PATH": "/bin", "STREAMLEARN_SEED": ""}) == Settings()


def test_a_value_can_be_read_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hush\n\n", "utf-8")
    env = {
        "STREAMLEARN_SOURCE__OPTIONS__PASSWORD_FILE": str(secret),
        "STREAMLEARN_DATA_DIR_FILE": str(secret),
    }
    settings = load_settings([], env)
    assert settings.source.options == {"password": "hush\n"}
    assert settings.data_dir == "hush\n"


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hush", "utf-8")
    found = problems(env={"STREAMLEARN_MODEL__THREADS_FILE": str(secret)})
    assert found == (
        f"model.threads (variable STREAMLEARN_MODEL__THREADS_FILE): {HIDDEN} is not a valid integer",
    )
    found = problems(env={"STREAMLEARN_CODEC__SHAPE_FILE": str(secret)})
    assert "hush" not in found[0]
    found = problems("--source.options", "hush")
    assert found[0].startswith(f"source.options (flag --source.options): {HIDDEN} is not a JSON table")
    settings = load_settings(["--source.options.password", "hush"], {})
    assert settings.source.options == {"password": "hush"}
    shown = f"{settings} {settings!r} {state_settings(settings)} {other_settings(settings)}"
    assert "hush" not in shown and other_settings(settings)["source.options"] == HIDDEN


# ---- what is wrong


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--source.pth", "x"], "unknown setting source.pth (flag --source.pth): did you mean source.path?"),
        (["--sourc.path=x"], "unknown setting sourc.path (flag --sourc.path): did you mean source.path?"),
        (["--capacity=9"], "unknown setting capacity (flag --capacity): did you mean memory.capacity?"),
        (["--model.threads.x=9"], "unknown setting model.threads.x (flag --model.threads.x): did you mean"),
        (["--zzzzz", "9"], "unknown setting zzzzz (flag --zzzzz): `streamlearn --help` lists"),
        (["--zzzzz"], "unknown setting zzzzz (flag --zzzzz): `streamlearn --help` lists"),
        (["--=3"], "unexpected argument '--=3'"),
        (["--.=3"], "unknown setting . (flag --.): "),
        (["--method.nme=er"], "unknown setting method.nme (flag --method.nme): did you mean method.name?"),
        (["--method..a=1"], "unknown setting method..a"),
        (["--method.finetun.a=1"], "unknown method or modifier finetun in method.finetun.a"),
        (["--model", "mlp"], "model (flag --model) is a section, not a setting; it holds model.net, "),
        (["--model.threads", "two"], "model.threads (flag --model.threads): 'two' is not a valid integer"),
        (["--model.threads", "0"], "model.threads (flag --model.threads): '0' must be at least 1"),
        (["--exporter.port", "65536"], "exporter.port (flag --exporter.port): '65536' must be at most 65535"),
        (["--exporter.enabled=perhaps"], "(flag --exporter.enabled): 'perhaps' is neither true nor false"),
        (["--checkpoint.seconds", "inf"], "(flag --checkpoint.seconds): 'inf' is not a finite number"),
        (["--checkpoint.keep", "0"], "(flag --checkpoint.keep): '0' must be at least 1"),
        (["--delivery.max_dead_letters_in_row", "0"], "'0' must be at least 1"),
        (["--source.order", "random"], "'random' is not one of 'as_is', 'independent'"),
        (["--codec.shape", "3,x"], "codec.shape (flag --codec.shape): 'x' is not a valid integer"),
        (["--codec.shape", "[]"], "codec.shape (flag --codec.shape): must be 1 or 3 positive sides"),
        (["--codec.shape", "0"], "(flag --codec.shape): must be 1 or 3 positive sides, like [64] or [3,32,3"),
        (["--codec.shape", "3,-2,-3"], "must be 1 or 3 positive sides"),
        (["--codec.shape", "1,2,3,4"], "must be 1 or 3 positive sides"),
        (
            ["--codec.shape=3,10,10", "--codec.max_values=299"],
            "codec: codec.shape [3, 10, 10] has 300 numbers, codec.max_values allows 299",
        ),
        (["--codec.shape", "99999999999"], "codec.max_values allows 4194304"),
        (["--seed", str(2**63)], f"seed (flag --seed): '{2**63}' must be at most {2**63 - 1}"),
        (["--codec.shape", "[3"], "codec.shape (flag --codec.shape): '[3' is not a JSON list"),
        (["--evaluation.held_out", "1"], "must be less than 1"),
        (["--evaluation.windows", "10,5"], "must grow from 2 or more to 1000 at most, like [10,100]"),
        (["--evaluation.set_size=2", "--evaluation.classes_per_set=3"], "has no room for evaluation.classes"),
        (["--source.path=a", "--source.dataset=b"], "give source.path or source.dataset, not both"),
        (["--seed"], "flag --seed needs a value"),
        (["--seed", "--report", "x"], "flag --seed needs a value"),
        (["run"], "unexpected argument 'run'"),
        (["-v"], "unexpected argument '-v'"),
        (["--config", "/nowhere.toml"], "file /nowhere.toml: can't be read: No such file"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(flags: list[str], sentence: str) -> None:
    found = problems(*flags)
    assert len(found) == 1
    assert sentence in found[0]


def test_a_mistake_in_a_variable_is_named(tmp_path: Path) -> None:
    found = problems(env={"STREAMLEARN_SOURCE_PATH": "x"})
    assert found == (
        "unknown setting source_path (variable STREAMLEARN_SOURCE_PATH): "
        "did you mean source.path (STREAMLEARN_SOURCE__PATH)?",
    )
    assert problems(env={"STREAMLEARN_SEED": "x"}) == (
        "seed (variable STREAMLEARN_SEED): 'x' is not a valid integer",
    )
    assert "unknown setting seeed_file" in problems(env={"STREAMLEARN_SEEED_FILE": "x"})[0]
    assert "No such file" in problems(env={"STREAMLEARN_SEED_FILE": str(tmp_path / "none")})[0]
    both = {"STREAMLEARN_SEED": "1", "STREAMLEARN_SEED_FILE": "x"}
    assert "are both set" in problems(env=both)[0]
    assert "unknown setting ." in problems(env={"STREAMLEARN___": "x"})[0]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("seed = 1\nseed =", "not valid TOML"),
        ("seed = 1\nseed = = 2", "line 2"),
        ("[sorce]\npath = 'x'", "unknown setting sorce.path (file {file}): did you mean source.path?"),
        ("[sorce]", "unknown setting sorce (file {file}): "),
        ("source = 'x'", "source (file {file}) is a section, not a setting"),
        ("[method]\nmethod = 3", "unknown setting method.method (file {file}): "),
        ("[model]\nthreads = 'two'", "model.threads (file {file}): 'two' is not a valid integer"),
        ("[model]\nnet = 3", "model.net (file {file}): 3 is not text"),
        ("[codec]\nfeatures = 3", "codec.features (file {file}): 3 is not text or 3 is not a list"),
        ("[source]\noptions = 3", "source.options (file {file}): " + HIDDEN + " is not a table"),
        ("[[source]]\npath = 3", "source (file {file}) is a section"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    config = toml(tmp_path, text)
    found = problems("--config", config)
    assert len(found) == 1
    assert sentence.format(file=config) in found[0]


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe")
    assert problems(env={"STREAMLEARN_CONFIG": str(path)}) == (
        f"file {path} named by STREAMLEARN_CONFIG: can't be read: not UTF-8 text",
    )


def test_every_mistake_is_reported_at_once(tmp_path: Path) -> None:
    config = toml(tmp_path, "[memory]\ncapacity = 0\n[nothing]\nx = 1")
    env = {"STREAMLEARN_MODEL__THREADS": "two", "STREAMLEARN_SEEEED": "1"}
    found = problems("--config", config, "--log.level=loud", "--source.pth=x", env=env)
    assert len(found) == 6


def test_the_layer_that_said_the_wrong_value_last_is_named(tmp_path: Path) -> None:
    config = toml(tmp_path, "seed = 'x'")
    assert "(variable STREAMLEARN_SEED)" in problems("--config", config, env={"STREAMLEARN_SEED": "y"})[0]
    assert load_settings(["--config", config, "--seed=3"], {}).seed == 3


# ---- properties

KEYS = st.sampled_from([".".join(path) for path in LEAVES])
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@given(st.lists(st.tuples(KEYS, TEXTS), max_size=6), st.dictionaries(KEYS, TEXTS, max_size=4))
def test_any_text_gives_settings_or_sentences(
    flags: list[tuple[str, str]], variables: dict[str, str]
) -> None:
    env = {f"STREAMLEARN_{key.upper().replace('.', '__')}": text for key, text in variables.items()}
    try:
        settings = load_settings([f"--{key}={text}" for key, text in flags], env)
    except SettingsError as error:
        assert error.problems and all(error.problems)
    else:
        assert Settings.model_validate(settings.model_dump()) == settings


@given(st.text(max_size=20), st.text(max_size=20))
def test_any_argument_gives_settings_or_sentences(first: str, second: str) -> None:
    for flags in ([first], [f"--{first}", second], [f"--method.{first}", second]):
        try:
            load_settings(flags, {f"STREAMLEARN_{first}": second})
        except SettingsError as error:
            assert error.problems and all(error.problems)


@given(st.integers(0, 10**9), st.integers(1, 10**9), st.floats(0, 1e9), st.booleans())
def test_file_environment_and_flags_mean_the_same(seed: int, capacity: int, wait: float, on: bool) -> None:
    values = {"seed": seed, "memory.capacity": capacity, "learning.max_wait": wait, "exporter.enabled": on}
    flags = [f"--{key}={value}" for key, value in values.items()]
    env = {f"STREAMLEARN_{key.upper().replace('.', '__')}": str(value) for key, value in values.items()}
    base: dict[str, Any] = {
        "seed": seed,
        "memory": {"capacity": capacity},
        "learning": {"max_wait": wait},
        "exporter": {"enabled": on},
    }
    assert load_settings(flags, {}) == load_settings([], env) == load_settings([], {}, base)


# ---- the object


def test_settings_are_immutable_and_closed() -> None:
    with pytest.raises(ValidationError):
        Settings().log.level = "debug"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Settings.model_validate({"nothing": 1})


def test_every_setting_is_state_or_other_and_is_described() -> None:
    settings = load_settings(["--method.er.weight", "2"], {})
    state, other = state_settings(settings), other_settings(settings)
    assert not state.keys() & other.keys()
    assert state.keys() | other.keys() == {".".join(path) for path in LEAVES} | {"method.er.weight"}
    assert state["memory.capacity"] == 2000 and state["method.modifiers"] == []
    assert state["method.name"] == "prototype_replay"
    assert {f"evaluation.{name}" for name in EvaluationSettings.model_fields} <= state.keys()
    meaning = {f"codec.{name}" for name in ("id", "label", "time", "task")}
    assert meaning <= state.keys()
    assert {"log.level", "checkpoint.folder", "model.threads"} <= other.keys()
    assert [leaf.key for leaf in LEAVES.values() if not leaf.field.description] == []


def test_the_core_settings_alone_shape_the_same_state() -> None:
    core = CoreSettings.model_validate({"memory": {"capacity": 5}})
    assert state_settings(core) == state_settings(load_settings(["--memory.capacity=5"], {}))
    assert other_settings(core).keys() < other_settings(Settings()).keys()


def test_help_lists_every_setting_within_110_columns() -> None:
    text = settings_help()
    for leaf in LEAVES.values():
        assert f"--{leaf.key} " in text
    assert "--log.format human|json\n" in text and "--codec.shape INTEGER,... *\n" in text
    assert "(default: 9464; at least 0; at most 65535)" in text
    assert max(len(line) for line in text.splitlines()) <= 110


def test_connectors_are_inferred() -> None:
    def source(*flags: str) -> str:
        return source_connector(load_settings(flags, {}))

    assert source("--source.path", "x") == "connectors.files:FileSource"
    assert source("--source.dataset", "x") == "connectors.datasets:DatasetSource"
    assert source("--source.path", "x", "--source.connector", "a:B") == "a:B"
    assert sink_connector(Settings()) == "connectors.file_sink:FileSink"
    assert sink_connector(load_settings(["--sink.connector=a:B"], {})) == "a:B"
    with pytest.raises(SettingsError, match=r"no source of events: give --source.path FILE"):
        source()


def test_objects_are_loaded_by_import_string() -> None:
    assert load_object("streamlearn.settings:Settings") is Settings
    assert load_object("streamlearn.settings:Settings.model_validate") == Settings.model_validate


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nothing", "'nothing' is not an import string: write it as module:attribute"),
        ("a b:c", "is not an import string"),
        (":c", "is not an import string"),
        ("a:", "is not an import string"),
        ("../a:c", "is not an import string"),
        ("no_such_module:X", "there is no module no_such_module: check the spelling, install it"),
        ("streamlearn.nothing:X", "there is no module streamlearn.nothing"),
        ("streamlearn.settings:Setings", r"streamlearn.settings has no Setings \(its classes: .*Settings"),
        ("needs_more:X", "importing needs_more needs no_such_module: install that"),
        ("broken:X", "importing broken failed: ZeroDivisionError"),
    ],
)
def test_import_strings_that_lead_nowhere(
    name: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs_more.py").write_text("import no_such_module")
    (tmp_path / "broken.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SettingsError, match=sentence):
        load_object(name)


def test_settings_load_without_heavy_modules() -> None:
    code = "import sys, streamlearn.flags; print(*{'torch', 'numpy', 'PIL', 'msgpack'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
