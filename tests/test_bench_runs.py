"""One run of a benchmark: the worker's learner on the same bits, asked at the right moments."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from streamlearn import bench_runs
from streamlearn.bench_plan import Run
from streamlearn.bench_pool import Ended, Pool
from streamlearn.bench_runs import Examination, _learn, bench_run
from streamlearn.config import CoreSettings
from streamlearn.events import Event
from streamlearn.exam import Exam, make_exam
from streamlearn.histograms import Stopwatch
from streamlearn.learner import OnlineLearner
from streamlearn.settings import Settings, SettingsError
from streamlearn.transfer import transfer
from streamlearn.wiring import read_events
from tests.bench_files import FILE, plan_of
from tests.processes import ROOT

COUNTED = "figures curve stream_sha256".split()


@pytest.fixture(autouse=True)
def deterministic() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_deterministic_debug_mode("error")
    yield
    torch.set_deterministic_debug_mode("default")
    torch.set_num_threads(threads)


def first_run(folder: Path, text: str = FILE) -> Run:
    return plan_of(folder, text).runs[0]


def done(run: Run) -> dict[str, Any]:
    told: list[tuple[int, int]] = []
    found = bench_run(run.settings, run.evaluation, lambda at, of: told.append((at, of)))
    assert told[-1][0] == told[-1][1] == found["figures"]["events"]
    assert [at for at, _ in told] == sorted({at for at, _ in told})
    return found


HELD_OUT = FILE.replace("held_out = 0", "held_out = 0.2\nset_size = 5").replace("[100]", "[300]")


@pytest.mark.parametrize("text", [FILE, HELD_OUT], ids=["plain", "held_out"])
def test_the_learner_is_what_it_would_be_without_questions(tmp_path: Path, text: str) -> None:
    run = first_run(tmp_path, text)
    found = done(run)["figures"]
    alone = OnlineLearner(run.settings)
    alone.learn(read_events(run.settings))
    alone.flush()
    tests = read_events(run.settings, split="test", order="as_is", options={})
    right = [answer.label == event.y for answer, event in zip(alone.predict(tests), tests, strict=True)]
    assert found["final_accuracy"] == pytest.approx(np.mean(right), abs=1e-12)
    assert found["prequential_accuracy"] == alone.prequential.figures("cumulative").accuracy
    assert (found["steps"], found["learned"], found["held_out"]) == (
        alone.counts.steps, alone.counts.learned, alone.counts.held_out
    )  # fmt: skip
    assert found["memory_capacity"] == (300 if text is HELD_OUT else 100)
    assert (found["held_out"] > 0) == (text is HELD_OUT)
    labels, nearest = alone.classes.labels, alone.serving.nearest(10)
    assert found["prototype_pairs"] == [(labels[a], labels[b], round(cosine, 4)) for a, b, cosine in nearest]
    assert len(found["prototype_pairs"]) == 10
    assert found["forward_images_per_event"] == 0


def test_what_a_teacher_looks_at_is_counted_apart(tmp_path: Path) -> None:
    taught = FILE.replace(
        'method.name = "er"\n', 'method.name = "er"\nmethod.modifiers = ["momentum_teacher"]\n'
    )
    found = done(first_run(tmp_path, taught))["figures"]
    images = found["images_per_event"] * found["learned"]
    # The first step of 10 events has nothing to replay and no teacher yet.
    assert found["forward_images_per_event"] * found["learned"] == pytest.approx(images - 10)


def test_the_same_run_gives_the_same_figures(tmp_path: Path) -> None:
    run = first_run(tmp_path)
    one, two = done(run), done(run)
    assert [one[name] for name in COUNTED] == [two[name] for name in COUNTED]


def test_a_seed_is_a_class_order_and_limits_hold(tmp_path: Path) -> None:
    text = FILE.replace("per_class = 20", "per_class = 12\nclasses = 4\ngroups = 2")
    runs = plan_of(tmp_path, text).runs
    found = [done(run)["figures"] for run in runs[:2] if run.row == "er"]
    found += [done(run)["figures"] for run in runs[2:4] if run.row == "er"]
    for figures in found:
        assert figures["events"] == 48
        assert len(figures["final_accuracy_by_class"]) == 4
        assert len(figures["sets"]) == 2
    assert found[0]["sets"] != found[1]["sets"]


@pytest.mark.parametrize("seed", [0, 7])
def test_the_seed_draws_which_examples_are_asked(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = first_run(tmp_path, FILE.replace("seeds = [0, 1, 2]", f"seeds = [{seed}]"))
    seeds: list[int] = []

    def asked(tests: Sequence[Event], given: int) -> Exam:
        seeds.append(given)
        return make_exam(tests, given)

    monkeypatch.setattr(bench_runs, "make_exam", asked)
    done(run)
    assert seeds == [run.settings.seed] == [seed]


def test_nothing_is_said_of_transfer_where_groups_are_mixed(tmp_path: Path) -> None:
    names = "learning_curve_area backward_transfer performance_maintenance".split()
    mixed = FILE.replace("per_class = 20", 'per_class = 20\norder = "blurry"')
    assert mixed != FILE
    figures = done(first_run(tmp_path, mixed))["figures"]
    assert [figures[name] for name in names] == [None] * 3


def test_transfer_is_that_of_the_curve(tmp_path: Path) -> None:
    found = done(first_run(tmp_path, FILE))
    figures, columns = found["figures"], found["curve"]["columns"]
    first = next(i for i, name in enumerate(columns) if name == f"accuracy_{figures['sets'][0]}")
    rows = [[math.nan if value is None else value for value in row] for row in found["curve"]["rows"]]
    arrived = [shift["events"] for shift in figures["shifts"] for _ in shift["groups"]]
    again = transfer(arrived, [int(row[1]) for row in rows], [row[first:] for row in rows])
    assert again.backward_transfer is not None and 0 < (again.learning_curve_area or 0) < 1
    assert {name: pytest.approx(value, abs=1e-4) for name, value in asdict(again).items()} == {
        name: figures[name] for name in asdict(again)
    }


# ---- when it is asked


class Recorded(Examination):
    """Keeps (steps, events) of every evaluation and shift instead of asking."""

    def __init__(self, events: Sequence[Event], groups: int) -> None:
        super().__init__(events, events, groups, 1, 0)
        self.asked: list[int] = []
        self.shifted: list[tuple[int, int, list[int]]] = []

    def evaluate(self, learner: OnlineLearner, events: int) -> None:
        if self.seen and learner.counts.steps not in self.asked:
            self.asked.append(learner.counts.steps)

    def shift(self, step: int, events: int, groups: Sequence[int]) -> None:
        self.shifted.append((step, events, list(groups)))


def moments(labels: str, groups: int, interval: int, batch: int = 4) -> Recorded:
    """Of a stream of these labels, one character each."""
    rng = np.random.default_rng(0)
    events = [Event(f"e{i}", rng.normal(size=3).astype(np.float32), y) for i, y in enumerate(labels)]
    settings = CoreSettings.model_validate({"learning": {"stream_batch": batch}, "model": {"width": 2}})
    learner, exam = OnlineLearner(settings), Recorded(events, groups)
    _learn(learner, events, exam, Stopwatch(), interval, lambda at, of: None)
    assert learner.counts.learned == len(events)
    assert exam.asked[-1] == learner.counts.steps
    return exam


def test_it_is_asked_before_and_after_every_new_group_and_between() -> None:
    # Steps of 4 events: c comes as event 10, in the third step; a and b are one group, c and d another.
    exam = moments("ab" * 5 + "cd" * 15, groups=2, interval=3)
    assert exam.shifted == [(0, 0, [0]), (2, 10, [1])]
    assert exam.asked == [1, 2, 3, 6, 9, 10]


def test_a_group_that_comes_at_a_step_of_its_own() -> None:
    exam = moments("a" * 8 + "b" * 8, groups=1, interval=100)
    assert exam.shifted == [(0, 0, [0]), (2, 8, [1])]
    assert exam.asked == [1, 2, 3, 4]


def test_groups_that_come_in_one_step() -> None:
    exam = moments("aaaaabcaaaaa", groups=1, interval=100)
    assert exam.shifted == [(0, 0, [0]), (1, 5, [1, 2])]
    assert exam.asked == [1, 2, 3]


def test_a_stream_shorter_than_a_step() -> None:
    assert moments("ab", groups=1, interval=5).asked == [1]


def test_the_curve_is_what_a_learner_knew_then(tmp_path: Path) -> None:
    text = FILE.replace("per_class = 20", "per_class = 20\ngroups = 5").replace(
        "[bench]", "[bench]\ninterval = 4"
    )
    run = first_run(tmp_path, text)
    found = done(run)
    curve = [dict(zip(found["curve"]["columns"], row, strict=False)) for row in found["curve"]["rows"]]
    events = read_events(run.settings)
    tests = read_events(run.settings, split="test", order="as_is", options={})
    learner = OnlineLearner(run.settings)
    order = list(dict.fromkeys(event.y for event in events))
    at = 0
    for point in curve:
        learner.learn(events[at : point["events"]])
        at = point["events"]
        if at == len(events):
            learner.flush()
        assert learner.counts.steps == point["step"]
        by_set = []
        for name, labels in zip(found["figures"]["sets"], (order[:5], order[5:]), strict=True):
            seen = [label for label in labels if label in learner.classes.labels[: learner.model.classes]]
            if seen:
                right = [
                    np.mean([answer.label == label for answer in learner.predict(mine[:100])])
                    for label in seen
                    if (mine := [event for event in tests if event.y == label])
                ]
                by_set.append(float(np.mean(right)))
                assert point[f"accuracy_{name}"] == pytest.approx(by_set[-1], abs=1e-5)
        assert point["average_accuracy"] == pytest.approx(np.mean(by_set), abs=1e-5)
    assert found["figures"]["evaluations"] == len(curve)


def test_every_predictor_has_figures_and_the_serving_one_the_same(tmp_path: Path) -> None:
    run = first_run(tmp_path, FILE.replace("[model]", '[serving]\npredictor = "average"\n[model]'))
    figures = done(run)["figures"]
    assert set(figures["by_predictor"]) == {"weights", "average"}
    for name, value in figures["by_predictor"]["average"].items():
        assert value == figures[name]


def test_the_validation_part_is_neither_learned_nor_the_test_set(tmp_path: Path) -> None:
    text = FILE.replace("per_class = 20", "classes = 3").replace(
        "[bench]", '[bench]\nsplit = "validation"\nvalidation = 9'
    )
    run = first_run(tmp_path, text)
    learned = {event.id for event in read_events(run.settings)}
    asked = read_events(run.settings, split="validation", order="as_is", options={"validation": 9})
    assert len(asked) == 90 and not learned & {event.id for event in asked}
    assert all("-train-" in event.id for event in asked)
    assert len(learned) == 432 - 27, "of three classes"
    assert done(run)["figures"]["tests"] == 27


# ---- in a process of its own


def ended(*runs: Run) -> list[Ended]:
    return list(Pool(2, lambda run, share: None).run(runs))


@pytest.mark.slow
def test_a_process_gives_the_result_of_this_one(tmp_path: Path) -> None:
    run = first_run(tmp_path)
    (one,) = ended(run)
    assert one.result is not None
    here = json.loads(json.dumps(done(run)))
    assert [one.result[name] for name in COUNTED] == [here[name] for name in COUNTED]
    assert len(one.result["versions"]["code"]) == 12
    assert one.result["measured"]["peak_rss_bytes"] > 1 << 20


@pytest.mark.slow
def test_what_fails_says_why(tmp_path: Path) -> None:
    missing = first_run(tmp_path, FILE.replace('"digits"', '"fashion_mnist"'))
    (one,) = ended(missing)
    assert one.every_run and "set data_dir" in one.failure
    broken = first_run(tmp_path, FILE.replace("[bench]", '[codec]\nconnector = "json:loads"\n[bench]'))
    (one,) = ended(broken)
    assert not one.every_run and "TypeError" in one.failure and "status 1" in one.failure


@pytest.mark.slow
def test_a_process_ends_when_its_parent_is_gone(tmp_path: Path) -> None:
    run = first_run(tmp_path)
    settings = run.settings.model_dump(mode="json")
    # The one in between starts it and is gone at once; the pipe stays open until the other one ends too.
    between = (
        "import json, os, subprocess, sys; task = json.loads(sys.argv[1]) | {'parent': os.getpid()}; "
        "p = subprocess.Popen([sys.executable, '-m', 'streamlearn.bench_runs'], stdin=subprocess.PIPE); "
        "p.stdin.write(json.dumps(task).encode() + b'\\n'); p.stdin.flush(); os._exit(0)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", between, json.dumps({"settings": settings, "evaluation": run.evaluation})],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        check=False,
    )
    assert ended.stderr == ""
    assert "result" not in ended.stdout


def test_a_class_without_test_examples_is_said() -> None:
    events = [Event("a", np.zeros(2, np.float32), "x"), Event("b", np.zeros(2, np.float32), "y")]
    with pytest.raises(SettingsError, match="class 'y' of the stream has no test examples"):
        Examination(events, events[:1], 1, 10, 0)


def test_settings_travel_to_the_process_as_they_are(tmp_path: Path) -> None:
    settings = first_run(tmp_path, HELD_OUT).settings
    assert Settings.model_validate(json.loads(settings.model_dump_json())) == settings
