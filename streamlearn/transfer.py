"""How fast new sets are learned, and what learning later ones does to them: figures of a whole benchmark run.

Learning curve area: after Chaudhry et al., "Efficient lifelong learning with A-GEM", ICLR 2019, section 3,
over the whole block of a set instead of its first batches. Backward transfer: Lopez-Paz, Ranzato, "Gradient
episodic memory", NeurIPS 2017, equation 3. Performance maintenance: New et al., "Lifelong learning metrics",
2022, against the most recent learning evaluation. Forward transfer, as those define it, is that of a set
before its first event: a learner whose classes are open can't name a class that it has not seen, so that it
is always 0 and no figure here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streamlearn.events import Array


@dataclass(frozen=True)
class Transfer:
    """Means over sets, None where no set has one. A set's block: from its first event to the next arrival.

    learning_curve_area: mean accuracy over the events of the block, 0 at its beginning; 0..1.
    backward_transfer: accuracy at the end of the stream less that at the end of the block.
    performance_maintenance: the mean of all evaluations after the block less that at its end.
    """

    learning_curve_area: float | None
    backward_transfer: float | None
    performance_maintenance: float | None


def transfer(arrived: Sequence[int], at: Sequence[int], accuracy: Sequence[Sequence[float]]) -> Transfer:
    """Figures of a run whose set i appeared with event arrived[i], in this order.

    accuracy: by evaluation, those of the sets that there are, NaN for a set without; at: the events before
    each. The last evaluation is at the stream's end.
    """
    events, starts = np.asarray(at, np.int64), np.asarray(arrived, np.int64)
    table = np.full((len(events), len(starts)), np.nan)
    for row, values in zip(table, accuracy, strict=True):
        row[: len(values)] = values
    areas, backward, maintenance = [], [], []
    for start, column in zip(starts, table.T, strict=True):
        after = starts[starts > start]
        end = after.min() if len(after) else np.inf
        asked = (events > start) & ~np.isnan(column)
        block, later = asked & (events <= end), asked & (events > end)
        if not block.any():
            continue
        areas.append(_area(events[block] - start, column[block]))
        if later.any():
            learned = column[block][-1]
            backward.append(column[later][-1] - learned)
            maintenance.append(column[later].mean() - learned)
    return Transfer(_mean(areas), _mean(backward), _mean(maintenance))


def _area(events: Array, accuracy: Array) -> float:
    """Under the straight lines from 0 at no event, by its width."""
    return float(np.trapezoid([0, *accuracy], [0, *events]) / events[-1])


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
