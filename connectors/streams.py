"""The order in which a labeled data set becomes a stream: pure functions of labels and a generator."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

ORDERS = ("as_is", "independent", "class_incremental", "blurry", "recurring")
Index = NDArray[np.int64]


def class_order(labels: ArrayLike, rng: np.random.Generator, shuffle: bool = True) -> NDArray[Any]:
    """The distinct labels, sorted, or in an order drawn from `rng`."""
    classes = np.unique(np.asarray(labels))
    return rng.permutation(classes) if shuffle else classes


def arrange(
    labels: ArrayLike,
    order: str,
    rng: np.random.Generator,
    *,
    classes: ArrayLike | None = None,
    groups: int = 2,
    per_class: int | None = None,
    blur: float = 0.1,
    repeats: int = 3,
) -> Index:
    """Where each event of the stream stands in the data set, every one at most once.

    The classes, in order, are taken `groups` at a time (the last group may be smaller). Orders:

    - as_is: the data set's own order.
    - independent: all events shuffled.
    - class_incremental: one group after another, each group's events shuffled.
    - blurry: class_incremental, but floor(blur * n) of a group's n events, drawn without replacement,
      each go into the time of another group, drawn uniformly; the events of each group's time are
      shuffled. So the time of a group holds 1 - blur of its own events and some of all others, earlier and
      later ones. (A "blurry-M" stream in the sense of Bang et al., Rainbow Memory, CVPR 2021, M = 100 *
      blur.) With one group it is class_incremental.
    - recurring: each group's shuffled events are split into `repeats` parts, whose sizes differ by at
      most one; all groups' first parts come in the order of the groups, then all second ones, and so on.

    Args:
        labels: [events], of any type that sorts.
        classes: [classes], the classes to take part, in order; by default `class_order(labels, rng)`.
        groups: classes per group.
        per_class: take only so many first events of each class.

    Raises:
        ValueError: for an unknown order or a number out of its range.
    """
    labels = np.asarray(labels)
    if order not in ORDERS:
        raise ValueError(f"the order {order!r} is not known: it must be one of {', '.join(ORDERS)}")
    if groups < 1 or repeats < 1 or not 0 <= blur <= 1 or (per_class is not None and per_class < 1):
        raise ValueError("groups, repeats and per_class must be at least 1, and blur between 0 and 1")
    sequence = class_order(labels, rng) if classes is None else np.asarray(classes)
    members = [np.flatnonzero(labels == label)[:per_class] for label in sequence]
    if not members:
        return np.empty(0, np.int64)
    if order in ("as_is", "independent"):
        chosen = np.sort(np.concatenate(members))
        return chosen if order == "as_is" else rng.permutation(chosen)
    times = [
        rng.permutation(np.concatenate(members[first : first + groups]))
        for first in range(0, len(members), groups)
    ]
    if order == "blurry":
        times = _blurred(times, blur, rng)
    elif order == "recurring":
        parts = [np.array_split(time, repeats) for time in times]
        times = [part[turn] for turn in range(repeats) for part in parts]
    return np.concatenate(times)


def _blurred(times: list[Index], blur: float, rng: np.random.Generator) -> list[Index]:
    if len(times) == 1:
        return times
    mixed = []
    stay, go = [], []
    for number, time in enumerate(times):
        leaving = int(blur * len(time))
        go.append(time[:leaving])
        stay.append(time[leaving:])
        # Uniform over the other groups: skip the own one.
        target = rng.integers(len(times) - 1, size=leaving)
        mixed.append(target + (target >= number))
    moved, targets = np.concatenate(go), np.concatenate(mixed)
    return [rng.permutation(np.concatenate([own, moved[targets == i]])) for i, own in enumerate(stay)]
