"""`streamlearn demo`: the main job on data that is at hand, several methods side by side on one stream.

The handwritten digits arrive class after class. Every learner gets the very same events through the same
codec and the same `learn` as the worker's. From time to time, and around every arrival of a new class, each
is asked about test images that are never learned, of all classes seen so far.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import torch
from rich.console import Console
from rich.live import Live

from streamlearn.cli import STOP
from streamlearn.config import CoreSettings, MethodSettings
from streamlearn.contender import QUICK, Contender
from streamlearn.continual import Continual
from streamlearn.demo_view import final_table, live_view, standing
from streamlearn.durable import Learner
from streamlearn.events import Event
from streamlearn.exam import Exam, make_exam, quick
from streamlearn.flags import load_settings
from streamlearn.logs import setup
from streamlearn.report import write_report
from streamlearn.run import guarded
from streamlearn.settings import Settings, SettingsError
from streamlearn.wiring import read_events, read_tests, report_writable

METHODS = ("finetune", "er")
"""They always race; beside them, what `method` names, if that is something else."""
POINTS = 60
"""Evaluations over the stream, beside those around the arrivals."""
AFTER = (0, 1, 2, 4)
"""Steps after which an arrival is looked at: just before it, and when it hurts most."""
MOST_ARRIVALS = 50
"""So many arrivals are looked at so closely."""
LINES = 6
"""Lines about the standing where there is no terminal."""
SO_FAR = "so far, on test examples of every class seen"
LIVE_SECONDS = 12.0
"""A live view lasts at least so long, for people to follow it; without a terminal nothing waits."""


def demo(words: Sequence[str]) -> int:
    """Run the demo. Returns the exit status."""
    base = {
        "source": {"dataset": "digits", "order": "class_incremental"},
        "memory": {"capacity": 200},
    }
    settings = load_settings(words, os.environ, base)
    setup(settings.log.level, settings.log.format)
    return guarded(lambda: _demo(settings))


def _demo(settings: Settings) -> int:
    if settings.source.dataset is None:
        raise SettingsError("the demo runs on a data set: set source.dataset (digits needs nothing else)")
    report_writable(settings)
    torch.set_deterministic_debug_mode("error")
    console = Console()
    events, tests = read_events(settings), read_tests(settings)
    order = list(dict.fromkeys(str(event.y) for event in events))
    contenders = _contenders(settings)
    arranged = settings.source.order or "natural order"
    console.print(
        f"{settings.source.dataset}: {len(events)} events of {len(order)} classes, "
        f"{settings.source.groups} new ones at a time ({arranged}), each seen once; "
        f"{len(tests)} test examples that are never learned"
    )
    exam = make_exam(tests, settings.seed)
    curves = _race(console, contenders, events, quick(exam, QUICK), order)
    if STOP.asked is not None:
        if contenders[0].accuracy:
            console.print(final_table(contenders, [*contenders[0].by_class], SO_FAR))
        unwritten = "" if settings.report is None else "; no report is written, it would be of a part"
        done = contenders[0].learner.counts.records
        text = f"{STOP.asked.name}: stopped after {done} of {len(events)} events{unwritten}"
        console.print(text, soft_wrap=True)
        return 0
    _refuse_nothing(contenders[0].learner, len(events))
    console.print(final_table(contenders, order))
    if settings.report is None:
        console.print("(--report DIR keeps the figures and draws them)")
        return 0
    figures = {each.name: each.summary(exam) for each in contenders}
    # Along the way fewer were asked than at the end.
    some = {"test_per_class": QUICK} if max(map(len, exam.values())) > QUICK else {}
    folder = write_report(settings, figures, curves, datetime.now(UTC), some)
    console.print(f"report: {folder / 'report.html'}", soft_wrap=True)
    return 0


def _refuse_nothing(learner: Learner, events: int) -> None:
    """Raises SettingsError where no event could be used."""
    counts = learner.counts
    if not counts.records:
        raise SettingsError(
            f"not one of {events} events could be used ({counts.reasons}): do the codec's settings fit the "
            "data set?"
        )


def _contenders(settings: Settings) -> list[Contender]:
    """METHODS, and what `method` names with its modifiers. Raises SettingsError."""
    racing = {name: _with_method(settings, name) for name in METHODS}
    own = settings.method
    # The default goes by that name: its own is long, and says less to who sees it for the first time.
    name = "default" if own == CoreSettings().method else " + ".join([own.name, *own.modifiers])
    racing.setdefault(name, settings)
    try:
        windows = settings.evaluation.windows
        return [Contender(name, Learner(each), Continual(windows)) for name, each in racing.items()]
    except ValueError as error:
        raise SettingsError(str(error)) from error


def _race(
    console: Console,
    contenders: Sequence[Contender],
    events: Sequence[Event],
    exam: Exam,
    order: Sequence[str],
) -> list[dict[str, Any]]:
    """Give all events to every contender, showing how they fare; returns the curves' rows."""
    curves: list[dict[str, Any]] = []
    seen: dict[str, None] = {}
    places = stops([str(event.y) for event in events], contenders[0].learner.batch)
    said = 0
    pause = LIVE_SECONDS / len(places) if console.is_terminal else 0.0
    live = Live(console=console, auto_refresh=False) if console.is_terminal else None
    context: AbstractContextManager[Any] = live if live is not None else nullcontext()
    with context:
        for begin, done in pairwise([0, *places]):
            if STOP.asked is not None:
                break
            begun = time.perf_counter()
            part = events[begin:done]
            fresh = [label for label in dict.fromkeys(str(event.y) for event in part) if label not in seen]
            seen.update(dict.fromkeys(fresh))
            for each in contenders:
                each.learn(part, begin, fresh, done == len(events))
                each.evaluate(exam, done)
                curves.append(each.row(done))
            if live is not None:
                live.update(live_view(contenders, order, len(seen), done, len(events)), refresh=True)
                time.sleep(max(0.0, pause - (time.perf_counter() - begun)))
            elif done * LINES // len(events) > said:
                said = done * LINES // len(events)
                console.print(standing(contenders, done, len(seen)), soft_wrap=True)
    return curves


def stops(labels: Sequence[str], batch: int) -> list[int]:
    """Where the learners are asked, in numbers of events: evenly, and around the arrivals of new classes.

    The last one is the end. A stop lies just before the first event of a new class, and none in the batch
    that it begins: classes that come as close together as that are one arrival.
    """
    stride = max(1, -(-len(labels) // POINTS))
    places = set(range(stride, len(labels), stride))
    first: dict[str, int] = {}
    for place, label in enumerate(labels):
        first.setdefault(label, place)
    came: list[int] = []
    for place in first.values():
        if not came or place >= came[-1] + batch:
            came.append(place)
    if len(came) <= MOST_ARRIVALS:
        for place in came:
            places.update(place + steps * batch for steps in AFTER)
            places.difference_update(range(place + 1, place + batch))
    return [*sorted(place for place in places if 0 < place < len(labels)), len(labels)]


def _with_method(settings: Settings, name: str) -> Settings:
    method = MethodSettings(name=name, **settings.method.model_extra or {})
    return settings.model_copy(update={"method": method})
