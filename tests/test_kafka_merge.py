"""Merging partitions by time: one order, however records arrive, whenever they are read again."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.kafka.boxes import OVERHEAD, Place
from connectors.kafka.merge import MergedInbox
from streamlearn.events import Fenced, Position, Record

Log = dict[Place, list[int]]
"""Of each partition the times of its records."""
NEVER, AT_ONCE = 1e9, 1e-9

logs = st.lists(st.lists(st.integers(0, 20), max_size=12), min_size=1, max_size=4).map(
    lambda lists: {("t", number): times for number, times in enumerate(lists)}
)


def record(place: Place, offset: int) -> Record:
    return Record(b"x" * 10, Position(*place, offset), offset + 1)


SIZE = OVERHEAD + 10


def opened(places: list[Place], idle_seconds: float = NEVER, limit: int = 1 << 20) -> MergedInbox:
    inbox = MergedInbox(limit, lambda: None, idle_seconds)
    inbox.begin(dict.fromkeys(places, 0), [], {})
    return inbox


def put(inbox: MergedInbox, log: Log, place: Place, start: int, end: int) -> None:
    inbox.put([record(place, offset) for offset in range(start, end)], log[place][start:end])


def order(log: Log) -> list[tuple[Place, int]]:
    """By definition: again and again the oldest of the next records, until a partition has no next one."""
    at, found = dict.fromkeys(log, 0), []
    while all(at[place] < len(times) for place, times in log.items()):
        _, place = min((times[at[place]], place) for place, times in log.items())
        found.append((place, at[place]))
        at[place] += 1
    return found


def taken(records: list[Record]) -> list[tuple[Place, int]]:
    return [(each.position[:2], each.position.offset) for each in records]


@given(logs, st.data())
def test_one_order_however_records_arrive(log: Log, data: st.DataObject) -> None:
    inbox, put_to, found = opened(list(log)), dict.fromkeys(log, 0), list[Record]()
    while any(put_to[place] < len(times) for place, times in log.items()):
        place = data.draw(st.sampled_from([p for p in log if put_to[p] < len(log[p])]))
        end = data.draw(st.integers(put_to[place] + 1, len(log[place])))
        put(inbox, log, place, put_to[place], end)
        put_to[place] = end
        found += inbox.take(data.draw(st.integers(0, 5)), 0.0)
    found += inbox.take(1000, 0.0)
    assert taken(found) == order(log)
    assert inbox.depth == sum(map(len, log.values())) - len(found)


def test_equal_times_lowest_partition_first_and_order_within_one_whatever_its_times() -> None:
    log = {("t", 0): [5, 1, 9], ("t", 1): [5, 5, 9]}
    inbox = opened(list(log))
    for place in reversed(list(log)):
        put(inbox, log, place, 0, 3)
    assert [p for (_, p), _ in taken(inbox.take(9, 0.0))] == [0, 0, 1, 1, 0]


def test_a_share_for_each_partition() -> None:
    log = {("t", 0): [1] * 9, ("t", 1): [2] * 9}
    inbox = opened(list(log), limit=6 * SIZE)
    put(inbox, log, ("t", 0), 0, 3)
    assert (inbox.wanted, inbox.full) == ([("t", 1)], False)
    put(inbox, log, ("t", 1), 0, 3)
    assert inbox.full
    assert len(inbox.take(1, 0.0)) == 1
    assert inbox.wanted == [("t", 0)]


def test_room_is_told_when_a_full_one_has_some() -> None:
    told: list[int] = []
    log = {("t", 0): [1] * 9}
    inbox = MergedInbox(3 * SIZE, lambda: told.append(1), NEVER)
    inbox.begin({("t", 0): 0}, [], {})
    put(inbox, log, ("t", 0), 0, 5)
    inbox.take(2, 0.0)
    assert told == []
    inbox.take(1, 0.0)
    assert told == [1]


def test_a_failure_comes_after_what_can_be_taken() -> None:
    log = {("t", 0): [1, 2], ("t", 1): [2]}
    inbox = opened(list(log))
    put(inbox, log, ("t", 0), 0, 2)
    put(inbox, log, ("t", 1), 0, 1)
    inbox.fail(Fenced("gone"))
    assert len(inbox.take(9, 0.0)) == 2
    with pytest.raises(Fenced, match="gone"):
        inbox.take(9, 60.0)


# ---- idle partitions


def test_idle_is_only_what_is_read_to_its_end_for_long_while_others_wait() -> None:
    log = {("t", 0): [1, 2], ("t", 1): [7]}
    inbox, long_ago = opened(list(log), idle_seconds=60.0), time.monotonic() - 61
    assert not inbox.decide({("t", 1): long_ago})  # nobody waits
    put(inbox, log, ("t", 0), 0, 2)
    assert not inbox.decide({})
    assert not inbox.decide({("t", 1): time.monotonic()})
    assert inbox.take(9, 0.0) == []
    assert inbox.decide({("t", 1): long_ago})
    assert inbox.idle == [("t", 1)]
    assert not inbox.decide({("t", 1): long_ago})
    assert len(inbox.take(1, 0.0)) == 1
    put(inbox, log, ("t", 1), 0, 1)
    assert len(inbox.take(1, 0.0)) == 1  # as long as nothing is decided, nothing changes
    assert inbox.decide({})
    assert inbox.idle == []
    assert inbox.take(9, 0.0) == []


def test_a_new_partition_is_idle_until_its_first_record() -> None:
    log = {("t", 0): [1, 2], ("t", 1): [0]}
    inbox = opened([("t", 0)])
    put(inbox, log, ("t", 0), 0, 2)
    inbox.join(("t", 1))
    assert inbox.idle == [("t", 1)]
    assert len(inbox.take(1, 0.0)) == 1
    put(inbox, log, ("t", 1), 0, 1)
    assert inbox.decide({})
    assert taken(inbox.take(9, 0.0)) == [(("t", 1), 0)]


def test_behind_a_decision_that_was_gone_back_over_all_is_read_all_the_same() -> None:
    """`checkpoints use`: P lies beyond decisions that the checkpoint doesn't know."""
    log = {("t", 0): [1, 3], ("t", 1): [2]}
    inbox = MergedInbox(1 << 20, lambda: None, AT_ONCE)
    inbox.begin(dict.fromkeys(log, 0), [("t", 1)], {("t", 0): 2, ("t", 1): 1})
    put(inbox, log, ("t", 0), 0, 1)
    put(inbox, log, ("t", 1), 0, 1)
    assert inbox.decide({})  # partition 1 is below its P, so no commit has gone out without it
    assert taken(inbox.take(9, 0.0)) == [(("t", 0), 0)]


