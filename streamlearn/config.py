"""The settings of the core, as data: no reading of files or environment here (see `streamlearn.settings`).

A field marked `shapes_state` must equal the checkpoint's; every other one may change from start to start.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from streamlearn.section import LONGEST, Section, filled

SHAPES: dict[str, Any] = {"shapes_state": True}
LONGEST_WINDOW = 1000
"""Evaluations of windowed forgetting: so many accuracies are kept for every evaluation set."""

PATH = filled("name where it is in a record (for CSV a column)")


class CodecSettings(Section):
    """Where things are in a record, and the limits of what is accepted."""

    connector: str = Field("streamlearn.codec:Codec", description="import string of the codec")
    id: Annotated[str, PATH] = Field(
        "id",
        description="path of the id (a.b reads b inside a); absent: the source position",
        json_schema_extra=SHAPES,
    )
    label: Annotated[str, PATH] = Field(
        "y", description="path of the label; absent or null: predict only", json_schema_extra=SHAPES
    )
    time: Annotated[str, PATH] = Field(
        "ts", description="path of the event's time, seconds since 1970", json_schema_extra=SHAPES
    )
    task: Annotated[str, PATH] = Field(
        "task",
        description="path of the task that an event belongs to, if it says so; read for the evaluation sets "
        "alone, nothing learns from it; what is no string or integer, or too long, is ignored",
        json_schema_extra=SHAPES,
    )
    features: Annotated[str | list[str], PATH] = Field(
        "x",
        description="path of the features, or a list of paths: all numbers make a vector in that order, "
        "anything else is hashed; a table takes all columns that are not named here where it has none called "
        "x, or where features is unset and the x of its first row is a number beside others",
        json_schema_extra=SHAPES,
    )
    named: Literal["auto", "vector", "hashed"] = Field(
        "auto",
        description="what several named features make: a vector, in order, or hashed; "
        "auto: a vector where all of a record's are numbers, which a column of codes may or may not be",
        json_schema_extra=SHAPES,
    )
    shape: list[int] | None = Field(
        None,
        description="shape of x: [64], [3,32,32]; [H,W] means [1,H,W]; "
        "unset: the majority of the first stream batch",
        json_schema_extra=SHAPES,
    )
    dtype: Literal["uint8", "float32"] | None = Field(
        None,
        description="how x is kept; unset: what most of the first batch has, float32 where shape is given",
        json_schema_extra=SHAPES,
    )
    tombstones: Literal["reject", "forget"] = Field(
        "reject",
        description="a Kafka record without a value: a dead letter, or to forget the example whose id is its "
        "key (compacted topics mean something else by it)",
        json_schema_extra=SHAPES,
    )
    hash_dim: int = Field(
        1024, ge=8, le=1 << 20, description="length of a hashed vector", json_schema_extra=SHAPES
    )
    max_bytes: int = Field(4 << 20, ge=1, description="largest record, bytes")
    max_depth: int = Field(8, ge=2, le=64, description="deepest nesting of a record")
    max_pixels: int = Field(1 << 20, ge=1, description="largest encoded image, pixels")
    max_values: int = Field(1 << 22, ge=1, description="most numbers in one x")
    max_classes: int = Field(
        10_000, ge=1, description="most classes; events of further ones are dead letters"
    )
    max_label_length: int = Field(256, ge=1, description="longest label or task, characters")
    max_id_length: int = Field(512, ge=1, description="longest id, characters")

    @field_validator("shape")
    @classmethod
    def _vector_or_image(cls, value: list[int] | None) -> list[int] | None:
        """[n] or [C, H, W]. The codec makes [1, H, W] of what comes as [H, W]: here it means the same."""
        if value is None:
            return None
        if not 1 <= len(value) <= 3 or min(value) < 1:
            raise ValueError(
                "must be 1 or 3 positive sides, like [64] or [3,32,32]; [H,W] is taken as [1,H,W]"
            )
        return [1, *value] if len(value) == 2 else value

    @model_validator(mode="after")
    def _shape_within_limits(self) -> CodecSettings:
        if self.shape is not None and math.prod(self.shape) > self.max_values:
            raise ValueError(
                f"codec.shape {self.shape} has {math.prod(self.shape)} numbers, codec.max_values allows "
                f"{self.max_values}: make the one smaller or the other larger"
            )
        return self


class ModelSettings(Section):
    """The net and how it computes."""

    net: str = Field(
        "auto",
        description="auto (by shape) / mlp / conv / resnet18 / import string of a factory",
        json_schema_extra=SHAPES,
    )
    width: int | None = Field(
        None,
        ge=1,
        description="hidden units (mlp, default 256) or first channels (conv 32, resnet18 20)",
        json_schema_extra=SHAPES,
    )
    head: Literal["cosine", "linear"] = Field(
        "cosine", description="cosine similarity over a temperature, or linear", json_schema_extra=SHAPES
    )
    temperature: float = Field(0.09, gt=0, description="of the cosine head", json_schema_extra=SHAPES)
    device: str = Field("auto", description="auto / cpu / cuda / cuda:N")
    threads: int = Field(
        1, ge=1, le=1024, description="CPU threads of one operation; 1 is fastest for small nets"
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the forward pass (autocast)")
    normalise: bool = Field(
        True, description="standardise inputs by decaying online statistics", json_schema_extra=SHAPES
    )
    normalise_horizon: int = Field(
        10_000, ge=1, description="events after which a statistic has decayed by e", json_schema_extra=SHAPES
    )


class MethodSettings(BaseModel):
    """`name`, `modifiers`, and a table of parameters for each of them (validated by its own class)."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field(
        "auto",
        description="a file of streamlearn/methods (`streamlearn methods` lists them); auto: "
        "prototype_replay, or onpro where learning.images_per_event is 64 or more",
    )
    modifiers: list[str] = Field(
        default_factory=list, description="files of streamlearn/modifiers, applied in order"
    )

    def table(self, name: str) -> dict[str, Any]:
        """The parameters given for the method or modifier `name`; ValueError if it is not a table."""
        table = (self.model_extra or {}).get(name, {})
        if not isinstance(table, dict):
            raise ValueError(f"method.{name} must be a table of parameters, not {table!r}")
        return table


