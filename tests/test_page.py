"""The report as a page: what it says, whatever the labels are, and what is missing or too much."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from streamlearn.config import EvaluationSettings
from streamlearn.continual import Continual
from streamlearn.page import page
from streamlearn.page.charts import level, path, ticks
from streamlearn.page.facts import facts_of, headline, lost, spread, thinned, watched
from streamlearn.page.markup import Html, brief, join, named, number, tag
from streamlearn.report import continual_figures, flat, write_report
from streamlearn.settings import Settings
from tests.page_samples import sample

VOID = {"meta", "link"}
NASTY = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "قط صغير",
    "\u202eevil\u202d rtl",
    "x" * 5000,
    "",
    "a\nb\x00c",
    "&amp;'\"",
    "\ud800",
    "</title></style><!--",
]


class Reader(HTMLParser):
    """Elements must be closed in order; collects what is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.data = ""

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        assert len({key for key, _ in attributes}) == len(attributes), f"an attribute of {name} stands twice"
        self.tags.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script" and data.startswith("{"):
            self.data = data
        elif not self.open or self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def title_of(text: str) -> str:
    found = re.search("<h1>(.*?)</h1>", text)
    assert found is not None
    return re.sub("<[^>]*>", "", found[1]).replace("\N{NO-BREAK SPACE}", " ")


def elements(reader: Reader, name: str) -> Iterator[dict[str, str | None]]:
    return (attributes for tag_name, attributes in reader.tags if tag_name == name)


def test_it_says_who_forgets_and_shows_everything() -> None:
    summary, rows = sample()
    text = page(summary, rows)
    reader = read(text)
    final = {name: each["test_accuracy"] for name, each in summary["learners"].items()}
    said = f"finetune forgets: {final['finetune']:.1%} over all 10 classes. onpro keeps {final['onpro']:.1%}."
    assert title_of(text) == said.replace("%", " %")
    for heading in (
        "Accuracy over everything seen so far",
        "Worst case",
        "Every class over time",
        "What each new class costs",
        "Which classes look alike",
        "Online accuracy",
        "Figures",
        "How it was made",
    ):
        assert f"<h2>{heading}</h2>" in text
    for name, figures in summary["learners"].items():
        worst = figures["continual"]["worst_case_accuracy"]
        assert f"{100 * worst:.1f}\N{NO-BREAK SPACE}%" in text, name
        one, other, cosine = figures["prototypes"]["pairs"][0]
        assert f"{one} and {other} {cosine:.2f}" in reader.text
    assert "Seed 0; streamlearn 0.1.0" in reader.text and "memory.capacity" in reader.text
    assert "450 test examples" in reader.text and "at most 2.4 points" in reader.text
    shift = summary["learners"]["er"]["continual"]["shifts"][0]
    assert f"{100 * shift['gap']:.1f} {shift['recovery_events']} events" in reader.text


def test_every_chart_is_named_and_has_its_figures_in_a_table() -> None:
    reader = read(page(*sample()))
    charts = json.loads(reader.data)
    areas = [each for each in elements(reader, "div") if "data-chart" in each]
    assert {each["data-chart"] for each in areas} == set(charts)
    assert len(areas) == 3 + 3 * 3
    for each in areas:
        assert each["aria-label"] and each["tabindex"] == "0" and each["role"] == "img"
    for each in elements(reader, "svg"):
        assert each["aria-hidden"] == "true"
    tables = len(list(elements(reader, "table")))
    assert tables == len(list(elements(reader, "caption"))) == 3 + 1 + 1 + 3 + 1 + 1
    assert all(each["scope"] in ("col", "row") for each in elements(reader, "th"))
    seen = charts["seen"]
    assert [line["name"] for line in seen["lines"]] == ["finetune", "er", "onpro"]
    assert len(seen["lines"][0]["x"]) == len(seen["lines"][0]["y"]) == 60
    assert seen["marks"][0][0] == 0 and len(seen["marks"]) == 10


def test_nothing_is_fetched_and_only_our_script_runs() -> None:
    text = page(*sample())
    reader = read(text)
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(", text)
    assert [each.get("type") for each in elements(reader, "script")] == ["application/json", None]
    assert not any(
        key.startswith("on") or key == "src" for _, attributes in reader.tags for key in attributes
    )
    (policy,) = [each for each in elements(reader, "meta") if "http-equiv" in each]
    assert (policy["content"] or "").startswith("default-src 'none'; script-src 'sha256-")


def test_labels_are_text_whatever_they_hold() -> None:
    summary, rows = sample(NASTY, ["<b>one</b>", "\u202etwo", "three" * 100])
    summary["settings"] |= {"codec.label": "</code><script>alert(2)</script>"}
    text = page(summary, rows)
    assert text.encode("utf-8")
    reader = read(text)
    names = {name for name, _ in reader.tags}
    assert names <= set(
        "html head meta link title style body main header h1 h2 p ol ul li div span b i bdi small "
        "section svg line path figure figcaption details summary table caption thead tbody tr th td code "
        "script".split()
    )
    assert "<script>alert" not in text and "<img" not in text and "\x00" not in text
    assert text.count("</script>") == 2
    assert json.loads(reader.data)["sets0"]["names"][1] == "<img src=x onerror=alert(1)>"
    assert "(empty)" in text and "a\N{REPLACEMENT CHARACTER}b" in text
    assert max(len(each) for each in reader.texts) < 400, "long labels are cut"


def test_its_size_is_bounded() -> None:
    labels = [f"class {i}" for i in range(400)]
    summary, rows = sample(labels, [f"learner {i}" for i in range(9)], points=25, each=10)
    text = page(summary, rows)
    reader = read(text)
    assert len(text) < 800_000
    assert "40 of 400 classes are shown" in reader.text
    assert "The first 8 of 9 learners are shown" in reader.text
    charts = json.loads(reader.data)
    assert charts["sets0"]["names"][0] == "class 0" and charts["sets0"]["names"][-1] == "class 399"
    assert len(charts["sets0"]["names"]) == 40
    assert "learner 8" in title_of(text), "the sentence is about all learners"


def test_long_curves_are_thinned_and_drops_stay() -> None:
    rows = [{"learner": "er", "events": i, "accuracy_seen_classes": 0.9} for i in range(100_000)]
    rows[54_321]["accuracy_seen_classes"] = 0.1
    kept = thinned(rows)
    assert len(kept) <= 240 and kept[-1] is rows[-1]
    assert [row["events"] for row in kept] == sorted(row["events"] for row in kept)
    assert rows[54_321] in kept
    assert thinned(rows[:7]) == rows[:7]


@pytest.mark.parametrize(
    "summary, rows, said",
    [
        ({}, [], "No event was learned."),
        ({"learners": {"er": {"events_learned": 0}}}, [], "No event was learned."),
        (
            {"learners": {"er": {"events_learned": 12, "prequential": {"cumulative": {"accuracy": 0.5}}}}},
            [{"events": 12, "classes": 2, "prequential_window": 0.5}],
            "er was right in 50.0 % of 12 events, each before it was learned.",
        ),
        (
            {"learners": {"er": {"test_accuracy": 0.4}}},
            [{"learner": "er", "events": 5, "accuracy_seen_classes": 0.4, "sets": {"cat": 0.4}}],
            "er keeps 40.0 % at the end.",
        ),
        (
            {"learners": {"er": {"test_accuracy": 0.4, "continual": {"forgetting": 0.5}}}},
            [{"events": 5, "sets": {"cat": 0.4, "dog": 0.4}}],
            "er forgets: 40.0 % over all 2 classes.",
        ),
        (
            {"learners": {"a": {"test_accuracy": 0.71}, "b": {"test_accuracy": 0.7}}},
            [],
            "2 learners level: 70.0 % to 71.0 % at the end.",
        ),
        (
            {"learners": {"a": {"test_accuracy": 0.7}, "b": {"test_accuracy": 0.65}}},
            [],
            "a knows most: 70.0 % at the end. b 65.0 %.",
        ),
        (
            {"learners": {"a": {"continual": None, "test_accuracy": float("nan"), "prototypes": None}}},
            [{"learner": "a", "events": None, "average_accuracy": None, "sets": None}],
            "No event was learned.",
        ),
    ],
)
def test_missing_pieces_make_a_sensible_page(
    summary: dict[str, Any], rows: list[dict[str, Any]], said: str
) -> None:
    text = page(summary, rows)
    assert title_of(text) == said
    assert "How it was made" in read(text).text
    assert "nan" not in text.lower().replace("finance", "")


def test_one_evaluation_and_one_class() -> None:
    summary, rows = sample(["only"], ["er"], points=1)
    summary["learners"]["er"]["continual"]["forgetting"] = None
    text = page(summary, rows)
    assert title_of(text).startswith("er keeps")
    assert "Every class over time" not in text and "What each new class costs" not in text
    assert "Which classes look alike" not in text


def test_orange_is_who_forgets_and_blue_the_best() -> None:
    summary, rows = sample(learners=("onpro", "er", "finetune"))
    summary["learners"]["er"]["seeds"] = [3, 4]
    text = page(summary, rows)
    assert "Means over 2 seeds." in text
    fills = re.findall(r'<li><h2><bdi>(\w+)</bdi></h2>.*?class="fill c(\d)"', text)
    assert fills == [("onpro", "2"), ("er", "1"), ("finetune", "0")]
    summary, rows = sample(learners=("one", "two"))
    for figures in summary["learners"].values():
        figures["continual"]["forgetting"] = 0.1
    shown = facts_of(summary, rows).shown
    assert [learner.colour for learner in shown] == [1, 2], "nobody forgets"


def test_it_says_which_examples_a_figure_is_of() -> None:
    summary, rows = sample()
    text = read(page(summary, rows)).text
    assert "drawn by the seed" not in text and "of a class" not in text
    text = read(page(summary | {"test_per_class": 7}, rows)).text
    for part in (
        "Worst case and test curves: 7 of a class.",
        "7 test examples, drawn by the seed, of every class seen up to that moment.",
        "came (WC-ACC). Of 7 test examples of a class, drawn by the seed.",
        "what is windowed are of 7 test examples of a class, drawn by the seed.",
    ):
        assert part in text
    assert text.count("Of 7 test examples of a class, drawn by the seed.") == 3


def test_a_highest_accuracy_stands_beside_the_last_one_of_the_same_examples() -> None:
    summary, rows = sample(["a", "b"], ["er"])
    summary["learners"]["er"]["test_accuracy_by_class"] = {"a": 0.111, "b": 0.222}
    last = rows[-1]["sets"]["a"]
    text = read(page(summary, rows)).text
    assert f"{100 * last:.0f} %".replace(" ", " ") in text
    table = text.partition("Accuracy of each set of test examples")[2].partition("What each new class")[0]
    assert "11 %" not in table


def test_the_nearest_pairs_stand_alone_where_no_map_was_kept() -> None:
    summary, rows = sample(["cat", "dog", "cow"])
    found = summary["learners"]
    found["finetune"]["prototypes"] = {"seed": 3, "pairs": None}
    found["er"]["prototypes"] = {"seed": 4, "pairs": [["cat", "dog", 0.876]]}
    found["onpro"]["prototypes"] = {"seed": 5, "pairs": [["cow", "dog", 0.5], ["cat", "dog", 0.25]]}
    text = read(page(summary, rows)).text.partition("Which classes look alike")[2]
    text = text.partition("Online accuracy")[0]
    assert "finetune Not recorded in these results. er" in text.replace("\u2068", "")
    assert "er seed 4 The nearest pairs classes cosine cat and dog 0.88" in text
    assert "cow and dog 0.50 cat and dog 0.25" in text and "colour" not in text
    for each in found.values():
        each["prototypes"] = {"seed": 3, "pairs": None}
    text = read(page(summary, rows)).text
    assert "Which classes look alike Not recorded in these results. Online accuracy" in text


def test_images_that_go_forward_only_are_shown_where_there_are_some() -> None:
    summary, rows = sample(learners=("er", "onpro"))
    for figures in summary["learners"].values():
        figures["forward_images_per_event"] = 0.0
    assert "forward-only" not in page(summary, rows)
    summary["learners"]["onpro"]["forward_images_per_event"] = 7.94
    text = read(page(summary, rows)).text
    assert "forward-only images an event, a teacher's; not among those trained on 0.0 7.9" in text


def test_forgetting_is_computed_where_it_is_not_given() -> None:
    rows = [{"sets": {"a": 0.9}}, {"sets": {"a": 0.5, "b": 0.8}}, {"sets": {"a": 0.7, "b": 0.2}}]
    assert lost(rows) == pytest.approx((0.2 + 0.6) / 2)
    assert lost(rows[:1]) is None and lost([]) is None


def test_the_line_beside_the_gaps_follows_what_was_known_before() -> None:
    continual = Continual()
    continual.shift(0, 0, ["a"])
    for events, accuracies in ((10, [0.8]), (20, [0.9])):
        continual.record(events // 10, events, accuracies, None)
    continual.shift(2, 20, ["b"])
    for events, accuracies in ((30, [0.4, 1.0]), (40, [0.6, 1.0])):
        continual.record(events // 10, events, accuracies, None)
    figures = continual_figures(continual)
    assert figures["stability_gap"] == pytest.approx(0.5)
    rows = [
        {"learner": "er", "events": events, "sets": sets}
        for events, sets in ((20, {"a": 0.9}), (30, {"a": 0.4, "b": 1.0}), (40, {"a": 0.6, "b": 1.0}))
    ]
    (learner,) = facts_of({"learners": {"er": {"continual": figures}}}, rows).learners
    assert learner.worst_case == pytest.approx((0.4 + 1.0) / 2)
    shifts = [shift for shift in learner.shifts if shift.gap is not None]
    assert watched(learner.rows, shifts) == [(20, 0.9), (30, 0.4), (40, 0.6)]


def test_markup_is_escaped_by_construction() -> None:
    assert tag("p", "<&>", class_='"', aria_label=None) == '<p class="&quot;">&lt;&amp;&gt;</p>'
    assert join(["<", Html("<br>"), None]) == "&lt;<br>"
    assert named("cat") == "<bdi>cat</bdi>"
    assert brief("x" * 50, 10) == "x" * 9 + "…"
    assert [number(value) for value in (1, 0.5, True, "1", None, float("inf"))] == [1, 0.5] + 4 * [None]


def test_small_parts() -> None:
    assert spread(range(10), 4) == [0, 3, 6, 9] and spread([1, 2], 4) == [1, 2]
    assert [level(value) for value in (-1, 0, 0.55, 1, 2)] == [0, 0, 5, 9, 9]
    assert path([(0, 1.0), (5, None), (10, 0.0)], 10) == "M0.0 0.0h.01M1000.0 100.0h.01"
    assert path([(0, 1.0), (10, 0.5)], 10) == "M0.0 0.0L1000.0 50.0"
    for end, texts in ((1, ["0", "1"]), (1347, ["0", "500", "1,000"]), (40, ["0", "10", "20", "30", "40"])):
        assert [re.sub("<[^>]*>", "", tick) for tick in ticks(end)] == texts
    late = [place for place, tick in enumerate(ticks(60_000)) if 'class="late"' in tick]
    assert late == [3], "0, 20,000, 40,000 and the end"
    assert not any("late" in tick for tick in ticks(1347))
    assert headline(facts_of({}, [])) == "No event was learned."


def test_the_files_of_a_report(tmp_path: Path) -> None:
    settings = Settings(report=str(tmp_path / "report"), evaluation=EvaluationSettings(window=7))
    summary, rows = sample(["cat", "seen_classes"], ["er"], points=4)
    learners = {"er": summary["learners"]["er"] | {"continual": {"windowed_forgetting": {"10": 0.5}}}}
    made = datetime(2026, 11, 22, 13, 5, 9, tzinfo=timezone(timedelta(hours=1)))
    folder = write_report(settings, learners, rows, made, {"seeds": [3, 4]})
    with open(folder / "curves.csv", newline="", encoding="utf-8") as file:
        last = list(csv.DictReader(file))[-1]
    assert float(last["accuracy_cat"]) == rows[-1]["sets"]["cat"]
    assert float(last["accuracy_seen_classes"]) == rows[-1]["accuracy_seen_classes"]
    assert float(last["accuracy_seen_classes_"]) == rows[-1]["sets"]["seen_classes"]
    said = json.loads((folder / "summary.json").read_bytes())
    assert said["settings"]["evaluation.window"] == 7
    assert (said["made"], said["seeds"]) == ("2026-11-22T12:05:09Z", [3, 4])
    text = (folder / "report.html").read_text("utf-8")
    assert "Seeds 3, 4; streamlearn" in read(text).text
    assert "This page was made on 2026-11-22 12:05:09 UTC." in read(text).text
    assert "windowed forgetting 10" in read(text).text
    assert flat({"events": 1}) == {"events": 1}
