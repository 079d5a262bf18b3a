"""`streamlearn bench`: a benchmark settings file becomes tables, curves and a report.

Every run goes through the same `OnlineLearner.learn` as the worker's events do. What is done stays done:
each finished run is a durable line of the results, and the next start does what is missing.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from streamlearn.bench_plan import Plan, Run, make_plan
from streamlearn.bench_pool import Ended, Pool
from streamlearn.bench_report import write_reports
from streamlearn.bench_results import Result, Results
from streamlearn.bench_summary import as_json, remarks, summarise
from streamlearn.bench_table import WIDTH, markdown, show
from streamlearn.flags import read_layers
from streamlearn.logs import complain, setup
from streamlearn.run import guarded
from streamlearn.settings import SettingsError
from streamlearn.wiring import report_writable

FORMATS = ("text", "markdown", "json")
FAILED, UNEQUAL = 1, 2


@dataclass
class Switches:
    """What the command takes beside settings."""

    tune: bool = False
    table: bool = False
    format: str = "text"
    results: str | None = None


def bench(words: Sequence[str]) -> int:
    """Run a benchmark settings file. Returns the exit status."""
    switches, flags = _split(words)
    layers = read_layers(flags, os.environ)
    plan = make_plan(layers, switches.tune)
    setup(plan.base.log.level, plan.base.log.format)
    path = (
        Path(switches.results) if switches.results else results_path(layers.config or "bench", switches.tune)
    )
    command = " ".join(["streamlearn bench", *words])
    return guarded(lambda: _bench(plan, Results(path), switches, command))


def _split(words: Sequence[str]) -> tuple[Switches, list[str]]:
    """The switches, and the settings. Raises SettingsError."""
    switches, flags, rest = Switches(), list[str](), list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if name in ("--tune", "--table", "--unequal"):
            if equals:
                raise SettingsError(f"{name} takes no value")
            if name == "--unequal":
                flags += ["--bench.unequal", "true"]
            else:
                setattr(switches, name[2:], True)
        elif name in ("--format", "--results"):
            if not equals:
                if not rest:
                    raise SettingsError(f"flag {name} needs a value")
                value = rest.pop(0)
            setattr(switches, name[2:], value)
        else:
            flags.append(word)
            if name.startswith("--") and not equals and rest:
                flags.append(rest.pop(0))
    if switches.format not in FORMATS:
        raise SettingsError(f"--format is {switches.format!r}: it must be one of {', '.join(FORMATS)}")
    return switches, flags


def results_path(config: str, tuning: bool) -> Path:
    """ops/bench/NAME.toml -> ops/bench/results/NAME.jsonl, or NAME.tune.jsonl."""
    file = Path(config)
    return file.parent / "results" / f"{file.stem}{'.tune' if tuning else ''}.jsonl"


def _bench(plan: Plan, results: Results, switches: Switches, command: str) -> int:
    report_writable(plan.base)
    failures: list[Ended] = []
    if switches.table:
        results.read()
    else:
        with results:
            failures = run_missing(plan, results, command)
    for problem in results.problems:
        complain(problem)
    tables, notes = summarise(plan, results.found), remarks(plan.runs, results.found)
    if plan.base.report is not None:
        where = write_reports(plan, results.found, tables, notes, command, datetime.now(UTC))
        complain(f"report: {where}", logging.INFO)
    if switches.format == "json":
        found = {"command": command, **as_json(tables, notes)}
        sys.stdout.buffer.write(orjson.dumps(found, option=orjson.OPT_INDENT_2) + b"\n")
    elif switches.format == "markdown":
        sys.stdout.write(markdown(tables, notes))
    else:
        console = Console()
        show(console if console.is_terminal else Console(width=WIDTH), tables, notes)
    for ended in failures:
        complain(f"failed: {ended.run}: {ended.failure}")
    unranked = [table for table in tables if table.unequal and table.unranked]
    if unranked:
        complain(
            f"{len(unranked)} of {len(tables)} tables compare what isn't equal, see there. Give the rows "
            "equal means, mark one as reference = true, or say --unequal"
        )
    return FAILED if failures else UNEQUAL if unranked else 0


# ---- doing what is missing


def run_missing(plan: Plan, results: Results, command: str) -> list[Ended]:
    """Do the runs that have no result yet; returns those that failed.

    Raises SettingsError for what would fail in every run, KeyboardInterrupt when stopped.
    """
    missing = {run.key: run for run in plan.runs if run.key not in results.found}
    keys = {run.key for run in plan.runs}
    about = {"host": host(), "command": command}
    failures: list[Ended] = []
    if not missing:
        return failures
    with _shown(len(keys), len(keys) - len(missing)) as tell:
        pool = Pool(plan.file.bench.processes or os.cpu_count() or 1, tell)
        try:
            for ended in pool.run(list(missing.values())):
                if ended.result is not None:
                    results.add(line(ended.run, ended.result) | about)
                elif ended.every_run:
                    raise SettingsError(f"{ended.run}: {ended.failure}")
                else:
                    failures.append(ended)
                tell(ended.run, 1.0)
        except KeyboardInterrupt:
            done = sum(key in results.found for key in keys)
            complain(f"stopped: {done} of {len(keys)} runs are done; the same command goes on from there")
            raise
    return failures


def line(run: Run, result: Result) -> dict[str, Any]:
    """The line of the results."""
    return {
        "key": run.key,
        "stream": run.cell.stream,
        "row": run.row,
        "memory": run.cell.memory,
        "budget": run.cell.budget,
        "seed": run.seed,
        "definition": run.definition(),
        **result,
    }


def host() -> dict[str, Any]:
    """The machine, for the figures that depend on it."""
    cpu = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    cpu = next((text.partition(":")[2].strip() for text in lines if text.startswith("model name")), cpu)
    return {"cpu": cpu, "cores": os.cpu_count(), "system": platform.platform()}


@contextmanager
def _shown(of: int, done: int) -> Iterator[Callable[[Run, float], None]]:
    """Shows on standard error how far all runs are: a bar, or a line for each one that ends."""
    console = Console(stderr=True)
    if not console.is_terminal:
        count = done
        complain(f"{done} of {of} runs are done already", logging.INFO)

        def say(run: Run, share: float) -> None:
            nonlocal count
            if share == 1.0:
                count += 1
                complain(f"{count} of {of} runs: {run}", logging.INFO)

        yield say
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[whole]}"),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(elapsed_when_finished=False),
    )
    shares: dict[str, float] = {}
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("runs", total=of - done, whole=f"{done} of {of}")

        def move(run: Run, share: float) -> None:
            shares[run.key] = share
            whole = done + sum(value == 1.0 for value in shares.values())
            progress.update(
                bar,
                completed=sum(shares.values()),
                whole=f"{whole} of {of}",
                description=f"{run.cell.stream}: {run.row}, seed {run.seed}",
            )

        yield move
