"""`streamlearn demo`: the main job on data that is at hand, several methods side by side on one stream.

The handwritten digits arrive class after class. Every learner gets the very same events through the same
codec and the same `learn` as the worker's. From time to time each is asked about test images that are
never learned, of all classes seen so far.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from streamlearn.config import MethodSettings
from streamlearn.durable import Learner
from streamlearn.events import Event, Resume
from streamlearn.flags import load_settings
from streamlearn.logs import setup
from streamlearn.observe import observe
from streamlearn.report import figures, write_report
from streamlearn.run import guarded, make_codec, make_source
from streamlearn.settings import Settings, SettingsError

METHODS = ("finetune", "er")
"""They always race; beside them, what `method` names, if that is something else."""
POINTS = 60
"""Evaluations over the stream."""
LIVE_SECONDS = 12.0
"""A live view lasts at least so long, for people to follow it; without a terminal nothing waits."""
BARS = "▁▂▃▄▅▆▇█"
CURVE = 30
"""Characters of a curve."""


@dataclass
class Contender:
    """One learner of the demo and its curves."""

    name: str
    learner: Learner
    accuracy: list[float] = field(default_factory=list)
    by_class: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def evaluate(self, tests: Sequence[Event], seen: set[str]) -> None:
        """Accuracy over the test examples of the classes seen, and class by class."""
        asked = [event for event in tests if event.y in seen]
        answers = self.learner.predict(asked)
        right: dict[str, list[int]] = {}
        for event, answer in zip(asked, answers, strict=True):
            right.setdefault(str(event.y), []).append(answer.label == event.y)
        self.by_class = {label: sum(hits) / len(hits) for label, hits in right.items()}
        self.accuracy.append(sum(sum(hits) for hits in right.values()) / max(1, len(asked)))


def demo(words: Sequence[str]) -> int:
    """Run the demo. Returns the exit status."""
    base = {"source": {"dataset": "digits", "order": "class_incremental"}, "memory": {"capacity": 200}}
    settings = load_settings(words, os.environ, base)
    setup(settings.log.level, settings.log.format)
    return guarded(lambda: _demo(settings))


def _demo(settings: Settings) -> int:
    if settings.source.dataset is None:
        raise SettingsError("the demo runs on a data set: set source.dataset (digits needs nothing else)")
    torch.use_deterministic_algorithms(True)
    console = Console()
    events, tests = _events(settings), _events(_test_split(settings))
    order = list(dict.fromkeys(str(event.y) for event in events))
    contenders = _contenders(settings)
    arranged = settings.source.order or "natural order"
    console.print(
        f"{settings.source.dataset}: {len(events)} events of {len(order)} classes, "
        f"{settings.source.groups} new ones at a time ({arranged}), each seen once; "
        f"{len(tests)} test examples that are never learned"
    )
    curves = _race(console, contenders, events, tests, order)
    console.print(_final(contenders, order))
    if settings.report is not None:
        rows = {each.name: _summary(each) for each in contenders}
        console.print(f"report: {write_report(settings, rows, curves)}")
    else:
        console.print("(--report DIR keeps the figures)")
    return 0


def _contenders(settings: Settings) -> list[Contender]:
    """METHODS, and what `method` names with its modifiers. Raises SettingsError."""
    racing = {name: _with_method(settings, name) for name in METHODS}
    racing.setdefault(" + ".join([settings.method.name, *settings.method.modifiers]), settings)
    try:
        return [Contender(name, Learner(each)) for name, each in racing.items()]
    except ValueError as error:
        raise SettingsError(str(error)) from error


def _race(
    console: Console, contenders: list[Contender], events: list[Event], tests: list[Event], order: list[str]
) -> list[dict[str, Any]]:
    """Give all events to every contender, showing how they fare; returns the curves' rows."""
    curves: list[dict[str, Any]] = []
    seen: set[str] = set()
    stride = max(1, -(-len(events) // POINTS))
    pause = LIVE_SECONDS / POINTS if console.is_terminal else 0.0
    live = Live(console=console, auto_refresh=False) if console.is_terminal else None
    context: AbstractContextManager[Any] = live if live is not None else nullcontext()
    with context:
        for start in range(0, len(events), stride):
            begun = time.perf_counter()
            part = events[start : start + stride]
            done = start + len(part)
            seen.update(str(event.y) for event in part)
            for each in contenders:
                before = time.perf_counter()
                each.learner.learn(part)
                if done == len(events):
                    each.learner.flush()
                each.seconds += time.perf_counter() - before
                each.evaluate(tests, seen)
                curves.append(_point(each, done, len(seen)))
            if live is not None:
                live.update(_view(contenders, order, seen, done, len(events)), refresh=True)
                time.sleep(max(0.0, pause - (time.perf_counter() - begun)))
            elif done == len(events) or (start // stride) % (POINTS // 6) == POINTS // 6 - 1:
                standing = ", ".join(f"{each.name} {each.accuracy[-1]:.3f}" for each in contenders)
                console.print(
                    f"{done:>6} events, {len(seen):>3} classes: accuracy over all of them: {standing}"
                )
    return curves


def _events(settings: Settings) -> list[Event]:
    """All events of the settings' source."""
    source, codec = make_source(settings), make_codec(settings)
    source.open(Resume())
    found: list[Event] = []
    while not source.ended:
        for item in codec.decode(source.poll(1024, 0.0)):
            if not isinstance(item, Event):
                raise SettingsError(f"{source.topic}: {item.reason}: {item.detail}")
            found.append(item)
    source.close()
    return found


def _test_split(settings: Settings) -> Settings:
    source = settings.source.model_copy(update={"split": "test", "order": "as_is"})
    return settings.model_copy(update={"source": source})


def _with_method(settings: Settings, name: str) -> Settings:
    method = MethodSettings(name=name, **settings.method.model_extra or {})
    return settings.model_copy(update={"method": method})


def _point(each: Contender, events: int, classes: int) -> dict[str, Any]:
    prequential = each.learner.prequential
    return {
        "learner": each.name,
        "events": events,
        "classes": classes,
        "accuracy_seen_classes": round(each.accuracy[-1], 4),
        "prequential_cumulative": prequential.figures("cumulative").accuracy,
        "prequential_window": prequential.figures("window").accuracy,
        **{f"accuracy_{label}": round(value, 4) for label, value in sorted(each.by_class.items())},
    }


def _summary(each: Contender) -> dict[str, Any]:
    return figures(observe(each.learner)) | {
        "test_accuracy": each.accuracy[-1],
        "test_accuracy_by_class": each.by_class,
        "seconds": round(each.seconds, 3),
    }


def _view(contenders: list[Contender], order: list[str], seen: set[str], done: int, total: int) -> Group:
    """What the terminal shows while the learners run; 80 columns are enough for ten classes."""
    table = Table(title=f"{done}/{total} events, {len(seen)} classes seen", title_justify="left")
    table.add_column("learner")
    table.add_column("now", justify="right")
    table.add_column(f"{'accuracy, all classes seen':<{CURVE}}", no_wrap=True)
    table.add_column("each class", no_wrap=True)
    for each in contenders:
        curve = "".join(_bar(value) for value in _thinned(each.accuracy, CURVE))
        classes = Text()
        for label in order:
            value = each.by_class.get(label)
            classes.append("·" if value is None else _bar(value), _colour(value))
        table.add_row(each.name, f"{each.accuracy[-1]:.1%}", curve, classes)
    labels = " ".join(order[:20]) + (" …" if len(order) > 20 else "")
    return Group(
        table, Text(f"each class: on its own test examples, in order of appearance: {labels}", "dim")
    )


def _thinned(values: Sequence[float], width: int) -> Sequence[float]:
    """At most `width` of the values, evenly spaced, the last one among them."""
    if len(values) <= width:
        return values
    return [values[round(i * (len(values) - 1) / (width - 1))] for i in range(width)]


def _bar(value: float) -> str:
    return BARS[round(value * (len(BARS) - 1))]


def _colour(value: float | None) -> str:
    if value is None:
        return "dim"
    return "green" if value >= 0.8 else "yellow" if value >= 0.5 else "red"


def _final(contenders: list[Contender], order: list[str]) -> Table:
    table = Table(title="at the end, on test examples of every class", title_justify="left")
    for heading in ("learner", "accuracy", "worst", "early", "late", "online", "images", "time"):
        table.add_column(heading, justify="left" if heading == "learner" else "right")
    half = len(order) // 2
    for each in contenders:
        by_class, counts = each.by_class, each.learner.counts
        table.add_row(
            each.name,
            f"{each.accuracy[-1]:.1%}",
            f"{min(by_class.values()):.0%}",
            f"{_mean([by_class[label] for label in order[:half]]):.0%}",
            f"{_mean([by_class[label] for label in order[half:]]):.0%}",
            f"{each.learner.prequential.figures('cumulative').accuracy or 0:.1%}",
            f"{counts.images / max(1, counts.learned):.1f}",
            f"{each.seconds:.1f} s",
        )
    table.caption = (
        "worst: of the single classes; early, late: the half of the classes that came first, last; "
        "online: each event predicted before it was learned; images: trained on, for each event"
    )
    return table


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
