"""What a learning method is: what to draw from memory, the loss, and what to do after the step.

A method is one file in `streamlearn/methods`, a modifier one in `streamlearn/modifiers`. A modifier wraps
a method and is itself one, so that modifiers compose in the settings and never as copies of methods.
Nothing here asks which task it is: "new" means in the incoming batch, "seen" means in memory.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from streamlearn import methods, modifiers
from streamlearn.buffers import Memory
from streamlearn.config import MethodSettings, Section
from streamlearn.events import Array
from streamlearn.model import Model
from streamlearn.state import Part


@dataclass(frozen=True)
class Rows:
    """The rows of one step: the stream batch first, then what was drawn from memory.

    raw: inputs as stored [stream + memory, *shape]; x: the same, normalised; y: class numbers.
    stream: how many of the rows are the stream batch. normalise: for views made of `raw`.
    generator: for random views, on the model's device.
    """

    raw: Tensor
    x: Tensor
    y: Tensor
    stream: int
    normalise: Callable[[Tensor], Tensor]
    generator: torch.Generator
    _logits: list[Tensor] = field(default_factory=list)

    def logits(self, model: Model) -> Tensor:
        """model(x) [rows, classes]: one forward, shared by the method and its modifiers."""
        if not self._logits:
            self._logits.append(model(self.x))
        return self._logits[0]


Losses = dict[str, Tensor]
"""Parts of the loss by name; their sum is minimised."""


class Method:
    """Base of all methods: replays uniformly drawn examples; `loss` is the method's own."""

    summary: ClassVar[str]
    paper: ClassVar[str]

    class Params(Section):
        """The method's table in the settings."""

    replay_batch: ClassVar[int] = 10
    """learning.memory_batch where the settings leave it open."""

    def __init__(self, params: Any) -> None:
        self.params = params

    def draw(self, memory: Memory, count: int, rng: np.random.Generator) -> Array:
        """Slots of the examples to replay in this step, at most about `count`."""
        return memory.draw(count, rng)

    def loss(self, model: Model, rows: Rows) -> Losses:
        """The parts of the loss over `rows`, each a scalar with a graph."""
        raise NotImplementedError

    def after_step(self, model: Model, rows: Rows) -> None:
        """Called once the optimiser has stepped, before the stream batch is stored."""

    def grow(self, model: Model) -> None:
        """Called when the head has new rows; must change nothing of the rows that were there."""

    def images(self, rows: int) -> int:
        """Images through forward and backward for a step of `rows` rows."""
        return rows

    def part(self) -> Part:
        """State of the method's own, beside the model's."""
        return Part()

    def load(self, part: Part, model: Model) -> None:
        """Take the state in `part`."""


class Modifier(Method):
    """Base of all modifiers: does what the wrapped method does until a subclass changes it."""

    def __init__(self, params: Any, inner: Method) -> None:
        super().__init__(params)
        self.inner = inner

    def draw(self, memory: Memory, count: int, rng: np.random.Generator) -> Array:
        return self.inner.draw(memory, count, rng)

    def loss(self, model: Model, rows: Rows) -> Losses:
        return self.inner.loss(model, rows)

    def after_step(self, model: Model, rows: Rows) -> None:
        self.inner.after_step(model, rows)

    def grow(self, model: Model) -> None:
        self.inner.grow(model)

    def images(self, rows: int) -> int:
        return self.inner.images(rows)


def available(kind: Any) -> dict[str, type[Method]]:
    """Every method (kind = streamlearn.methods) or modifier (streamlearn.modifiers), by file name."""
    return {info.name: _find(kind, info.name) for info in pkgutil.iter_modules(kind.__path__)}


def _find(kind: Any, name: str) -> type[Method]:
    module = importlib.import_module(f"{kind.__name__}.{name}")
    found = [
        item
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, Method) and item.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise TypeError(f"{module.__name__} must define exactly one method, it defines {len(found)}")
    return found[0]


def _params(cls: type[Method], settings: MethodSettings, name: str) -> Section:
    try:
        return cls.Params(**settings.table(name))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in ("method", name, *first["loc"]))
        if first["type"] == "extra_forbidden":
            known = ", ".join(cls.Params.model_fields) or "none"
            raise ValueError(f"{where}: there is no such parameter; {name} has {known}") from error
        raise ValueError(f"{where}: {first['msg']}") from error


def make_method(settings: MethodSettings) -> Method:
    """The method of the settings, wrapped in its modifiers, the first one innermost.

    Raises ValueError for a name that isn't there and for parameters that don't fit.
    """
    known = {"method": available(methods), "modifier": available(modifiers)}
    names = [("method", settings.name)] + [("modifier", name) for name in settings.modifiers]
    for kind, name in names:
        if name not in known[kind]:
            raise ValueError(f"there is no {kind} {name!r}; there is {', '.join(known[kind]) or 'none'}")
    unused = set(settings.model_extra or {}) - set(known["method"]) - set(known["modifier"])
    if unused:
        raise ValueError(f"method.{min(unused)}: no method or modifier has this name")
    cls = known["method"][settings.name]
    method = cls(_params(cls, settings, settings.name))
    for name in settings.modifiers:
        wrapper: Any = known["modifier"][name]
        method = wrapper(_params(wrapper, settings, name), method)
    return method


def chain(method: Method) -> Sequence[Method]:
    """The method and its modifiers, outermost first."""
    layers = [method]
    while isinstance(layers[-1], Modifier):
        layers.append(layers[-1].inner)
    return layers
