"""The ledger of learned events: it follows the state, and shows an event learned twice or never."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlearn import Event, Learner, Settings
from streamlearn.checkpoint import CheckpointStore
from streamlearn.config import EvaluationSettings, MemorySettings, MethodSettings
from streamlearn.events import Position, Rejection
from streamlearn.ledger import Ledger, Tally, plain, tally, together
from streamlearn.settings import DeliverySettings
from tests.processes import flags, hashes, here, said, write_events
from tests.streams import bits, vectors

POSITIONS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2**63 - 1)), max_size=30)


def learner(ledger: bool = True) -> Learner:
    return Learner(
        Settings(
            method=MethodSettings(name="er"),
            memory=MemorySettings(capacity=40),
            evaluation=EvaluationSettings(held_out=0.1, capacity=20),
            delivery=DeliverySettings(ledger=ledger),
        )
    )


def placed(count: int, partitions: int = 3) -> list[Event]:
    """Events with places of their own, every third one in each partition."""
    events = vectors(count)
    for i, event in enumerate(events):
        event.position = Position("t", i % partitions, i // partitions)
    return events


def labeled(events: Sequence[Event]) -> list[tuple[int, int]]:
    return [event.position[1:] for event in events if event.y is not None]


def accounted(ledger: Ledger | None) -> dict[str, list[object]]:
    """Everything that the ledger knows of, whatever became of it."""
    assert ledger is not None
    return together(*ledger.plain().values())


@given(positions=POSITIONS)
def test_the_order_makes_no_difference_and_a_repeat_does(positions: list[tuple[int, int]]) -> None:
    found = plain(tally(positions))
    assert plain(tally(reversed(positions))) == found
    half = len(positions) // 2
    assert together(plain(tally(positions[:half])), plain(tally(positions[half:]))) == found
    for missing in range(len(positions)):
        others = positions[:missing] + positions[missing + 1 :]
        assert plain(tally(others)) != found
        assert plain(tally([*others, (11, 5)])) != found


def test_one_event_in_place_of_another_is_seen_in_the_checksum_alone() -> None:
    one, other = tally([(0, 1), (0, 2)]), tally([(0, 1), (0, 3)])
    assert one[0].count == other[0].count
    assert one[0].sum != other[0].sum


def test_checksums_are_what_they_were() -> None:
    # They are part of states on disk.
    assert Tally().plain() == [0, "0000000000000000"]
    assert tally([(7, 1234567)])[7].plain() == [1, "864a6f09421304e1"]


def test_every_labeled_event_is_accounted_for_once() -> None:
    subject, events = learner(), placed(405)
    subject.learn(events)
    ledger = subject.ledger
    assert ledger is not None
    assert accounted(ledger) == plain(tally(labeled(events)))
    assert sum(t.count for t in ledger.learned.values()) == subject.counts.learned
    assert sum(t.count for t in ledger.held_out.values()) == subject.counts.held_out > 0
    assert len(ledger.waiting) == subject.pending > 0
    subject.flush()
    assert ledger.waiting == []
    assert accounted(ledger) == plain(tally(labeled(events)))


def saved_and_loaded(subject: Learner, folder: Path) -> Learner:
    store = CheckpointStore(folder)
    subject.save(folder)
    found = store.newest(pytest.fail)
    assert found is not None
    again = learner()
    again.restore(found[1])
    return again


@pytest.mark.parametrize("at", [3, 10, 57, 200])
def test_it_goes_back_with_the_state(at: int, tmp_path: Path) -> None:
    events = placed(300)
    whole = learner()
    whole.learn(events)
    before = learner()
    before.learn(events[:at])
    again = saved_and_loaded(before, tmp_path)
    before.learn(events[at:])  # what was learned after the checkpoint is not in it
    again.learn(events[at:])
    assert bits(again.snapshot(full=True)) == bits(whole.snapshot(full=True))


@pytest.mark.parametrize("fault", [-1, 1])
def test_reading_again_from_a_wrong_place_is_seen(fault: int, tmp_path: Path) -> None:
    events = placed(300)
    before = learner()
    before.learn(events[:200])
    again = saved_and_loaded(before, tmp_path)
    again.learn(events[200 + fault :])
    assert events[199].y is not None and events[200].y is not None
    assert accounted(again.ledger) != plain(tally(labeled(events)))


def test_an_event_lost_while_it_waits_is_seen() -> None:
    events = placed(205)
    subject = learner()
    subject.learn(events)
    ledger = subject.ledger
    assert ledger is not None and subject.pending
    del ledger.waiting[0]
    subject.flush()
    assert accounted(ledger) != plain(tally(labeled(events)))


def test_what_is_not_learned_is_not_in_it() -> None:
    subject, events = learner(), placed(30)
    events[20].x = events[20].x[:3]
    outputs = subject.learn(events)
    assert isinstance(outputs[20], Rejection)
    assert accounted(subject.ledger) == plain(tally(labeled(events[:20] + events[21:])))


def test_other_parts_are_the_same_with_and_without_it() -> None:
    events = placed(200)
    kept, none = learner(), learner(ledger=False)
    kept.learn(events)
    none.learn(events)
    ours, theirs = bits(kept.snapshot(full=True)), bits(none.snapshot(full=True))
    assert ours.pop("ledger") is not None
    assert ours == theirs


def test_it_can_not_begin_halfway() -> None:
    none = learner(ledger=False)
    none.learn(placed(50))
    with pytest.raises(ValueError, match=r"delivery\.ledger"):
        learner().restore(none.snapshot(full=True))


def test_the_worker_keeps_it_and_show_prints_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    events = vectors(300)
    source = write_events(tmp_path / "events.jsonl", events)
    with_it, without = tmp_path / "with", tmp_path / "without"
    assert here(*flags(with_it, source, "--delivery.ledger", "true")) == 0
    assert here(*flags(without, source)) == 0
    shown = json.loads(said(capfd, "checkpoints", "show", str(with_it / "state"), "--json"))
    expected = plain(tally((0, i) for i, event in enumerate(events) if event.y is not None))
    assert together(*shown["ledger"].values()) == expected
    assert shown["ledger"]["waiting"] == {}
    assert sum(count for count, _ in shown["ledger"]["learned"].values()) == shown["events_learned"]
    ours = hashes(with_it)
    assert ours.pop("ledger")
    assert ours == hashes(without)
    assert "ledger" not in json.loads(said(capfd, "checkpoints", "show", str(without / "state"), "--json"))
    # Switched on later it would know of the later events only.
    assert "delivery.ledger" in said(capfd, *flags(without, source, "--delivery.ledger", "true"), status=3)