class Run:
    """A worker in small: decides, takes, publishes, dies, and goes on from what was kept last."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.there = dict.fromkeys(log, 0)
        """Records that have been produced."""
        self.cursors = self.kept = dict.fromkeys(log, 0)
        self.idle: list[Place] = []
        self.learned: list[tuple[Place, int]] = []
        self.kept_count = 0
        self.published: list[tuple[Place, int]] = []
        self.start()

    def start(self) -> None:
        self.inbox = MergedInbox(1 << 20, lambda: None, AT_ONCE)
        self.cursors, self.read = dict(self.kept), dict(self.kept)
        del self.learned[self.kept_count :]
        published = {p: max([0, *(o + 1 for q, o in self.published if q == p)]) for p in self.log}
        self.inbox.begin(self.kept, self.idle, published)

    def keep(self) -> None:
        """A checkpoint that a commit names, with all outputs below it."""
        self.kept, self.idle = dict(self.cursors), self.inbox.idle
        self.kept_count = len(self.learned)

    def fetch(self, place: Place, count: int) -> None:
        end = min(self.there[place], self.read[place] + count)
        put(self.inbox, self.log, place, self.read[place], end)
        self.read[place] = end

    def turn(self, most: int) -> None:
        drained = {p: 0.0 for p, end in self.there.items() if self.read[p] >= end}
        if self.inbox.decide(drained):
            self.keep()
        for each in taken(self.inbox.take(most, 0.0)):
            self.cursors[each[0]] = each[1] + 1
            self.learned.append(each)
            if len(self.learned) > len(self.published):
                self.published.append(each)
            # What is learned again is what was published: the same record at the same place.
            assert self.published[len(self.learned) - 1] == each


times = st.lists(st.integers(0, 4), min_size=1, max_size=6)
places = [("t", number) for number in range(3)]
ACTS = [
    *[("produce", place, count) for place in places for count in range(1, 5)] * 4,
    *[("fetch", place, count) for place in places for count in range(1, 6)] * 5,
    *[("turn", places[0], count) for count in range(1, 5)] * 14,
    *[("keep", places[0], 0)] * 26,
    *[("die", places[0], 0)] * 51,
]
"""An act for every byte. A life is drawn as bytes, at once: drawn act by act it takes five times as long."""


@settings(max_examples=500)
@given(
    st.fixed_dictionaries(dict.fromkeys(places, times)),
    st.binary(min_size=20, max_size=60),
)
def test_what_is_read_again_comes_in_the_order_in_which_it_was_published(log: Log, life: bytes) -> None:
    run = Run(log)
    for act, place, count in (ACTS[byte] for byte in life):
        if act == "produce":
            run.there[place] = min(len(log[place]), run.there[place] + count)
        elif act == "fetch":
            run.fetch(place, count)
        elif act == "turn":
            run.turn(count)
        elif act == "keep":
            run.keep()
        else:
            run.start()
    run.there = {place: len(times) for place, times in log.items()}
    for _ in range(3 * sum(map(len, log.values())) + 3):
        for place in log:
            run.fetch(place, 100)
        run.turn(100)
    assert len(run.learned) == len(set(run.learned)) == sum(map(len, log.values()))
