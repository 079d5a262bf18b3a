"""All settings of a worker: the core's, and where events come from, answers go and state is kept.

Also their help text. `streamlearn.flags.load_settings` fills them from a file, the environment and flags.
This module loads quickly: it imports neither torch nor numpy.
"""

from __future__ import annotations

import importlib
import textwrap
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, Field, model_validator
from pydantic.fields import FieldInfo

from streamlearn.config import CoreSettings, Section

SECRET: dict[str, Any] = {"secret": True}
"""Marks a field whose value is never printed, logged or stored (`json_schema_extra=SECRET`, `repr=False`)."""

HIDDEN = "***"
"""What is shown in place of a secret."""


class SettingsError(Exception):
    """Settings that can't be used (exit status 2). `problems` holds one sentence each."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class SourceSettings(Section):
    """Where events come from: one of path, dataset, connector."""

    connector: str | None = Field(
        None, description="import string of the source; unset: inferred from path or dataset"
    )
    path: str | None = Field(None, description="file to read, - is standard input; .gz is unpacked")
    format: Literal["jsonl", "msgpack", "csv", "npz"] | None = Field(
        None, description="of the file; unset: from its suffix"
    )
    dataset: str | None = Field(None, description="built-in data set to read in place of a file")
    order: Literal["as_is", "independent", "class_incremental", "blurry", "recurring"] | None = Field(
        None,
        description="order of a data set's examples; unset: its natural one, as_is for electricity, "
        "class_incremental for the others",
    )
    split: str = Field("train", description="part of the data set")
    groups: int = Field(2, ge=1, description="classes of a data set that arrive together, as one group")
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="table of free parameters for a connector of your own",
        json_schema_extra=SECRET,
        repr=False,
    )

    @model_validator(mode="after")
    def _one_source(self) -> SourceSettings:
        if self.path is not None and self.dataset is not None:
            raise ValueError("give source.path or source.dataset, not both")
        return self


class SinkSettings(Section):
    """Where predictions and dead letters go."""

    connector: str | None = Field(None, description="import string of the sink; unset: files")
    predictions: str = Field("-", description="file of the predictions (JSON lines), - is standard output")
    dead_letters: str | None = Field(
        None, description="file of what could not be learned; unset: dead_letters.jsonl in checkpoint.folder"
    )


class CheckpointSettings(Section):
    """Where the state is kept, and how often."""

    folder: str = Field("./state", description="folder of the checkpoints")
    events: int = Field(0, ge=0, description="checkpoint after so many events; 0: by time only")
    seconds: float = Field(10.0, gt=0, allow_inf_nan=False, description="checkpoint after so many seconds")
    keep: int = Field(3, ge=1, description="checkpoints kept")
    patience: float = Field(
        300.0,
        ge=0,
        allow_inf_nan=False,
        description="seconds of failing to write before the worker stops; a write that hangs fails",
    )


class DeliverySettings(Section):
    """What happens to records that can't be learned."""

    max_dead_letters_in_row: int = Field(
        1000, ge=1, description="dead letters without a good event between them that stop the worker"
    )


class ExporterSettings(Section):
    """The HTTP port: /metrics, /healthz, /readyz, /status."""

    enabled: bool = Field(True, description="serve it")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(9464, ge=0, le=65535, description="port; 0: any free one, printed")
    stall_seconds: float = Field(
        60.0, gt=0, allow_inf_nan=False, description="unhealthy when waiting events saw no step for so long"
    )


class LogSettings(Section):
    """Log lines, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level shown")
    format: Literal["human", "json"] = Field("human", description="for people or for machines")


class Settings(CoreSettings):
    """Everything that `streamlearn run` can be told."""

    source: SourceSettings = SourceSettings()
    sink: SinkSettings = SinkSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    delivery: DeliverySettings = DeliverySettings()
    exporter: ExporterSettings = ExporterSettings()
    log: LogSettings = LogSettings()
    report: str | None = Field(None, description="folder for the report of a finite source; unset: none")
    data_dir: str | None = Field(
        None, description="folder with downloaded data sets; unset: only the built-in ones"
    )


Path = tuple[str, ...]


class Leaf(NamedTuple):
    """One declared setting: ("memory", "capacity") and its field."""

    path: Path
    field: FieldInfo

    @property
    def key(self) -> str:
        return ".".join(self.path)

    @property
    def secret(self) -> bool:
        return self._marked("secret")

    @property
    def shapes_state(self) -> bool:
        return self._marked("shapes_state") or self.key in ("method.name", "method.modifiers")

    def _marked(self, mark: str) -> bool:
        extra = self.field.json_schema_extra
        return isinstance(extra, dict) and bool(extra.get(mark))


def leaves(model: type[BaseModel] = Settings, above: Path = ()) -> Iterator[Leaf]:
    """Every declared setting, in the order of the classes; the free tables of `method` are not declared."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, (*above, name))
        else:
            yield Leaf((*above, name), field)


def state_settings(settings: CoreSettings) -> dict[str, Any]:
    """The settings that must equal the checkpoint's, flat: {"memory.capacity": 2000, ...}.

    Those marked `shapes_state`, and which method and modifiers are used. Of their parameters only one shapes
    the state (onpro's terms: with all of them off there is no projector), and loading says so.
    """
    return {key: value for key, value, shapes in _flat(settings) if shapes}


def other_settings(settings: CoreSettings) -> dict[str, Any]:
    """All other settings, flat, the tables of method parameters too; secrets show as `HIDDEN`."""
    return {key: value for key, value, shapes in _flat(settings) if not shapes}


