"""The runs that a benchmark settings file asks for, and what each one's result is known by."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from streamlearn.bench_settings import OWN, BenchFile, BenchSection, Row, Selection, Stream, read_file
from streamlearn.config import LEAST_HELD_OUT, CoreSettings
from streamlearn.flags import Layers, Said, said_in, settle
from streamlearn.method import chain, make_method
from streamlearn.settings import Settings, SettingsError

TAKEN = {
    "seed": "bench.seeds gives the seeds",
    "memory.capacity": "bench.memory gives the memory sizes",
    "evaluation.capacity": "a share of bench.memory; a row may set it",
    "learning.images_per_event": "bench.budgets gives the images per event",
    "learning.memory_batch": "bench.budgets gives the images per event; a row may set it",
}
"""Settings that the bench itself sets, and what says so; a row may still set all but the seed."""


@dataclass(frozen=True)
class Cell:
    """What one table compares: one stream, memory size and budget; `about`: the row that is tuned."""

    stream: str
    memory: int
    budget: float
    about: str = ""


@dataclass(frozen=True)
class Run:
    """One learner on one stream. `key` names all that its figures depend on, beside the code."""

    cell: Cell
    row: str
    seed: int
    settings: Settings
    evaluation: dict[str, Any]
    key: str
    reference: bool

    def definition(self) -> dict[str, Any]:
        return definition(self.settings, self.evaluation)

    def __str__(self) -> str:
        cell = self.cell
        return (
            f"{self.row}, {cell.stream}, memory {cell.memory}, {cell.budget:g} images an event, "
            f"seed {self.seed}"
        )


@dataclass(frozen=True)
class Plan:
    """All runs, in the order in which they are done: first one seed of everything."""

    file: BenchFile
    base: Settings
    runs: list[Run]
    tuning: bool


def make_plan(layers: Layers, tuning: bool = False) -> Plan:
    """The runs of a benchmark settings file and what was said beside it. Raises SettingsError."""
    where = f"file {layers.config}" if layers.config else "no file"
    if layers.problems:
        raise SettingsError(*layers.problems)
    problems: list[str] = []
    rest = [item for item in layers.said if item.path[0] not in OWN]
    for item in rest:
        if item.key in TAKEN or item.path[0] == "source":
            why = TAKEN.get(item.key, "streams say what is read")
            problems.append(f"{item.key} ({item.where}) can't be set for a whole benchmark: {why}")
    file = read_file([item for item in layers.said if item.path[0] in OWN], where, problems)
    if problems or file is None:
        raise SettingsError(*problems)
    base = settle(rest)
    tables: list[tuple[Selection, str]] = [(table, "") for table in file.tables]
    if tuning:
        file, tables = _tuned(file, where)
    runs: dict[tuple[Cell, str, int], Run] = {}
    for selection, about in tables:
        for run in _runs(file, selection, about, rest, where):
            runs.setdefault((run.cell, run.row, run.seed), run)
    return Plan(file, base, _in_turns(list(runs.values())), tuning)


def _in_turns(runs: Sequence[Run]) -> list[Run]:
    """First seeds first, so that a partial table has equally many of each row."""
    before: Counter[tuple[Cell, str]] = Counter()
    turns = []
    for run in runs:
        turns.append(before[run.cell, run.row])
        before[run.cell, run.row] += 1
    return [run for _, run in sorted(zip(turns, runs, strict=True), key=lambda pair: pair[0])]


def _tuned(file: BenchFile, where: str) -> tuple[BenchFile, list[tuple[Selection, str]]]:
    """The file whose rows are the variants of `tune`, and one table for each row."""
    tune = file.tune
    if tune is None:
        raise SettingsError(f"{where} has no [tune] table: there is nothing to tune")
    wanted = tune.rows or [row.name for row in file.rows if not row.reference]
    rows: list[Row] = []
    tables: list[tuple[Selection, str]] = []
    for row in file.rows:
        if row.name in wanted:
            grid = {**tune.grid, **tune.grids.get(row.name, {})}
            chosen = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
            variants = [_variant(row, values) for values in chosen]
            rows += variants
            names = {"rows": [variant.name for variant in variants]}
            tables.append(
                (Selection(**tune.model_dump(include=set(Selection.model_fields)) | names), row.name)
            )
    bench = file.bench.model_copy(update={"split": "validation", "baseline": None})
    return file.model_copy(update={"bench": bench, "rows": rows}), tables


def _variant(row: Row, chosen: Mapping[str, Any]) -> Row:
    """The row with other settings, named by them."""
    values = row.model_dump()
    for key, value in chosen.items():
        *above, last = key.split(".")
        table = values
        for name in above:
            table[name] = dict(table.get(name) or {})
            table = table[name]
        table[last] = value
    said = ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in chosen.items())
    return Row(**values | {"name": f"{row.name}: {said}" if said else row.name})


# ---- the runs of one table


def _runs(
    file: BenchFile, selection: Selection, about: str, rest: Sequence[Said], where: str
) -> Iterator[Run]:
    bench = file.bench
    streams = [s for s in file.streams if selection.streams is None or s.name in selection.streams]
    rows = [r for r in file.rows if selection.rows is None or r.name in selection.rows]
    evaluation = {
        "split": bench.split,
        "interval": bench.interval,
        "test_per_class": bench.test_per_class,
        "drawn_by": "seed",  # see `exam`
    }
    memories, budgets = selection.memory or bench.memory, selection.budgets or bench.budgets
    for stream, memory, budget in itertools.product(streams, memories, budgets):
        cell = Cell(stream.name, memory, budget, about)
        for row, seed in itertools.product(rows, selection.seeds or bench.seeds):
            settings = _settings(cell, stream, row, seed, rest, where, bench)
            key = key_of(definition(settings, evaluation))
            yield Run(cell, row.name, seed, settings, evaluation, key, row.reference)


def _settings(
    cell: Cell, stream: Stream, row: Row, seed: int, rest: Sequence[Said], where: str, bench: BenchSection
) -> Settings:
    """Of one run: file < memory, budget and seed < row < environment and flags."""
    place = f"row {row.name} of {where}"
    own = list(said_in(row.model_extra or {}, place))
    keys = {item.key for item in own}
    if wrong := next((item for item in own if item.key == "seed" or item.path[0] == "source"), None):
        raise SettingsError(f"{wrong.key} ({place}) can't be a row's own: rows are compared on equal streams")
    given: dict[str, Any] = {"seed": seed, **_source(stream)}
    if "learning.memory_batch" not in keys:
        given["learning"] = {"images_per_event": cell.budget}
    # What came as text came from the environment or a flag: it has the last word.
    from_file, later = ([item for item in rest if item.text is text] for text in (False, True))
    settings = settle([*from_file, *said_in(given, f"bench of {where}"), *own, *later])
    if "memory.capacity" not in keys:
        settings = with_memory(settings, cell.memory)
    if examples(settings) != cell.memory and not (bench.unequal or row.reference):
        raise SettingsError(
            f"{place} keeps {examples(settings)} examples where the table's memory is {cell.memory}: "
            "such rows can't be ranked. Leave memory.capacity and evaluation.capacity to the bench, mark "
            "the row as reference = true, or say --unequal"
        )
    _method_exists(settings, place)
    return _at_pace(settings, stream, bench)


def examples(settings: CoreSettings) -> int:
    """Most examples that a learner keeps: for replay and in its own held-out sets."""
    return settings.memory.capacity + (settings.settled_evaluation().capacity or 0)


def with_memory(settings: Settings, total: int) -> Settings:
    """The settings with `total` examples, of which held-out sets take their capacity and replay the rest.

    Where the share is not set it is as though all were for replay; where their capacity is not set, an
    eleventh (a tenth of what replay has) and LEAST_HELD_OUT at least. Raises SettingsError.
    """
    memory = settings.memory.model_copy(update={"capacity": total})
    evaluation = settings.model_copy(update={"memory": memory}).settled_evaluation()
    if evaluation.held_out and settings.evaluation.capacity is None:
        evaluation = evaluation.model_copy(update={"capacity": max(LEAST_HELD_OUT, total // 11)})
    left = total - (evaluation.capacity or 0)
    if left < 1:
        raise SettingsError(
            f"a memory of {total} examples leaves none for replay: evaluation.capacity is "
            f"{evaluation.capacity}"
        )
    memory = settings.memory.model_copy(update={"capacity": left})
    return settings.model_copy(update={"memory": memory, "evaluation": evaluation})


def _source(stream: Stream) -> dict[str, Any]:
    options = stream.model_dump(include={"classes", "limit", "blur", "repeats"}, exclude_none=True)
    source = {"dataset": stream.dataset, "order": stream.order, "groups": stream.groups}
    return {"source": {**source, "options": options}}


def _at_pace(settings: Settings, stream: Stream, bench: BenchSection) -> Settings:
    """With the events of a class, which may follow from the steps of a group, and the validation part."""
    per_class = stream.per_class
    if stream.change_every is not None:
        events, odd = divmod(stream.change_every * settings.learning.stream_batch, stream.groups)
        if per_class is not None or odd or not events:
            raise SettingsError(
                f"stream {stream.name}: change_every {stream.change_every} wants no per_class, and "
                f"{stream.change_every} steps of {settings.learning.stream_batch} events must be a multiple "
                f"of groups = {stream.groups}"
            )
        per_class = events
    options = dict(settings.source.options)
    if per_class is not None:
        options["per_class"] = per_class
    if bench.split == "validation":
        options["validation"] = bench.validation
    return settings.model_copy(update={"source": settings.source.model_copy(update={"options": options})})


def _method_exists(settings: Settings, place: str) -> None:
    try:
        make_method(settings.method)
    except ValueError as error:
        raise SettingsError(f"{place}: {error}") from error


# ---- what a result is known by


def definition(settings: Settings, evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """All that the figures depend on beside code and machine: the learner's settings, whole, with the
    parameters of its method as they are filled by default; the stream; the evaluation."""
    core = {name: getattr(settings, name) for name in CoreSettings.model_fields}
    layers = reversed(chain(make_method(settings.method)))
    names = [settings.method.name, *settings.method.modifiers]
    return {
        "settings": CoreSettings(**core).model_dump(mode="json"),
        "parameters": {
            n: layer.params.model_dump(mode="json") for n, layer in zip(names, layers, strict=True)
        },
        "stream": settings.source.model_dump(mode="json", include={"dataset", "order", "groups", "options"}),
        "evaluation": dict(evaluation),
    }


def key_of(what: Mapping[str, Any]) -> str:
    """SHA-256 of a definition, 16 hexadecimal digits."""
    text = json.dumps(what, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
