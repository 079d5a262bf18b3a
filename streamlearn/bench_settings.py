"""What a benchmark settings file holds beside the sections of `streamlearn run`, read and checked.

Four tables of its own: `bench`, `streams`, `rows`, `tables`, and perhaps `tune`. A row is a name and any
settings that are the row's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from streamlearn.flags import Said
from streamlearn.section import Section

OWN = ("bench", "streams", "rows", "tables", "tune")
"""Tables of a benchmark settings file that are no settings of a worker."""


class BenchSection(Section):
    """What all tables have in common."""

    budgets: list[float] = Field([8.0], description="images per event that a row may train on")
    memory: list[int] = Field([200], description="examples kept, for replay and held out together")
    seeds: list[int] = Field([0, 1, 2], description="each is a class order, data and an initialisation")
    baseline: str | None = Field(None, description="row that the others are compared with, seed by seed")
    interval: int = Field(20, ge=1, description="steps between evaluations on the test subset")
    test_per_class: int = Field(100, ge=1, description="test examples of a class there, by the seed")
    split: Literal["test", "validation"] = Field(
        "test", description="what is predicted: the test set, or a part of the training data set aside"
    )
    validation: int = Field(50, ge=1, description="last training examples of a class that are set aside")
    tolerance: float = Field(0.05, ge=0, description="relative difference of budgets that is none")
    unequal: bool = Field(False, description="rank rows of unequal memory or budget too")
    processes: int | None = Field(None, ge=1, description="runs at a time; unset: one a core")


class Stream(Section):
    """A data set in an order."""

    name: str = Field("", description="unset: the data set's")
    dataset: str
    order: Literal["as_is", "independent", "class_incremental", "blurry", "recurring"] = "class_incremental"
    groups: int = Field(2, ge=1, description="classes that arrive together: a group, an evaluation set")
    classes: int | None = Field(None, ge=1, description="only the first so many of the seed's class order")
    per_class: int | None = Field(None, ge=1, description="events of a class at most")
    change_every: int | None = Field(None, ge=1, description="steps of a group, in place of per_class")
    limit: int | None = Field(None, ge=1, description="events at most")
    blur: float | None = Field(None, ge=0, le=1)
    repeats: int | None = Field(None, ge=1)


class Row(BaseModel):
    """A line of the table: its name, and settings of its own (`method.name`, `model.head`, ...)."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field(min_length=1)
    reference: bool = Field(False, description="shown, never ranked: it doesn't use the budget or the memory")


class Selection(Section):
    """One table (or several): what differs from `bench`, and which streams and rows. Unset: all."""

    streams: list[str] | None = None
    rows: list[str] | None = None
    budgets: list[float] | None = None
    memory: list[int] | None = None
    seeds: list[int] | None = None


class Tune(Selection):
    """Knobs to try, on seeds of their own and always on the validation split (`bench --tune`)."""

    grid: dict[str, list[Any]] = Field(default_factory=dict, description="setting: values, for every row")
    grids: dict[str, dict[str, list[Any]]] = Field(
        default_factory=dict, description="the same for single rows, by name"
    )


class BenchFile(Section):
    """The bench's own tables."""

    bench: BenchSection = BenchSection()
    streams: list[Stream] = Field(min_length=1)
    rows: list[Row] = Field(min_length=1)
    tables: list[Selection] = [Selection()]
    tune: Tune | None = None


# ---- reading the bench's own tables


def read_file(said: Iterable[Said], where: str, problems: list[str]) -> BenchFile | None:
    nested: dict[str, Any] = {}
    for item in said:
        table: Any = nested
        for name in item.path[:-1]:
            table = table.setdefault(name, {}) if isinstance(table, dict) else None
        if isinstance(table, dict):
            table[item.path[-1]] = _value(item)
        else:
            of = item.path[0]
            problems.append(f"{item.key} ({item.where}) can't be set: {of} isn't one table of settings")
    if not nested:
        problems.append(f"there is nothing to compare in {where}: give --config FILE, see ops/bench/*.toml")
        return None
    try:
        file = BenchFile.model_validate(nested)
    except ValidationError as error:
        problems += [_sentence(detail, where) for detail in error.errors(include_url=False)]
        return None
    named = [s.model_copy(update={"name": s.name or s.dataset}) for s in file.streams]
    file = file.model_copy(update={"streams": named})
    problems += [f"{text} ({where})" for text in _unnamed(file)]
    return file


