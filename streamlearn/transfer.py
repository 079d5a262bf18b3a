"""How fast new sets are learned, and what learning later ones does to them: figures of a whole benchmark run.

Learning curve area: after Chaudhry et al., "Efficient lifelong learning with A-GEM", ICLR 2019, section 3,
over the whole block of a set instead of its first batches. Backward transfer: Lopez-Paz, Ranzato, "Gradient
episodic memory", NeurIPS 2017, equation 3. Performance maintenance: New et al., "Lifelong learning metrics",
2022, against the most recent learning evaluation. Forward transfer, as those define it, is that of a set
before its first event: a learner whose classes are open can't name a class that it has not seen, so that it
would always be 0, or 0 by 0, and is no figure here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streamlearn.events import Array


@dataclass(frozen=True)
class Transfer:
    """Means over sets, None where no set has one. A set's block: from its first event to the next arrival.

    They say what they are called where a set's events all lie in its block. The accuracy on a set is that on
    its classes seen so far.

    learning_curve_area: mean accuracy over the events of the block, 0 at its beginning; 0..1.
    backward_transfer: accuracy at the end of the stream less that at the end of the block.
    performance_maintenance: mean accuracy over the events since the block less that at its end. (The source
        has evaluations at equal distances; ours crowd around arrivals, hence by events.)
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
        areas.append(_over(events[block] - start, column[block], 0.0))
        if later.any():
            learned, since = column[block][-1], events[block][-1]
            backward.append(column[later][-1] - learned)
            maintenance.append(_over(events[later] - since, column[later], learned) - learned)
    return Transfer(_mean(areas), _mean(backward), _mean(maintenance))


def _over(events: Array, accuracy: Array, first: float) -> float:
    """The mean over the events of the straight lines from `first`, at no event, through the accuracies."""
    values = np.concatenate([[first], accuracy])
    return float((np.diff(events, prepend=0) * (values[1:] + values[:-1])).sum() / (2 * events[-1]))


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