class ViewSettings(Section):
    """How far the random views of an input may stray. Unset: by the kind of image."""

    crop: float | None = Field(
        None, gt=0, le=1, description="smallest side of a random crop, share; unset: 0.6 colour, 1 gray"
    )
    shift: float | None = Field(
        None, ge=0, le=0.5, description="largest shift, share of the side; unset: 0 colour, 0.07 gray"
    )
    flip: bool | None = Field(
        None, description="mirror images, where that keeps the label; unset: colour yes, gray no"
    )
    light: float | None = Field(
        None, ge=0, le=1, description="largest change of brightness and contrast; unset: 0.2 colour, 0.4 gray"
    )
    noise: float = Field(0.1, ge=0, description="of a vector's features, in their standard deviations")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of a vector's features, or words, left out")


class MemorySettings(Section):
    """Examples kept for replay."""

    capacity: int = Field(2000, ge=1, description="examples kept for replay", json_schema_extra=SHAPES)
    policy: Literal["reservoir", "balanced", "ageing"] = Field(
        "reservoir",
        description="reservoir: uniform over the past; balanced: equal per class; "
        "ageing: an exponentially fading sample of about the last `horizon` events",
        json_schema_extra=SHAPES,
    )
    horizon: int = Field(100_000, ge=1, description="of the ageing policy, events", json_schema_extra=SHAPES)


class LearningSettings(Section):
    """What a step is made of."""

    stream_batch: int = Field(10, ge=1, le=4096, description="events of one step", json_schema_extra=SHAPES)
    memory_batch: int | None = Field(
        None, ge=0, description="examples replayed in one step; unset: the method's own default"
    )
    optimiser: Literal["auto", "adamw", "sgd"] = Field(
        "auto", description="adamw / sgd / auto: sgd for the mlp, adamw for others", json_schema_extra=SHAPES
    )
    learning_rate: float | None = Field(
        None, gt=0, le=1000, description="step size; unset: 0.001 (adamw), 0.2 (sgd)"
    )
    weight_decay: float = Field(1e-4, ge=0, description="decoupled weight decay")
    images_per_event: float | None = Field(
        None,
        ge=1,
        le=1e6,
        description="budget: sets memory_batch so that this many examples are trained on an event",
    )
    max_wait: float = Field(
        0.0,
        ge=0,
        le=LONGEST,
        description="seconds after which a partial batch is learned all the same; 0: never",
    )
    top_k: int = Field(5, ge=1, le=1000, description="scores in a prediction")

    @model_validator(mode="after")
    def _one_budget(self) -> LearningSettings:
        if self.memory_batch is not None and self.images_per_event is not None:
            raise ValueError("give learning.memory_batch or learning.images_per_event, not both")
        return self


