"""A benchmark's settings file: what is refused, which runs it asks for, what they are known by."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamlearn.bench_plan import Cell, examples, with_memory
from streamlearn.settings import Settings, SettingsError
from tests.bench_files import FILE, ROW_OF_ITS_OWN, plan_of


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[bench]", "[bench]\nbudget = 3", "unknown setting bench.budget (file"),
        ("[bench]", "[bench]\nbudget = 3", "did you mean budgets?"),
        ("[[streams]]", "[[streams]]\ngroup = 3", "streams[1].group"),
        ("[[streams]]", "[[streams]]\ngroup = 3", "did you mean groups?"),
        ('dataset = "digits"', "", "streams[1].dataset"),
        ("[[rows]]", "[[tables]]\nseed = [1]\n[[rows]]", "unknown setting tables[1].seed"),
        ("[model]", "[modle]", "did you mean model."),
        ("model.head", "model.haed", "unknown setting model.haed (row ace of file"),
        ("model.head", "model.haed", "did you mean model.head?"),
        ('"er_ace"', '"er_acee"', "there is no method 'er_acee'"),
        ('method.name = "er_ace"', 'method.name = "er_ace"\nmethod.er_ace.x = 1', "no such parameter"),
        ('baseline = "er"', 'baseline = "err"', "there is no 'err' among rows: did you mean 'er'?"),
        ('name = "ace"', 'name = "er"', "rows: 'er' is there twice"),
        ("seeds = [0, 1, 2]", "seeds = []", "bench.seeds is []"),
        ("seeds = [0, 1, 2]", "seeds = [1, 1]", "none twice"),
        ("budgets = [4]", "budgets = [0.5]", "bench.budgets is [0.5]"),
        ("memory = [100]", 'memory = ["many"]', "bench.memory[1]"),
        ("[model]", "[learning]\nimages_per_event = 3\n[model]", "bench.budgets gives the images per event"),
        ("[model]", "[source]\npath = 'x'\n[model]", "streams say what is read"),
        ('method.name = "er_ace"', 'method.name = "er_ace"\nseed = 3', "can't be a row's own"),
        ('method.name = "er_ace"', 'method.name = "er_ace"\nmemory.capacity = 120', "keeps 120 examples"),
        ("per_class = 20", "per_class = 20\nchange_every = 4", "change_every 4 wants no per_class"),
        ("per_class = 20", "change_every = 1\ngroups = 3", "must be a multiple of groups = 3"),
        ("[model]", "[tune]\nseeds = [2, 3]\n[model]", "knobs are chosen on seeds that no table uses"),
        ("[model]", "[tune]\nseeds = [3]\ngrids = {eer = {}}\n[model]", "tune.grids: there is no 'eer'"),
        ("[model]", "[tune]\nseeds = [3]\ngrid = {'model.net' = []}\n[model]", "tune.grid.model.net is []"),
        ("[model]", "[tune]\nseeds = [3]\nrows = []\n[model]", "tune.rows is []: give at least one"),
        ("[[rows]]", "[[tables]]\nrows = []\n[[rows]]", "tables[1].rows is []: give at least one"),
        ("[[rows]]", "[[tables]]\nstreams = []\n[[rows]]", "tables[1].streams is []: give at least one"),
        ('name = "ace"', 'name = ""', "rows[2].name"),
    ],
)  # fmt: skip
def test_what_cant_be_used_is_said(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in FILE
    with pytest.raises(SettingsError) as caught:
        plan_of(tmp_path, FILE.replace(old, new, 1))
    assert said in str(caught.value)


@pytest.mark.parametrize("flag", ["--rows.name", "--streams.dataset", "--rows.model.head"])
def test_what_is_a_list_takes_no_flag(tmp_path: Path, flag: str) -> None:
    with pytest.raises(SettingsError, match=rf"{flag[2:]} \(flag {flag}\) can't be set: "):
        plan_of(tmp_path, FILE, flag, "x")


def test_where_every_row_is_a_reference_there_is_nothing_to_tune(tmp_path: Path) -> None:
    text = FILE.replace("[[rows]]", "[[rows]]\nreference = true").replace(
        "[model]", "[tune]\nseeds = [3]\n[model]"
    )
    with pytest.raises(SettingsError, match="every row is a reference"):
        plan_of(tmp_path, text)


def test_without_a_file_there_is_nothing_to_compare() -> None:
    from streamlearn.bench_plan import make_plan
    from streamlearn.flags import read_layers

    with pytest.raises(SettingsError, match="give --config FILE"):
        make_plan(read_layers([], {}))
    with pytest.raises(SettingsError, match=r"streams \(no file\) is missing"):
        make_plan(read_layers(["--bench.seeds", "1"], {}))


def test_the_runs_are_all_combinations_first_seeds_first(tmp_path: Path) -> None:
    runs = plan_of(tmp_path, FILE.replace("memory = [100]", "memory = [100, 60]")).runs
    assert len(runs) == len({run.key for run in runs}) == 3 * 2 * 2
    assert [run.seed for run in runs] == [0] * 4 + [1] * 4 + [2] * 4
    first = runs[0]
    assert (first.cell, first.row) == (Cell("digits", 100, 4.0), "er")
    assert first.settings.seed == 0
    assert first.settings.source.dataset == "digits"
    assert first.settings.source.options == {"per_class": 20}
    assert first.settings.memory.capacity == 100
    assert first.settings.learning.images_per_event == 4
    assert {run.settings.model.head for run in runs if run.row == "ace"} == {"linear"}


def test_tables_select(tmp_path: Path) -> None:
    more = '[[tables]]\n[[tables]]\nrows = ["ace"]\nbudgets = [2, 8]\nseeds = [0, 7]\n'
    runs = plan_of(tmp_path, FILE + more).runs
    assert len(runs) == 6 + 4
    assert {(run.row, run.seed) for run in runs if run.cell.budget == 8} == {("ace", 0), ("ace", 7)}


def test_flags_and_environment_have_the_last_word(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path, FILE, "--bench.seeds", "5", "--model.head", "cosine", "--bench.unequal", "true",
        STREAMLEARN_BENCH__BUDGETS="2, 6", STREAMLEARN_MODEL__WIDTH="9",
    )  # fmt: skip
    assert {run.seed for run in plan.runs} == {5}
    assert {run.cell.budget for run in plan.runs} == {2, 6}
    assert {(run.settings.model.head, run.settings.model.width) for run in plan.runs} == {("cosine", 9)}
    assert plan.file.bench.unequal


def test_a_row_with_a_memory_batch_has_its_own_budget(tmp_path: Path) -> None:
    text = FILE.replace('model.head = "linear"', "learning.memory_batch = 7")
    settings = next(run.settings for run in plan_of(tmp_path, text).runs if run.row == "ace")
    assert (settings.learning.memory_batch, settings.learning.images_per_event) == (7, None)


def test_classes_that_change_every_so_many_steps(tmp_path: Path) -> None:
    text = FILE.replace("per_class = 20", "groups = 2\nchange_every = 4")
    assert plan_of(tmp_path, text).runs[0].settings.source.options == {"per_class": 20}
    batches = text.replace("[model]", "[learning]\nstream_batch = 5\n[model]")
    assert plan_of(tmp_path, batches).runs[0].settings.source.options == {"per_class": 10}


def test_replay_has_what_held_out_sets_leave() -> None:
    plain = Settings.model_validate({"evaluation": {"held_out": 0}})
    assert with_memory(plain, 200).memory.capacity == 200
    sharing = Settings.model_validate({"evaluation": {"held_out": 0.02}})
    shared = with_memory(sharing, 2200)
    assert (shared.memory.capacity, shared.evaluation.capacity) == (2000, 200)
    few = with_memory(sharing, 220)
    assert (few.memory.capacity, few.evaluation.capacity) == (120, 100)
    unset = with_memory(Settings(), 2200)
    assert (unset.memory.capacity, unset.evaluation.held_out) == (2000, 0.02)
    small = with_memory(Settings(), 500)
    assert (small.memory.capacity, small.evaluation.held_out) == (500, 0)
    own = Settings.model_validate({"evaluation": {"held_out": 0.02, "capacity": 50}})
    assert with_memory(own, 220).memory.capacity == 170
    assert examples(with_memory(plain, 220)) == examples(few) == examples(with_memory(own, 220)) == 220
    asked = Settings.model_validate({"evaluation": {"held_out": 0.02}, "memory": {"capacity": 200}})
    assert examples(asked) == 300
    with pytest.raises(SettingsError, match="leaves none for replay"):
        with_memory(own, 50)


def test_unequal_memory_is_for_references_or_on_purpose(tmp_path: Path) -> None:
    text = FILE.replace('model.head = "linear"', "memory.capacity = 130")
    assert len(plan_of(tmp_path, text, "--bench.unequal", "true").runs) == 6
    assert len(plan_of(tmp_path, text.replace("memory.cap", "reference = true\nmemory.cap")).runs) == 6


# ---- what a result is known by


def keys(folder: Path, text: str, *flags: str) -> list[str]:
    return [run.key for run in plan_of(folder, text, *flags).runs]


def test_the_key_is_of_all_settings_of_the_run(tmp_path: Path) -> None:
    before = keys(tmp_path, FILE)
    for changed in (
        FILE.replace("width = 4", "width = 5"),
        FILE.replace("per_class = 20", "per_class = 21"),
        FILE.replace("[bench]", "[bench]\ninterval = 3"),
        FILE.replace("[bench]", "[bench]\ntest_per_class = 3"),
        FILE.replace("[bench]", '[bench]\nsplit = "validation"'),
    ):
        assert not set(before) & set(keys(tmp_path, changed)), changed


def test_the_key_is_of_nothing_else(tmp_path: Path) -> None:
    before = keys(tmp_path, FILE)
    renamed = FILE.replace('name = "ace"', 'name = "another"').replace("[bench]", "[bench]\nprocesses = 3")
    assert keys(tmp_path, renamed, "--data_dir", "elsewhere", "--log.level", "error") == before
    # Written out or not: a default is what it is.
    assert keys(tmp_path, FILE.replace("[model]", "[model]\ntemperature = 0.09")) == before


def test_parameters_that_a_method_has_by_default_are_in_the_definition(tmp_path: Path) -> None:
    text = FILE.replace(
        'method.name = "er_ace"', 'method.name = "pcr"\nmethod.modifiers = ["momentum_teacher"]'
    )
    found = next(run.definition() for run in plan_of(tmp_path, text).runs if run.row == "ace")
    assert found["parameters"]["pcr"] == {"views": None}
    assert found["parameters"]["momentum_teacher"]["temperature"] == 4.0


# ---- tuning


TUNED = (
    FILE
    + ROW_OF_ITS_OWN
    + """
