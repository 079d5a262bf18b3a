"""What the check of the compose file counts: it must say so when an event is lost or comes twice."""

from __future__ import annotations

import json

import pytest

from ops.compose.account import OURS, Account, learned_once, published_once
from ops.compose.shell import Failed, attempt, call, until
from ops.harness.outputs import predictions
from ops.harness.topics import Message
from streamlearn.ledger import plain, tally


def events(count: int) -> list[Message]:
    """Of them every other one ours."""
    return [Message(0, b"%d" % i, OURS if i % 2 else None, (), i) for i in range(count)]


def answers(offsets: list[int], epochs: list[int] | None = None) -> list[Message]:
    found = []
    for offset, epoch in zip(offsets, epochs or [1] * len(offsets), strict=True):
        body = {"id": str(offset), "label": "a", "epoch": epoch, "source": ["events", 0, offset]}
        found.append(Message(0, json.dumps(body, separators=(",", ":")).encode()))
    return found


def broken(sent: int, count: int, answered: list[Message], dead: int = 0) -> set[str]:
    """The checks that were not kept."""
    account = Account(sent, events(count), predictions(answered), events(dead))
    return {check.name.removeprefix("now: ") for check in account.checks("now") if not check.kept}


def test_all_is_well() -> None:
    assert broken(2, 4, answers([0, 1, 2, 3], [1, 1, 2, 2])) == set()
    # An answer to an event that came later is none too many.
    assert broken(2, 4, answers([0, 1, 2, 3, 4])) == set()


def test_what_is_wrong_is_said() -> None:
    assert broken(3, 4, answers([0, 1, 2, 3])) == {"no event lost"}
    assert broken(2, 4, answers([0, 1, 3])) == {"one prediction per event"}
    assert broken(2, 4, answers([0, 1, 1, 2, 3])) == {"one prediction per event"}
    assert broken(2, 4, answers([0, 1, 2, 3]), dead=1) == {"no dead letters"}
    assert broken(2, 4, answers([0, 1, 2, 3], [1, 2, 1, 2])) == {"epochs never go back"}
    assert "one prediction per event" in broken(0, 0, [])


def test_it_waits_for_what_was_sent_and_its_answers() -> None:
    def complete(sent: int, answered: list[int]) -> bool:
        return Account(sent, events(4), predictions(answers(answered)), []).complete

    assert complete(2, [0, 1, 2, 3])
    assert not complete(3, [0, 1, 2, 3]) and not complete(2, [0, 1, 2])


def test_the_publishers_stream_is_there_once() -> None:
    assert published_once(events(6), 3).kept
    assert not published_once(events(6), 4).kept
    assert not published_once([*events(6), *events(1)], 3).kept


def test_the_ledger_must_hold_just_these() -> None:
    account = Account(2, events(4), predictions(answers([0, 1, 2, 3])), [])

    def kept(offsets: list[int]) -> bool:
        nothing = plain(tally([]))
        learned = plain(tally([(0, offset) for offset in offsets]))
        shown = {"ledger": {"learned": learned, "held_out": nothing, "waiting": nothing}}
        return learned_once(shown, account).kept

    assert kept([0, 1, 2, 3])
    assert not kept([0, 1, 2]) and not kept([0, 1, 2, 2])
    assert not learned_once({}, account).kept


def test_commands_and_conditions_that_fail_say_what_they_said() -> None:
    assert call("echo", "yes") == "yes\n"
    with pytest.raises(Failed, match=r"status 1:\nno such place"):
        call("sh", "-c", "echo no such place >&2; exit 1")
    with pytest.raises(Failed, match=r"more than 0\.1 s"):
        attempt("sleep", "5", seconds=0.1)
    with pytest.raises(Failed, match="there is no program"):
        call("no-such-program-anywhere")
    with pytest.raises(Failed, match="not within 0 s: it comes: invalid literal"):
        until("it comes", 0, lambda: int("not yet"), pause=0)