class ServingSettings(Section):
    """Which weights answer."""

    predictor: Literal["auto", "weights", "average", "means"] | None = Field(
        None,
        description="weights: as trained; average: their exponential average; means: nearest class mean; "
        "auto: whichever is best on the held-out sets; unset: the method's own",
        json_schema_extra=SHAPES,
    )
    rate: float = Field(
        0.01,
        gt=0,
        le=1,
        description="least share of the weights taken into their average at a step",
        json_schema_extra=SHAPES,
    )
    power: float = Field(
        1.0,
        ge=0,
        description="at age k steps the share is (power + 1) / (k + power + 1); 0: a plain mean",
        json_schema_extra=SHAPES,
    )
    restart: int = Field(
        10,
        ge=0,
        description="age in steps that the average falls back to when a class arrives; 0: it stays old",
        json_schema_extra=SHAPES,
    )
    mirror: bool | None = Field(
        None,
        description="answer by the mean over an image and its mirror image; unset: the method's own",
    )


class EvaluationSettings(Section):
    """How the learner is scored while it learns."""

    window: int = Field(
        1000, ge=1, description="of the windowed prequential figures, events", json_schema_extra=SHAPES
    )
    fading: float = Field(
        0.999, gt=0, lt=1, description="factor of the fading prequential figures", json_schema_extra=SHAPES
    )
    held_out: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="share of labeled events that are held out and never learned, to see what is forgotten; "
        "0: no continual evaluation; unset: 0.02 where memory.capacity is above 500, else 0",
        json_schema_extra=SHAPES,
    )
    set_size: int = Field(50, ge=1, description="examples of a full evaluation set", json_schema_extra=SHAPES)
    classes_per_set: int = Field(
        1,
        ge=1,
        description="classes that share an evaluation set, by first appearance (each has an equal share of "
        "set_size); where events name a task, a set is a task's",
        json_schema_extra=SHAPES,
    )
    capacity: int | None = Field(
        None,
        ge=0,
        description="most held-out examples in all sets; unset: a tenth of memory.capacity, 100 at least",
        json_schema_extra=SHAPES,
    )
    interval: int = Field(
        1, ge=1, description="steps between evaluations, at least", json_schema_extra=SHAPES
    )
    windows: list[int] = Field(
        [10, 100],
        min_length=1,
        description="of windowed forgetting and plasticity, evaluations, from small to large",
        json_schema_extra=SHAPES,
    )
    images_per_image_learned: float | None = Field(
        None,
        gt=0,
        description="budget of the evaluations: held-out examples predicted per example trained on; unset: "
        "0.1 of images, 0.25 of vectors",
        json_schema_extra=SHAPES,
    )

    @field_validator("windows")
    @classmethod
    def _windows_in_order(cls, value: list[int]) -> list[int]:
        if value != sorted(set(value)) or min(value) < 2 or max(value) > LONGEST_WINDOW:
            raise ValueError(f"must grow from 2 or more to {LONGEST_WINDOW} at most, like [10,100]")
        return value

    @model_validator(mode="after")
    def _room_for_every_class(self) -> EvaluationSettings:
        if self.classes_per_set > self.set_size:
            raise ValueError(
                f"evaluation.set_size {self.set_size} has no room for evaluation.classes_per_set "
                f"{self.classes_per_set}: make the one larger or the other smaller"
            )
        return self


LARGE_BUDGET = 64
"""Images per event from which OnPro, with rotations, is the default."""
HELD_OUT = 0.02
SMALL_MEMORY = 500
"""Up to so many examples for replay, one that is held out costs more than it can tell (decision 0008)."""
LEAST_HELD_OUT = 100
"""So many examples can tell something: their accuracy has a standard error of at most five points."""


class CoreSettings(Section):
    """All that a learner is made of. Two learners of equal settings and events are equal to the bit."""

    seed: int = Field(0, ge=0, le=2**63 - 1, description="of every random choice", json_schema_extra=SHAPES)
    codec: CodecSettings = CodecSettings()
    model: ModelSettings = ModelSettings()
    method: MethodSettings = MethodSettings()
    memory: MemorySettings = MemorySettings()
    views: ViewSettings = ViewSettings()
    serving: ServingSettings = ServingSettings()
    learning: LearningSettings = LearningSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    @model_validator(mode="after")
    def _name_the_method(self) -> CoreSettings:
        """Put a method in the place of auto: everybody is to see which one learns."""
        if self.method.name == "auto":
            large = (self.learning.images_per_event or 0) >= LARGE_BUDGET
            name = "onpro" if large else "prototype_replay"
            object.__setattr__(self, "method", self.method.model_copy(update={"name": name}))
        return self

    def settled_evaluation(self) -> EvaluationSettings:
        """The evaluation section with share and capacity of the held-out sets as they are, none unset."""
        given, memory = self.evaluation, self.memory.capacity
        share = given.held_out
        if share is None:
            share = HELD_OUT if memory > SMALL_MEMORY else 0.0
        capacity = given.capacity
        if capacity is None:
            capacity = max(LEAST_HELD_OUT, memory // 10)
        return given.model_copy(update={"held_out": share, "capacity": capacity if share else 0})
