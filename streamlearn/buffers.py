"""Replay memory: examples in preallocated columns on the device, and the policies that choose slots.

Inputs are stored raw (uint8 or float32, as they came); they are normalised when drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from streamlearn.arithmetic import Numbers, host, index, tensor
from streamlearn.config import MemorySettings
from streamlearn.events import Array
from streamlearn.state import SegmentedPart, Slices

SEGMENT_BYTES = 4 << 10
"""About how much of the memory is copied and written for one changed example."""

SKIP = -1


class Memory:
    """At most `capacity` examples: x [capacity, *shape], labels, key (hash of the id), born (event number).

    size: examples held. seen: labeled events offered so far. Slots 0 … size - 1 are in use, those behind
    them are zero.
    """

    def __init__(
        self, settings: MemorySettings, shape: Sequence[int], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.capacity = settings.capacity
        self.policy = settings.policy
        self.horizon = max(settings.horizon, settings.capacity)
        self.device = device
        self.x = torch.zeros((self.capacity, *shape), dtype=dtype, device=device)
        self._x = host(self.x)
        # The columns below are read to choose slots: they stay with the host.
        self.labels = np.zeros(self.capacity, dtype=np.int64)
        self.key = np.zeros(self.capacity, dtype=np.int64)
        self.born = np.zeros(self.capacity, dtype=np.int64)
        self.priority = np.zeros(self.capacity, dtype=np.float64)
        self.size = 0
        self.seen = 0
        row_bytes = self.x[0].numel() * self.x.element_size() + 3 * 8
        self.segment_rows = max(1, SEGMENT_BYTES // row_bytes)
        self.changed = np.zeros(-(-self.capacity // self.segment_rows), dtype=bool)

    def draw(self, count: int, rng: np.random.Generator) -> Array:
        """Slots [min(count, size)] of examples drawn uniformly without replacement."""
        if not self.size:
            return np.empty(0, dtype=np.int64)
        return rng.choice(self.size, min(count, self.size), replace=False, shuffle=False)

    @property
    def age(self) -> float:
        """How many events ago an example was offered, in the mean, as is to be expected."""
        return min(self.seen / 2, self.horizon) if self.policy == "ageing" else self.seen / 2

    def rows(self, slots: Array) -> tuple[Numbers, Array]:
        """x [n, *shape] (raw) and class numbers [n] at `slots`."""
        return self._x[index(slots, self._x)], self.labels[slots]

    def insert(self, x: Numbers, y: Array, key: Array, rng: np.random.Generator) -> None:
        """Offer a batch in order: raw x [n, *shape] on the device, class numbers y [n], keys [n]."""
        n = len(y)
        priority = rng.random(n)
        if self.policy == "balanced":
            slots = self._balanced_slots(y, priority)
        else:
            slots = self._reservoir_slots(n, priority)
        first, self.seen = self.seen, self.seen + n
        if slots is None:
            return
        source = np.flatnonzero(slots != SKIP)
        target = slots[source]
        # Two events of one batch may have chosen the same slot: the later one stays.
        _, last = np.unique(target[::-1], return_index=True)
        if len(last) < len(target):
            kept = len(target) - 1 - last
            source, target = source[kept], target[kept]
        self._x[index(target, self._x)] = host(x)[index(source, self._x)]
        self.labels[target] = y[source]
        self.key[target] = key[source]
        self.born[target] = first + source
        self.priority[target] = priority[source]
        self.size = max(self.size, int(target.max()) + 1)
        self.changed[target // self.segment_rows] = True

    def shift(self, by: Array) -> None:
        """Take `by`, float64 [*shape], off the x of all examples."""
        held = self._x[: self.size]
        held[...] = host(tensor(held).double() - torch.from_numpy(by).to(self.device))
        self.changed[: self.segments] = True

    def forget(self, key: int) -> Array | None:
        """Take out the examples of this key; None if there are none.

        Returns where the example of each slot lies now, int64 [size before]; -1: it is gone. What lay in
        the last slots has moved into those that became free; where nothing lies any more there are zeros.
        """
        size = self.size
        gone = np.flatnonzero(self.key[:size] == key)
        if not len(gone):
            return None
        left = size - len(gone)
        moved = np.arange(size)
        moved[gone] = -1
        holes, last = gone[gone < left], left + np.flatnonzero(moved[left:] >= 0)
        moved[last] = holes
        for column in (self.labels, self.key, self.born, self.priority):
            column[holes] = column[last]
            column[left:size] = 0
        to, of = (torch.from_numpy(slots).to(self.device) for slots in (holes, last))
        self.x.index_copy_(0, to, self.x.index_select(0, of))
        self.x[left:size] = 0
        self.changed[holes // self.segment_rows] = True
        self.changed[np.arange(left, size) // self.segment_rows] = True
        self.size = left
        return moved

    def _reservoir_slots(self, n: int, u: Array) -> Array | None:
        """Algorithm R (Vitter, ACM TOMS 1985), a batch at a time: event t stays with odds capacity / t.

        SKIP for what finds no place; None if nothing does, as for nearly every batch of a long stream.

        The ageing policy stops t at `horizon`, so that the odds never fall to nothing: the memory is then
        an exponentially decaying sample of about the last `horizon` events.

        Slots that are free are taken first, also those that `forget` has freed: a few events that come next
        are then sure of theirs, and from there on as likely to lose it as any other. (Random pairing,
        Gemulla et al., VLDB 2006, needs to know of every deletion whether the sample held it; an id may
        have come many times or never.)
        """
        limit = np.arange(self.seen + 1, self.seen + n + 1)
        if self.policy != "reservoir":
            np.minimum(limit, self.horizon, out=limit)
        odds = u * limit
        full = self.size == self.capacity
        if full and odds.min() >= self.capacity:
            return None
        slots = odds.astype(np.int64)
        slots[slots >= self.capacity] = SKIP
        if full:
            return slots
        next_free = self.size + np.arange(n)
        return np.where(next_free < self.capacity, next_free, slots)

    def _balanced_slots(self, y: Array, priority: Array) -> Array | None:
        """Class-balanced reservoir: what is evicted is drawn from the class that holds the most.

        As in Chrysakis and Moens (ICML 2020), each class keeps a uniform sample of its own past and the
        largest class gives way. Here every example carries a random priority and the lowest ones of the
        largest classes go, a whole batch at once: the examples that a class keeps are those of its highest
        priorities, which is a uniform sample of fixed size.
        """
        n, size = len(y), self.size
        excess = size + n - self.capacity
        free = np.arange(size, min(size + n, self.capacity))
        if excess <= 0:
            return free
        labels = np.concatenate([self.labels[:size], y])
        keys = np.concatenate([self.priority[:size], priority])
        counts = np.bincount(labels)
        evicted = []
        for label, quota in enumerate(_level(counts, self.capacity)):
            surplus = int(counts[label] - quota)
            if surplus > 0:
                members = np.flatnonzero(labels == label)
                lowest = np.argpartition(keys[members], surplus - 1)[:surplus]
                evicted.append(members[lowest])
        gone = np.sort(np.concatenate(evicted))
        slots = np.full(n, SKIP, dtype=np.int64)
        staying = np.setdiff1d(np.arange(size, size + n), gone, assume_unique=True) - size
        open_slots = np.concatenate([free, gone[gone < size]])
        slots[staying] = open_slots[: len(staying)]
        return slots if len(staying) else None

    @property
    def segments(self) -> int:
        """Segments in use; the slots behind them are zero."""
        return -(-self.size // self.segment_rows)

    def snapshot(self, full: bool = False) -> SegmentedPart:
        """The memory, with copies of the segments that changed since the last snapshot (`full`: of all)."""
        # Segments behind the last one in use are zero: what was in them has been forgotten.
        changed = np.arange(self.segments) if full else np.flatnonzero(self.changed[: self.segments])
        if not full:
            self.changed[:] = False
        if 2 * len(changed) > self.segments:
            # Most of it: one straight copy is cheaper than picking rows.
            used = min(self.segments * self.segment_rows, self.capacity)
            x = self.x[:used].to("cpu", copy=True).numpy()
            columns = [column[:used].copy() for column in self._columns()]
            places: Sequence[int] = changed.tolist()
        else:
            rows = (changed[:, None] * self.segment_rows + np.arange(self.segment_rows)).ravel()
            rows = rows[rows < self.capacity]
            x = self.x.index_select(0, torch.from_numpy(rows).to(self.device)).cpu().numpy()
            columns = [column[rows] for column in self._columns()]
            places = range(len(changed))
        return SegmentedPart(
            values={
                "size": self.size,
                "seen": self.seen,
                "capacity": self.capacity,
                "segment_rows": self.segment_rows,
                "dtype": str(self.x.dtype).removeprefix("torch."),
                "shape": list(self.x.shape[1:]),
            },
            count=self.segments,
            changed=Slices(changed.tolist(), places, (x, *columns), self.segment_rows),
        )

    def mark_changed(self, segments: Sequence[int]) -> None:
        """Copy these segments again at the next snapshot: what was taken of them was not written."""
        self.changed[np.asarray(segments, dtype=np.int64)] = True

    def mark_all_changed(self) -> None:
        """Copy everything at the next snapshot."""
        self.changed[:] = True

    def load(self, part: SegmentedPart) -> None:
        """Take the state in `part`, all of whose segments must be there as one flat uint8 array each."""
        values = part.values
        mine = {"capacity": self.capacity, "segment_rows": self.segment_rows, "shape": list(self.x.shape[1:])}
        theirs = {name: values[name] for name in mine}
        if mine != theirs or str(self.x.dtype) != f"torch.{values['dtype']}":
            raise ValueError(
                f"memory: the state holds {theirs} {values['dtype']}, this one is {mine} {self.x.dtype}"
            )
        self.size, self.seen = int(values["size"]), int(values["seen"])
        x = self.x.cpu().numpy() if self.x.device.type != "cpu" else self.x.numpy()
        for segment, (raw,) in part.changed.items():
            rows = slice(segment * self.segment_rows, (segment + 1) * self.segment_rows)
            start = 0
            for column in (x, *self._columns()):
                target = column[rows]
                end = start + target.nbytes
                target[...] = raw[start:end].view(target.dtype).reshape(target.shape)
                start = end
        if self.x.device.type != "cpu":
            self.x.copy_(torch.from_numpy(x))
        self.changed[:] = False

    def _columns(self) -> tuple[Array, ...]:
        """What a segment holds beside x. Priorities matter to the balanced policy alone."""
        columns = (self.labels, self.key, self.born)
        return (*columns, self.priority) if self.policy == "balanced" else columns


def _level(counts: Array, capacity: int) -> Array:
    """Cut `counts` to a common level so that they add up to `capacity` (water filling).

    Classes below the level keep all they have; where the level is not whole, the classes of the lowest
    numbers keep one more.
    """
    order = np.argsort(counts, kind="stable")
    left, level = capacity, 0
    for position, label in enumerate(order):
        level = left // (len(order) - position)
        if counts[label] > level:
            break
        left -= int(counts[label])
    else:
        return counts
    quotas = np.minimum(counts, level)
    for label in np.flatnonzero(counts > level)[: capacity - int(quotas.sum())]:
        quotas[label] += 1
    return quotas
