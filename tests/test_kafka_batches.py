"""Batches of messages as they go over the wire: what others read is what was given."""

from __future__ import annotations

from typing import Any

from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.memory_records import MemoryRecords as AioRecords
from hypothesis import given
from hypothesis import strategies as st
from kafka.record import MemoryRecords

from connectors.kafka.boxes import Message, Place
from connectors.kafka.committer import interval_of
from connectors.kafka.records import BATCH_BYTES, HEADER, batches, bytes_of

messages = st.lists(
    st.builds(
        Message,
        st.tuples(st.sampled_from("ab"), st.integers(0, 1)),
        st.none() | st.binary(max_size=5),
        st.none() | st.binary(max_size=300),
        st.lists(st.tuples(st.text(max_size=3), st.none() | st.binary(max_size=5)), max_size=2)
        .map(tuple)
        .filter(lambda headers: all(name.isprintable() for name, _ in headers)),
    ),
    max_size=60,
)


class Producer:
    @staticmethod
    def create_batch() -> BatchBuilder:
        return BatchBuilder(BATCH_BYTES, 0, is_transactional=1)


@given(messages, st.sampled_from([700, 2000, 1 << 20]))
def test_what_others_read_is_what_was_given(sent: list[Message], limit: int) -> None:
    found: dict[Place, list[Any]] = {}
    again: dict[Place, list[Any]] = {}
    sizes: dict[Place, list[int]] = {}
    for place, batch in batches(Producer(), sent, {"a": limit, "b": limit}):
        wire = bytes(batch._build())
        assert len(wire) <= limit
        sizes.setdefault(place, []).append(len(wire))
        for records, into in ((MemoryRecords(wire), found), (AioRecords(wire), again)):
            while records.has_next():
                one = records.next_batch()
                assert one.validate_crc()
                into.setdefault(place, []).extend((r.key, r.value, tuple(r.headers)) for r in one)
    for place in {message.place for message in sent}:
        given = [(m.key, m.value, tuple(m.headers)) for m in sent if m.place == place]
        assert found[place] == again[place] == given
        # No batch was closed that had surely room for the first message of the next.
        most = max(bytes_of(m) for m in sent if m.place == place)
        assert all(size + most + HEADER > limit for size in sizes[place][:-1])
    assert found.keys() == {message.place for message in sent}


def test_commits_are_rare_only_where_records_wait_for_long() -> None:
    assert interval_of(0.1, 0.0) == interval_of(0.1, 0.4) == 0.1
    assert interval_of(0.1, 1.2) == 0.3
    assert interval_of(0.1, 60.0) == 0.5
    assert interval_of(2.0, 60.0) == 2.0, "never more often than asked for"
