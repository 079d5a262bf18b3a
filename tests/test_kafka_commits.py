"""What a group's commits mean, who of a group learns, and how outputs become batches of messages."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.kafka.assignor import choose
from connectors.kafka.boxes import Message, Place
from connectors.kafka.committed import interpret, metadata_of
from connectors.kafka.going_back import read_now
from connectors.kafka.murmur import partition_of
from connectors.kafka.options import options_of
from connectors.kafka.records import PREFIXES, batches, bytes_of
from streamlearn.commands import Command, encode_answer, encode_command, parse_command
from streamlearn.events import Position, Record, StateMismatch, Unreachable, UsageError


def meta(checkpoint: str, epoch: int = 1) -> str:
    return json.dumps({"checkpoint": checkpoint, "epoch": epoch})


def test_no_commit_is_a_first_start() -> None:
    found = interpret("g", "t", {})
    assert (found.checkpoint, found.epoch, dict(found.published)) == (None, 0, {})


def test_all_partitions_name_one_checkpoint() -> None:
    found = interpret("g", "t", {("t", 0): (7, meta("c1", 4)), ("t", 1): (9, meta("c1", 4))})
    assert (found.checkpoint, found.epoch) == ("c1", 4)
    assert found.published == {("t", 0): 7, ("t", 1): 9}


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (meta("c2", 4), "name different checkpoints"),
        (meta("c1", 5), "name different checkpoints"),
        ("", "name different checkpoints"),
    ],
)
def test_partitions_that_disagree_are_refused(other: str, said: str) -> None:
    with pytest.raises(StateMismatch, match=said):
        interpret("g", "t", {("t", 0): (7, meta("c1", 4)), ("t", 1): (9, other)})


def test_what_was_committed_of_a_topic_made_anew_says_nothing_of_it() -> None:
    at: dict[Place, tuple[int, str]] = {
        ("t", 0): (7, meta("c1")),
        ("commands", 0): (5, metadata_of("c1", 1, (4, 5), "old")),
        ("others", 0): (3, meta("c1")),
    }
    found = interpret("g", "t", at)
    assert found.among({"t": "t1", "commands": "old"}) == found
    # What a broker doesn't say, or a commit, is not taken for another one.
    assert found.among({"commands": "00000000-0000-0000-0000-000000000000"}) == found
    assert found.among({}) == found
    anew = found.among({"t": "t1", "commands": "new", "others": "o1"})
    assert anew.published == {("t", 0): 7, ("others", 0): 3}
    assert anew.gaps == {}


def test_c_of_commands_made_anew_since_says_nothing_of_them() -> None:
    offsets = {"t": {0: 7}, "commands": {0: 5}}
    reached = [("c3", offsets, "new"), ("c2", offsets, "old"), ("c1", offsets, "")]
    assert read_now(reached, "commands", "new") == [("c3", offsets), ("c2", {"t": {0: 7}}), ("c1", offsets)]


ODD = ["Infinity", "-Infinity", "NaN", "1e400", "1e3", "2.5", "-1", "true", "null", '"x"', '"1"', "9" * 4000]


@pytest.mark.parametrize(
    "metadata",
    [
        *("", "hello", "[]", "[" * 4000, '{"epoch": 1}', '{"checkpoint": "", "epoch": 1}'),
        '{"checkpoint": 7, "epoch": 1}',
        *(f'{{"checkpoint": "c", "epoch": {odd}}}' for odd in ODD),
    ],
)
def test_commits_of_somebody_else_are_refused(metadata: str) -> None:
    with pytest.raises(StateMismatch, match="name no checkpoint"):
        interpret("g", "t", {("t", 0): (7, metadata)})


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.integers(0, 4), min_size=1))
def test_one_learns_and_whoever_learned_last_goes_on(held: dict[str, int]) -> None:
    learner = choose(held)
    assert held[learner] == max(held.values())
    # One that joins holds nothing, and moves nobody who learns.
    if held[learner]:
        assert choose({**held, "": 0, "\U0010ffff": 0}) == learner


class Builder:
    """As aiokafka's: it takes messages up to a size."""

    def __init__(self, size: int) -> None:
        self.most, self.taken = size, 0
        self.messages: list[bytes | None] = []

    def append(self, *, timestamp: int, key: Any, value: Any, headers: Any) -> object | None:
        size = PREFIXES + len(value or b"") + len(key or b"")
        if self.taken + size > self.most:
            return None
        self.messages.append(value)
        self.taken += size
        return object()

    def record_count(self) -> int:
        return len(self.messages)

    def size(self) -> int:
        return self.taken


