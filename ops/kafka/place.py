"""The folder of a broker: what is fixed when it is made, and the files that Kafka is started with."""

from __future__ import annotations

import base64
import dataclasses
import json
import shutil
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ops.kafka import credentials
from ops.kafka.jars import BrokerError, java

USERNAME = "streamlearn"
JVM = (
    "-XX:+UseSerialGC",
    # Java's first compiler alone: a broker starts sooner (4.4 s, not 5.5 s) and takes hardly less: 112,000 to
    # 117,000 records of 300 bytes a second, else 116,000 to 140,000 (a busy machine of two cores).
    "-XX:TieredStopAtLevel=1",
    f"-Dlog4j2.configurationFile={Path(__file__).with_name('log4j2.properties')}",
)


def java_command(jars: Path, *options: str) -> list[str]:
    """Java with all `jars`: the class and its arguments are to follow. Raises BrokerError without Java."""
    return [java(), *JVM, *options, "-cp", f"{jars}/*"]


@dataclass(frozen=True)
class Facts:
    """What stays the same over stop and kill."""

    cluster: str
    port: int
    controller_port: int
    secure_port: int | None
    """None: without the secure listener."""


def new_cluster() -> str:
    """A cluster id as Kafka wants it: 16 random bytes, 22 characters of base64, no dash first."""
    while (name := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return name


def load(folder: Path) -> Facts | None:
    """None when `folder` holds no broker."""
    try:
        return Facts(**json.loads((folder / "broker.json").read_text("utf-8")))
    except FileNotFoundError:
        return None


def save(folder: Path, facts: Facts) -> None:
    """Take `folder` for a broker. Raises BrokerError if there is something else in it."""
    if folder.exists() and load(folder) is None and any(folder.iterdir()):
        raise BrokerError(f"{folder} holds something else: give the broker a folder of its own")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = folder / "broker.json.new"
    aside.write_text(json.dumps(dataclasses.asdict(facts), indent=1) + "\n", "utf-8")
    aside.replace(folder / "broker.json")


def properties(folder: Path, facts: Facts) -> dict[str, str]:
    """server.properties of one process that is broker and controller."""
    listeners = {"PLAINTEXT": facts.port}
    found = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{facts.controller_port}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": str(folder / "data"),
        "auto.create.topics.enable": "false",
        "group.initial.rebalance.delay.ms": "0",
        "offsets.topic.num.partitions": "1",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.num.partitions": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.num.partitions": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        # One that was killed may come back only when its last session has lapsed: 9 s by default.
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "300",
    }
    if facts.secure_port is not None:
        listeners["SASL_SSL"] = facts.secure_port
        found |= {
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(folder / "tls" / "server.pem"),
        }
    advertised = [f"{name}://127.0.0.1:{port}" for name, port in listeners.items()]
    found["advertised.listeners"] = ",".join(advertised)
    found["listeners"] = ",".join([*advertised, f"CONTROLLER://127.0.0.1:{facts.controller_port}"])
    return found


def write_properties(path: Path, settings: Mapping[str, str]) -> None:
    """Raises BrokerError for a line break, which would begin another setting."""
    for name, value in settings.items():
        if "\n" in name + value or "\r" in name + value:
            raise BrokerError(f"a line break in the broker's setting {name!r}")
    lines = [f"{name}={value}\n".replace("\\", "\\\\") for name, value in settings.items()]
    path.write_text("".join(lines), "utf-8")


def format_storage(folder: Path, facts: Facts, command: Sequence[str]) -> None:
    """An empty data folder with the cluster's id and user, once. Raises BrokerError with what Kafka said.

    Args:
        command: See `java_command`.
    """
    done_already = folder / "formatted"
    if done_already.exists():
        return
    # What an attempt that was killed left.
    shutil.rmtree(folder / "data", ignore_errors=True)
    shutil.rmtree(folder / "tls", ignore_errors=True)
    words = [*command, "kafka.tools.StorageTool", "format", "-t", facts.cluster]
    words += ["-c", str(folder / "server.properties")]
    if facts.secure_port is not None:
        credentials.make(folder / "tls")
        password = (folder / "tls" / "password").read_text("utf-8")
        words += ["--add-scram", f"SCRAM-SHA-512=[name={USERNAME},password={password}]"]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BrokerError(f"Kafka could not format {folder}/data:\n{done.stdout}{done.stderr}".rstrip())
    done_already.touch()
