"""Two purposes of one topic or folder, two clusters of one worker: settings refused before anything runs."""

from __future__ import annotations

import os

from streamlearn.settings import (
    FILE_SINK,
    KAFKA_SINK,
    KAFKA_SOURCE,
    Settings,
    SettingsError,
    commands_topic,
    outputs,
    sink_connector,
)

DEFAULT_PORT = 9092
DEAD_LETTERS = "dead_letters.jsonl"


def refuse_clashes(settings: Settings) -> None:
    """Raises SettingsError."""
    source, sink, names = settings.source, settings.sink, outputs(settings)
    from_kafka = source.topic is not None and source.connector in (None, KAFKA_SOURCE)
    to_kafka = sink_connector(settings) == KAFKA_SINK
    problems = []
    read, written = _servers(source.bootstrap_servers), _servers(sink.bootstrap_servers)
    elsewhere = bool(read and written) and read.isdisjoint(written)
    if from_kafka and to_kafka and elsewhere:
        problems.append(
            f"sink.bootstrap_servers is {sink.bootstrap_servers} and source.bootstrap_servers "
            f"{source.bootstrap_servers}: a worker that reads from Kafka writes to the same cluster, "
            "since no transaction spans two; leave sink.bootstrap_servers out"
        )
    topics: dict[str, str | None] = {}
    if from_kafka:
        topics |= {"source.topic": source.topic}
    if source.bootstrap_servers is not None:
        topics |= {"source.commands": commands_topic(settings), "sink.answers": names.answers}
    if to_kafka and (from_kafka or not elsewhere):
        topics |= {"sink.predictions": names.predictions, "sink.dead_letters": names.dead_letters}
    first: dict[str | None, str] = {}
    for setting, topic in topics.items():
        other = first.setdefault(topic, setting)
        if other != setting:
            problems.append(
                f"{other} and {setting} are both {topic}: a topic has one purpose, name another one"
            )
    problems += _inside_the_state(settings)
    if problems:
        raise SettingsError(*problems)


def _inside_the_state(settings: Settings) -> list[str]:
    """Outputs among the checkpoints, where the lock and the manifests are; the dead letters have a place."""
    if sink_connector(settings) != FILE_SINK:
        return []
    folder, names = os.path.realpath(settings.checkpoint.folder), outputs(settings)
    problems = []
    for name, path in (("predictions", names.predictions), ("dead_letters", names.dead_letters)):
        place = os.path.realpath(path)
        own = name == "dead_letters" and place == os.path.join(folder, DEAD_LETTERS)
        if path != "-" and not own and f"{place}/".startswith(f"{folder.rstrip('/')}/"):
            problems.append(
                f"sink.{name} is {path}, inside checkpoint.folder ({settings.checkpoint.folder}), which is "
                f"for checkpoints and, in {DEAD_LETTERS}, dead letters: name a file elsewhere (one that a "
                "state has written before may be moved there)"
            )
    return problems


def _servers(text: str | None) -> set[str]:
    """Two lists that share a server are of one cluster."""
    words = {word.strip() for word in (text or "").split(",")} - {""}
    return {word if ":" in word else f"{word}:{DEFAULT_PORT}" for word in words}