[tune]
seeds = [100, 101]
grid = { "learning.learning_rate" = [0.001, 0.01] }
grids = { ace = { "model.temperature" = [0.05, 0.1, 0.2] } }
"""
)


def test_tuning_tries_the_grid_on_seeds_and_data_of_its_own(tmp_path: Path) -> None:
    runs = plan_of(tmp_path, TUNED, tune=True).runs
    assert {run.seed for run in runs} == {100, 101}
    assert {run.cell.about for run in runs} == {"er", "ace"}
    assert len(runs) == 2 * (2 + 2 * 3)
    assert {run.evaluation["split"] for run in runs} == {"validation"}
    assert {run.settings.source.options["validation"] for run in runs} == {50}
    one = next(run for run in runs if run.row == "ace: learning_rate 0.01, temperature 0.2")
    assert (one.settings.learning.learning_rate, one.settings.model.temperature) == (0.01, 0.2)
    assert one.settings.model.head == "linear"


def test_without_a_tune_table_there_is_nothing_to_tune(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"has no \[tune\] table"):
        plan_of(tmp_path, FILE, tune=True)
    assert {run.evaluation["split"] for run in plan_of(tmp_path, TUNED).runs} == {"test"}


@pytest.mark.parametrize(
    "path", sorted(Path(__file__).parent.parent.glob("ops/bench/*.toml")), ids=lambda p: p.stem
)
def test_every_settings_file_of_the_repository_has_a_plan(path: Path) -> None:
    from streamlearn.bench_plan import make_plan
    from streamlearn.flags import read_layers

    for tuning in (False, True):
        plan = make_plan(read_layers(["--config", str(path)], {}), tuning)
        assert len({run.key for run in plan.runs}) == len(plan.runs) > 1
