"""Learning curve area, backward transfer and performance maintenance, beside a loop over all evaluations."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlearn.transfer import Transfer, transfer

NAN = math.nan


def test_two_sets_by_hand() -> None:
    found = transfer([0, 100], [10, 50, 100, 110, 200], [[0.4], [0.8], [0.6], [0.2, 0.5], [0.3, 0.9]])
    first = (10 * 0.2 + 40 * 0.6 + 50 * 0.7) / 100
    second = (10 * 0.25 + 90 * 0.7) / 100
    assert found.learning_curve_area == pytest.approx((first + second) / 2)
    assert found.backward_transfer == pytest.approx(0.3 - 0.6)
    assert found.performance_maintenance == pytest.approx((10 * 0.4 + 90 * 0.25) / 100 - 0.6)


def test_nothing_comes_after_a_single_set() -> None:
    assert transfer([0], [10, 20], [[1.0], [1.0]]) == Transfer(0.75, None, None)
    assert transfer([], [], []) == Transfer(None, None, None)


def area_of(before: tuple[int, float], points: list[tuple[int, float]]) -> float:
    area = 0.0
    for point in points:
        area += (point[0] - before[0]) * (point[1] + before[1]) / 2
        before = point
    return area


@given(st.data())
def test_it_is_what_a_loop_finds(data: st.DataObject) -> None:
    at = sorted(data.draw(st.sets(st.integers(1, 500), min_size=1, max_size=12)))
    arrived = sorted(data.draw(st.lists(st.integers(0, at[-1] - 1), min_size=1, max_size=5)))
    value = st.one_of(st.floats(0, 1), st.just(NAN))
    rows = [[data.draw(value) for start in arrived if start < events] for events in at]
    areas, backward, maintenance = [], [], []
    for i, start in enumerate(arrived):
        end = min((other for other in arrived if other > start), default=math.inf)
        points = [
            (n, row[i]) for n, row in zip(at, rows, strict=True) if n > start and not math.isnan(row[i])
        ]
        block, later = [p for p in points if p[0] <= end], [p for p in points if p[0] > end]
        if not block:
            continue
        areas.append(area_of((start, 0.0), block) / (block[-1][0] - start))
        if later:
            backward.append(later[-1][1] - block[-1][1])
            maintenance.append(area_of(block[-1], later) / (later[-1][0] - block[-1][0]) - block[-1][1])
    found = transfer(arrived, at, rows)
    for value_found, values in (
        (found.learning_curve_area, areas),
        (found.backward_transfer, backward),
        (found.performance_maintenance, maintenance),
    ):
        assert value_found == (pytest.approx(sum(values) / len(values), abs=1e-12) if values else None)