def _flat(settings: CoreSettings) -> Iterator[tuple[str, Any, bool]]:
    values = settings.model_dump()
    for leaf in leaves(type(settings)):
        value: Any = values
        for name in leaf.path:
            value = value[name]
        if leaf.secret and value:
            value = HIDDEN
        yield leaf.key, value, leaf.shapes_state
    for name, table in (settings.method.model_extra or {}).items():
        parameters = table if isinstance(table, dict) else {}
        yield from ((f"method.{name}.{key}", value, False) for key, value in parameters.items())


def source_connector(settings: Settings) -> str:
    """The import string of the source. Raises SettingsError if nothing says where events come from."""
    source = settings.source
    if source.connector is not None:
        return source.connector
    if source.path is not None:
        return "connectors.files:FileSource"
    if source.dataset is not None:
        return "connectors.datasets:DatasetSource"
    raise SettingsError(
        "no source of events: give --source.path FILE (- is standard input), --source.dataset NAME, "
        "or --source.connector MODULE:ATTRIBUTE"
    )


def sink_connector(settings: Settings) -> str:
    """The import string of the sink."""
    return settings.sink.connector or "connectors.file_sink:FileSink"


def load_object(name: str) -> Any:
    """The object behind an import string "module:attribute" (attribute may be dotted).

    Raises SettingsError that says what is missing and what to do.
    """
    module_name, colon, attribute = name.partition(":")
    if not (colon and all(part.isidentifier() for part in f"{module_name}.{attribute}".split("."))):
        raise SettingsError(
            f"{name!r} is not an import string: write it as module:attribute, like my_events:Source"
        )
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise SettingsError(
                f"{name}: there is no module {error.name}: check the spelling, install it, "
                "or add the folder it is in to PYTHONPATH"
            ) from error
        raise SettingsError(f"{name}: importing {module_name} needs {error.name}: install that") from error
    except Exception as error:
        raise SettingsError(
            f"{name}: importing {module_name} failed: {type(error).__name__}: {error}"
        ) from error
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            public = sorted(
                key
                for key, value in getattr(found, "__dict__", {}).items()
                if isinstance(value, type) and key[0] != "_"
            )
            known = f" (its classes: {', '.join(public)})" if public else ""
            raise SettingsError(f"{name}: {module_name} has no {part}{known}: check the spelling") from error
    return found


def settings_help() -> str:
    """Every setting with its type or choices, what it means, its default, by section; for --help."""
    lines = [
        "Settings: defaults < file (--config FILE, TOML, or STREAMLEARN_CONFIG) < environment < flags.",
        "  --section.name VALUE is [section] name = VALUE in the file and STREAMLEARN_SECTION__NAME=VALUE.",
        "  STREAMLEARN_SECTION__NAME_FILE=PATH reads the value from a file. null unsets an optional setting.",
        "  Dashes in flags are as good as underscores. Lists: comma separated or JSON.",
        "  Tables: JSON, or a value each (--source.options.name VALUE).",
        "  * shapes the state: must stay as it was when the checkpoint was written.",
    ]
    section = ""
    for leaf in sorted(leaves(), key=lambda leaf: len(leaf.path) > 1):
        path = leaf.path
        if len(path) > 1 and path[0] != section:
            section = path[0]
            kind: Any = Settings.model_fields[section].annotation
            about = (kind.__doc__ or "").strip().partition("\n")[0].replace("`", "")
            lines += ["", f"{section}{': ' if about else ''}{about}"]
        elif len(path) == 1 and not section:
            section = " "
            lines += ["", "general"]
        lines.append(f"  --{leaf.key} {_type_name(leaf.field)}{' *' if leaf.shapes_state else ''}")
        text = f"{leaf.field.description or ''}{_default(leaf.field)}"
        lines += textwrap.wrap(text, 100, initial_indent=" " * 8, subsequent_indent=" " * 8)
        if leaf.key == "method.modifiers":
            lines.append("  --method.NAME.PARAMETER VALUE")
            lines.append("        parameter of a method or modifier (`streamlearn methods` lists them)")
    return "\n".join(lines)


_TYPE_NAMES = {int: "INTEGER", float: "NUMBER", str: "TEXT", bool: "true|false", dict: "TABLE"}


def _type_name(field: FieldInfo) -> str:
    def name(annotation: Any) -> str:
        origin, args = get_origin(annotation), get_args(annotation)
        if origin is Literal:
            return "|".join(str(choice) for choice in args)
        if origin in (Union, UnionType):
            return "|".join(name(option) for option in args if option is not NoneType)
        if origin is list:
            return f"{name(args[0])},..."
        return _TYPE_NAMES.get(origin or annotation, "VALUE")

    return name(field.annotation)


def _default(field: FieldInfo) -> str:
    """ " (default: 2000; at least 1)", or nothing where the description says it already."""
    value = field.get_default(call_default_factory=True, validated_data={})
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    parts = []
    if value not in (None, [], {}):
        parts.append(f"default: {str(value).lower() if isinstance(value, bool) else value}")
    elif "unset:" not in (field.description or ""):
        parts.append("default: unset" if value is None else "default: none")
    for mark in field.metadata:
        parts += [
            f"{text} {bound}"
            for name, text in words.items()
            if (bound := getattr(mark, name, None)) is not None
        ]
    return f" ({'; '.join(parts)})" if parts else ""