class Producer:
    def __init__(self, size: int) -> None:
        self.size = size

    def create_batch(self) -> Builder:
        return Builder(self.size)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 900)), max_size=40),
    st.sampled_from([1000, 2000, 1 << 20]),
)
def test_batches_keep_the_order_and_the_limits_of_their_topics(
    sent: list[tuple[int, int]], limit: int
) -> None:
    messages = [Message(("t", p), None, bytes([p]) * size) for p, size in sent]
    found: dict[Place, list[Any]] = {}
    for place, batch in batches(Producer(1 << 20), messages, {"t": limit}):
        assert batch.size() <= limit
        found.setdefault(place, []).extend(batch.messages)
    for place, values in found.items():
        assert values == [m.value for m in messages if m.place == place]
    assert sum(map(len, found.values())) == len(messages)


def test_a_message_that_fits_nowhere_is_said() -> None:
    with pytest.raises(Unreachable, match="doesn't fit"):
        list(batches(Producer(100), [Message(("t", 0), None, b"x" * 200)], {}))


def test_sizes_count_headers() -> None:
    plain = Message(("t", 0), b"k", b"value")
    assert bytes_of(plain._replace(headers=[("name", b"four")])) > bytes_of(plain) + 8


@pytest.mark.parametrize(
    ("key", "partition"),
    # What kafka-python's own default partitioner, a port of Java's, gives.
    [(b"a", 0), (b"streamlearn", 0), (b"21", 0), (b"", 0)],
)
def test_keys_go_where_other_clients_send_them(key: bytes, partition: int) -> None:
    from kafka.partitioner.default import murmur2

    for count in (1, 3, 8):
        assert partition_of(key, count) == (murmur2(key) & 0x7FFFFFFF) % count
    assert partition_of(key, 1) == partition


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ("consumer", "group_id"),
        ("producer", "transactional_id"),
        ("consumer", "sasl_plain_password"),
    ],
)
def test_what_exactness_stands_on_is_not_for_others_to_set(setting: str, name: str) -> None:
    options = options_of({"bootstrap_servers": "h:1"})
    setattr(options, setting, {name: "secret"})
    with pytest.raises(UsageError, match=name) as refused:
        getattr(options, f"more_of_{setting}")
    assert "secret" not in str(refused.value)


def parsed(value: bytes) -> Command:
    return parse_command(Record(value, Position("c", 0, 3)))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b"{}", "there is no command None"),
        (b'{"command": "stop", "request": "r"}', "there is no command 'stop'"),
        (b'{"command": "forget"}', "needs the id"),
        (b'{"command": "forget", "id": 7}', "needs the id"),
        (b"\xff\xfe", "not JSON"),
    ],
)
def test_a_command_that_is_none_is_answered(value: bytes, said: str) -> None:
    command = parsed(value)
    assert command.problem is not None and said in command.problem
    answer = json.loads(encode_answer(command, step=3))
    assert answer["done"] is False and said in answer["problem"] and answer["step"] == 3


@given(st.sampled_from(["checkpoint", "pause", "resume"]), st.text(st.characters(exclude_categories=["Cs"])))
def test_what_tell_sends_is_what_the_worker_reads(kind: str, request: str) -> None:
    command = parsed(encode_command(kind, request))
    assert (command.kind, command.request, command.problem) == (kind, request, None)
    assert json.loads(encode_answer(command))["request"] == request
