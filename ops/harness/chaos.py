"""The trial over a real broker: a group of workers under fire, a worker in peace, and how they compare."""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ops.bench.common import made_with
from ops.harness import outputs
from ops.harness.acts import act
from ops.harness.campaign import BROKER_SECONDS, LEAST_CHUNK, WORK_SECONDS, Campaign, Group
from ops.harness.compare import Check, parts, surplus, whole
from ops.harness.cover import FEWEST_TO_COVER
from ops.harness.life import HarnessError
from ops.harness.outputs import Expected, Position
from ops.harness.plan import Outcome, Plan, table
from ops.harness.stream import write_stream
from ops.harness.topics import Message, read
from ops.harness.trial import asked
from ops.kafka.broker import Broker
from ops.kafka.jars import BrokerError

AIMS = {"progress": 0.4, "transaction": 0.25, "write": 0.29, "reading again": 0.06}
FIRST = ("progress", "write", "transaction")
"""Aims of the first kills, so that these are among however few."""
MOST_TRIES = 5
"""So often a kill is tried again, on average, if it hits no work."""


def attempt(plan: Plan, work: Path, broker: Broker, say: bool = True) -> Outcome:
    """Do what `plan` asks for, with topics of its own on a broker that nobody else uses."""
    outcome = Outcome(plan)
    begun = time.monotonic()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    dice = random.Random(plan.seed)
    messages, expected = events(plan, work)
    token = secrets.token_hex(3)
    groups = [
        Group(
            f"{token}-{name}",
            f"{token}-events",
            f"{token}-{name}.predictions",
            f"{token}-{name}.dead_letters",
            work / name,
            broker.address,
            plan.options(),
        )
        for name in ("chaos", "reference")
    ]
    campaign = Campaign(groups[0], broker, messages, dice, plan.fresh)
    try:
        for name in (groups[0].topic, *(t for g in groups for t in (g.predictions, g.dead_letters))):
            campaign.asker.make({name: plan.partitions})
        _fire(campaign, outcome, say)
        outcome.checks = _checks(campaign, expected, outcome, groups[1], say)
    except (HarnessError, BrokerError) as error:
        outcome.error = str(error)
    except KeyboardInterrupt:
        outcome.error = "interrupted: nothing was compared"
    finally:
        campaign.abandon()
    outcome.seconds = time.monotonic() - begun
    return outcome


def events(plan: Plan, work: Path) -> tuple[list[Message], Expected]:
    """The stream as messages, and what must become of them."""
    stream = write_stream(work, "jsonl", plan.events, plan.seed, plan.classes)
    dice = random.Random(plan.seed)
    messages: list[Message] = []
    places: list[Position] = []
    ends = [0] * plan.partitions
    for number, line in enumerate(stream.path.read_bytes().split(b"\n")[:-1]):
        partition = dice.randrange(plan.partitions)
        key = f"key {number % 97}".encode() if number % 5 else None
        # What is empty comes without any value as often.
        value = None if not line and key and number % 2 else line
        message = Message(partition, value, key, (("trace", f"{number}".encode()),), ends[partition])
        messages.append(message)
        places.append((partition, ends[partition]))
        ends[partition] += 1
    dead = frozenset(places[i] for i in stream.dead)
    predicted = frozenset(places[i] for i in stream.predicted)
    labeled = frozenset(places[i] for i in stream.labeled)
    return messages, Expected(dict(zip(places, messages, strict=True)), predicted, dead, labeled)


