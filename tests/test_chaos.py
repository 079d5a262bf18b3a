"""Workers and broker are really killed, on a real Kafka, and nothing comes of it; the harness could tell."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ops.harness import outputs
from ops.harness.chaos import attempt, events
from ops.harness.compare import Check
from ops.harness.outputs import Expected, Output
from ops.harness.plan import Outcome, Plan, table
from ops.harness.topics import Message
from streamlearn.ledger import plain, tally
from tests.kafka import running


@pytest.mark.slow
@pytest.mark.timeout(600)
# kafka-python leaves sockets of brokers that went to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("mode", ["exactly_once", "at_least_once"])
def test_ten_kills_and_one_of_the_broker_change_nothing(mode: str, tmp_path: Path) -> None:
    plan = Plan(
        mode=mode,
        kills=10,
        events=60_000,
        broker_kills=1,
        absences=(),
        stops=0,
        standbys=1,
        start_ups=1,
        terminations=1,
        fresh=0.0,
    )
    with running(tmp_path / "broker") as broker:
        outcome = attempt(plan, tmp_path / "run", broker, say=False)
    assert outcome.passed, table(outcome)
    assert len(outcome.kills) >= plan.kills


def test_a_plan_does_all_that_it_is_asked_for() -> None:
    plan = Plan(broker_kills=2, absences=(61.0, 62.0), stops=1, standbys=1, start_ups=1, terminations=1)
    acts = plan.schedule(random.Random(0))
    kinds = sorted(kind for kind, _, _ in acts)
    assert kinds == [
        "SIGTERM",
        "absence",
        "absence",
        "broker kill",
        "broker kill",
        "standby",
        "start-up",
        "stop",
    ]
    assert sorted(seconds for _, _, seconds in acts if seconds) == [61.0, 62.0]


@pytest.mark.parametrize("partitions", [1, 3])
def test_the_events_are_what_is_expected_of_them(partitions: int, tmp_path: Path) -> None:
    plan = Plan(events=3000, partitions=partitions)
    messages, expected = events(plan, tmp_path)
    assert len(messages) == 3000
    assert {m.partition for m in messages} == set(range(partitions))
    assert expected.predicted | expected.dead == set(expected.messages)
    assert not expected.predicted & expected.dead
    assert expected.labeled < expected.predicted
    assert any(m.value is None for m in messages) and any(m.key is None for m in messages)
    for partition in range(partitions):
        offsets = [m.offset for m in messages if m.partition == partition]
        assert offsets == list(range(len(offsets)))
    # One class is too many only where the order says which.
    labels = {
        json.loads(m.value)["y"] for p, m in expected.messages.items() if p in expected.labeled and m.value
    }
    assert len(labels) == 10


# -- the checks see what they are there to see

PLACES = [(0, 0), (0, 1), (1, 0), (0, 2), (1, 1)]
DEAD = [(0, 1)]
EXPECTED = Expected(
    {p: Message(p[0], b"%d" % p[1], b"k", (("trace", b"1"),), p[1]) for p in PLACES},
    frozenset(set(PLACES) - set(DEAD)),
    frozenset(DEAD),
    frozenset([(0, 0), (1, 0), (1, 1)]),
)


def prediction(place: tuple[int, int], epoch: int, label: str = "a", key: bytes = b"k") -> Message:
    body = {"id": f"e{place}", "label": label, "epoch": epoch, "source": ["t", *place]}
    return Message(place[0], json.dumps(body, separators=(",", ":")).encode(), key, (("trace", b"1"),))


def good(epochs: Sequence[int] = (1, 1, 2, 3)) -> list[Message]:
    wanted = sorted(EXPECTED.predicted)
    return [prediction(place, epoch) for place, epoch in zip(wanted, epochs, strict=True)]


def letter(place: tuple[int, int], value: bytes = b"1", reason: bytes = b"bad") -> Message:
    said = {"partition": place[0], "offset": place[1]}
    headers = [("trace", b"1"), *((f"__connect.errors.{n}", str(v).encode()) for n, v in said.items())]
    return Message(place[0], value, b"k", (*headers, ("__connect.errors.exception.class.name", reason)))


def broken(found: Sequence[Message], once: bool = True) -> set[str]:
    ours, theirs = outputs.predictions(found), outputs.predictions(good((1, 1, 1, 1)))
    checks = [
        outputs.answered(ours, EXPECTED.predicted, "p", once),
        outputs.as_sent(ours, EXPECTED, False, "p"),
        outputs.alike(ours, "p"),
        outputs.as_reference(ours, theirs, "p", once),
        *([outputs.epochs(ours)] if once else []),
    ]
    names = {"p: each exactly once": "once", "p: each at least once": "once"}
    names |= {"p: key and headers of the event": "key", "p: repeats are identical but for the epoch": "alike"}
    names |= {"p: identical to the reference but for the epoch": "reference"}
    names |= {"predictions: epochs never go back": "epochs"}
    return {names[check.name] for check in checks if not check.kept}


Change = Callable[[list[Message]], object]
FAULTS: dict[str, tuple[Change, set[str], set[str]]] = {
    "nothing": (lambda found: None, set(), set()),
    "one missing": (lambda found: found.pop(1), {"once", "reference"}, {"once"}),
    "one twice": (lambda found: found.insert(1, found[0]), {"once", "reference"}, set()),
    "one again in a later epoch": (
        lambda found: found.append(prediction((1, 1), 4)),
        {"once", "reference"},
        set(),
    ),
    "one again, but another": (
        lambda found: found.append(prediction((1, 1), 4, "b")),
        {"once", "reference", "alike"},
        {"reference", "alike"},
    ),
    "another label": (
        lambda found: found.__setitem__(0, prediction((0, 0), 1, "b")),
        {"reference"},
        {"reference"},
    ),
    "another key": (
        lambda found: found.__setitem__(0, prediction((0, 0), 1, key=b"x")),
        {"reference", "key"},
        {"reference", "key"},
    ),
    "another order": (lambda found: found.reverse(), {"reference", "epochs"}, set()),
    "an epoch that goes back": (
        lambda found: found.__setitem__(3, prediction((1, 1), 1)),
        {"epochs"},
        set(),
    ),
    "none at all": (
        lambda found: found.clear(),
        {"once", "key", "reference", "epochs"},
        {"once", "key", "reference"},
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_checks_of_outputs_find(fault: str) -> None:
    change, exactly, at_least = FAULTS[fault]
    found = good()
    change(found)
    assert broken(found) == exactly
    assert broken(found, once=False) == at_least


def test_dead_letters_are_held_against_what_was_sent() -> None:
    def check(*messages: Message) -> list[Check]:
        found = outputs.dead_letters(messages)
        return [
            outputs.answered(found, EXPECTED.dead, "d", True),
            outputs.as_sent(found, EXPECTED, True, "d"),
            outputs.alike(found, "d"),
        ]

    def kept(*messages: Message) -> list[bool]:
        return [each.kept for each in check(*messages)]

    one = letter((0, 1))
    assert kept(one) == [True, True, True]
    assert kept(one, one) == [False, True, True]
    assert kept(one, letter((0, 1), reason=b"other")) == [False, True, False]
    assert kept(letter((0, 1), b"2")) == [True, False, True]
    assert kept(letter((0, 0), b"0")) == [False, True, True]


def shown(learned: Sequence[tuple[int, int]], held: Sequence[tuple[int, int]] = ()) -> dict[str, object]:
    return {
        "events_learned": len(learned),
        "events_held_out": len(held),
        "offsets": {"t": {"0": 3, "1": 2}},
        "ledger": {"learned": plain(tally(learned)), "held_out": plain(tally(held)), "waiting": {}},
    }


def test_the_checks_of_the_ledger_find_what_counts_can_not() -> None:
    def kept(found: dict[str, object]) -> tuple[bool, bool]:
        return outputs.learned(found, EXPECTED, "c").kept, outputs.ledger(found, EXPECTED, "c").kept

    assert kept(shown([(0, 0), (1, 0)], [(1, 1)])) == (True, True)
    assert kept(shown([(0, 0), (1, 0), (1, 1), (1, 1)])) == (False, False)
    assert kept(shown([(0, 0), (1, 0)])) == (False, False)
    # One learned twice and one never: the counts agree.
    assert kept(shown([(0, 0), (1, 1), (1, 1)])) == (True, False)
    assert kept(shown([(0, 0), (1, 0), (0, 1)])) == (True, False)
    without = shown([(0, 0), (1, 0), (1, 1)])
    del without["ledger"]
    assert kept(without) == (True, False)
    short = shown([(0, 0), (1, 0), (1, 1)])
    short["offsets"] = {"t": {"0": 3, "1": 1}}
    assert kept(short) == (False, True)


def test_an_outcome_passes_only_if_all_was_kept() -> None:
    fine = Outcome(Plan(), checks=[Check("one", True, "")])
    assert fine.passed
    assert not Outcome(Plan()).passed
    assert not replace(fine, error="something").passed
    assert not replace(fine, checks=[*fine.checks, Check("two", False, "why")]).passed
    assert table(fine).endswith("PASS") and table(Outcome(Plan())).endswith("FAIL")


def test_an_output_says_which_event_it_is_of() -> None:
    assert outputs.predictions([prediction((1, 7), 3)])[0] == Output(
        (1, 7),
        3,
        (1, b"k", (("trace", b"1"),), b'{"id":"e(1, 7)","label":"a",,"source":["t",1,7]}'),
    )
