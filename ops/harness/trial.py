"""The whole trial: reference run, killed run, comparison, report."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ops.bench.common import made_with
from ops.harness.compare import Check, Result, compare
from ops.harness.cover import FEWEST_TO_COVER, lacking
from ops.harness.forks import FRESH
from ops.harness.life import HarnessError, Life, live
from ops.harness.place import Place
from ops.harness.stream import FORMATS, MOST_CLASSES, Stream, write_stream
from streamlearn.cli import main as streamlearn

AIMS = {"progress": 0.45, "write": 0.35, "reading again": 0.06, "SIGTERM": 0.1, "start-up": 0.04}
"""Shares of the lives. Only kills that hit work count; those of "start-up" never do."""
FIRST = ("start-up", "write", "SIGTERM", "progress")
"""The first lives, so that these are among however few: an empty folder is killed at its first checkpoint."""
MOST_ENLARGED = 4


@dataclass(frozen=True)
class Plan:
    """What is asked for."""

    method: str
    kills: int = 100
    events: int = 20_000
    seed: int = 0
    modifiers: str = ""
    format: str = "jsonl"
    stdin: bool = False
    checkpoint_events: int | None = None
    extra: tuple[str, ...] = ()

    def options(self, events: int) -> tuple[str, ...]:
        every = self.checkpoint_events or max(10, 2 * events // (3 * self.kills))
        options = ["--method.name", self.method, "--seed", str(self.seed), "--memory.capacity", "500"]
        # Held-out sets and every predictor, whatever the method's own: they are state like the rest.
        options += ["--evaluation.held_out", "0.05", "--serving.predictor", "auto"]
        options += ["--codec.max_classes", str(MOST_CLASSES), "--checkpoint.events", str(every)]
        if self.modifiers:
            options += ["--method.modifiers", self.modifiers]
        return (*options, *self.extra)


@dataclass
class Outcome:
    """What came of it."""

    plan: Plan
    events: int = 0
    seconds: float = 0.0
    reference_seconds: float = 0.0
    events_per_second: float = 0.0
    lives: list[Life] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    error: str = ""

    @property
    def passed(self) -> bool:
        return not self.error and bool(self.checks) and all(check.kept for check in self.checks)

    @property
    def kills(self) -> list[Life]:
        return [life for life in self.lives if life.counted]

    @property
    def lacks(self) -> str:
        """What the next life is for; "" when there were kills enough, of both kinds of moments."""
        kills = self.kills
        hit = {
            "write": any(life.in_write for life in kills),
            "progress": not all(life.during for life in kills),
        }
        return lacking(len(kills), self.plan.kills, hit)

    def figures(self) -> dict[str, Any]:
        kills, stopped = self.kills, [life for life in self.lives if life.stopped]
        killed = [life for life in self.lives if life.status == -9]
        ready = [life.start_seconds for life in self.lives if life.start_seconds]
        return {
            "kills that hit work": len(kills),
            "of these in a checkpoint write": sum(life.in_write for life in kills),
            "  in which file": dict(Counter(life.during for life in kills if life.in_write)),
            "of these while pruning": sum(life.during == "pruning" for life in kills),
            "of these during other work": sum(not life.during for life in kills),
            "of these that kept nothing new (C stood)": sum(not life.new_records for life in kills),
            "of these without a new output (P stood)": sum(not life.new_bytes for life in kills),
            "kills besides (start-up, before any sign of work)": len(killed) - len(kills),
            "ended by SIGTERM, status 0": len(stopped),
            "starts": len(self.lives),
            "events": self.events,
            "events/s of the reference": round(self.events_per_second),
            "seconds per start-up": round(sum(ready) / max(1, len(ready)), 2),
            "seconds": round(self.seconds),
        }

    def plain(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "error": self.error,
            "plan": asdict(self.plan),
            "figures": self.figures(),
            "checks": [asdict(check) for check in self.checks],
            "lives": [life.plain() for life in self.lives],
        }


def attempt(plan: Plan, work: Path, say: bool = True) -> Outcome:
    """Do what `plan` asks for below `work`; the stream grows until the kills find room in it."""
    outcome = Outcome(plan, plan.events)
    begun = time.monotonic()
    try:
        for _ in range(MOST_ENLARGED):
            if _tried(outcome, work, say):
                break
            _say(say, f"the stream ended after {len(outcome.kills)} kills: again with twice as many events\n")
            outcome.events *= 2
        else:
            raise HarnessError(f"{outcome.events // 2} events were too few for {plan.kills} kills")
    except HarnessError as error:
        outcome.error = str(error)
    except KeyboardInterrupt:
        outcome.error = "interrupted: nothing was compared"
    outcome.seconds = time.monotonic() - begun
    return outcome


def _tried(outcome: Outcome, work: Path, say: bool) -> bool:
    """One attempt with a stream of this length; False if it ended before all kills were done."""
    plan = outcome.plan
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    stream = write_stream(work, plan.format, outcome.events, plan.seed)
    options = plan.options(outcome.events)
    reference, killed = (
        Place(stream.path, work / name, plan.stdin, plan.format, options) for name in ("reference", "killed")
    )
    outcome.lives = []
    dice = random.Random(plan.seed)
    _say(say, f"{plan.method}: the reference run, {outcome.events} events …\n")
    whole = live(reference, "finish", 0, 0.0, dice)
    working = whole.seconds - whole.start_seconds
    outcome.reference_seconds = whole.seconds
    outcome.events_per_second = outcome.events / max(working, 0.001)
    total, delay = reference.size(), working / (1.1 * plan.kills + 2)
    while outcome.lacks:
        done = len(outcome.kills)
        drawn = dice.choices([*AIMS], [*AIMS.values()])[0] if done < plan.kills else outcome.lacks
        aim = FIRST[len(outcome.lives)] if len(outcome.lives) < len(FIRST) else drawn
        reach = round(total * (done + dice.random()) / (1.1 * plan.kills + 2))
        life = live(killed, aim, reach, delay, dice, dice.random() < FRESH)
        outcome.lives.append(life)
        _progress(say, outcome, killed, stream)
        if life.finished:
            return False
    outcome.lives.append(live(killed, "finish", 0, 0.0, dice))
    _progress(say, outcome, killed, stream)
    _say(say, "\n")
    outcome.checks = [
        *compare(stream, _result(reference), _result(killed)),
        Check("SIGTERM while it worked: status 0", any(life.stopped for life in outcome.lives), ""),
    ]
    if len(outcome.kills) >= FEWEST_TO_COVER:
        outcome.checks += [
            Check("kills inside a checkpoint write", any(life.in_write for life in outcome.kills), ""),
            Check("kills during other work", any(not life.during for life in outcome.kills), ""),
        ]
    return True


def _result(place: Place) -> Result:
    shown, verified = (asked(verb, place.state) for verb in ("show", "verify"))
    return Result(place.predictions, place.dead_letters, place.state, shown, verified)


def asked(verb: str, folder: Path) -> Any:
    """What `streamlearn checkpoints VERB --json` prints (in this process: torch is imported only once)."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        status = streamlearn(["checkpoints", verb, str(folder), "--json"])
    try:
        return json.loads(text.getvalue())
    except ValueError:
        raise HarnessError(f"checkpoints {verb} {folder}: status {status}") from None


