"""A record without a value, where the settings say that it means: forget the example its key names."""

from __future__ import annotations

import pytest

from streamlearn.codec import Codec
from streamlearn.config import CodecSettings
from streamlearn.events import Event, Item, Position, Record, Rejection, Tombstone
from streamlearn.learner import OnlineLearner
from tests.streams import answers, bits, settings, vectors


def record(key: bytes | None) -> Record:
    return Record(b"", Position("t", 0, 0), key=key, tombstone=True)


def test_by_default_it_is_a_dead_letter() -> None:
    (item,) = Codec(CodecSettings()).decode([record(b"a")])
    assert isinstance(item, Rejection) and item.reason == "empty"


@pytest.mark.parametrize("key", [None, b"", b"\xff", b"x" * 513])
def test_a_key_that_names_nothing_is_a_dead_letter(key: bytes | None) -> None:
    (item,) = Codec(CodecSettings(tombstones="forget")).decode([record(key)])
    assert isinstance(item, Rejection) and item.reason == "bad_id"


def test_its_key_is_the_id() -> None:
    (item,) = Codec(CodecSettings(tombstones="forget")).decode([record("é1".encode())])
    assert isinstance(item, Tombstone) and item.id == "é1"


def stone(event: Event) -> Tombstone:
    return Tombstone(event.id, Record(b"", event.position, key=event.id.encode(), tombstone=True))


def test_it_forgets_at_its_place_however_the_events_were_cut() -> None:
    events = vectors(60)
    items: list[Item] = [*events[:33], stone(events[31]), stone(events[5]), *events[33:]]
    whole, cut = OnlineLearner(settings()), OnlineLearner(settings())
    outputs = whole.learn(items)
    assert len(outputs) == len(items)
    assert [type(output) for output in outputs[33:35]] == [Tombstone, Tombstone]
    parts = [output for item in items for output in cut.learn([item])]
    assert answers(parts) == answers(outputs)
    assert bits(cut.snapshot(full=True)) == bits(whole.snapshot(full=True))
    for gone in (events[31], events[5]):
        found = whole.forget(gone.id, {})
        assert (found.memory, found.held_out, found.waiting) == (0, 0, 0)


def test_one_that_comes_before_the_shape_is_settled_is_answered_in_its_place() -> None:
    events = vectors(30)
    learner = OnlineLearner(settings())
    outputs = learner.learn([events[0], stone(events[0]), *events[1:]])
    assert isinstance(outputs[1], Tombstone) and len(outputs) == 31
    assert learner.counts.rejected.total() == 0