def _fire(campaign: Campaign, outcome: Outcome, say: bool) -> None:
    """All acts; then all events, and an orderly end."""
    plan, dice = outcome.plan, campaign.dice
    others = plan.schedule(dice)
    acts_left, tries = plan.kills + len(others), 0
    spaces = plan.kills / (len(others) + 1)
    whens = [spaces * (i + 1) for i in range(len(others))]
    while outcome.lacks or others:
        campaign.share = max(LEAST_CHUNK, (plan.events - campaign.fed) // (acts_left + 2))
        killed = len(outcome.kills)
        if others and killed >= whens[-len(others)]:
            done = act(campaign, *others.pop(0))
        else:
            drawn = dice.choices([*AIMS], [*AIMS.values()])[0] if killed < plan.kills else outcome.lacks
            aim = FIRST[killed] if killed < len(FIRST) else drawn
            if aim == "transaction" and not plan.exactly_once:
                aim = "progress"
            done = act(campaign, "kill", aim)
            tries += not done.counted
        outcome.acts.append(done)
        acts_left = max(0, plan.kills - len(outcome.kills)) + len(others)
        outcome.started, outcome.statuses = campaign.started, dict(campaign.statuses)
        _progress(say, outcome, campaign)
        if tries > MOST_TRIES * plan.kills:
            raise HarnessError(f"{tries} kills hit no work")
        if campaign.fed == plan.events:
            if acts_left:
                raise HarnessError(f"all events were done {acts_left} acts too early: give more --events")
            break
    campaign.feed(plan.events)
    campaign.until(
        lambda: (campaign.members or [campaign.start()]) and campaign.done(),
        WORK_SECONDS,
        "not all events were answered",
    )
    member = campaign.learner()
    for other in [m for m in campaign.members if m is not member]:
        campaign.end(other)
    if campaign.end(member) != 0:
        raise HarnessError(f"{member.log}: its end was not orderly")
    campaign.promised()
    outcome.started, outcome.statuses = campaign.started, dict(campaign.statuses)
    typical = sorted(campaign.start_seconds)
    outcome.start_seconds = round(typical[len(typical) // 2], 2) if typical else 0.0


def _checks(campaign: Campaign, expected: Expected, outcome: Outcome, group: Group, say: bool) -> list[Check]:
    plan, killed, broker = outcome.plan, campaign.group, campaign.broker
    shown = asked("show", killed.state)
    once = plan.exactly_once
    found = _found(killed, broker, plan)
    checks = [
        outputs.learned(shown, expected, "chaos"),
        outputs.ledger(shown, expected, "chaos"),
        outputs.answered(found[0], expected.predicted, "predictions", once),
        outputs.answered(found[1], expected.dead, "dead letters", once),
        outputs.as_sent(found[0], expected, False, "predictions"),
        outputs.as_sent(found[1], expected, True, "dead letters"),
        outputs.alike(found[1], "dead letters"),
        whole(asked("verify", killed.state), "chaos"),
        _tidy(killed.state),
    ]
    if once:
        checks.append(outputs.epochs(found[0]))
    if plan.partitions == 1:
        _say(say, "the reference …\n")
        begun = time.monotonic()
        quiet = Campaign(group, broker, campaign.messages, random.Random(0), 1.0, fed=plan.events)
        try:
            member = quiet.start()
            quiet.until(quiet.done, 10 * WORK_SECONDS, "the reference didn't come to its end")
            if quiet.started != 1 or quiet.end(member) != 0:
                raise HarnessError("the reference was interrupted")
        finally:
            quiet.abandon()
        outcome.reference_seconds = time.monotonic() - begun
        theirs, peace = asked("show", group.state), _found(group, broker, plan)
        checks += [
            parts(theirs, shown),
            outputs.learned(theirs, expected, "reference"),
            outputs.ledger(theirs, expected, "reference"),
            outputs.answered(peace[0], expected.predicted, "reference: predictions", True),
            outputs.answered(peace[1], expected.dead, "reference: dead letters", True),
            outputs.alike(found[0], "predictions"),
            outputs.as_reference(found[0], peace[0], "predictions", once),
            outputs.as_reference(found[1], peace[1], "dead letters", once),
        ]
    if plan.kills >= FEWEST_TO_COVER:
        kills = outcome.kills
        checks.append(Check("kills inside a checkpoint write", any(a.in_write for a in kills), ""))
        if once:
            checks.append(Check("kills inside a transaction", any(a.in_transaction for a in kills), ""))
    return checks


def _tidy(state: Path) -> Check:
    rest, left = surplus(state)
    return Check("chaos: nothing left over", not rest, ", ".join(rest) or f"{left} files, all named")


def _found(group: Group, broker: Broker, plan: Plan) -> tuple[list[outputs.Output], list[outputs.Output]]:
    return (
        outputs.predictions(read(broker.address, group.predictions, plan.partitions)),
        outputs.dead_letters(read(broker.address, group.dead_letters, plan.partitions)),
    )


def _progress(say: bool, outcome: Outcome, campaign: Campaign) -> None:
    done = outcome.acts[-1]
    kills = outcome.kills
    text = (
        f"{len(kills)}/{outcome.plan.kills} kills ({sum(a.in_transaction for a in kills)} in a transaction, "
        f"{sum(a.in_write for a in kills)} in a write), {campaign.fed} events, {campaign.started} starts, "
        f"{len(campaign.members)} running; {done.kind} {done.aim}: {done.seconds:.1f} s"
    )
    _say(say, f"\r\x1b[K{text}" if sys.stderr.isatty() else f"{text}\n")


def _say(say: bool, text: str) -> None:
    if say:
        print(text, end="", file=sys.stderr, flush=True)


def main(words: Sequence[str] | None = None) -> int:
    """The command. Returns 0 if every promise was kept, else 1."""
    parser = argparse.ArgumentParser(
        prog="chaos_harness.py",
        description="Starts a real Kafka, kills `streamlearn run` (and the broker) at random moments of its "
        "work, lets standbys take over, and compares all that is left with a worker that was left in peace.",
        epilog="What stands behind -- goes to `streamlearn run` as it is.",
    )
    plan = Plan()
    number, text = {"type": int}, {"type": str}
    for name, kind, what in (
        ("kills", number, "kills of a worker that must hit work"),
        ("events", number, "events that are published while it happens"),
        ("partitions", number, "of every topic"),
        ("mode", {"choices": ("exactly_once", "at_least_once")}, "delivery.mode"),
        ("broker-kills", number, "kills of the broker, which is started again at once"),
        ("stops", number, "SIGSTOPs of the learner, longer than its session, with a worker that takes over"),
        ("standbys", number, "workers that join"),
        ("start-ups", number, "kills of a worker that starts; they count for nothing"),
        ("terminations", number, "SIGTERMs at work"),
        ("method", text, "one of `streamlearn methods`"),
        ("modifiers", text, "modifiers, comma separated"),
        ("seed", number, "of stream, model and moments"),
        ("checkpoint-seconds", {"type": float}, "checkpoint.seconds"),
        ("fresh", {"type": float}, "share of the starts with an interpreter of their own, not forked"),
    ):
        default = getattr(plan, name.replace("-", "_"))
        parser.add_argument(f"--{name}", default=default, help=f"{what} (default {default!r})", **kind)
    parser.add_argument(
        "--absences",
        type=lambda given: tuple(float(word) for word in given.split(",") if word),
        default=plan.absences,
        help="absences of the broker, seconds, comma separated; in turn it is killed, frozen, and killed "
        f"together with the worker (default {','.join(map(str, plan.absences))})",
    )
    parser.add_argument("--work", type=Path, help="folder to work in, emptied first, kept afterwards")
    parser.add_argument("--json", type=Path, help="write figures, checks and every act to this file")
    parser.add_argument("extra", nargs="*", help=argparse.SUPPRESS)
    given = vars(parser.parse_args(words))
    work, report = given.pop("work"), given.pop("json")
    plan = Plan(**given | {"extra": tuple(given["extra"])})
    if plan.kills < 1 or plan.partitions < 1 or plan.events < 20 * plan.kills:
        parser.error("--kills and --partitions must be at least 1, --events at least 20 a kill")
    about = made_with()
    with contextlib.ExitStack() as stack:
        if work is None:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        broker = Broker(work / "broker")
        broker.wipe()
        broker.start(BROKER_SECONDS)
        stack.callback(broker.kill)
        outcome = attempt(plan, work / "run", broker)
    print(table(outcome))
    if report is not None:
        report.write_text(json.dumps({**about, **outcome.plain()}, indent=1))
    return 0 if outcome.passed else 1