def _progress(say: bool, outcome: Outcome, place: Place, stream: Stream) -> None:
    kills = outcome.kills
    writes = sum(life.in_write for life in kills)
    stopped = sum(life.stopped for life in outcome.lives)
    text = (
        f"{outcome.plan.method}: {len(kills)}/{outcome.plan.kills} kills ({writes} in a checkpoint write), "
        f"{stopped} SIGTERM, {len(outcome.lives)} starts, record {place.durable()} of {stream.records}"
    )
    if sys.stderr.isatty():
        _say(say, f"\r\x1b[K{text}")
    elif len(outcome.lives) % 10 == 0:
        _say(say, f"{text}\n")


def _say(say: bool, text: str) -> None:
    if say:
        print(text, end="", file=sys.stderr, flush=True)


def table(outcome: Outcome) -> str:
    """The report for people."""
    plan = outcome.plan
    fed = f"{plan.format}{' through a pipe' if plan.stdin else ''}"
    rows = [f"method {plan.method} {plan.modifiers}, {fed}, seed {plan.seed}"]
    rows += [f"  {name:<50} {value}" for name, value in outcome.figures().items()]
    rows += [f"  {'ok  ' if c.kept else 'FAIL'} {c.name:<48} {c.detail}" for c in outcome.checks]
    if outcome.error:
        rows.append(f"  FAIL {outcome.error}")
    rows.append("PASS" if outcome.passed else "FAIL")
    return "\n".join(rows)


def main(words: Sequence[str] | None = None) -> int:
    """The command. Returns 0 if every promise was kept, else 1."""
    parser = argparse.ArgumentParser(
        prog="kill_harness.py",
        description="Kills `streamlearn run` over a file at random moments, starts it again, lets it finish, "
        "and compares all that it leaves with a run that was never stopped.",
        epilog="What stands behind -- goes to `streamlearn run` as it is.",
    )
    parser.add_argument("--method", default="er", help="one of `streamlearn methods` (default er)")
    parser.add_argument("--modifiers", default="", help="modifiers, comma separated")
    parser.add_argument("--kills", type=int, default=100, help="kills that must hit work (default 100)")
    parser.add_argument("--events", type=int, default=20_000, help="length of the stream (default 20000)")
    parser.add_argument("--seed", type=int, default=0, help="of stream, model and moments (default 0)")
    parser.add_argument("--format", choices=FORMATS, default="jsonl", help="of the stream (default jsonl)")
    parser.add_argument("--stdin", action="store_true", help="feed it through a pipe")
    parser.add_argument("--checkpoint-events", type=int, help="checkpoint.events (default: 1.5 a kill)")
    parser.add_argument("--work", type=Path, help="folder to work in, emptied first, kept afterwards")
    parser.add_argument("--json", type=Path, help="write figures, checks and every life to this file")
    parser.add_argument("extra", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    if given.kills < 1 or given.events < 100:
        parser.error("--kills must be at least 1 and --events at least 100")
    plan = Plan(
        given.method,
        given.kills,
        given.events,
        given.seed,
        given.modifiers,
        given.format,
        given.stdin,
        given.checkpoint_events,
        tuple(given.extra),
    )
    about = made_with()
    with contextlib.ExitStack() as stack:
        work = given.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kill-")))
        outcome = attempt(plan, work / plan.method)
    print(table(outcome))
    if given.json is not None:
        given.json.write_text(json.dumps({**about, **outcome.plain()}, indent=1))
    return 0 if outcome.passed else 1
