"""The learner: predict, then learn. The only code that changes a model.

`OnlineLearner.learn` is a pure function of (state, events in order): no clock, no global generator. How
the events were cut into calls makes no difference, to the bit:

* an event is predicted in a forward of fixed shape [B, ...], in row (records so far mod B), by the weights
  after floor(n / B) steps, n the labeled events before it;
* a step happens on exactly B labeled events in order; `flush` learns what waits and starts the count again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import reduce
from operator import add

import mmh3
import numpy as np
import torch
from torch import Tensor

from streamlearn import bookkeeping
from streamlearn.bookkeeping import Counts, reject_event
from streamlearn.buffers import Memory
from streamlearn.classes import ClassIndex
from streamlearn.config import CoreSettings
from streamlearn.events import Array, Event, Output, Prediction, Rejection
from streamlearn.method import Rows, chain, make_method
from streamlearn.model import Model, choose_device
from streamlearn.normalise import Normaliser
from streamlearn.optimise import Optimiser
from streamlearn.prequential import UNKNOWN, Prequential
from streamlearn.schema import Schema, settle
from streamlearn.state import Part, SegmentedPart, Snapshot

Mark = Callable[[str], None]
"""Told the name of every stage when it ends; the worker measures time with it, the core has no clock."""


def _no_mark(stage: str) -> None:
    pass


class OnlineLearner:
    """A model that answers every event and learns from the labeled ones."""

    def __init__(self, settings: CoreSettings) -> None:
        self.settings = settings
        self.batch = settings.learning.stream_batch
        self.device = choose_device(settings.model.device)
        self.method = make_method(settings.method)
        self.replay_batch = self._replay_batch()
        self.classes = ClassIndex(settings.codec.max_classes)
        self.prequential = Prequential(settings.evaluation.window, settings.evaluation.fading)
        self.counts = Counts()
        self.losses: dict[str, float] = {}
        self.held: list[Event | Rejection] = []
        self._held_events = self._held_dead = 0
        self.most_held_dead = 1000
        """Rejections in a row after which the shape is settled by the events that there are."""
        self.schema: Schema | None = None
        self.mark: Mark = _no_mark
        # Independent streams for slots, draws and what lives on the device, all from one seed.
        slots, draws, views = np.random.SeedSequence(settings.seed).spawn(3)
        self.slots_rng = np.random.Generator(np.random.PCG64(slots))
        self.draws_rng = np.random.Generator(np.random.PCG64(draws))
        self.views_rng = torch.Generator(device=self.device)
        self.views_rng.manual_seed(int(views.generate_state(1, np.uint64)[0] >> np.uint64(1)))
        if settings.codec.shape is not None:
            self._build(Schema(tuple(settings.codec.shape), settings.codec.dtype or "float32"))

    def _replay_batch(self) -> int:
        learning = self.settings.learning
        if learning.images_per_event is not None:
            return max(0, round((learning.images_per_event - 1) * self.batch))
        if learning.memory_batch is not None:
            return learning.memory_batch
        base = chain(self.method)[-1]
        return -(-base.replay_batch * self.batch // 10)

    def _build(self, schema: Schema) -> None:
        """Make everything whose size depends on the shape of x."""
        settings, shape = self.settings, schema.shape
        self.schema = schema
        self.model = Model(settings.model, shape, settings.seed, self.device)
        self.optimiser = Optimiser(settings.learning, self.model)
        self.normaliser = Normaliser(
            shape, settings.model.normalise_horizon, self.device, settings.model.normalise
        )
        kind = torch.uint8 if schema.dtype == "uint8" else torch.float32
        self.memory = Memory(settings.memory, shape, kind, self.device)
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

    def learn(self, items: Sequence[Event | Rejection]) -> list[Output]:
        """Predict every event, then learn from the labeled ones; one output per item, in order.

        Rejections pass through and are counted. Events that don't fit become rejections. Until the shape
        of x is settled (the first B events, by majority) items are held and nothing is returned.
        """
        self._use_threads()
        outputs: list[Output] = []
        if self.settled:
            return self._learn(items)
        for place, item in enumerate(items):
            self.held.append(item)
            # Judged record by record: where a call ends must not decide what the shape is.
            if isinstance(item, Event):
                self._held_events += 1
                self._held_dead = 0
            else:
                self._held_dead += 1
            if self._held_events == self.batch or self._held_dead == self.most_held_dead:
                outputs += self.settle_now()
                if self.schema is not None:
                    return outputs + self._learn(items[place + 1 :])
        return outputs

    def flush(self) -> list[Output]:
        """The end of a finite source: settle the shape, answer what was held, learn the partial batch."""
        self._use_threads()
        outputs = self.settle_now()
        if self.settled and self.pending:
            self._step()
        return outputs

    def settle_now(self) -> list[Output]:
        """Settle the shape by the events held so far and answer everything held."""
        if self.settled:
            return []
        held, self.held = self.held, []
        voters = [item for item in held if isinstance(item, Event)]
        self._held_events = self._held_dead = 0
        if not voters:
            # Nothing but rejections so far: they can go, no shape is needed for them.
            return [self._reject(item) for item in held if isinstance(item, Rejection)]
        self._build(settle(voters, self.settings.codec.dtype))
        return self._learn(held)

    def predict(self, events: Sequence[Event]) -> list[Prediction]:
        """Predict without learning: changes nothing. ValueError for an event that doesn't fit."""
        self._use_threads()
        if not self.settled:
            return [Prediction(e.id, None, {}, 0, 0, e.position, e.y, e.record) for e in events]
        answers: list[Prediction] = []
        rows = np.zeros_like(self.rows)
        for start in range(0, len(events), self.batch):
            group = events[start : start + self.batch]
            for row, event in enumerate(group):
                fitted = self._fit(event)
                if isinstance(fitted, Rejection):
                    raise ValueError(f"event {event.id!r}: {fitted.detail}")
                rows[row] = fitted
            labels, scores, _ = self._forward(rows)
            for row, event in enumerate(group):
                answers.append(self._prediction(event, row, labels, scores))
        return answers

    def _use_threads(self) -> None:
        """The order of float additions depends on the thread count, which is the process's, not ours."""
        if torch.get_num_threads() != self.settings.model.threads:
            torch.set_num_threads(self.settings.model.threads)

    def _learn(self, items: Sequence[Event | Rejection]) -> list[Output]:
        outputs: list[Output | None] = []
        waiting: list[tuple[int, int, Event, int]] = []
        for item in items:
            if isinstance(item, Rejection):
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
            if number != UNKNOWN:
                at = self.pending
                self.pending_x[at] = x
                self.pending_y[at] = number
                self.pending_key[at] = mmh3.hash64(item.id.encode(errors="surrogatepass"))[0]
                self.pending = at + 1
                self.counts.labeled += 1
            if row == self.batch - 1 or self.pending == self.batch:
                self._answer(waiting, outputs)
                waiting.clear()
                if self.pending == self.batch:
                    self._step()
        if waiting:
            self._answer(waiting, outputs)
        return outputs  # type: ignore[return-value]  # every place has been filled

    def _reject(self, rejection: Rejection) -> Rejection:
        self.counts.rejected[rejection.reason] += 1
        return rejection

    def _accept(self, event: Event) -> tuple[Array, int] | Rejection:
        """The input as it came and the class number (UNKNOWN without a label), or why not."""
        fitted = self._fit(event)
        if isinstance(fitted, Rejection) or event.y is None:
            return fitted if isinstance(fitted, Rejection) else (fitted, UNKNOWN)
        # A notebook may give what the codec would have turned into a string, or refused.
        given: object = event.y
        if not isinstance(given, str | int | np.integer) or isinstance(given, bool):
            return reject_event(event, "bad_label", f"the label is {given!r}, not a string or an integer")
        label = str(given)
        number = self.classes.number(label)
        if number is None:
            return reject_event(
                event,
                "too_many_classes",
                f"{label!r} would be class {self.classes.limit + 1}, past codec.max_classes",
            )
        return fitted, number

    def _fit(self, event: Event) -> Array | Rejection:
        assert self.schema is not None
        misfit = self.schema.misfit(event.x)
        if misfit is None:
            return event.x
        reason, detail = misfit
        hashed = (self.settings.codec.hash_dim,)
        if reason == "wrong_shape" and hashed in (event.x.shape, self.schema.shape):
            detail += "; named features that aren't all numbers are hashed, see codec.named"
        return reject_event(event, reason, detail)

    def _forward(self, rows: Array) -> tuple[list[list[int]], list[list[float]], Tensor]:
        """Best classes [B][k], their probabilities, and all probabilities [B, classes]."""
        with torch.inference_mode():
            x = self.normaliser(torch.from_numpy(self.normaliser.relative(rows)).to(self.device))
            probabilities = torch.softmax(self.model(x), dim=1)
            k = min(self.settings.learning.top_k, self.model.classes)
            best = torch.topk(probabilities, k, dim=1)
            # Rounded all at once: six digits of a probability are what anybody reads.
            scores = np.round(best.values.cpu().numpy().astype(np.float64), 6)
            return best.indices.tolist(), scores.tolist(), probabilities

    def _prediction(
        self, event: Event, row: int, labels: list[list[int]], scores: list[list[float]]
    ) -> Prediction:
        names = self.classes.labels
        top = {names[i]: p for i, p in zip(labels[row], scores[row], strict=True)}
        return Prediction(
            event.id,
            names[labels[row][0]] if top else None,
            top,
            self.model.classes,
            self.counts.steps,
            event.position,
            event.y,
            event.record,
        )

    def _answer(self, waiting: Sequence[tuple[int, int, Event, int]], outputs: list[Output | None]) -> None:
        """Predict the waiting events in their rows and score the labeled ones."""
        self.mark("collate")
        labels, scores, probabilities = self._forward(self.rows)
        known = self.model.classes
        of_label = probabilities.cpu().numpy()
        for place, row, event, number in waiting:
            outputs[place] = self._prediction(event, row, labels, scores)
            if number != UNKNOWN:
                predicted = labels[row][0] if known else UNKNOWN
                probability = float(of_label[row, number]) if number < known else 0.0
                self.prequential.update(predicted, number, probability)
        self.counts.predicted += len(waiting)
        self.mark("predict")

    def _step(self) -> None:
        """One update on the pending events and what the method draws from memory."""
        n = self.pending
        self.pending = 0
        y = self.pending_y[:n].copy()
        self.normaliser.anchor(self.pending_x[:n])
        stored = self.normaliser.relative(self.pending_x[:n])
        stream = torch.from_numpy(stored.copy()).to(self.device)
        self._grow(int(y.max()) + 1)
        self.normaliser.update(stored)
        raw, labels = stream, torch.from_numpy(y).to(self.device)
        slots = self.method.draw(self.memory, self.replay_batch, self.draws_rng)
        if len(slots):
            drawn_x, drawn_y = self.memory.rows(slots)
            raw, labels = torch.cat([stream, drawn_x]), torch.cat([labels, drawn_y])
        rows = Rows(raw, self.normaliser(raw), labels, n, self.normaliser, self.views_rng)
        self.mark("draw")
        self.model.train_mode(True)
        parts = self.method.loss(self.model, rows)
        values = {name: float(part.detach()) for name, part in parts.items()}
        finite = math.isfinite(sum(values.values()))
        if finite:
            self.model.backward(reduce(add, parts.values()))
        self.model.train_mode(False)
        self.mark("forward_backward")
        if finite:
            self.optimiser.step(self.model)
            self.losses = values
            self.method.after_step(self.model, rows)
        else:
            # A loss that isn't a number must not become weights that aren't.
            self.counts.skipped_steps += 1
        self.mark("update")
        self.memory.insert(stream, y, self.pending_key[:n].copy(), self.slots_rng)
        self.counts.steps += 1
        self.counts.learned += n
        self.counts.images += self.method.images(len(rows.y))
        self.mark("store")

    def _grow(self, classes: int) -> None:
        if classes > self.model.classes:
            self.model.grow(classes, self.views_rng)
            self.optimiser.grow(self.model)
            self.method.grow(self.model)

    def snapshot(self, full: bool = False) -> Snapshot:
        """Copies of all state, by part; of the memory only what changed since the last snapshot.

        `full`: all of the memory, and the next snapshot still holds what changed since the one before.
        """
        parts: dict[str, Part | SegmentedPart] = {
            "classes": Part(values={"labels": list(self.classes.labels)}),
            "generators": Part(
                {"views": self.views_rng.get_state()},
                {
                    "slots": bookkeeping.rng_state(self.slots_rng),
                    "draws": bookkeeping.rng_state(self.draws_rng),
                },
            ),
            "metrics": self.prequential.part(),
            "counts": Part(values=bookkeeping.plain_counts(self.counts) | {"losses": dict(self.losses)}),
            "schema": Part(values=self.schema.plain() if self.schema else {}),
        }
        if self.settled:
            parts["model"] = self.model.part()
            parts["optimiser"] = self.optimiser.part()
            parts["normaliser"] = self.normaliser.part()
            parts["method"] = bookkeeping.merge_layers([layer.part() for layer in chain(self.method)])
            parts["memory"] = self.memory.snapshot(full)
            parts["pending"] = Part(
                {
                    "x": torch.from_numpy(self.pending_x[: self.pending].copy()),
                    "y": torch.from_numpy(self.pending_y[: self.pending].copy()),
                    "key": torch.from_numpy(self.pending_key[: self.pending].copy()),
                }
            )
        return parts

    def restore(self, parts: Snapshot) -> None:
        """Take a snapshot whose memory segments are all there. ValueError if it doesn't fit the settings."""
        plain = {name: part for name, part in parts.items() if isinstance(part, Part)}
        self.classes = ClassIndex(self.settings.codec.max_classes, plain["classes"].values["labels"])
        self.views_rng.set_state(plain["generators"].tensors["views"])
        self.slots_rng.bit_generator.state = bookkeeping.rng_from(plain["generators"].values["slots"])
        self.draws_rng.bit_generator.state = bookkeeping.rng_from(plain["generators"].values["draws"])
        self.prequential.load(plain["metrics"])
        counts = dict(plain["counts"].values)
        self.losses = dict(counts.pop("losses"))
        self.counts = Counts(**counts | {"rejected": Counter(counts["rejected"])})
        self.held, self._held_events, self._held_dead = [], 0, 0
        if "held" in plain:
            self.learn([bookkeeping.item_from(values) for values in plain["held"].values["items"]])
        schema = plain["schema"].values
        if not schema:
            return
        self._build(Schema.from_plain(schema))
        self.model.load(plain["model"])
        self.optimiser.load(plain["optimiser"], self.model)
        self.normaliser.load(plain["normaliser"])
        for layer, part in zip(chain(self.method), bookkeeping.split_layers(plain["method"]), strict=True):
            layer.load(part, self.model)
        memory = parts["memory"]
        assert isinstance(memory, SegmentedPart)
        self.memory.load(memory)
        pending = plain["pending"].tensors
        self.pending = len(pending["y"])
        self.pending_x[: self.pending] = pending["x"].numpy()
        self.pending_y[: self.pending] = pending["y"].numpy()
        self.pending_key[: self.pending] = pending["key"].numpy()
