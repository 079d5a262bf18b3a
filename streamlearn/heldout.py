"""Labeled examples held out of the stream: what continual evaluation predicts and nobody learns.

A set belongs to a group: some classes, or a task. Its *fixed* examples are the first that were held out,
and stay what they are once the set is full, so that drawing anew puts no noise into minima. Beside them it
has a *rolling* set of its newest. Fixed falls and rolling holds: the concept drifted. Both fall: forgetting.
(specs/metrics.md; De Lange, van de Ven, Tuytelaars, "Continual evaluation for lifelong learning:
identifying the stability gap", ICLR 2023.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import DTypeLike

from streamlearn.config import EvaluationSettings
from streamlearn.events import Array
from streamlearn.piles import Piles
from streamlearn.state import Part

FIRST = 10
"""So many labels of a class are learned before one is held out."""
ROLLING = 4
"""Where the fixed set takes no more, one in so many of the chosen events goes to the rolling set."""
LEAST = 10
"""A rolling set takes no room from a fixed pile of so many examples: the fixed ones come first."""

_CHOICES = 1 << 64


class HeldOut:
    """At most `capacity` examples of the stream, in fixed and rolling piles, one of each per class of a set.

    Held out is an event whose class has had FIRST labels that were learned, and whose id's hash falls into
    the share `held_out`. The class's fixed pile takes it until the pile holds set_size // classes_per_set,
    or the set set_size (a task may have many classes). From then on one in ROLLING goes to the rolling pile,
    which keeps as many as the fixed pile holds, the newest; the others are learned.

    At the capacity a pile grows only if another is at least two larger: that one gives up an example, a
    fixed pile its last, a rolling pile its oldest; of equals a rolling pile, then the newest class's. So no
    class's set that was full ever takes another fixed example, and no pile loses its last.

    A task's set may be full before all of its classes have come. A class of which it has fewer than of
    another, by two at least, then takes the place of that one's last fixed example (of the class with most;
    of equals the newest); with it goes that class's oldest rolling one where there would be more of these
    than fixed ones. What has given way was never learned, and is looked at no more: it is dropped.

    A decision is a function of the state, the labels and the hash: no generator, no clock.
    """

    def __init__(
        self, settings: EvaluationSettings, capacity: int, shape: Sequence[int], dtype: DTypeLike
    ) -> None:
        share = settings.held_out or 0.0
        self.capacity = capacity if share else 0
        self._set_size = settings.set_size
        self._pile_size = settings.set_size // settings.classes_per_set
        self._chosen_below = int(share * _CHOICES) - _CHOICES // 2
        self._x = np.zeros((self.capacity, *shape), dtype)
        # Slots 0 … size - 1 are in use. A cell is a class of a set; it has a number and two piles of slots.
        self._columns = {
            name: np.zeros(self.capacity, kind)
            for name, kind in (
                ("y", np.int64),
                ("group", np.int64),
                ("cell", np.int64),
                ("taken", np.int64),
                ("choice", np.int64),
                ("rolling", np.bool_),
            )
        }
        self._seen = bytearray()
        self._full: set[int] = set()
        self._place = np.zeros(self.capacity, np.int64)
        self.size = 0
        self._taken = 0
        self._lay()

    def _lay(self) -> None:
        """Make the piles, and what else is kept for speed, of what the columns hold."""
        # A cell whose examples are all gone leaves no gap.
        self._column("cell")[:] = np.unique(self._column("cell"), return_inverse=True)[1]
        cells, groups, numbers, rolling, choices = (
            self._column(name).tolist() for name in ("cell", "group", "y", "rolling", "choice")
        )
        by_cell = sorted({*zip(cells, groups, numbers, strict=True)})
        self._cells = {(group, number): cell for cell, group, number in by_cell}
        self._slot_of = {choice: slot for slot, choice in enumerate(choices)}
        self._fixed, self._rolling = Piles(), Piles()
        self._place[:] = 0
        self._fixed_in: dict[int, int] = {}
        for cell in range(len(by_cell)):
            self._fixed.open(cell)
            self._rolling.open(cell)
        for slot in np.argsort(self.taken).tolist():
            self._put(slot, cells[slot], groups[slot], rolling[slot])

    @property
    def x(self) -> Array:
        """The examples as stored [size, *shape], in an order that holding out more keeps. Not a copy."""
        return self._x[: self.size]

    @property
    def y(self) -> Array:
        """Their class numbers, int64 [size]. Not a copy."""
        return self._column("y")

    @property
    def group(self) -> Array:
        """Their sets, int64 [size]. Not a copy."""
        return self._column("group")

    @property
    def taken(self) -> Array:
        """When each was held out: 0 for the first of all that ever were, int64 [size]. Not a copy."""
        return self._column("taken")

    @property
    def rolling(self) -> Array:
        """Which lie in rolling piles; the others are the fixed sets, bool [size]. Not a copy."""
        return self._column("rolling")

    @property
    def newest(self) -> Array:
        """Which make up the rolling sets: the rolling piles, filled up with the newest fixed examples to
        as many as the class has fixed ones. bool [size]."""
        cells, rolling = self._column("cell"), self.rolling
        in_rolling = np.bincount(cells[rolling], minlength=len(self._cells))
        newest: Array = rolling | (self._place[: self.size] >= in_rolling[cells])
        return newest

    @property
    def bytes(self) -> int:
        """What the examples take up, with the columns beside them."""
        columns = (self._x, self._place, *self._columns.values())
        return self.size * sum(column.nbytes // max(1, self.capacity) for column in columns)

    def chooses(self, choice: int) -> bool:
        """Whether this hash falls into the share: only then does `offer` look at x."""
        return choice < self._chosen_below

    def offer(self, x: Array, number: int, group: int, choice: int, task: bool = False) -> bool:
        """Whether the event is held out: then it must not be learned.

        A copy of `x` is kept, but for an event whose hash one of the examples has: it has come again.

        Call it for every accepted labeled event, in order. x [*shape] as the memory stores it; number and
        group: of its class and its set, from 0; choice: a hash of its id, a signed integer of 64 bits;
        task: the set is a task's.
        """
        if not self.capacity:
            return False
        seen = self._seen
        if number >= len(seen):
            seen.extend(bytes(number + 1 - len(seen)))
        if seen[number] < FIRST:
            seen[number] += 1
            return False
        return choice < self._chosen_below and self._hold(x, number, group, choice, task)

    def _hold(self, x: Array, number: int, group: int, choice: int, task: bool) -> bool:
        if choice in self._slot_of:
            return True  # the same event once more: it must not be learned now either
        cell = self._cells.get((group, number))
        fixed = len(self._fixed.slots[cell]) if cell is not None else 0
        if fixed < self._pile_size:
            if group not in self._full:
                slot = self._room(fixed, rolling=False)
            else:
                slot = self._room_in_set(fixed, group) if task else None
            if slot is not None:
                self._keep(slot, x, number, group, choice, rolling=False)
                return True
        # The low bits have no part in the share: that is decided by the high ones.
        if cell is None or choice % ROLLING:
            return False
        rolling = self._rolling.slots[cell]
        slot = self._room(len(rolling), rolling=True) if len(rolling) < fixed else None
        if slot is None:
            if not rolling:
                return False
            slot = self._rolling.pop_oldest(cell)
        self._keep(slot, x, number, group, choice, rolling=True)
        return True

    def _room(self, size: int, rolling: bool) -> int | None:
        """A slot for a pile of `size` to grow by; None if no other pile can give one up."""
        if self.size < self.capacity:
            self.size += 1
            return self.size - 1
        most, giver = self._rolling.largest()
        most_fixed, giver_fixed = self._fixed.largest()
        if most_fixed > most and not (rolling and most_fixed <= LEAST):
            if most_fixed < size + 2:
                return None
            slot = self._fixed.pop_newest(giver_fixed)
            self._fixed_in[int(self._columns["group"][slot])] -= 1
            return slot
        return self._rolling.pop_oldest(giver) if most >= size + 2 else None

    def _room_in_set(self, size: int, group: int) -> int | None:
        """A slot for a fixed pile of `size` to grow by in a full set; None if no class has two more."""
        piles = self._fixed.slots
        most, giver = max((len(piles[cell]), cell) for (of, _), cell in self._cells.items() if of == group)
        if most < size + 2:
            return None
        rolling = self._rolling.slots[giver]
        if len(rolling) == most:
            self._remove(rolling[0])
        self._fixed_in[group] -= 1
        return self._fixed.pop_newest(giver)

    def _keep(self, slot: int, x: Array, number: int, group: int, choice: int, rolling: bool) -> None:
        before = int(self._columns["choice"][slot])
        if self._slot_of.get(before) == slot:
            del self._slot_of[before]
        self._slot_of[choice] = slot
        cell = self._cells.setdefault((group, number), len(self._cells))
        self._x[slot] = x
        for name, value in (
            ("y", number),
            ("group", group),
            ("cell", cell),
            ("taken", self._taken),
            ("choice", choice),
            ("rolling", rolling),
        ):
            self._columns[name][slot] = value
        self._taken += 1
        self._put(slot, cell, group, rolling)
        if not rolling and self._fixed_in[group] == self._set_size:
            self._full.add(group)

    def _put(self, slot: int, cell: int, group: int, rolling: bool) -> None:
        """Into a pile, behind what is there."""
        if rolling:
            self._rolling.push(cell, slot)
        else:
            self._place[slot] = len(self._fixed.slots[cell]) if cell < len(self._fixed.slots) else 0
            self._fixed.push(cell, slot)
            self._rolling.open(cell)
            self._fixed_in[group] = self._fixed_in.get(group, 0) + 1

    def shift(self, by: Array) -> None:
        """Take `by`, float64 [*shape], off the x of all examples."""
        self.x[...] = self.x - by

    def forget(self, choice: int) -> bool:
        """Take out the example that this hash chose, and overwrite it with zeros; whether there was one.

        The others keep their order and their piles. Only where a class of a set loses its last fixed
        example does its oldest rolling one take that place, so that no class is without; a set that was
        full, and has nothing left of a class, may take fixed examples again. In a task's set a class that
        lost two or more may win places back from the class with most.
        """
        slot = self._slot_of.get(choice)
        if slot is None:
            return False
        cell = int(self._columns["cell"][slot])
        if list(self._fixed.slots[cell]) == [slot]:
            if self._rolling.slots[cell]:
                self._columns["rolling"][self._rolling.slots[cell][0]] = False
            else:
                self._full.discard(int(self._columns["group"][slot]))
        self._remove(slot)
        return True

    def _remove(self, slot: int) -> None:
        """Overwrite an example with zeros; the others keep their order."""
        last = self.size - 1
        for column in (self._x, *self._columns.values()):
            column[slot:last] = column[slot + 1 : last + 1]
            column[last] = 0
        self.size = last
        self._lay()

    def accuracies(self, right: Array) -> tuple[Array, Array]:
        """Of the fixed and of the rolling sets, float64 [groups] each; NaN where a set is empty.

        right: whether each example was predicted right, bool [size]. The accuracy of a set is the mean
        over its classes of the class's accuracy.
        """
        if len(right) != self.size:
            raise ValueError(f"{self.size} examples are held out, {len(right)} answers came")
        return self._accuracies(right, ~self.rolling), self._accuracies(right, self.newest)

    def _accuracies(self, right: Array, chosen: Array) -> Array:
        cells = self._column("cell")[chosen]
        # No cell is empty: it was made by its first fixed example and never gives up the last one.
        counts = np.bincount(cells, minlength=len(self._cells))
        in_group, classes = self._sums(np.bincount(cells, right[chosen], len(self._cells)) / counts)
        mean: Array = in_group / classes
        return mean

    @property
    def errors(self) -> Array:
        """Standard error of each fixed accuracy, at most, float64 [groups]; NaN where a set is empty.

        That of one class's accuracy over n examples is at most .5 / sqrt(n).
        """
        counts = np.bincount(self._column("cell")[~self.rolling], minlength=len(self._cells))
        variances, classes = self._sums(0.25 / counts)
        errors: Array = np.sqrt(variances) / classes
        return errors

    def _sums(self, values: Array) -> tuple[Array, Array]:
        """Sums of values [cells] by group, and how many cells each group has (NaN for none): [groups]."""
        groups = np.fromiter((group for group, _ in self._cells), np.int64, len(self._cells))
        classes = np.bincount(groups).astype(np.float64)
        classes[classes == 0] = np.nan
        return np.bincount(groups, values), classes

    def part(self) -> Part:
        tensors = {
            name: torch.from_numpy(column[: self.size].copy()) for name, column in self._columns.items()
        }
        tensors["x"] = torch.from_numpy(self._x[: self.size].copy())
        tensors["seen"] = torch.from_numpy(np.frombuffer(self._seen, np.uint8).copy())
        tensors["full"] = torch.tensor(sorted(self._full), dtype=torch.int64)
        return Part(tensors, {"taken": self._taken})

    def load(self, part: Part) -> None:
        """Take the state in `part`. ValueError if it holds other or more examples than this one may."""
        x = part.tensors["x"].numpy()
        if x.dtype != self._x.dtype or x.shape[1:] != self._x.shape[1:] or len(x) > self.capacity:
            raise ValueError(
                f"held-out sets: the state holds {len(x)} examples of {x.dtype} {x.shape[1:]}, "
                f"these hold at most {self.capacity} of {self._x.dtype} {self._x.shape[1:]}"
            )
        self.size, self._taken = len(x), int(part.values["taken"])
        self._x[: self.size] = x
        for name, column in self._columns.items():
            column[: self.size] = part.tensors[name].numpy()
        self._seen = bytearray(part.tensors["seen"].numpy().tobytes())
        self._full = set(part.tensors["full"].tolist())
        self._lay()

    def _column(self, name: str) -> Array:
        column: Array = self._columns[name][: self.size]
        return column
