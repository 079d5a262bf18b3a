"""Kafka's jars and those that they need: fetched once by Maven, kept in a cache outside the checkout."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

KAFKA = "4.3.1"
BROKER = (
    f"org.apache.kafka:kafka_2.13:{KAFKA}",
    # Of the version of Kafka's log4j-core. Without it nothing is logged.
    "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4",
)
TOOLS = (f"org.apache.kafka:kafka-tools:{KAFKA}", *BROKER)
COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"


class BrokerError(Exception):
    """What was wrong with the broker or its jars, and what to do."""


def cache() -> Path:
    """Where the jars are kept: $STREAMLEARN_KAFKA_CACHE, else ~/.cache/streamlearn/kafka."""
    named = os.environ.get("STREAMLEARN_KAFKA_CACHE")
    if named:
        return Path(named).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streamlearn" / "kafka"


def program(name: str, package: str) -> str:
    """The path of a program of the system. Raises BrokerError that names the Debian package."""
    found = shutil.which(name)
    if found is None:
        raise BrokerError(f"no `{name}` on the PATH. On Debian or Ubuntu: sudo apt-get install {package}")
    return found


def java() -> str:
    return program("java", "default-jre-headless")


def pom(artifacts: tuple[str, ...]) -> str:
    """A Maven project that only depends on `artifacts`, each "group:name:version"."""
    dependencies = "".join(
        "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>".format(
            *artifact.split(":")
        )
        for artifact in artifacts
    )
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>streamlearn</groupId><artifactId>kafka</artifactId><version>1</version>"
        f"<packaging>pom</packaging><dependencies>{dependencies}</dependencies></project>\n"
    )


def once(target: Path, make: Callable[[Path], None]) -> Path:
    """`target` in the cache, made by `make` at a path aside if it isn't there yet.

    It appears complete or not at all; of several that ask at once, one makes it and the others wait.
    """
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            aside = target.with_name(f"{target.name}.making")
            shutil.rmtree(aside, ignore_errors=True)  # of one that was killed
            aside.mkdir()
            try:
                make(aside / target.name)
                (aside / target.name).rename(target)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
    return target


def fetch(artifacts: tuple[str, ...] = BROKER) -> Path:
    """The folder of the jars of `artifacts` and of all that they need, from Maven Central if need be.

    Raises BrokerError when there is no Maven or when it fails, with what it said.
    """
    text = pom(artifacts)
    return once(cache() / hashlib.sha256(text.encode()).hexdigest()[:16], partial(_download, text))


def _download(text: str, jars: Path) -> None:
    project = jars.with_name("pom.xml")
    project.write_text(text, "utf-8")
    # -C: a jar whose checksum is wrong is an error.
    command = [program("mvn", "maven"), "-q", "-B", "-C", "-f", str(project), COPY]
    command += [f"-DoutputDirectory={jars}", "-DincludeScope=runtime"]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode or not any(jars.glob("*.jar")):
        said = "\n".join(done.stdout.splitlines()[-20:])
        raise BrokerError(f"Maven could not fetch Kafka's jars (status {done.returncode}):\n{said}")
