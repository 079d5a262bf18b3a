"""What passes between the learner's thread and the Kafka loop: nothing is lost, doubled or reordered."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.kafka.boxes import OVERHEAD, Inbox, Message, Named, Outbox, size_of, sizes_of
from streamlearn.events import Fenced, Position, Record, Stalled, Unreachable


def record(offset: int, size: int = 10) -> Record:
    return Record(b"x" * size, Position("t", 0, offset), offset + 1)


def message(number: int) -> Message:
    return Message(("p", 0), None, str(number).encode())


@given(st.lists(st.integers(0, 50), max_size=20), st.lists(st.integers(1, 30), max_size=60))
def test_records_come_in_order_however_they_are_cut(puts: list[int], takes: list[int]) -> None:
    inbox = Inbox(limit=20 * (OVERHEAD + 10), emptier=lambda: None)
    offset, taken = 0, []
    for count in puts:
        inbox.put([record(offset + i) for i in range(count)])
        offset += count
        if takes:
            taken += inbox.take(takes.pop(), 0.0)
        waiting = offset - len(taken)
        assert inbox.depth == waiting
        assert inbox.full == (waiting >= 20)
    while len(taken) < offset:
        taken += inbox.take(7, 0.0)
    assert [r.position.offset for r in taken] == list(range(offset))
    assert inbox.take(7, 0.0) == []


def test_room_is_told_once_when_a_full_one_has_some() -> None:
    told: list[int] = []
    inbox = Inbox(limit=3 * size_of(record(0)), emptier=lambda: told.append(1))
    inbox.put([record(i) for i in range(5)])
    assert inbox.full
    inbox.take(2, 0.0)
    assert told == []
    inbox.take(1, 0.0)
    assert told == [1]
    inbox.take(2, 0.0)
    assert told == [1]


def test_a_failure_comes_after_the_last_record() -> None:
    inbox = Inbox(limit=1000, emptier=lambda: None)
    inbox.put([record(0), record(1)])
    inbox.fail(Fenced("gone"))
    inbox.fail(Unreachable("later"))
    assert len(inbox.take(1, 0.0)) == 1
    assert len(inbox.take(5, 0.0)) == 1
    with pytest.raises(Fenced, match="gone"):
        inbox.take(5, 10.0)


def test_a_learner_that_waits_is_woken() -> None:
    inbox = Inbox(limit=1000, emptier=lambda: None)
    found: list[Sequence[Record]] = []
    learner = threading.Thread(target=lambda: found.append(inbox.take(5, 60.0)))
    learner.start()
    inbox.put([record(3)])
    learner.join(60.0)
    assert [r.position.offset for r in found[0]] == [3]


@given(st.lists(st.tuples(st.sampled_from(["put", "name", "swap"]), st.integers(0, 5)), max_size=60))
def test_parcels_carry_everything_once_and_p_never_goes_back(calls: list[tuple[str, int]]) -> None:
    outbox = Outbox(limit=1 << 30, waker=lambda: None)
    put, carried, published = 0, [], 0
    named: list[str] = []
    for call, count in [*calls, ("swap", 0)]:
        if call == "put":
            outbox.put([message(put + i) for i in range(count)], {("t", 0): put + count})
            put += count
        elif call == "name":
            outbox.name(Named(f"c{put}-{len(named)}", {("t", 0): put}))
            named.append(f"c{put}-{len(named)}")
        elif (swapped := outbox.swap()) is not None:
            parcel, handed = swapped
            carried += [int(m.value or b"") for m in parcel.messages]
            assert parcel.published.get(("t", 0), published) >= published
            published = parcel.published.get(("t", 0), published)
            # P stands behind the last output that goes with it or went before.
            assert published == (carried[-1] + 1 if carried else 0)
            # A checkpoint is never named before the outputs below its C have gone.
            assert all(one.offsets["t", 0] <= published for one in parcel.named)
            outbox.sent(handed)
    assert carried == list(range(put))
    assert outbox.wait_sent(0.0)


def test_an_answer_goes_with_the_name_it_belongs_to() -> None:
    outbox = Outbox(limit=1 << 20, waker=lambda: None)
    outbox.put([message(1)], {("t", 0): 1})
    outbox.name(Named("c", {}), [Message(("answers", 0), None, b"a")], {("commands", 0): 1})
    swapped = outbox.swap()
    assert swapped is not None
    parcel, _ = swapped
    assert [m.value for m in parcel.messages] == [b"1", b"a"]
    assert [one.checkpoint for one in parcel.named] == ["c"]
    assert parcel.published == {("t", 0): 1, ("commands", 0): 1}


def test_a_full_one_stalls_until_it_is_sent() -> None:
    outbox = Outbox(limit=OVERHEAD + 1, waker=lambda: None)
    outbox.put([message(1)], {})
    with pytest.raises(Stalled, match="takes no outputs"):
        outbox.wait(0.0)
    swapped = outbox.swap()
    assert swapped is not None
    with pytest.raises(Stalled):
        outbox.wait(0.0)  # on their way is not gone
    assert not outbox.wait_sent(0.0)
    outbox.sent(swapped[1])
    outbox.wait(0.0)
    assert outbox.wait_sent(0.0)


def test_a_failure_is_said_to_whoever_waits() -> None:
    outbox = Outbox(limit=1, waker=lambda: None)
    outbox.put([message(1)], {})
    outbox.fail(Fenced("gone"))
    for call in (lambda: outbox.wait(60.0), lambda: outbox.wait_sent(60.0), lambda: outbox.put([], {})):
        with pytest.raises(Fenced):
            call()


@given(st.lists(st.sampled_from(["put", "name", "nothing", "swap"]), max_size=40))
def test_whoever_swaps_is_woken_whenever_there_is_something(calls: list[str]) -> None:
    told = 0

    def tell() -> None:
        nonlocal told
        told += 1

    outbox = Outbox(limit=1 << 30, waker=tell)
    for call in calls:
        waiting, before = outbox.waiting, told
        if call == "put":
            outbox.put([message(1)], {("t", 0): 1})
        elif call == "name":
            outbox.name(Named("c", {}))
        elif call == "nothing":
            outbox.put([], {})
        elif outbox.swap() is not None:
            assert told  # or nobody would have come
            told = before = 0
        # Not again while it waits: waking another thread has its price.
        assert told <= 1 + calls.count("nothing")
        if outbox.waiting and not waiting:
            assert told == before + 1


def test_an_answer_is_waited_for() -> None:
    outbox = Outbox(1000, lambda: None)
    outbox.name(Named("c", {}))
    hurries = [outbox.hurry]
    outbox.name(Named("d", {}), [message(1)])
    hurries.append(outbox.hurry)
    swapped = outbox.swap()
    assert swapped is not None
    outbox.sent(swapped[1])
    assert [*hurries, outbox.hurry] == [False, True, False]


@given(st.lists(st.tuples(st.binary(max_size=9), st.none() | st.binary(max_size=9)), max_size=9))
def test_sizes_are_those_of_each(drawn: list[tuple[bytes, bytes | None]]) -> None:
    records = [Record(value, Position("t", 0, n), n + 1, key) for n, (value, key) in enumerate(drawn)]
    assert sizes_of(records) == sum(map(size_of, records))
