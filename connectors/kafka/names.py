"""Records with a header whose name is not UTF-8, of which aiokafka 0.14 gives none: it raises, every time.

A name may be any bytes to the broker, and one such record would end every worker that comes to it. So from
the first one on the client looks through its batches before it hands them over, and reads those that it can't
read by its slower twin in Python, with a ? for every byte that is no UTF-8.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatch, _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy
from aiokafka.record.util import decode_varint


def unreadable(error: BaseException) -> bool:
    """Whether it is such a name that the client failed of."""
    return any(isinstance(each, UnicodeDecodeError) for each in (error, error.__cause__))


def read_any() -> None:
    """From now on this process reads such records. What was fetched before must be fetched again."""
    fetcher.MemoryRecords = _Records


class _Records(_MemoryRecordsPy):  # type: ignore[misc]
    """The batches of one partition in one answer."""

    def next_batch(self) -> Any:
        raw = self._next_slice
        batch = super().next_batch()
        if isinstance(batch, DefaultRecordBatch):
            try:
                deque(DefaultRecordBatch(raw), maxlen=0)
            except Exception:  # also of a damaged one, which fails once more, as it should
                return _Batch(raw)
        return batch


class _Batch(_DefaultRecordBatchPy):  # type: ignore[misc]
    def _read_msg(self) -> Any:
        try:
            return super()._read_msg()
        except UnicodeDecodeError:
            _mend(self._buffer, self._pos)
            return super()._read_msg()


def _mend(buffer: bytearray, pos: int) -> None:
    """Put a ? for every byte that is no UTF-8 into the names of the headers of the record at `pos`."""
    for _ in ("length", "attributes", "time", "offset"):
        _, pos = decode_varint(buffer, pos)
    for _ in ("key", "value"):
        size, pos = decode_varint(buffer, pos)
        pos += max(0, size)
    count, pos = decode_varint(buffer, pos)
    for _ in range(count):
        size, pos = decode_varint(buffer, pos)
        while True:
            try:
                buffer[pos : pos + size].decode()
                break
            except UnicodeDecodeError as error:
                wrong = slice(pos + error.start, pos + error.end)
                buffer[wrong] = b"?" * (error.end - error.start)
        pos += size
        size, pos = decode_varint(buffer, pos)
        pos += max(0, size)
