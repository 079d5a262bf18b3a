"""`streamlearn topics` and `publish` against a real Kafka: created, checked, secured, forbidden."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType

from connectors.kafka.admin import HEADERS, ensure_topics
from connectors.kafka.cluster import Cluster, Forbidden
from connectors.kafka.reach import Refused, reach
from ops.kafka.broker import Broker
from streamlearn.events import Unreachable, UsageError
from tests.kafka import administrator, fresh_topic, read_all, running
from tests.processes import said
from tests.publishing import expect, send, write_numbers

pytestmark = [
    pytest.mark.slow,
    # kafka-python leaves sockets that couldn't be connected to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.usefixtures("rubbish"),
]


def flags(broker: Broker, topic: str, *more: str) -> list[str]:
    servers = ["--source.bootstrap_servers", broker.address, "--source.topic", topic]
    return [*servers, "--source.group_id", f"g-{topic}", *more]


def new() -> str:
    return f"t-{uuid.uuid4().hex[:8]}"


def partitions(broker: Broker, *names: str) -> list[int]:
    with administrator(broker) as admin:
        found = {each["name"]: len(each["partitions"]) for each in admin.describe_topics(list(names))}
    return [found[name] for name in names]


# ---- created and checked


def test_topics_are_created_once(broker: Broker, capfd: pytest.CaptureFixture[str]) -> None:
    topic = new()
    checked = said(capfd, "topics", *flags(broker, topic), "--check", status=4)
    assert checked.count("  missing\n") == 5
    assert f"missing: {topic}, {topic}.predictions, {topic}.dead_letters, g-{topic}.commands" in checked
    created = said(capfd, "topics", *flags(broker, topic, "--partitions", "3"))
    names = [
        topic,
        f"{topic}.predictions",
        f"{topic}.dead_letters",
        f"g-{topic}.commands",
        f"g-{topic}.answers",
    ]
    assert [line.split() for line in created.splitlines()] == [
        ["events", names[0], "3", "partitions", "created"],
        ["predictions", names[1], "3", "partitions", "created"],
        ["dead", "letters", names[2], "3", "partitions", "created"],
        ["commands", names[3], "1", "partition", "created"],
        ["answers", names[4], "1", "partition", "created"],
    ]
    assert partitions(broker, *names) == [3, 3, 3, 1, 1]
    for more in ((), ("--check",), ("--partitions", "3")):
        again = said(capfd, "topics", *flags(broker, topic, *more))
        assert again == created.replace("created", "there already")


def test_outputs_fit_topics_that_are_there(broker: Broker, capfd: pytest.CaptureFixture[str]) -> None:
    topic = fresh_topic(broker, partitions=2, max_message_bytes=3_000_000)
    text = said(capfd, "topics", *flags(broker, topic, "--partitions", "5"))
    assert "note: it keeps its 2 partitions, whatever --partitions says (5)" in text
    assert partitions(broker, f"{topic}.predictions", f"{topic}.dead_letters") == [2, 2]
    with Cluster({"bootstrap_servers": broker.address}) as cluster:
        letters = cluster.topics([f"{topic}.dead_letters"])[f"{topic}.dead_letters"]
    assert letters.number("max.message.bytes") == 3_000_000 + HEADERS
    assert letters.configs["cleanup.policy"] == "delete"


def test_what_does_not_fit_is_said(broker: Broker, capfd: pytest.CaptureFixture[str]) -> None:
    topic = fresh_topic(broker, partitions=3)
    other = fresh_topic(broker, partitions=2, cleanup_policy="compact")
    small = fresh_topic(broker, partitions=3, max_message_bytes=1000)
    outputs = ("--sink.predictions", other, "--sink.dead_letters", small)
    text = said(capfd, "topics", *flags(broker, topic, *outputs))
    assert "note: the events have 3 partitions: the partition number of an event is not kept" in text
    assert "note: cleanup.policy is compact" in text
    assert "note: max.message.bytes is 1000, of the events" in text
    refused = said(capfd, "topics", *flags(broker, topic, "--source.commands", other), status=2)
    assert "problem: commands need one order, so one partition: set source.commands" in refused
    assert f"can't be used as they are: {other}" in refused


def test_what_can_not_be_created(broker: Broker, capfd: pytest.CaptureFixture[str]) -> None:
    text = said(capfd, "topics", *flags(broker, new(), "--replication", "3"), status=2)
    assert "can't be created: Unable to replicate the partition 3 time(s)" in text


def test_outputs_in_another_cluster(broker: Broker, capfd: pytest.CaptureFixture[str]) -> None:
    words = flags(broker, new(), "--sink.bootstrap_servers", "elsewhere:9092")
    assert "no transaction spans two" in said(capfd, "topics", *words, status=2)


def test_a_broker_that_stays_away(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with running(tmp_path / "kafka") as broker:
        broker.freeze()
        start = time.monotonic()
        text = said(capfd, "topics", *flags(broker, "t", "--source.deadline", "2"), status=4)
        assert time.monotonic() - start < 10
        assert f"no Kafka broker answers within 2 seconds ({broker.address}: no answer)" in text
        broker.thaw()


# ---- TLS, passwords, ACLs


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """TLS and passwords, and nobody but the unencrypted listener's users may do a thing."""
    acls = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }
    with running(tmp_path_factory.mktemp("secure"), secure=True, settings=acls) as broker:
        yield broker


