"""Counts of what was answered behind a checkpoint, over crashes and a cleaner that takes what it likes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from connectors.kafka.boxes import Place
from connectors.kafka.committed import Committed, interpret, metadata_of, records_of
from connectors.kafka.tally import Tally
from streamlearn.events import Position

PLACE: Place = ("t", 0)


def add(tally: Tally, offsets: list[int], at_once: int = 3) -> None:
    for start in range(0, len(offsets), at_once):
        tally.add([Position("t", 0, offset) for offset in offsets[start : start + at_once]])


def going_on(published: int, records: int | None, checkpoint: str = "c") -> Tally:
    tally = Tally()
    said = {} if records is None else {PLACE: records}
    tally.claimed(Committed({PLACE: published, ("commands", 0): 9}, "c", 1, {}, {}, said), "t")
    tally.begin(checkpoint)
    return tally


def test_metadata_say_it_and_odd_ones_do_not() -> None:
    assert records_of({PLACE: (7, metadata_of("c", 1, None, records=5))}) == {PLACE: 5}
    assert records_of({PLACE: (7, metadata_of("c", 1, (1, 2)))}) == {}
    assert interpret("g", "t", {PLACE: (7, metadata_of("c", 1, None, records=5))}).records == {PLACE: 5}
    for odd in ("-1", "1.5", "true", '"3"', "null", "[]"):
        assert records_of({PLACE: (7, f'{{"checkpoint":"c","epoch":1,"records":{odd}}}')}) == {}
    assert records_of({PLACE: (7, "not ours")}) == {}


@given(
    st.sets(st.integers(0, 40), min_size=1),
    st.integers(0, 40),
    st.integers(0, 40),
    st.integers(0, 40),
    st.sets(st.integers(0, 40)),
    st.integers(1, 5),
)
def test_what_is_gone_is_counted_once(
    offsets: set[int], c: int, p: int, again: int, gone: set[int], at_once: int
) -> None:
    """Killed at P behind C; again amid the reading, with a checkpoint at `again`; then to the end."""
    p = max(c, p)
    again = min(max(c, again), p)
    log = sorted(offsets)
    first = Tally()
    add(first, log, at_once)
    said = first.between(PLACE, c, p)
    behind = [offset for offset in log if c <= offset < p]
    if all(edge in offsets or edge - 1 in offsets for edge in (c, p)) and at_once == 1:
        assert said == len(behind)
    tally = going_on(p, len(behind))
    left = [offset for offset in log if offset >= c and offset not in gone]
    add(tally, [offset for offset in left if offset < again], 1)
    if again < p:
        assert tally.lost == 0
        assert tally.between(PLACE, c, p) == len(behind)
        count = tally.between(PLACE, again, p)
        tally = going_on(p, count)
        left = [offset for offset in left if offset >= again]
    else:
        left = [offset for offset in left if offset >= p]
    add(tally, left, at_once)
    tally.passed(PLACE, 41)
    assert tally.lost == len(gone & set(behind))
    begin = again if again < p else c
    assert tally.between(PLACE, begin, 41) == len([o for o in log if o >= begin and o not in gone])


def test_of_another_checkpoint_than_the_one_named_nothing_is_known() -> None:
    """The named one was damaged: more is read again than the number is of."""
    for tally in (going_on(10, 4, checkpoint="older"), going_on(10, None)):
        assert tally.between(PLACE, 3, 10) is None
        add(tally, [3, 4, 12])
        assert tally.lost == 0
        assert tally.between(PLACE, 3, 13) == 3
        assert tally.between(PLACE, 3, 10) == 2


def test_it_is_found_with_the_last_record_that_is_left() -> None:
    """Or, if that is gone as well, once all that there is was read."""
    tally = going_on(10, 8)
    add(tally, [2, 3, 9])
    assert tally.lost == 5
    tally = going_on(10, 8)
    add(tally, [2, 3])
    tally.passed(PLACE, 9)
    assert tally.lost == 0
    tally.passed(PLACE, 12)
    assert tally.lost == 6
    tally.passed(PLACE, 12)
    assert tally.lost == 6


def test_what_no_checkpoint_needs_is_forgotten() -> None:
    tally = Tally()
    add(tally, list(range(100)), 1)
    tally.forget({PLACE: 60, ("other", 1): 5})
    assert len(tally._seen[PLACE].offsets) == 41
    assert tally.between(PLACE, 60, 100) == 40
    tally.forget({PLACE: 100})
    assert tally.between(PLACE, 100, 100) == 0
    assert len(tally._seen[PLACE].offsets) == 1
