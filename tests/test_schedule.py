"""When it evaluates: within a budget of images, whatever comes."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlearn.schedule import FORCED, PROBES, Schedule
from streamlearn.state import Part
from tests.streams import WHOLE_STREAMS

RATIO = 0.125  # exact in binary: so are the sums of it


def made(interval: int = 1, ratio: float = RATIO) -> Schedule:
    return Schedule(interval, ratio)


steps = st.lists(
    st.tuples(st.integers(0, 200), st.integers(0, 50), st.booleans(), st.integers(0, 40)), max_size=60
)
"""Of every step: images learned, what an evaluation costs, whether new classes ask for one, and what a probe
costs (0: none is wanted)."""


@WHOLE_STREAMS
@given(steps, st.integers(1, 5))
def test_the_budget_holds(stream: list[tuple[int, int, bool, int]], interval: int) -> None:
    schedule = made(interval)
    learned = evaluated = largest = probed = largest_probe = 0
    done: list[int] = []
    scheduled: list[int] = []
    for step, (images, cost, forced, probe) in enumerate(stream):
        if probe and schedule.probe_due(probe):
            schedule.probed(probe)
            evaluated += probe
            probed += probe
            largest_probe = max(largest_probe, probe)
            assert probed <= PROBES * RATIO * learned
        schedule.earned(images)
        learned += images
        largest = max(largest, cost)
        if schedule.due(cost, step, forced):
            assert cost > 0
            schedule.spent(cost, step, forced)
            evaluated += cost
            if not forced:
                assert evaluated <= RATIO * learned, "debts are paid first"
                assert not done or step - done[-1] >= interval
                scheduled.append(step)
            done.append(step)
        assert evaluated <= RATIO * learned + FORCED * largest + largest_probe
        assert schedule.interval_steps == (scheduled[-1] - scheduled[-2] if len(scheduled) > 1 else None)


@WHOLE_STREAMS
@given(steps, st.integers(0, 60))
def test_it_goes_on_from_a_state(stream: list[tuple[int, int, bool, int]], at: int) -> None:
    def decide(schedule: Schedule, step: int) -> tuple[bool, bool]:
        images, cost, forced, probe = stream[step]
        probes = schedule.probe_due(probe)
        if probes:
            schedule.probed(probe)
        schedule.earned(images)
        due = schedule.due(cost, step, forced)
        if due:
            schedule.spent(cost, step, forced)
        return probes, due

    ours, twin = made(2, 0.1), made(2, 0.1)
    for step in range(min(at, len(stream))):
        decide(ours, step)
    twin.load(Part(values=msgpack.unpackb(msgpack.packb(dict(ours.part().values)))))
    for step in range(min(at, len(stream)), len(stream)):
        assert decide(ours, step) == decide(twin, step)
    assert twin.part() == ours.part()


def due_steps(schedule: Schedule, steps: range, images: int, cost: int) -> list[int]:
    done = []
    for step in steps:
        schedule.earned(images)
        if schedule.due(cost, step):
            schedule.spent(cost, step)
            done.append(step)
    return done


def test_the_interval_follows_from_the_budget() -> None:
    """80 images a step earn 10: an evaluation of 40 is due every fourth step."""
    schedule = made()
    assert due_steps(schedule, range(1, 13), 80, 40) == [4, 8, 12]
    assert schedule.interval_steps == 4
    rare = made(interval=5)
    assert due_steps(rare, range(1, 13), 80, 40) == [4, 9]


def test_what_was_saved_while_there_was_nothing_to_evaluate_is_no_burst() -> None:
    schedule = made()
    assert due_steps(schedule, range(1000), 80, 0) == []
    assert due_steps(schedule, range(1000, 1016), 80, 40) == [*range(1000, 1000 + FORCED + 2), 1012]


def test_new_classes_are_evaluated_on_credit_but_not_for_ever() -> None:
    schedule = made()
    done = 0
    for step in range(20):
        if schedule.due(40, step, forced=True):
            schedule.spent(40, step, forced=True)
            done += 1
    assert done == FORCED
    assert not schedule.due(40, 20)
    schedule.earned(40 * 8)
    assert schedule.due(40, 20, forced=True)
    assert schedule.interval_steps is None


def test_debts_keep_no_probe_from_being_taken() -> None:
    """80 images a step earn 10, a quarter of it for probes: one of 10 images is due every fourth step."""
    schedule = made()
    while schedule.due(40, 0, forced=True):
        schedule.spent(40, 0, forced=True)
    taken = []
    for step in range(1, 13):
        schedule.earned(80)
        if schedule.probe_due(10):
            schedule.probed(10)
            taken.append(step)
    assert taken == [4, 8, 12]
    assert schedule.credit == 12 * 10 - 3 * 10 - FORCED * 40


def test_an_evaluation_is_not_scheduled_right_after_a_forced_one() -> None:
    schedule = made(interval=3)
    schedule.earned(10_000)
    schedule.spent(10, 5, forced=True)
    assert [step for step in range(5, 10) if schedule.due(10, step)] == [8, 9]


@pytest.mark.parametrize("forced", [False, True])
def test_nothing_is_evaluated_where_nothing_is_held_out(forced: bool) -> None:
    schedule = made()
    schedule.earned(1000)
    assert not schedule.due(0, 1, forced)
