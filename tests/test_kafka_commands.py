"""Commands to a running worker on a real Kafka: what they do, when their answers are seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ops.kafka.broker import Broker
from tests.kafka import Message
from tests.kafka_worker import Place, Run, new_place
from tests.processes import line
from tests.streams import vectors

EVENTS = vectors(200)


def tell(place: Place, command: str | tuple[str, ...], *more: str, status: int = 0) -> dict[str, Any]:
    """`streamlearn tell`; the answer, or where there is none what it says."""
    words = command.split() if isinstance(command, str) else command
    with place.command(("tell", *words), "--json", *more) as run:
        assert run.ends() == status, run.said
    last = run.said.splitlines()[-1]
    found: dict[str, Any] = json.loads(last) if last.startswith("{") else {"said": last}
    return found


def answers(place: Place, isolation: str = "read_committed") -> list[dict[str, Any]]:
    return [json.loads(message.value or b"") for message in place.read(".answers", isolation)]


def reads(place: Place, run: Run, count: int) -> None:
    """So many events are answered in all, and no more."""
    place.until_answered(run, count)
    assert len(place.read()) == count


def test_checkpoint_pause_and_resume(broker: Broker, tmp_path: Path) -> None:
    """The pause outlives a kill, and what came meanwhile waits."""
    place = new_place(broker, tmp_path)
    place.send(EVENTS[:50])
    with place.run() as run:
        place.until_answered(run, 50)
        answer = tell(place, "checkpoint")
        assert answer["done"] and answer["command"] == "checkpoint"
        assert (answer["paused"], answer["epoch"]) == (False, 1)
        assert answer["checkpoint"] == place.named()
        assert place.reached(answer["checkpoint"]) == 50
        assert tell(place, "pause")["paused"]
        place.send(EVENTS[50:100])
        # Whatever is asked for now is carried out: the worker reads on in its commands.
        tell(place, "checkpoint")
        assert place.reached() == 50
        run.kill()
    with place.run() as run:
        run.says("goes on from ")
        assert tell(place, "checkpoint")["paused"]
        assert (place.reached(), len(place.read())) == (50, 50)
        assert not tell(place, "resume")["paused"]
        reads(place, run, 100)
        assert run.stops() == 0
    assert [each["command"] for each in answers(place)] == [
        *("checkpoint", "pause", "checkpoint", "checkpoint", "resume")
    ]
    assert place.newest["position"]["paused"] is False


def test_retention_that_has_passed_a_mark_behind_the_commands_alone(broker: Broker, tmp_path: Path) -> None:
    """Whoever sends commands in transactions leaves marks, which are no commands; also amid a pause."""
    place = new_place(broker, tmp_path)
    place.send(EVENTS[:50])

    def until_at(run: Run, offset: int) -> None:
        def kept() -> bool:
            at = place.newest["position"]["offsets"][place.name(".commands")]["0"]
            return bool(at == offset and place.named() == place.checkpoints()[-1])

        run.until(lambda: place.committed()[".commands", 0][0] == offset, f"P is {offset}")
        run.until(kept, "C too")
        place.delete_below(offset, ".commands")

    with place.run() as run:
        place.until_answered(run, 50)
        place.transact([b'{"command": "checkpoint"}', b'{"command": "pause"}'], ".commands")
        until_at(run, 3)
        assert run.stops() == 0
    with place.run() as run:
        run.says("goes on from")
        place.transact([b'{"command": "resume"}'], ".commands")
        until_at(run, 5)
        assert tell(place, "checkpoint")["paused"] is False
        assert run.stops() == 0
    assert [each["command"] for each in answers(place)] == ["checkpoint", "pause", "resume", "checkpoint"]


def test_an_answer_is_seen_with_its_commit_and_once(broker: Broker, tmp_path: Path) -> None:
    """Killed between: the command is carried out anew by the next one, and answered."""
    place = new_place(broker, tmp_path)
    place.send(EVENTS[:50])
    with place.run(**place.held) as run:
        place.until_kept(run, 50)  # so that the commit of the answer is the one that is held
        place.hold.touch()
        place.send([b'{"command": "pause", "request": "r1"}'], ".commands")
        run.until(
            lambda: [each["request"] for each in answers(place, "read_uncommitted")] == ["r1"], "it is sent"
        )
        assert answers(place) == []
        assert place.committed()[".commands", 0][0] == 0
        run.kill()
    with place.run() as run:
        run.until(lambda: answers(place), "it is answered")
        place.send(EVENTS[50:])
        assert tell(place, "resume")["done"]
        reads(place, run, 200)
        assert run.stops() == 0
    assert [(each["command"], each["epoch"]) for each in answers(place)] == [("pause", 2), ("resume", 2)]
    assert len(answers(place, "read_uncommitted")) == 3
    offset, said = place.committed()[".commands", 0]
    assert said.pop("topic_id") == place.newest["position"]["commands_id"]
    assert (offset, said) == (2, {"checkpoint": place.named(), "epoch": 2})


def test_forget(broker: Broker, tmp_path: Path) -> None:
    place = new_place(broker, tmp_path)
    place.send(EVENTS[:50])
    kept = ("--memory.capacity", "200", "--evaluation.held_out", "0")
    labeled = next(event.id for event in EVENTS if event.y is not None)
    with place.run(*kept) as run:
        place.until_answered(run, 50)
        before = tell(place, "checkpoint")["checkpoint"]
        answer = tell(place, ("forget", labeled))
        assert answer["done"]
        assert answer["id"] == labeled
        assert answer["removed"] == {"memory": 1, "held_out": 0, "waiting": 0}
        assert "stays" in answer["not_removed"]
        assert tell(place, ("forget", labeled))["removed"]["memory"] == 0
        for words in (("--id=--odd",), ("--", "--odd")):
            assert tell(place, "forget", *words)["id"] == "--odd"
        run.until(lambda: before not in place.checkpoints(), "older checkpoints that hold it are deleted")
        run.kill()
    with place.run(*kept) as run:
        run.says("goes on from ")
        assert tell(place, ("forget", labeled))["removed"]["memory"] == 0
        assert run.stops() == 0
    place.leave()
    with place.command(f"checkpoints use {before}") as use:
        assert use.ends() == 3


def test_a_tombstone_forgets_and_is_passed_on(broker: Broker, tmp_path: Path) -> None:
    """Where the settings say so; by default it is a dead letter: on compacted topics it means another."""
    place = new_place(broker, tmp_path)
    keyed = [Message(line(event).strip(), event.id.encode()) for event in EVENTS[:60]]
    gone = next(event.id for event in EVENTS if event.y is not None)
    tombstone = Message(None, gone.encode())
    kept = ("--memory.capacity", "200", "--evaluation.held_out", "0")
    forget = (*kept, "--codec.tombstones", "forget")
    place.send(keyed[:50])
    with place.run(*forget) as run:
        place.until_kept(run, 50)
        before = place.named()
        place.send([tombstone, *keyed[50:]])
        place.until_answered(run, 61)
        run.until(lambda: before not in place.checkpoints(), "older checkpoints that hold it are deleted")
        run.kill()
    with place.run(*forget) as run:
        run.says("goes on from ")
        assert tell(place, ("forget", gone))["removed"] == {"memory": 0, "held_out": 0, "waiting": 0}
        assert tell(place, ("forget", EVENTS[1].id))["removed"]["memory"] == (EVENTS[1].y is not None)
        assert run.stops() == 0
    found = place.read()
    assert (found[50].key, found[50].value) == (tombstone.key, None)
    assert [each.key for each in found] == [each.key for each in [*keyed[:50], tombstone, *keyed[50:]]]
    assert not place.read(".dead_letters")
    usual = new_place(broker, tmp_path / "usual")
    usual.folder.mkdir()
    usual.send([*keyed[:30], tombstone])
    with usual.run() as run:
        run.until(lambda: usual.answered(1, ".dead_letters"), "it is a dead letter")
        assert run.stops() == 0
    (dead,) = usual.read(".dead_letters")
    assert (dead.key, dict(dead.headers)["__connect.errors.exception.class.name"]) == (
        tombstone.key,
        b"empty",
    )


def test_what_is_null_stays_null(broker: Broker, tmp_path: Path) -> None:
    """A value and the values of headers, in predictions and dead letters; a tombstone keeps its headers."""
    place = new_place(broker, tmp_path)
    headers: tuple[tuple[str, bytes | None], ...] = (("a", None), ("b", b""), ("c", b"1"))
    whole = [Message(line(event).strip(), b"k", headers) for event in EVENTS[:50]]
    of_nobody, gone = Message(None, b"\xff", headers), Message(None, b"k", headers)
    place.send([*whole, Message(b"{", b"k", headers), of_nobody, gone])
    with place.run("--sink.headers", "*", "--codec.tombstones", "forget") as run:
        place.until_answered(run, 51)
        assert run.stops() == 0
    assert {each.headers for each in place.read()} == {headers}
    assert place.read()[-1].value is None
    bad, dead = place.read(".dead_letters")
    assert (bad.value, bad.headers[:3]) == (b"{", headers)
    assert (dead.value, dead.headers[:3]) == (None, headers)


def test_what_is_no_command_is_answered_in_its_turn(broker: Broker, tmp_path: Path) -> None:
    place = new_place(broker, tmp_path)
    with place.run() as run:
        run.says("a first start")
        wrong = [
            b"{garbage",
            b"5",
            b'{"command": "dance", "request": "r3"}',
            b'{"command": "forget", "request": "r4"}',
            b'{"command": "forget", "id": "", "request": 5}',
            b"",
        ]
        place.send([*wrong, b'{"command": "checkpoint", "request": "r7"}'], ".commands")
        run.until(lambda: len(answers(place)) == 7, "all are answered")
        assert run.running()
        assert run.stops() == 0
    *bad, good = answers(place)
    assert [each["done"] for each in bad] == [False] * 6
    assert [each["request"] for each in bad] == [None, None, "r3", "r4", None, None]
    for each, words in zip(
        bad,
        [
            "not JSON",
            "not a JSON object",
            "no command 'dance'; there is checkpoint, pause",
            *["needs the id"] * 2,
        ],
        strict=False,
    ):
        assert words in each["problem"]
    assert (good["request"], good["done"]) == ("r7", True)
    for words, said in (
        ("dance", "knows no 'dance': checkpoint, pause, resume or forget ID"),
        ("forget", "forget wants the ID of an event"),
        ("pause now", "takes no argument"),
    ):
        assert said in tell(place, words, status=2)["said"]


def test_a_first_start_skips_what_was_asked_before_and_tell_says_so(broker: Broker, tmp_path: Path) -> None:
    """It may have been meant for a group before; one that has begun carries out what it finds."""
    place = new_place(broker, tmp_path)
    said = tell(place, "pause", "--timeout", "1", status=4)["said"]
    assert said.endswith(
        "carried out by the next one of the group, unless that is its first start, which skips what was "
        "asked for before there was a worker"
    )
    place.send(EVENTS[:50])
    with place.run() as run:
        place.until_kept(run, 50)
        assert f"1 commands stand in {place.topic}.commands from before (at most; marks of" in run.said
        assert "transactions count too): skipped: this is a first start" in run.said
        run.kill()
    assert answers(place) == []
    tell(place, "checkpoint", "--timeout", "1", status=4)
    with place.run() as run:
        run.until(lambda: answers(place), "it is answered")
        assert [(each["command"], each["paused"]) for each in answers(place)] == [("checkpoint", False)]
        assert run.stops() == 0


def test_without_the_topics_commands_are_off_and_said_to_be(broker: Broker, tmp_path: Path) -> None:
    place = new_place(broker, tmp_path, without=(".commands", ".answers"))
    place.send(EVENTS[:50])
    kept = ("--memory.capacity", "200", "--evaluation.held_out", "0")
    with place.run(*kept) as run:
        place.until_answered(run, 50)
        assert f"no topic {place.topic}.commands and no topic {place.topic}.answers: commands" in run.said
        assert "are off; `streamlearn topics` makes it" in run.said
        said = tell(place, "pause", status=4)["said"]
        assert f"there is no topic {place.topic}.commands, or no topic {place.topic}.answers" in said
        assert run.stops() == 0
    with place.command("topics") as topics:
        assert topics.ends() == 0
    # Nobody is there to answer: it stands in the topic for the next one, though that one reads it first.
    gone = next(event.id for event in EVENTS if event.y is not None)
    said = tell(place, ("forget", gone), "--timeout", "1", status=4)["said"]
    assert said.startswith(
        f"no answer within 1 s: is a worker of group {place.group} running? The command stands"
    )
    place.send(EVENTS[50:60])
    with place.run(*kept) as run:
        run.says("goes on from ")
        run.says("carried out, from its beginning")
        place.until_answered(run, 60)
        run.until(lambda: answers(place), "it is answered")
        assert tell(place, "checkpoint")["done"]
        assert run.stops() == 0
    assert [(each["command"], each.get("id")) for each in answers(place)] == [
        *(("forget", gone), ("checkpoint", None))
    ]
    assert answers(place)[0]["removed"] == {"memory": 1, "held_out": 0, "waiting": 0}