def _value(item: Said) -> Any:
    """Text of a flag or variable: JSON, a comma separated list for what is one, or itself.

    What is no list is left to the setting's type, which knows that 1 may mean true.
    """
    if not item.text:
        return item.value
    field = BenchSection.model_fields.get(item.path[-1]) if item.path[0] == "bench" else None
    if field is not None and "list" not in str(field.annotation):
        return None if item.value == "null" else item.value
    try:
        value = json.loads(item.value)
    except ValueError:
        value = None if item.value == "null" else item.value
    if field is not None and not isinstance(value, list):
        return [part.strip() for part in item.value.split(",") if part.strip()]
    return value


def _sentence(detail: Any, where: str) -> str:
    """What is wrong in the bench's own tables, and the nearest name for one that isn't there."""
    loc = [step for step in detail["loc"] if step != "function-after"]
    name = "".join(f"[{step + 1}]" if isinstance(step, int) else f".{step}" for step in loc).lstrip(".")
    if detail["type"] == "extra_forbidden":
        known = sorted(_fields_at(loc[:-1]))
        near = get_close_matches(str(loc[-1]), known, n=1, cutoff=0.5)
        return f"unknown setting {name} ({where}): " + (
            f"did you mean {near[0]}?" if near else f"there is {', '.join(known)}"
        )
    if detail["type"] == "missing":
        return f"{name} ({where}) is missing"
    return f"{name} ({where}): {detail['input']!r}: {detail['msg'][0].lower()}{detail['msg'][1:]}"


def _fields_at(loc: Sequence[Any]) -> Iterable[str]:
    kinds: dict[str, type[BaseModel]] = {
        "bench": BenchSection, "streams": Stream, "rows": Row, "tables": Selection, "tune": Tune
    }  # fmt: skip
    return (kinds[str(loc[0])] if loc else BenchFile).model_fields


def _unnamed(file: BenchFile) -> Iterator[str]:
    """Names that are there twice or not at all, and empty lists."""
    known = {"streams": [s.name for s in file.streams], "rows": [r.name for r in file.rows]}
    for kind, names in known.items():
        if twice := next((name for name in names if names.count(name) > 1), None):
            yield f"{kind}: {twice!r} is there twice: names must differ"
    selections: list[tuple[str, Selection]] = [
        (f"tables[{number}]", table) for number, table in enumerate(file.tables, 1)
    ]
    selections += [("tune", file.tune)] if file.tune is not None else []
    asked = [("bench.baseline", "rows", [file.bench.baseline] if file.bench.baseline else [])]
    for place, table in selections:
        for kind in known:
            names = getattr(table, kind)
            if names == []:
                yield f"{place}.{kind} is []: give at least one, or leave it out for all"
            asked.append((f"{place}.{kind}", kind, names or []))
    if file.tune is not None:
        asked.append(("tune.grids", "rows", list(file.tune.grids)))
        used = {seed for table in file.tables for seed in table.seeds or file.bench.seeds}
        if not file.tune.seeds or used & set(file.tune.seeds):
            yield f"tune.seeds is {file.tune.seeds}: knobs are chosen on seeds that no table uses"
        if not (file.tune.rows or any(not row.reference for row in file.rows)):
            yield "tune: every row is a reference, none has knobs: give tune.rows"
        grids = [("tune.grid", file.tune.grid)]
        grids += [(f"tune.grids.{name}", grid) for name, grid in file.tune.grids.items()]
        empty = [f"{of}.{key}" for of, grid in grids for key, values in grid.items() if not values]
        yield from (f"{key} is []: give at least one" for key in empty)
    for place, kind, names in asked:
        for name in names:
            if name not in known[kind]:
                near = get_close_matches(name, known[kind], n=1)
                advice = f"did you mean {near[0]!r}?" if near else f"there is {', '.join(known[kind])}"
                yield f"{place}: there is no {name!r} among {kind}: {advice}"
    lists: list[tuple[str, BenchSection | Selection]] = [("bench", file.bench), *selections]
    for place, given in lists:
        for name, least in (("seeds", 0), ("memory", 1), ("budgets", 1)):
            values = getattr(given, name)
            if values is not None and (not values or min(values) < least or len(set(values)) < len(values)):
                yield f"{place}.{name} is {values}: give at least one, each at least {least}, none twice"
