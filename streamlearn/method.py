"""What a learning method is: what to draw from memory, the loss, and what to do after the step.

A method is one file in `streamlearn/methods`, a modifier one in `streamlearn/modifiers`. A modifier wraps
a method and is itself one, so that modifiers compose in the settings and never as copies of methods.
Nothing here asks which task it is: "new" means in the incoming batch, "seen" means in memory.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any, ClassVar

import numpy as np
from pydantic import ValidationError

from streamlearn import methods, modifiers
from streamlearn.buffers import Memory
from streamlearn.config import MethodSettings
from streamlearn.events import Array
from streamlearn.model import Model
from streamlearn.rows import Draw, Rows
from streamlearn.section import Section
from streamlearn.state import Part
from streamlearn.tape import Loss
from streamlearn.views import STANDARD

Losses = dict[str, Loss]
"""Parts of the loss by name; their sum is minimised."""


class Method:
    """Base of all methods: replays uniformly drawn examples; `loss` is the method's own."""

    summary: ClassVar[str]
    paper: ClassVar[str]

    class Params(Section):
        """The method's table in the settings."""

    budget: ClassVar[float] = 2.0
    """learning.images_per_event where the settings leave it open and x is an image."""
    vector_budget: ClassVar[float] = 2.0
    """The same where x is a vector: more replay gains less there and slows the answer to drift."""
    predictor: ClassVar[str] = "weights"
    """serving.predictor where the settings leave it open."""
    mirrors: ClassVar[bool] = False
    """Whether images that views may mirror are answered with their mirror images, unless settings say."""
    recall_interval: float | None = None
    """Steps between two recalls of the same stored example, where the method measures it."""
    expected_recall_interval: float | None = None
    """What it should be: examples in memory by those recalled in a step."""
    projector: int = 0
    """Width of the linear projector beside the head; 0: none."""
    shape: tuple[int, ...] = ()
    """Of the inputs; known by the time of `plan`."""
    given: int | None = None
    """Examples to replay in a step where the settings say how many; known before `plan`."""

    def __init__(self, params: Any) -> None:
        self.params = params
        self.stream_views: tuple[str, ...] = (STANDARD,)
        """The views of every event of the stream batch that the loss is to see, by strength."""
        self.memory_views: tuple[str, ...] = (STANDARD,)
        """The views of every example drawn from memory."""

    def plan(self, batch: int, images: float) -> int:
        """How many examples a step replays so that it has `images` rows; may choose the views by that.

        batch: events of a step. The views of the stream batch come first; at least 0.
        """
        left = images - batch * len(self.stream_views)
        return max(0, round(left / len(self.memory_views)))

    def draw(self, memory: Memory, count: int, rng: np.random.Generator) -> Draw:
        """The examples to replay in this step, at most `count`; may choose the views of the stream anew."""
        return Draw(memory.draw(count, rng))

    def loss(self, model: Model, rows: Rows) -> Losses:
        """The parts of the loss over `rows`, scalars that know their gradient or have a graph."""
        raise NotImplementedError

    def after_step(self, model: Model, rows: Rows) -> None:
        """Called once the optimiser has stepped, before the stream batch is stored."""

    def grow(self, model: Model) -> None:
        """Called when the head has new rows; must change nothing of the rows that were there."""

    def forget(self, moved: Array) -> None:
        """Examples have left the memory: what is kept by slot must follow.

        moved: where the example of each slot lies now, int64 [slots in use before]; -1: it is gone.
        """

    def images(self, rows: int) -> int:
        """Images through forward and backward for a step of `rows` rows."""
        return rows

    def forwards(self, rows: int) -> int:
        """Images beside those, through forward only, that the loss of the next step of `rows` rows takes."""
        return 0

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
        self.stream_views, self.memory_views = inner.stream_views, inner.memory_views
        self.projector = inner.projector

    def plan(self, batch: int, images: float) -> int:
        count = self.inner.plan(batch, images)
        self.stream_views, self.memory_views = self.inner.stream_views, self.inner.memory_views
        return count

    def draw(self, memory: Memory, count: int, rng: np.random.Generator) -> Draw:
        drawn = self.inner.draw(memory, count, rng)
        self.stream_views = self.inner.stream_views
        return drawn

    def loss(self, model: Model, rows: Rows) -> Losses:
        return self.inner.loss(model, rows)

    def after_step(self, model: Model, rows: Rows) -> None:
        self.inner.after_step(model, rows)

    def grow(self, model: Model) -> None:
        self.inner.grow(model)

    def forget(self, moved: Array) -> None:
        self.inner.forget(moved)

    def images(self, rows: int) -> int:
        return self.inner.images(rows)

    def forwards(self, rows: int) -> int:
        return self.inner.forwards(rows)


@cache
def available(kind: Any) -> Mapping[str, type[Method]]:
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
    """The parameters that the settings hold for `name`. ValueError with a line for each that doesn't fit."""
    try:
        return cls.Params(**settings.table(name))
    except ValidationError as error:
        known = list(cls.Params.model_fields)
        problems = []
        for detail in error.errors(include_url=False):
            where = ".".join(str(step) for step in ("method", name, *detail["loc"]))
            if detail["type"] == "extra_forbidden":
                near = _near(str(detail["loc"][-1]), known, f"method.{name}.")
                problems.append(
                    f"{where}: there is no such parameter{near} {name} has {', '.join(known) or 'none'}"
                )
            else:
                problems.append(f"{where}: {detail['msg']}")
        raise ValueError("\n".join(problems)) from error


def _near(name: str, known: Iterable[str], prefix: str = "") -> str:
    """ ", did you mean NAME?" of the nearest of the names that there are, ";" if none is near."""
    found = get_close_matches(name, list(known), n=1)
    return f", did you mean {prefix}{found[0]}?" if found else ";"


def make_method(settings: MethodSettings, shape: Sequence[int] = ()) -> Method:
    """The method of the settings, wrapped in its modifiers, the first one innermost.

    shape: of the inputs, where it is known.
    Raises ValueError for a name that isn't there and for parameters that don't fit, in a table that is not
    in use too: a mistake in it would else be found on the day it is.
    """
    known = {"method": available(methods), "modifier": available(modifiers)}
    names = [("method", settings.name)] + [("modifier", name) for name in settings.modifiers]
    for kind, name in names:
        if name not in known[kind]:
            near = _near(name, known[kind])
            raise ValueError(f"there is no {kind} {name!r}{near} there is {', '.join(known[kind]) or 'none'}")
        if settings.modifiers.count(name) > 1:
            raise ValueError(f"method.modifiers: {name} is there twice; a modifier is named once")
    every = {**known["method"], **known["modifier"]}
    params, problems = {}, []
    for name in dict.fromkeys([settings.name, *settings.modifiers, *(settings.model_extra or {})]):
        try:
            if name not in every:
                near = _near(name, every, "method.")
                raise ValueError(
                    f"method.{name}: no method or modifier has this name{near} there is {', '.join(every)}"
                )
            params[name] = _params(every[name], settings, name)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("\n".join(problems))
    method = known["method"][settings.name](params[settings.name])
    for name in settings.modifiers:
        wrapper: Any = known["modifier"][name]
        method = wrapper(params[name], method)
    for layer in chain(method):
        layer.shape = tuple(shape)
    return method


def chain(method: Method) -> Sequence[Method]:
    """The method and its modifiers, outermost first."""
    layers = [method]
    while isinstance(layers[-1], Modifier):
        layers.append(layers[-1].inner)
    return layers