@pytest.fixture
def allowed(tmp_path: Path) -> Iterator[Broker]:
    with running(tmp_path / "kafka", secure=True) as broker:
        yield broker


def secured(broker: Broker, topic: str, *more: str) -> list[str]:
    found = ["--source.bootstrap_servers", broker.secure_address, "--source.topic", topic]
    found += ["--source.security.protocol", "SASL_SSL", "--source.security.ca_file", str(broker.ca_file)]
    return [*found, "--source.security.username", broker.username, *more]


def test_with_tls_and_a_password(
    allowed: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("STREAMLEARN_SOURCE__SECURITY__PASSWORD_FILE", str(allowed.password_file))
    assert said(capfd, "topics", *secured(allowed, "t")).count("created") == 5
    path = write_numbers(tmp_path / "a.jsonl", 100)
    assert "sent 100 events" in said(capfd, "publish", str(path), *secured(allowed, "t"))
    expect(allowed, "t", range(100))


@pytest.mark.parametrize("command", ["topics", "publish"])
def test_what_is_refused_is_said_at_once(
    secure: Broker,
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    words = [command, *([str(write_numbers(tmp_path / "a.jsonl", 1))] if command == "publish" else [])]
    password, secret = "STREAMLEARN_SOURCE__SECURITY__PASSWORD", "not-the-password"
    monkeypatch.setenv(password, secret)
    start = time.monotonic()
    wrong = said(capfd, *words, *secured(secure, "t"), status=4)
    assert "doesn't take the user 'streamlearn' with this password (SCRAM-SHA-512)" in wrong
    assert secret not in wrong
    mechanism = said(capfd, *words, *secured(secure, "t", "--source.security.mechanism", "PLAIN"), status=4)
    assert "doesn't know source.security.mechanism PLAIN" in mechanism
    monkeypatch.setenv(password, secure.password_file.read_text())
    untrusted = secured(secure, "t")
    at = untrusted.index("--source.security.ca_file")
    untrusted = untrusted[:at] + untrusted[at + 2 :]
    assert "shows a certificate that isn't trusted" in said(capfd, *words, *untrusted, status=4)
    forbidden = said(capfd, *words, *secured(secure, "t"), status=4)
    assert "the broker doesn't let us see topic t: its ACLs must allow DESCRIBE" in forbidden
    assert time.monotonic() - start < 20


def test_a_port_that_speaks_something_else(secure: Broker) -> None:
    plain = {"bootstrap_servers": secure.secure_address, "deadline": 1.0}
    with pytest.raises(Unreachable, match=r"hangs up: is source\.security\.protocol \(PLAINTEXT\)"):
        reach(plain, 1.0)
    tls = {"bootstrap_servers": secure.address, "security": {"protocol": "SSL"}}
    with pytest.raises(Unreachable, match=r"source\.security\.protocol \(SSL\)"):
        reach(tls, 1.0)
    password = {"protocol": "SASL_PLAINTEXT", "username": "u", "password": "p", "mechanism": "PLAIN"}
    with pytest.raises(Refused, match="wants no password on this port"):
        reach({"bootstrap_servers": secure.address, "security": password}, 1.0)


def test_the_first_server_that_answers_will_do(broker: Broker) -> None:
    reach({"bootstrap_servers": f"127.0.0.1:1,no.such.host:9,{broker.address}"}, 30.0)


def test_what_acls_allow(secure: Broker, tmp_path: Path) -> None:
    """What publishing needs, one by one; and that is what is said."""
    topic, path = fresh_topic(secure), write_numbers(tmp_path / "a.jsonl", 10)
    security = {
        "protocol": "SASL_SSL",
        "ca_file": str(secure.ca_file),
        "username": secure.username,
        "password": secure.password_file.read_text(),
        "mechanism": "SCRAM-SHA-512",
    }
    given: dict[str, Any] = {
        "bootstrap_servers": secure.secure_address,
        "security": security,
        "patience": 20.0,
    }
    given |= {"marker": str(tmp_path / "p.json"), "marker_given": True}
    with pytest.raises(Forbidden, match="DESCRIBE"):
        send(secure, topic, path, **given)
    needs = [
        (ResourceType.TOPIC, topic, ACLOperation.DESCRIBE, "on the transactional id"),
        (ResourceType.TRANSACTIONAL_ID, "*", ACLOperation.WRITE, "READ on the group"),
        (ResourceType.GROUP, "*", ACLOperation.READ, "READ, WRITE and DESCRIBE on the topic"),
        (ResourceType.TOPIC, topic, ACLOperation.WRITE, "READ, WRITE and DESCRIBE on the topic"),
        (ResourceType.TOPIC, topic, ACLOperation.READ, ""),
    ]
    for kind, name, operation, missing in needs:
        acl = ACL(
            principal=f"User:{secure.username}",
            host="*",
            operation=operation,
            permission_type=ACLPermissionType.ALLOW,
            resource_pattern=ResourcePattern(kind, name),
        )
        with administrator(secure) as admin:
            admin.create_acls([acl])
        if missing:
            with pytest.raises(Forbidden, match=missing):
                send(secure, topic, path, **given)
    assert send(secure, topic, path, **given).sent == 10
    assert len(read_all(secure, topic, password=secure.password_file.read_text())) == 10


def test_a_name_that_kafka_does_not_take(broker: Broker) -> None:
    with pytest.raises(UsageError, match=r"sink\.answers is 'a b'"):
        ensure_topics({"bootstrap_servers": broker.address}, {"answers": "a b"}, None, None, False)
