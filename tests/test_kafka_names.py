"""Headers whose names are not UTF-8: the records come all the same, in order, each once."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import codec
from aiokafka.consumer import fetcher
from aiokafka.record.memory_records import MemoryRecords
from kafka import KafkaProducer
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.util import calc_crc32c

from connectors.kafka.names import read_any
from ops.kafka.broker import Broker
from tests.kafka_worker import new_place
from tests.processes import line
from tests.streams import vectors

EVENTS = vectors(60)


class Name(str):
    """Goes over the wire as bytes that are no UTF-8."""

    def encode(self, *_: object) -> bytes:
        return super().encode("latin-1")


BAD = ((Name("caf\xe9 \xff\xfe"), b"caf\xe9"), ("caf\xe9", b"\xff"), ("none", None))
MENDED = (("caf? ??", b"caf\xe9"), ("caf\xe9", b"\xff"), ("none", None))


@pytest.fixture
def lenient() -> Iterator[Any]:
    before = fetcher.MemoryRecords
    read_any()
    yield fetcher.MemoryRecords
    fetcher.MemoryRecords = before


SQUEEZE = (bytes, codec.gzip_encode, codec.snappy_encode, codec.lz4_encode, codec.zstd_encode)


def batch(compression: int, bad: tuple[int, ...] = (1, 3)) -> bytes:
    builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 1 << 20)
    for n in range(5):
        headers = list(BAD) if n in bad else [("fine", b"%d" % n)]
        builder.append(n, 1000 + n, None if n == 3 else b"caf\xe9", b"caf\xe9 \xff" * n, headers)
    whole = bytearray(builder.build())
    body = SQUEEZE[compression](bytes(whole[61:]))
    signed = struct.pack(">h", compression) + bytes(whole[23:61]) + body
    head = bytes(whole[:8]) + struct.pack(">i", 9 + len(signed)) + bytes(whole[12:17])
    return head + struct.pack(">I", calc_crc32c(signed)) + signed


@pytest.mark.parametrize("compression", range(5))
def test_a_batch_is_read_but_for_what_no_name_is(lenient: Any, compression: int) -> None:
    good = batch(0, bad=())
    with pytest.raises(UnicodeDecodeError):
        list(MemoryRecords(batch(compression)).next_batch())
    records, found = lenient(batch(compression) + good), []
    while records.has_next():
        one = records.next_batch()
        assert one.validate_crc()
        found += [(r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in one]
    as_it_was = [
        (n, 1000 + n, None if n == 3 else b"caf\xe9", b"caf\xe9 \xff" * n, (("fine", b"%d" % n),))
        for n in range(5)
    ]
    assert found[5:] == as_it_was
    assert [each[:4] for each in found[:5]] == [each[:4] for each in as_it_was]
    assert [each[4] for each in found[:5]] == [MENDED if n in (1, 3) else as_it_was[n][4] for n in range(5)]


def test_a_damaged_batch_is_still_refused(lenient: Any) -> None:
    raw = bytearray(batch(0))
    raw[-1] ^= 1
    assert not lenient(bytes(raw)).next_batch().validate_crc()


def test_a_worker_reads_on(broker: Broker, tmp_path: Path) -> None:
    """Also amid transactions that were given up; dead letters and predictions carry what can be read."""
    place = new_place(broker, tmp_path, partitions=2)
    values = [line(event).strip() for event in EVENTS]
    values[20] = b"garbage"
    producer = KafkaProducer(bootstrap_servers=broker.address, transactional_id=place.topic)
    producer.init_transactions()
    given_up = 0
    for n, value in enumerate(values):
        producer.begin_transaction()
        for _ in range(1 + n % 3):
            producer.send(place.topic, value, partition=n % 2, headers=list(BAD[:2]) if n % 5 == 0 else [])
        if n % 3:
            producer.flush()
            producer.abort_transaction()
            given_up += 1
        else:
            producer.commit_transaction()
    producer.begin_transaction()
    for n in (20, 5):
        producer.send(place.topic, values[n], partition=0, headers=list(BAD[:2]))
    producer.commit_transaction()
    producer.close()
    count = len(values) - given_up + 1
    with place.run("--sink.headers", "*") as run:
        run.until(lambda: place.answered(count) and place.answered(1, ".dead_letters"), "all are answered")
        assert run.stops() == 0
    expected = [json.loads(value)["id"] for value in values[::3]]
    found = [(json.loads(message.value or b""), message) for message in place.read()]
    ids = [body["id"] for body, _ in found]
    last = json.loads(values[5])["id"]
    assert sorted(ids) == sorted([*expected, last])
    for partition in (0, 1):
        offsets = [body["source"][2] for body, _ in found if body["source"][1] == partition]
        assert offsets == sorted(set(offsets))
    headers = {body["id"]: message.headers for body, message in found}
    assert headers[last] == MENDED[:2]
    (dead,) = place.read(".dead_letters")
    assert dead.value == b"garbage"
    assert dead.headers[:2] == MENDED[:2]
    assert run.said.count("name is not UTF-8") == 1
