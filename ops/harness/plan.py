"""What is asked of the trial over a real broker, and what came of it."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from ops.harness.campaign import Act
from ops.harness.compare import Check
from ops.harness.cover import lacking
from ops.harness.forks import FRESH
from ops.harness.stream import MOST_CLASSES

ABSENCES = ("killed", "frozen", "killed, worker too")


@dataclass(frozen=True)
class Plan:
    """What is asked for."""

    kills: int = 100
    events: int = 200_000
    partitions: int = 1
    mode: str = "exactly_once"
    broker_kills: int = 3
    absences: tuple[float, ...] = (65.0,)
    stops: int = 2
    standbys: int = 3
    start_ups: int = 3
    terminations: int = 3
    method: str = "er"
    modifiers: str = ""
    seed: int = 0
    checkpoint_seconds: float = 0.3
    fresh: float = FRESH
    extra: tuple[str, ...] = ()

    @property
    def exactly_once(self) -> bool:
        return self.mode == "exactly_once"

    @property
    def classes(self) -> int:
        """One too many only where the order says which one that is: several partitions have none."""
        return MOST_CLASSES + (self.partitions == 1)

    def options(self) -> tuple[str, ...]:
        options = ["--method.name", self.method, "--seed", str(self.seed), "--memory.capacity", "500"]
        # Held-out sets and every predictor, whatever the method's own: they are state like the rest.
        options += ["--evaluation.held_out", "0.05", "--serving.predictor", "auto"]
        options += ["--codec.max_classes", str(MOST_CLASSES), "--delivery.ledger", "true"]
        options += ["--delivery.mode", self.mode, "--sink.commit_interval", "0.05", "--sink.headers", "trace"]
        options += ["--checkpoint.seconds", str(self.checkpoint_seconds)]
        if self.modifiers:
            options += ["--method.modifiers", self.modifiers]
        return (*options, *self.extra)

    def schedule(self, dice: random.Random) -> list[tuple[str, str, float]]:
        """Kinds, aims and durations of all acts but the kills, in the order in which they come."""
        acts = [("broker kill", "", 0.0)] * self.broker_kills
        acts += [("absence", ABSENCES[i % 3], seconds) for i, seconds in enumerate(self.absences)]
        acts += [("stop", "", 0.0)] * self.stops + [("standby", "", 0.0)] * self.standbys
        acts += [("start-up", "", 0.0)] * self.start_ups + [("SIGTERM", "", 0.0)] * self.terminations
        dice.shuffle(acts)
        return acts


@dataclass
class Outcome:
    """What came of it."""

    plan: Plan
    seconds: float = 0.0
    reference_seconds: float = 0.0
    started: int = 0
    start_seconds: float = 0.0
    statuses: dict[str, int] = field(default_factory=dict)
    acts: list[Act] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    error: str = ""

    @property
    def passed(self) -> bool:
        return not self.error and bool(self.checks) and all(check.kept for check in self.checks)

    @property
    def kills(self) -> list[Act]:
        return [act for act in self.acts if act.counted]

    @property
    def lacks(self) -> str:
        """What the next kill is for; "" when there were enough, in a write and in a transaction too."""
        kills = self.kills
        hit = {"write": any(act.in_write for act in kills)}
        if self.plan.exactly_once:
            hit["transaction"] = any(act.in_transaction for act in kills)
        return lacking(len(kills), self.plan.kills, hit)

    def figures(self) -> dict[str, Any]:
        kills, kinds = self.kills, Counter(act.kind for act in self.acts)
        writes = [act for act in kills if act.in_write]
        return {
            "kills that hit work": len(kills),
            "of these in a transaction": sum(act.in_transaction for act in kills),
            "of these in a checkpoint write": len(writes),
            "  in which file": dict(Counter(act.during for act in writes)),
            "  in a transaction as well": sum(act.in_transaction for act in writes),
            "of these while pruning": sum(act.during == "pruning" for act in kills),
            "kills besides (start-up, nothing to be seen of work)": sum(
                act.kind in ("kill", "start-up") and not act.counted for act in self.acts
            ),
            "broker kills": kinds["broker kill"],
            "absences of the broker, seconds": [
                f"{act.seconds:.0f} ({act.aim})" for act in self.acts if act.kind == "absence"
            ],
            "workers that outlived these": sum(
                bool(act.survived) for act in self.acts if act.kind in ("broker kill", "absence")
            ),
            "SIGSTOPs longer than the session": kinds["stop"],
            "joining standbys": kinds["standby"],
            "  that the learner didn't mind": sum(
                bool(act.survived) for act in self.acts if act.kind == "standby"
            ),
            "take-overs by a standby": sum(act.taken_over for act in self.acts),
            "ended by SIGTERM, status 0": self.statuses.get("0 after SIGTERM", 0),
            "statuses seen": self.statuses,
            "starts": self.started,
            "events": self.plan.events,
            "seconds per start-up": self.start_seconds,
            "seconds of the reference": round(self.reference_seconds),
            "seconds": round(self.seconds),
        }

    def plain(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "error": self.error,
            "plan": asdict(self.plan),
            "figures": self.figures(),
            "checks": [asdict(check) for check in self.checks],
            "acts": [asdict(act) for act in self.acts],
        }


def table(outcome: Outcome) -> str:
    """The report for people."""
    plan = outcome.plan
    rows = [f"{plan.mode}, {plan.partitions} partition(s), {plan.method} {plan.modifiers}, seed {plan.seed}"]
    rows += [f"  {name:<54} {value}" for name, value in outcome.figures().items()]
    rows += [f"  {'ok  ' if c.kept else 'FAIL'} {c.name:<60} {c.detail}" for c in outcome.checks]
    if outcome.error:
        rows.append(f"  FAIL {outcome.error}")
    rows.append("PASS" if outcome.passed else "FAIL")
    return "\n".join(rows)
