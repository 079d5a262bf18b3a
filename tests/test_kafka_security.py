"""TLS and passwords: every client that we start uses them, and nobody sees them."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from connectors.kafka.options import options_of
from connectors.kafka.sink import KafkaSink
from connectors.kafka.source import KafkaSource
from ops.kafka.broker import Broker
from streamlearn.settings import SecuritySettings
from tests.kafka import administrator, running
from tests.kafka_worker import Place, Run, new_place
from tests.processes import write_events
from tests.streams import vectors

pytestmark = pytest.mark.slow

EVENTS = vectors(60)
PASSWORD_FILE = "STREAMLEARN_SOURCE__SECURITY__PASSWORD_FILE"


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with running(tmp_path_factory.mktemp("secure") / "kafka", secure=True) as broker:
        yield broker


def password(broker: Broker) -> str:
    return broker.password_file.read_text("utf-8")


def flags(broker: Broker, **more: str) -> list[str]:
    """What a user sets to reach the secure listener; the password comes from the environment's file."""
    given = {
        "bootstrap_servers": broker.secure_address,
        "security.protocol": "SASL_SSL",
        "security.ca_file": str(broker.ca_file),
        "security.username": broker.username,
    } | {f"security.{name}": value for name, value in more.items()}
    return [word for name, value in given.items() for word in (f"--source.{name}", value)]


def secretly(place: Place, command: str, *more: str, **security: str) -> Run:
    words = [*flags(place.broker, **security), "--log.level", "debug", *more]
    return place.command(command, *words, env={PASSWORD_FILE: str(place.broker.password_file)})


def test_a_worker_and_all_commands(secure: Broker, tmp_path: Path) -> None:
    """None of them says the password, at the most talkative log level, nor shows it on its pages."""
    place = new_place(secure, tmp_path)
    with administrator(secure) as admin:
        admin.delete_topics([place.name(of) for of in (".commands", ".answers", ".predictions")])
    said = []

    def done(command: str, *more: str, status: int = 0) -> None:
        with secretly(place, command, *more) as run:
            assert run.ends() == status, run.said
        said.append(run.said)

    done("topics")
    events = write_events(tmp_path / "events.jsonl", EVENTS)
    done(f"publish {events}", "--progress", str(tmp_path / "progress"))
    done("check")
    web = ("--exporter.enabled", "true", "--exporter.port", "0")
    with secretly(place, "run", *web) as run, secretly(place, "run") as other:
        place.until_answered(run if "metrics" in run.said else other, 60)
        wait = [each for each in (run, other) if "  metrics  " not in each.said]
        wait[0].says("standing by with checkpoint ")
        done("tell checkpoint", "--json")
        assert json.loads(said[-1].splitlines()[-1])["done"]
        url = re.search(r"http://[^/]+", run.said)
        if url is not None:
            for page in ("/status", "/metrics"):
                with urllib.request.urlopen(url[0] + page, timeout=10) as answer:
                    said.append(answer.read().decode())
        assert other.stops() == 0
        assert run.stops() == 0
    said += [run.said, other.said]
    place.leave()
    done("checkpoints list")
    done(f"checkpoints use {place.checkpoints()[-1]}")
    with secretly(place, "run") as run:
        run.says("goes on from")
        assert run.stops() == 0
    said.append(run.said)
    secret = password(secure)
    assert all(secret not in text for text in said)
    for path in (tmp_path / "state").rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("command", ["run", "check", "topics", "tell", "publish", "checkpoints"])
def test_a_wrong_password_is_one_clear_line(command: str, secure: Broker, tmp_path: Path) -> None:
    place = new_place(secure, tmp_path)
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong horse\n", "utf-8")
    if command == "tell":
        command = "tell pause"
    elif command == "publish":
        command = f"publish {write_events(tmp_path / 'events.jsonl', EVENTS)}"
    elif command == "checkpoints":
        with place.run() as run:
            run.says("a first start")
            assert run.stops() == 0
        place.leave()
        command = f"checkpoints use {place.checkpoints()[-1]}"
    env = {PASSWORD_FILE: str(wrong)}
    with place.command(command, *flags(secure), env=env) as run:
        assert run.ends() == 4, run.said
    (line,) = run.said.splitlines()
    assert f"doesn't take the user '{secure.username}' with this password (SCRAM-SHA-512)" in line
    assert "see source.security.username and password" in line
    assert "horse" not in line


@pytest.mark.parametrize(
    ("security", "status", "words"),
    [
        ({"ca_file": ""}, 4, "shows a certificate that isn't trusted"),
        ({"username": "nobody"}, 4, "doesn't take the user 'nobody' with this password"),
        ({"mechanism": "PLAIN"}, 4, "doesn't know source.security.mechanism PLAIN"),
        ({"protocol": "SASL_PLAINTEXT", "ca_file": ""}, 4, "it hangs up: is source.security.protocol"),
        ({"ca_file": "/no/file"}, 2, "source.security.ca_file: /no/file can't be read"),
    ],
)
def test_what_is_set_wrongly_is_named(
    security: dict[str, str], status: int, words: str, secure: Broker, tmp_path: Path
) -> None:
    place = Place(secure, tmp_path, "events", "group", "events")
    given = flags(secure, **security)
    while "" in given:
        at = given.index("")
        del given[at - 1 : at + 1]
    env = {PASSWORD_FILE: str(secure.password_file)}
    with place.command("run", *given, "--source.deadline", "2", env=env) as run:
        assert run.ends() == status, run.said
    assert words in run.said.splitlines()[-1]
    assert password(secure) not in run.said
    assert "Traceback" not in run.said


def test_nothing_that_is_printed_by_chance_holds_a_secret() -> None:
    security = SecuritySettings(protocol="SASL_PLAINTEXT", username="u", password="hush").model_dump()
    given: dict[str, Any] = {
        "bootstrap_servers": "a:1",
        "security": security,
        "topic": "t",
        "client": {"x": "hush"},
    }
    sink = KafkaSink({**given, "predictions": "p", "dead_letters": "d"})
    for each in (
        options_of(given),
        KafkaSource(given),
        sink,
        options_of(given).mistaken("x", TypeError("y")),
    ):
        assert "hush" not in repr(each) + str(each)
