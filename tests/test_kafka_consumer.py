"""Records as the client's C code has read them: for our consumers, and with all that is in the client's."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from connectors.kafka.consumer import as_it_is
from connectors.kafka.records import records_of
from streamlearn.events import Position, Record

PLACE = TopicPartition("t", 3)
SENT = [
    (None, b"value", []),
    (b"key", b"", [("name", b"a"), ("none", None)]),
    (b"", None, [("caf\xe9", b"\xff")]),
]


def fetched(key_deserializer: Any) -> list[Any]:
    builder = BatchBuilder(1 << 20, 0, is_transactional=0)
    for n, (key, value, headers) in enumerate(SENT):
        assert builder.append(timestamp=1000 + n, key=key, value=value, headers=headers)
    records = MemoryRecords(bytes(builder._build()))
    return list(PartitionRecords(PLACE, records, [], 1, key_deserializer, None, True, "read_committed"))


@pytest.mark.parametrize("ours", [True, False])
def test_all_that_was_sent(ours: bool) -> None:
    found = fetched(as_it_is if ours else None)
    assert [type(each) is ConsumerRecord for each in found] == [not ours] * 2, "offset 0 was not asked for"
    assert [each.timestamp for each in found] == [1001, 1002]
    assert records_of(PLACE, found) == [
        Record(b"", Position("t", 3, 1), 2, b"key", (("name", b"a"), ("none", None))),
        Record(b"", Position("t", 3, 2), 3, b"", (("caf\xe9", b"\xff"),), None, True),
    ]


def test_of_others_nothing_changes() -> None:
    (first, _) = fetched(None)
    assert (first.topic, first.partition, first.offset, first.serialized_key_size) == ("t", 3, 1, 3)
    (first, _) = fetched(lambda key: key.upper())
    assert first.key == b"KEY"
