"""All settings of a worker: the core's, and where events come from, answers go and state is kept.

`streamlearn.flags.load_settings` fills them from a file, the environment and flags.
This module loads quickly: it imports neither torch nor numpy.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, Field, model_validator
from pydantic.fields import FieldInfo

from streamlearn.config import CoreSettings
from streamlearn.options import ORDER
from streamlearn.section import LONGEST, Section, filled

SECRET: dict[str, Any] = {"secret": True}
"""Marks a field whose value is never printed, logged or stored (`json_schema_extra=SECRET`, `repr=False`)."""

HIDDEN = "***"
"""What is shown in place of a secret."""


FILE_SINK = "connectors.file_sink:FileSink"
KAFKA_SOURCE, KAFKA_SINK = "connectors.kafka:KafkaSource", "connectors.kafka:KafkaSink"


class SettingsError(Exception):
    """Settings that can't be used (exit status 2). `problems` holds one sentence each."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class SecuritySettings(Section):
    """How the broker is spoken to. Files are named, never read by settings."""

    protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="as Kafka's security.protocol"
    )
    ca_file: str | None = Field(None, description="certificates to trust (PEM); unset: the system's")
    certificate_file: str | None = Field(None, description="client certificate (PEM); unset: none is shown")
    key_file: str | None = Field(
        None, description="its private key (PEM, not encrypted); unset: in the same file"
    )
    check_hostname: bool = Field(True, description="the certificate must name the broker's host")
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="of SASL"
    )
    username: str | None = Field(None, description="of SASL; unset: none")
    password: str | None = Field(
        None,
        description="of SASL; unset: none. Better as STREAMLEARN_SOURCE__SECURITY__PASSWORD_FILE",
        json_schema_extra=SECRET,
        repr=False,
    )


class SourceSettings(Section):
    """Where events come from: one of path, dataset, bootstrap_servers with topic, connector."""

    connector: str | None = Field(
        None, description="import string of the source; unset: inferred from path, dataset or topic"
    )
    path: Annotated[str | None, filled("name a file, or - for standard input")] = Field(
        None, description="file to read, - is standard input; .gz is unpacked"
    )
    format: Literal["jsonl", "msgpack", "csv", "npz"] | None = Field(
        None, description="of the file; unset: from its suffix"
    )
    dataset: str | None = Field(None, description="built-in data set to read in place of a file")
    order: Literal["as_is", "independent", "class_incremental", "blurry", "recurring"] | None = Field(
        None, description=ORDER
    )
    split: str = Field(
        "train",
        description="part of the data set: train, test, val (clinc150), validation (of source.options), all",
    )
    groups: int = Field(2, ge=1, description="classes of a data set that arrive together, as one group")
    bootstrap_servers: str | None = Field(
        None, description="Kafka brokers, host:port, comma separated; unset: no Kafka"
    )
    topic: str | None = Field(None, description="Kafka topic of the events; unset: none")
    group_id: str = Field(
        "streamlearn", description="consumer group: its workers share one learner and one state"
    )
    start: Literal["earliest", "latest"] = Field(
        "earliest", description="where a first start begins in the topic"
    )
    commands: str | None = Field(None, description="topic of the commands; unset: GROUP_ID.commands")
    security: SecuritySettings = SecuritySettings()
    client: dict[str, Any] = Field(
        default_factory=dict,
        description="table of further parameters of the Kafka consumer, passed on as they are",
        json_schema_extra=SECRET,
        repr=False,
    )
    deadline: float = Field(
        60.0, gt=0, le=86400, description="seconds in which the broker must answer at start"
    )
    patience: float = Field(
        300.0,
        gt=0,
        le=900,
        description="seconds that the broker may be away while the worker runs",
    )
    merge: Literal["arrival", "timestamp"] = Field(
        "arrival",
        description="order of a topic's partitions: as records come in, or by their timestamps, which is the "
        "same whenever they are read again",
    )
    merge_idle: float = Field(
        5.0,
        gt=0,
        le=LONGEST,
        description="with merge = timestamp, seconds after which a partition that has no more records stops "
        "holding up the others",
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="table of parameters of the connector: for one of your own any, for ours these",
        json_schema_extra=SECRET,
        repr=False,
    )

    @model_validator(mode="after")
    def _one_source(self) -> SourceSettings:
        given = [f"source.{n}" for n in ("path", "dataset", "topic") if getattr(self, n) is not None]
        if len(given) > 1:
            raise ValueError(f"give {' or '.join(given)}, not {'both' if len(given) == 2 else 'all'}")
        if self.topic is not None and self.bootstrap_servers is None:
            raise ValueError("source.topic needs source.bootstrap_servers (host:port)")
        return self


