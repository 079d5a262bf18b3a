"""The learner: predict, then learn. The only code that changes a model.

`OnlineLearner.learn` is a pure function of (state, events in order): no clock, no global generator. How
the events were cut into calls makes no difference, to the bit:

* an event is predicted in a forward of fixed shape [B, ...], in row (records so far mod B), by the weights
  after floor(n / B) steps, n the labeled events before it;
* a step happens on exactly B labeled events in order; `flush` learns what waits and starts the count again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from streamlearn import learner_parts, threads
from streamlearn.answers import MOST, Answers, Waiting, write_out
from streamlearn.bookkeeping import Counts, reject_event
from streamlearn.classes import ClassIndex
from streamlearn.config import CoreSettings
from streamlearn.evaluator import NEVER
from streamlearn.events import Array, Event, Item, Output, Prediction, Rejection, Tombstone
from streamlearn.forgetting import Blocked, Forgotten, identity
from streamlearn.ledger import Ledger
from streamlearn.method import make_method
from streamlearn.model import choose_device
from streamlearn.prequential import UNKNOWN, Prequential
from streamlearn.schema import Schema, settle
from streamlearn.state import Snapshot
from streamlearn.trainer import Generators, Mark, Trainer

LABELS = (str, int, np.integer)

QUIET = np.errstate(all="ignore")
"""What is no number is looked for where it matters: a step that would make weights of it is left out."""

Refused = TypeVar("Refused", Rejection, Tombstone, Rejection | Tombstone)


def _no_mark(stage: str) -> None:
    pass


class OnlineLearner:
    """A model that answers every event and learns from the labeled ones."""

    def __init__(self, settings: CoreSettings) -> None:
        self.settings = settings
        self.batch = settings.learning.stream_batch
        self.device = choose_device(settings.model.device)
        make_method(settings.method)  # a fault in it is to be known before the first event
        self.classes = ClassIndex(settings.codec.max_classes)
        self.prequential = Prequential(settings.evaluation.window, settings.evaluation.fading)
        self.counts = Counts()
        self.losses: dict[str, float] = {}
        self.held: list[Item] = []
        self.held_events = self.held_dead = 0
        self.held_forgotten: set[int] = set()
        """Places in `held` of events that are to be answered and not to be learned."""
        self.blocked = Blocked()
        self.most_held_dead = 1000
        """Rejections in a row after which the shape is settled by the events that there are."""
        self.ledger: Ledger | None = None
        """Which events were learned, for whoever asks for it before the first one."""
        self.schema: Schema | None = None
        self.mark: Mark = _no_mark
        self.generators = Generators(settings.seed, self.device)
        if settings.codec.shape is not None:
            self.build(Schema(tuple(settings.codec.shape), settings.codec.dtype or "float32"))

    def build(self, schema: Schema) -> None:
        """Make everything whose size depends on the shape of x."""
        self.schema = schema
        shape = schema.shape
        self.trainer = Trainer(self.settings, schema, self.classes, self.device, self.generators)
        self.model, self.optimiser = self.trainer.model, self.trainer.optimiser
        self.normaliser, self.memory = self.trainer.normaliser, self.trainer.memory
        self.serving = self.trainer.serving
        # Inputs wait as they came; they become float32 relative to the normaliser's origin.
        wide = np.uint8 if schema.dtype == "uint8" else np.float64
        self.rows = np.zeros((self.batch, *shape), dtype=wide)
        self.pending_x = np.zeros((self.batch, *shape), dtype=wide)
        self.pending_y = np.zeros(self.batch, dtype=np.int64)
        self.pending_key = np.zeros(self.batch, dtype=np.int64)
        self.pending = 0

    @property
    def settled(self) -> bool:
        """True once shape and dtype of x are known; until then no output leaves and C stays at the start."""
        return self.schema is not None

    @QUIET
    def learn(self, items: Sequence[Item]) -> list[Output]:
        """Predict every event, then learn from the labeled ones; one output per item, in order.

        Rejections pass through and are counted. Events that don't fit become rejections. Until the shape
        of x is settled (the first B events, by majority) items are held and nothing is returned.
        """
        threads.use(self.settings.model.threads)
        outputs: list[Output] = []
        if self.settled:
            return self._learn(items)
        for place, item in enumerate(items):
            self.held.append(item)
            # Judged record by record: where a call ends must not decide what the shape is.
            if isinstance(item, Event):
                self.held_events += 1
                self.held_dead = 0
            else:
                self.held_dead += 1
            if self.held_events == self.batch or self.held_dead == self.most_held_dead:
                outputs += self.settle_now()
                if self.schema is not None:
                    return outputs + self._learn(items[place + 1 :])
        return outputs

    @QUIET
    def flush(self) -> list[Output]:
        """The end of a finite source: settle the shape, answer what was held, learn the partial batch."""
        threads.use(self.settings.model.threads)
        outputs = self.settle_now()
        if self.settled and self.pending:
            self._step()
        return outputs

    def settle_now(self) -> list[Output]:
        """Settle the shape by the events held so far and answer everything held."""
        if self.settled:
            return []
        held, self.held = self.held, []
        forgotten, self.held_forgotten = self.held_forgotten, set()
        voters = [item for item in held if isinstance(item, Event)]
        self.held_events = self.held_dead = 0
        if not voters:
            # Nothing but rejections so far: they can go, no shape is needed for them.
            for item in held:
                self.blocked.passes(item.position)
            return [self._reject(item) for item in held if not isinstance(item, Event)]
        self.build(settle(voters, self.settings.codec.dtype))
        return self._learn(held, forgotten)

    def forget(self, id: str, until: Mapping[int, int]) -> Forgotten:
        """Take every example of `id` out of the memory, the held-out sets and what waits to be learned.

        until: by partition, the offset below which no event of this id is to be learned from now on: it is
        answered, scored, and counted as forgotten. Partitions that have been read that far already should be
        left out: their block ends with the next record only. {}: later events of the id are new ones.

        A function of (state, id, until): call it at its place among the records. Weights, and all else that
        `Forgotten` names, keep what they learned. Of an id that nothing is kept of only the block is new.
        """
        who = identity(id)
        self.blocked.add(who, until)
        if not self.settled:
            return Forgotten(0, 0, self._forget_held(id), self.counts.steps)
        stays = self.pending_key[: self.pending] != who[0]
        waiting = self.pending - int(np.count_nonzero(stays))
        self.pending -= waiting
        for column in (self.pending_x, self.pending_y, self.pending_key):
            column[: self.pending] = column[: len(stays)][stays]
            column[self.pending :] = 0  # of the batch before
        self.rows[:] = 0
        if self.ledger is not None:
            self.ledger.drop(stays)
        self.counts.labeled -= waiting
        self.counts.forgotten += waiting
        return Forgotten(*self.trainer.forget(who), waiting, self.counts.steps)

    def _forget_held(self, id: str) -> int:
        """The same of what is held: those events are still to be answered, and count for the shape of x."""
        events = {i: e for i, e in enumerate(self.held) if isinstance(e, Event) and e.id == id}
        new = events.keys() - self.held_forgotten
        self.held_forgotten |= new
        return sum(events[i].y is not None for i in new)

    @QUIET
    def predict(self, events: Sequence[Event]) -> list[Prediction]:
        """Predict without learning: changes nothing. ValueError for an event that doesn't fit."""
        threads.use(self.settings.model.threads)
        if not self.settled:
            return [Prediction(e.id, None, {}, 0, 0, e.position, e.y, e.record) for e in events]
        answers: list[Prediction] = []
        rows = np.zeros_like(self.rows)
        for start in range(0, len(events), self.batch):
            group = events[start : start + self.batch]
            for row, event in enumerate(group):
                misfit = self._misfit(event)
                if misfit is not None:
                    raise ValueError(f"event {event.id!r}: {misfit.detail}")
                rows[row] = event.x
            waiting = [(row, row, event, UNKNOWN) for row, event in enumerate(group)]
            asked = [Answers(waiting, self.trainer.forward(rows), self.counts.steps)]
            found: list[Any] = [None] * len(group)
            write_out(asked, self.classes.labels, self.settings.learning.top_k, found)
            answers += found
        return answers

    @QUIET
    def numbers(self, x: Array) -> Array:
        """Class numbers [n] that `predict` gives for inputs [n, *shape], in bulk; -1 while none is known."""
        if not self.settled or not self.model.classes:
            return np.full(len(x), UNKNOWN)
        threads.use(self.settings.model.threads)
        return self.trainer.numbers(x)

    @QUIET
    def candidates(self, x: Array) -> dict[str, Array]:
        """The same by each predictor that is kept (see `streamlearn.serving`). Changes nothing."""
        threads.use(self.settings.model.threads)
        return self.trainer.candidates(x) if self.settled and self.model.classes else {}

    def _learn(self, items: Sequence[Item], forgotten: Collection[int] = ()) -> list[Output]:
        """forgotten: places in `items` of what is not to be learned."""
        outputs: list[Output | None] = []
        waiting: list[Waiting] = []
        answers: list[Answers] = []
        watchful = bool(self.blocked) or bool(forgotten)
        for item in items:
            passed_over = watchful and self._passes_over(item, len(outputs) in forgotten)
            if not isinstance(item, Event):
                if isinstance(item, Tombstone):
                    if waiting:  # their rows go with what is forgotten
                        answers.append(self._answer(waiting))
                        waiting = []
                    self.forget(item.id, {})
                outputs.append(self._reject(item))
                continue
            accepted = self._accept(item)
            if isinstance(accepted, Rejection):
                outputs.append(self._reject(accepted))
                continue
            x, number = accepted
            row = self.counts.records % self.batch
            self.rows[row] = x
            self.counts.records += 1
            waiting.append((len(outputs), row, item, number))
            outputs.append(None)
            if passed_over:
                self.counts.forgotten += number != UNKNOWN
            elif number != UNKNOWN:
                self._take(item, x, number)
            # Rows are told apart until as many wait as there are. To stop at the last row as well would be
            # a second forward for nearly every step once an event without a step has shifted the rows.
            if len(waiting) == self.batch or self.pending == self.batch:
                answers.append(self._answer(waiting))
                waiting = []
                if len(answers) * self.batch * answers[-1].classes > MOST:
                    self._write_out(answers, outputs)
                    answers = []
                if self.pending == self.batch:
                    self._step()
        if waiting:
            answers.append(self._answer(waiting))
        self._write_out(answers, outputs)
        return outputs  # type: ignore[return-value]  # every place has been filled

    def _passes_over(self, item: Item, forgotten: bool) -> bool:
        """Whether a record's id is a forgotten one, so that it must not be learned."""
        forgotten = forgotten or (isinstance(item, Event) and self.blocked.holds(item))
        self.blocked.passes(item.position)
        return forgotten

    def _take(self, event: Event, x: Array, number: int) -> None:
        """A labeled event: held out, or to be learned with the next full batch."""
        key, choice = identity(event.id)
        if self.trainer.evaluator.takes(x, number, event.task, choice if self.counts.steps else NEVER):
            self.counts.held_out += 1
            if self.ledger is not None:
                self.ledger.hold(event.position)
            return
        at = self.pending
        self.pending_x[at] = x
        self.pending_y[at] = number
        self.pending_key[at] = key
        self.pending = at + 1
        self.counts.labeled += 1
        if self.ledger is not None:
            self.ledger.wait(event.position)

    def _reject(self, item: Refused) -> Refused:
        if isinstance(item, Rejection):
            self.counts.rejected[item.reason] += 1
        return item

    def _accept(self, event: Event) -> tuple[Array, int] | Rejection:
        """The input as it came and the class number (UNKNOWN without a label), or why not."""
        assert self.schema is not None
        x = event.x
        if not self.schema.fits(x) and (misfit := self._misfit(event)) is not None:
            return misfit
        if event.y is None:
            return x, UNKNOWN
        # A notebook may give what the codec would have turned into a string, or refused.
        given: object = event.y
        if type(given) is not str and (not isinstance(given, LABELS) or isinstance(given, bool)):
            return reject_event(event, "bad_label", f"the label is {given!r}, not a string or an integer")
        label = str(given)
        number = self.classes.number(label)
        if number is None:
            return reject_event(
                event,
                "too_many_classes",
                f"{label!r} would be class {self.classes.limit + 1}, past codec.max_classes",
            )
        return x, number

    def _misfit(self, event: Event) -> Rejection | None:
        assert self.schema is not None
        misfit = self.schema.misfit(event.x)
        if misfit is None:
            return None
        reason, detail = misfit
        hashed = (self.settings.codec.hash_dim,)
        if reason == "wrong_shape" and hashed in (event.x.shape, self.schema.shape):
            detail += "; named features that aren't all numbers are hashed, see codec.named"
        return reject_event(event, reason, detail)

    def _answer(self, waiting: list[Waiting]) -> Answers:
        """Predict the waiting events in their rows."""
        self.mark("collate")
        found = Answers(waiting, self.trainer.forward(self.rows), self.counts.steps)
        self.counts.predicted += len(waiting)
        self.mark("predict")
        return found

    def _write_out(self, answers: list[Answers], outputs: list[Output | None]) -> None:
        """Make predictions of what was predicted, and score the labeled ones."""
        top = self.settings.learning.top_k
        self.prequential.update(write_out(answers, self.classes.labels, top, outputs))
        self.mark("predict")

    def _step(self) -> None:
        """One update on the pending events."""
        n, self.pending = self.pending, 0
        self.losses = self.trainer.step(
            self.pending_x[:n],
            self.pending_y[:n].copy(),
            self.pending_key[:n].copy(),
            self.counts,
            self.losses,
            self.mark,
        )
        if self.ledger is not None:
            self.ledger.step()

    def snapshot(self, full: bool = False) -> Snapshot:
        """Copies of all state, by part; of the memory only what changed since the last snapshot.

        `full`: all of the memory, and the next snapshot still holds what changed since the one before.
        """
        return learner_parts.snapshot(self, full)

    def restore(self, parts: Snapshot) -> None:
        """Take a snapshot whose memory segments are all there. ValueError if it doesn't fit the settings."""
        learner_parts.restore(self, parts)
