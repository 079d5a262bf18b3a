"""A broker that lets a user do only what its ACLs say: what it doesn't show isn't taken for missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ResourcePattern,
    ResourceType,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from ops.kafka.broker import Broker
from ops.kafka.place import USERNAME
from tests.kafka import administrator, running
from tests.kafka_worker import Place, Run, new_place
from tests.streams import vectors
from tests.test_kafka_security import secretly

pytestmark = pytest.mark.slow

EVENTS = vectors(40)
AUTHORIZER = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    # Whoever comes to the listener without passwords, and the tests' own clients.
    "super.users": f"User:ANONYMOUS;User:{USERNAME}",
}
GUEST = "guest"
READ, WRITE = ACLOperation.READ, ACLOperation.WRITE
RIGHTS = {"": READ, ".predictions": WRITE, ".dead_letters": WRITE, ".commands": READ, ".answers": WRITE}
"""What a worker needs on its topics."""


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    folder = tmp_path_factory.mktemp("strict") / "kafka"
    with running(folder, secure=True, settings=AUTHORIZER) as broker:
        user = UserScramCredentialUpsertion(
            GUEST, ScramMechanism.SCRAM_SHA_512, password=broker.password_file.read_text("utf-8")
        )
        with administrator(broker) as admin:
            assert admin.alter_user_scram_credentials([user]) == {GUEST: None}
        yield broker


def as_guest(place: Place, command: str) -> Run:
    return secretly(place, command, username=GUEST)


def allow(place: Place, rights: Mapping[str, ACLOperation]) -> None:
    """Let the guest work as a group, and on these topics."""
    patterns = [(ResourceType.TOPIC, place.name(of), right) for of, right in rights.items()]
    patterns.append((ResourceType.GROUP, place.group, READ))
    patterns.append((ResourceType.TRANSACTIONAL_ID, f"streamlearn.{place.group}", WRITE))
    acls = [
        ACL(f"User:{GUEST}", "*", right, ACLPermissionType.ALLOW, ResourcePattern(kind, name))
        for kind, name, right in patterns
    ]
    with administrator(place.broker) as admin:
        assert len(admin.create_acls(acls)["succeeded"]) == len(acls)


def without(*of: str) -> dict[str, ACLOperation]:
    return {name: right for name, right in RIGHTS.items() if name not in of}


def test_a_topic_that_may_not_be_seen_is_not_called_missing(strict: Broker, tmp_path: Path) -> None:
    """Whose user needs which right on which topic; with them, and no others, it learns."""
    place = new_place(strict, tmp_path)
    place.send(EVENTS)
    allow(place, without("", ".predictions"))
    for command in ("run", "check"):
        with as_guest(place, command) as run:
            assert run.ends() == 4, run.said
        assert run.said.splitlines()[-1].endswith(
            f"run: Kafka at {strict.secure_address}: not authorised: the broker doesn't let "
            f"User:{GUEST} see topic {place.topic}, {place.name('.predictions')} (it may be there "
            f"or not): its ACLs must allow READ on {place.topic}, and WRITE on {place.name('.predictions')} "
            "(DESCRIBE goes with that)"
        )
    allow(place, RIGHTS)
    with as_guest(place, "run") as run:
        place.until_answered(run, len(EVENTS))
        assert run.stops() == 0


@pytest.mark.parametrize("of", [".commands", ".answers"])
def test_without_the_right_to_see_their_topics_commands_are_off(
    of: str, strict: Broker, tmp_path: Path
) -> None:
    place = new_place(strict, tmp_path)
    place.send(EVENTS)
    allow(place, without(of))
    with as_guest(place, "run") as run:
        place.until_answered(run, len(EVENTS))
        assert run.stops() == 0
    right = "READ" if of == ".commands" else "WRITE"
    assert f"its ACLs must allow {right} on {place.name(of)} (DESCRIBE goes with that); commands" in run.said
    assert "commands (`streamlearn tell`) are off" in run.said
    assert "there is no topic" not in run.said


def test_who_may_not_see_the_topics_of_commands_tells_nothing(strict: Broker, tmp_path: Path) -> None:
    """To tell is to write where a worker reads, and to read what it writes."""
    place = new_place(strict, tmp_path)
    with as_guest(place, "tell pause") as run:
        assert run.ends() == 4, run.said
    assert run.said.splitlines()[-1].endswith(
        f"its ACLs must allow READ on {place.name('.answers')}, and WRITE on {place.name('.commands')} "
        "(DESCRIBE goes with that)"
    )