class SinkSettings(Section):
    """Where predictions and dead letters go."""

    connector: str | None = Field(
        None, description="import string of the sink; unset: Kafka where the source is a topic, else files"
    )
    predictions: str | None = Field(
        None,
        description="file of the predictions (JSON lines), - is standard output; or a topic; "
        "unset: -, or TOPIC.predictions",
    )
    dead_letters: str | None = Field(
        None,
        description="file or topic of what could not be learned; unset: dead_letters.jsonl in "
        "checkpoint.folder, or TOPIC.dead_letters",
    )
    answers: str | None = Field(None, description="topic of the answers to commands; unset: GROUP_ID.answers")
    bootstrap_servers: str | None = Field(
        None, description="Kafka brokers of the outputs; unset: the source's"
    )
    commit_interval: float = Field(
        0.1,
        gt=0,
        le=60,
        description="seconds between two commits of outputs to Kafka; in a backlog up to half a second",
    )
    headers: list[str] = Field(
        default_factory=list,
        description="headers of an event that its prediction carries too (* is all of them)",
    )
    client: dict[str, Any] = Field(
        default_factory=dict,
        description="table of further parameters of the Kafka producer, passed on as they are",
        json_schema_extra=SECRET,
        repr=False,
    )


class CheckpointSettings(Section):
    """Where the state is kept, and how often."""

    folder: Annotated[str, filled("name a folder (. is this one)")] = Field(
        "./state", description="folder of the checkpoints"
    )
    events: int = Field(0, ge=0, description="checkpoint after so many events; 0: by time only")
    seconds: float = Field(10.0, gt=0, le=LONGEST, description="checkpoint after so many seconds")
    keep: int = Field(3, ge=1, description="checkpoints kept")
    patience: float = Field(
        300.0,
        ge=0,
        le=LONGEST,
        description="seconds of failing to write before the worker stops; a write that hangs fails",
    )


class DeliverySettings(Section):
    """What is promised of outputs, and what happens to records that can't be learned."""

    mode: Literal["exactly_once", "at_least_once"] | None = Field(
        None,
        description="of outputs on Kafka (every event is learned once in both); unset: exactly_once from "
        "Kafka to Kafka, else at_least_once",
    )
    max_dead_letters_in_row: int = Field(
        1000, ge=1, description="dead letters without a good event between them that stop the worker"
    )
    ledger: bool = Field(
        False,
        description="keep in the state, by partition, count and checksum of the events learned (`checkpoints "
        "show` prints them): proves that each was learned exactly once; on or off from the first start",
    )


class ExporterSettings(Section):
    """The HTTP port: /metrics, /healthz, /readyz, /status."""

    enabled: bool = Field(True, description="serve it")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(9464, ge=0, le=65535, description="port; 0: any free one, printed")
    stall_seconds: float = Field(
        60.0, gt=0, le=LONGEST, description="unhealthy when waiting events saw no step for so long"
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
    if source.topic is not None:
        return KAFKA_SOURCE
    if source.bootstrap_servers is not None and source.path is None:
        raise SettingsError("source.bootstrap_servers is given, but no topic: add --source.topic NAME")
    raise SettingsError(
        "no source of events: give --source.path FILE (- is standard input), --source.dataset NAME, "
        "--source.bootstrap_servers HOST:PORT --source.topic NAME, or --source.connector MODULE:ATTRIBUTE"
    )


def sink_connector(settings: Settings) -> str:
    """The import string of the sink."""
    if settings.sink.connector is not None:
        return settings.sink.connector
    on_kafka = settings.source.topic is not None and settings.source.connector in (None, KAFKA_SOURCE)
    return KAFKA_SINK if on_kafka or settings.sink.bootstrap_servers else FILE_SINK


class Outputs(NamedTuple):
    """Names of files or topics."""

    predictions: str
    dead_letters: str
    answers: str


def outputs(settings: Settings) -> Outputs:
    """Where outputs go, what is unset filled in."""
    sink, source, folder = settings.sink, settings.source, settings.checkpoint.folder
    answers = sink.answers or f"{source.group_id}.answers"
    if sink_connector(settings) == KAFKA_SINK:
        stem = source.topic or source.group_id
        predictions, dead_letters = f"{stem}.predictions", f"{stem}.dead_letters"
    else:
        predictions, dead_letters = "-", os.path.join(folder, "dead_letters.jsonl")
    return Outputs(sink.predictions or predictions, sink.dead_letters or dead_letters, answers)


def commands_topic(settings: Settings) -> str:
    """The topic of the commands."""
    return settings.source.commands or f"{settings.source.group_id}.commands"


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
