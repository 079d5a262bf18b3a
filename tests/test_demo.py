"""The demo: the same stream for every learner, figures that are right, and what a terminal and a log show."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from streamlearn import __version__, cli, demo
from streamlearn.config import CodecSettings, MethodSettings, ModelSettings
from streamlearn.contender import QUICK, Contender
from streamlearn.continual import Continual
from streamlearn.demo import stops
from streamlearn.demo_view import final_table, live_view
from streamlearn.durable import Learner
from streamlearn.events import Event
from streamlearn.exam import make_exam, quick
from streamlearn.settings import Settings, SourceSettings
from tests.processes import Process, said

LABELS = [str(i) for i in range(10)]


def examples(labels: list[str], each: int, seed: int) -> list[Event]:
    """`each` events of every label, one label after another; far apart, so that they can be told."""
    rng = np.random.default_rng(seed)
    found = []
    for label in labels:
        centre = np.zeros(len(LABELS), np.float32)
        centre[LABELS.index(label)] = 4
        for i in range(each):
            x = (centre + rng.normal(0, 0.5, len(LABELS))).astype(np.float32)
            found.append(Event(f"{seed}-{label}-{i}", x, label))
    return found


def contender(name: str, classes: list[str]) -> Contender:
    """One that has learned the classes, asked after every 20 events."""
    settings = Settings(
        method=MethodSettings(name=name),
        codec=CodecSettings(shape=(len(LABELS),)),
        model=ModelSettings(net="mlp", width=16),
    )
    it = Contender(name, Learner(settings), Continual())
    exam = make_exam(examples(classes, 15, seed=1), 0)
    events = examples(classes, 40, seed=0)
    seen: set[str] = set()
    for begin in range(0, len(events), 20):
        part = events[begin : begin + 20]
        fresh = [label for label in dict.fromkeys(str(event.y) for event in part) if label not in seen]
        seen.update(fresh)
        it.learn(part, begin, fresh, begin + 20 == len(events))
        it.evaluate(exam, begin + 20)
    return it


def test_its_figures_are_those_of_single_predictions() -> None:
    tests = examples(["0", "1", "2"], 15, seed=1)
    it = contender("er", ["0", "1", "2"])
    answers = it.learner.predict(tests)
    right = [answer.label == event.y for answer, event in zip(answers, tests, strict=True)]
    assert it.accuracy[-1] == pytest.approx(np.mean(right)) and it.accuracy[-1] > 0.5
    assert it.by_class["1"] == pytest.approx(np.mean(right[15:30]))
    assert it.mean_of(["0", "1"]) == pytest.approx(np.mean(right[:30]))
    summary = it.summary(make_exam(tests, 0))
    assert summary["test_accuracy"] == it.accuracy[-1] and summary["test_examples"] == 45
    assert summary["continual"]["worst_case_accuracy"] == it.worst[-1]
    assert [shift["groups"] for shift in summary["continual"]["shifts"]] == [("0",), ("1",), ("2",)]
    assert summary["prototypes"]["labels"] == ["0", "1", "2"] and len(summary["prototypes"]["pairs"]) == 3
    row = it.row(120)
    assert row["sets"] == {label: round(value, 4) for label, value in it.by_class.items()}
    assert (row["learner"], row["events"], row["classes"]) == ("er", 120, 3)
    assert row["worst_case_accuracy"] == round(it.worst[-1], 4)


def test_who_replays_nothing_forgets() -> None:
    finetune, er = contender("finetune", ["0", "1", "2"]), contender("er", ["0", "1", "2"])
    assert finetune.accuracy[-1] < er.accuracy[-1] and finetune.worst[-1] < er.worst[-1]
    assert (finetune.mean_gap or 0) > 0.5 and len(finetune.shifts) == 2


def test_a_class_without_test_examples_is_not_asked() -> None:
    it = Contender("er", Learner(Settings()), Continual())
    it.learn(examples(["0", "1"], 10, seed=0), 0, ["0", "1"], True)
    it.evaluate(make_exam(examples(["1"], 3, seed=1), 0), 20)
    assert set(it.by_class) == {"1"}
    nobody = Contender("er", Learner(Settings()), Continual())
    nobody.evaluate({}, 0)
    assert nobody.accuracy == [0.0] and nobody.summary({})["test_examples"] == 0


def test_along_the_way_few_examples_are_asked() -> None:
    exam = make_exam(examples(["0", "3"], QUICK + 7, seed=1), 0)
    assert {label: len(x) for label, x in quick(exam, QUICK).items()} == {"0": QUICK, "3": QUICK}
    assert len(exam["3"]) == QUICK + 7


def test_the_seed_draws_which_examples_are_asked() -> None:
    tests = [Event(f"{label}{i}", np.full(1, i, np.float32), label) for label in "03" for i in range(50)]
    places = [{label: tuple(x[:, 0]) for label, x in make_exam(tests, seed).items()} for seed in (0, 0, 1)]
    assert places[0] == places[1]
    drawn = [places[0]["0"], places[0]["3"], places[2]["0"], tuple(range(50))]
    assert len({each[:10] for each in drawn}) == 4, "nor is it the same place of every class"
    assert {tuple(sorted(each)) for each in drawn} == {tuple(range(50))}


@pytest.mark.parametrize("seed", [0, 7])
def test_the_demo_draws_by_its_seed(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Enough(Exception):
        pass

    def asked(tests: Sequence[Event], given: int) -> None:
        assert len(tests) > 100 and given == seed
        raise Enough

    monkeypatch.setattr(demo, "make_exam", asked)
    with pytest.raises(Enough):
        demo._demo(Settings(seed=seed, source=SourceSettings(dataset="digits")))


def test_it_is_asked_before_and_after_every_arrival() -> None:
    labels = ["a"] * 1003 + ["b", "c"] * 500 + ["d"] * 997
    places = stops(labels, batch=10)
    assert places[-1] == len(labels) and places == sorted(set(places))
    assert 1003 in places and 2003 in places, "just before"
    assert not set(range(1004, 1013)) & set(places), "b and c are one arrival"
    assert {1013, 1023, 1043, 2013} <= set(places)
    assert len(places) < 60 + 12
    many = [str(i // 10) for i in range(3000)]
    assert len(stops(many, batch=10)) == 60, "too many arrivals to look at each"
    assert stops(["a"], 10) == [1]


def test_eighty_columns_are_enough() -> None:
    racing = [contender(name, LABELS) for name in ("finetune", "er", "er_ace")]
    racing[2].name = "er_ace + momentum_teacher + view_batch"
    console = Console(file=io.StringIO(), width=80, force_terminal=False)
    console.print(live_view(racing, LABELS, 10, 400, 400))
    console.print(final_table(racing[:2], LABELS))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    (curve,) = re.findall(r"finetune +all classes +([0-9.]+%) +([▁-█]{20}) +([▁-█]{10})", text)
    assert curve[0] == f"{racing[0].accuracy[-1]:.1%}"
    assert curve[2].endswith("█") and curve[2].startswith("▁"), "the last class is known, the first is not"
    assert len(re.findall(r"gap, mean +[0-9.]+% +·[▁-█]{9}", text)) == 3
    row = next(row for row in text.splitlines() if row.startswith("  er ") and "all classes" not in row)
    assert row.split()[1:4] == [
        f"{value:.1%}" for value in (racing[1].accuracy[-1], racing[1].worst[-1], racing[1].mean_gap or 0)
    ]


def test_a_hundred_classes_fit_too() -> None:
    racing = [contender("er", ["0"])]
    console = Console(file=io.StringIO(), width=80)
    console.print(live_view(racing, [f"class {i}" for i in range(100)], 1, 40, 400))
    assert isinstance(console.file, io.StringIO)
    assert max(map(len, console.file.getvalue().splitlines())) <= 80


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("after", [0, 40])
def test_a_signal_stops_it_in_order(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    number: signal.Signals,
    after: int,
) -> None:
    events, tests = examples(LABELS[:3], 40, seed=0), examples(LABELS[:3], 5, seed=1)

    def read_events(settings: Settings) -> Sequence[Event]:
        if not after and cli.STOP.asked is None:
            os.kill(os.getpid(), number)
        return events

    def learn(self: Contender, part: Sequence[Event], begin: int, *more: object) -> None:
        real(self, part, begin, *more)  # type: ignore[arg-type]
        if begin >= after and cli.STOP.asked is None:
            os.kill(os.getpid(), number)

    real = Contender.learn
    monkeypatch.setattr(demo, "read_events", read_events)
    monkeypatch.setattr(demo, "read_tests", lambda settings: tests)
    monkeypatch.setattr(Contender, "learn", learn)
    before = signal.getsignal(number)
    text = said(capfd, "demo", "--model.width", "4", "--report", str(tmp_path / "report"))
    assert signal.getsignal(number) == before
    last = text.splitlines()[-1]
    found = re.fullmatch(rf"{number.name}: stopped after (\d+) of 120 events; no report is written, .*", last)
    assert found and after <= int(found[1]) < 120
    assert ("so far, on test examples of every class seen" in text) == bool(after)
    assert not (tmp_path / "report").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_is_signalled_ends_with_status_0(number: signal.Signals) -> None:
    with Process("demo") as run:
        run.until(lambda: any(" events, " in text for text in run.out), "it has begun")
        run.process.send_signal(number)
        assert run.ends() == 0
    assert run.out[-1].startswith(f"{number.name}: stopped after ")


def test_the_help_says_what_a_signal_does(capfd: pytest.CaptureFixture[str]) -> None:
    text = said(capfd, "demo", "--help")
    assert "Stopped by a signal, it shows the table so far and writes no report." in text
    assert "stopped by SIGINT or SIGTERM: `run` after a checkpoint, `demo` with its table so far" in text


@pytest.mark.slow  # scikit-learn is long in coming
def test_the_demo_races_what_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    few = ["demo", "--source.options.limit", "60", "--model.width", "4"]
    named = ["--method.name", "er_ace", "--method.modifiers", "momentum_teacher"]
    text = said(capfd, *few, *named, "--report", str(tmp_path))
    assert "er_ace + momentum_teacher " in text and f"report: {tmp_path / 'report.html'}" in text
    learners = json.loads((tmp_path / "summary.json").read_bytes())["learners"]
    assert [*learners] == ["finetune", "er", "er_ace + momentum_teacher"]
    assert len({json.dumps(each["loss"]) for each in learners.values()}) == 3
    assert all(each["test_examples"] > 20 for each in learners.values()), (
        "the stream's limit is not the test's"
    )
    text = said(capfd, *few, "--method.name", "er")
    assert "er_ace" not in text and text.endswith("(--report DIR keeps the figures and draws them)\n")
    assert "oracle" in said(capfd, *few, "--method.name", "oracle", status=2)
    text = said(capfd, *few, "--codec.shape", "3,3", status=2)
    assert "not one of 60 events could be used (wrong_shape: 60)" in text


@pytest.mark.slow
def test_the_demo(tmp_path: Path) -> None:
    with Process("demo", "--report", str(tmp_path / "report")) as run:
        assert run.ends() == 0
    assert not any("\x1b" in text for text in run.out), "no terminal, no colours"
    assert any("10 classes: accuracy over all of them: finetune" in text for text in run.out)
    assert any(text.startswith("  er ") for text in run.out)
    summary = json.loads((tmp_path / "report/summary.json").read_bytes())
    learners = summary["learners"]
    assert len(learners) == 3
    assert learners["finetune"]["test_accuracy"] < 0.5 < 0.8 < learners["er"]["test_accuracy"]
    worst = {name: each["continual"]["worst_case_accuracy"] for name, each in learners.items()}
    assert worst["finetune"] < worst["er"]
    assert (summary["seed"], summary["versions"]["streamlearn"]) == (0, __version__)
    with open(tmp_path / "report/curves.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["learner"] for row in rows} == set(learners)
    last = next(row for row in reversed(rows) if row["learner"] == "er")
    assert int(last["events"]) == learners["er"]["predicted"]
    assert float(last["accuracy_seen_classes"]) == round(learners["er"]["test_accuracy"], 4)
    assert float(last["worst_case_accuracy"]) == round(worst["er"], 4)
    text = (tmp_path / "report/report.html").read_text("utf-8")
    assert "<h1><bdi>finetune</bdi> forgets: " in text and "<h2>What each new class costs</h2>" in text
