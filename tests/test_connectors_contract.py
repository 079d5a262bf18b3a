"""What every connector promises, checked on every connector. A new one adds a line to SOURCES or SINKS."""

from __future__ import annotations

import gzip
import importlib
import inspect
import io
import json
import os
import pkgutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

import connectors
from connectors.datasets import DatasetSource
from connectors.file_sink import FileSink
from connectors.files import FileSource
from connectors.memory import MemorySink, MemorySource
from streamlearn.events import (
    Position,
    Record,
    Resume,
    Sink,
    Source,
    StateMismatch,
)

COUNT = 57


def content(format: str, salt: int) -> bytes:
    """A small file of COUNT records; another salt makes other records."""
    rows = [{"id": f"{salt}-{i}", "x": [i / 2, salt], "y": f"class {i % 3}"} for i in range(COUNT)]
    if format == "jsonl":
        return b"".join(
            json.dumps(row).encode() + (b"\r\n" if i % 5 else b"\n") for i, row in enumerate(rows)
        )
    if format == "msgpack":
        return b"".join(msgpack.packb(row) for row in rows)
    if format == "csv":
        lines = [f'{row["id"]},{i},"a ""quoted""\nand, broken cell"\n' for i, row in enumerate(rows)]
        return "\ufeffid,a,text\n".encode() + "".join(lines).encode()
    buffer = io.BytesIO()
    np.savez(buffer, x=np.arange(COUNT * 4).reshape(COUNT, 2, 2) + salt, y=np.arange(COUNT) % 3)
    return buffer.getvalue()


def given_file(name: str) -> Callable[[Path, int], Source]:
    def make(folder: Path, salt: int) -> Source:
        data = content(name.split(".")[1], salt)
        (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return FileSource({"path": str(folder / name)})

    return make


class PipedSource(FileSource):
    """Standard input: every `open` gets a new pipe with the same content, as a restarted command would."""

    def __init__(self, format: str, data: bytes) -> None:
        super().__init__({"path": "-", "format": format})
        self._data = data

    def open(self, resume: Resume) -> None:
        self._fd, end = os.pipe()
        threading.Thread(target=self._feed, args=(end,), daemon=True).start()
        super().open(resume)

    def _feed(self, end: int) -> None:
        # The reader may go before it has read all: that closes the pipe, and is no failure here.
        try:
            with os.fdopen(end, "wb") as pipe:
                pipe.write(self._data)
        except BrokenPipeError:
            pass

    def close(self) -> None:
        if self._input is not None:
            os.close(self._fd)
        super().close()


def given_pipe(format: str, compress: bool) -> Callable[[Path, int], Source]:
    def make(folder: Path, salt: int) -> Source:
        data = content(format, salt)
        return PipedSource(format, gzip.compress(data) if compress else data)

    return make


def given_memory(folder: Path, salt: int) -> Source:
    return MemorySource(
        [Record(b"%d %d" % (salt, i), Position("t", i % 3, i // 3 + 7 * (i % 3))) for i in range(COUNT)]
    )


def given_digits(folder: Path, salt: int) -> Source:
    return DatasetSource({"dataset": "digits", "order": "class_incremental", "seed": salt, "limit": COUNT})


FORMATS = ("jsonl", "msgpack", "csv", "npz")
SOURCES: dict[str, Callable[[Path, int], Source]] = {
    **{
        f"{format}{suffix}": given_file(f"f.{format}{suffix}") for format in FORMATS for suffix in ("", ".gz")
    },
    **{f"stdin-{format}": given_pipe(format, False) for format in FORMATS},
    **{f"stdin-{format}-gz": given_pipe(format, True) for format in FORMATS},
    "memory": given_memory,
    "digits": given_digits,
}


@dataclass
class Case:
    """One kind of source, as often as wanted."""

    make: Callable[[Path, int], Source]
    folder: Path

    @contextmanager
    def opened(self, resume: Resume | None = None, salt: int = 0) -> Iterator[Source]:
        source = self.make(self.folder, salt)
        source.open(resume or Resume())
        try:
            yield source
        finally:
            source.close()

    def read(self, sizes: Sequence[int] = (7,)) -> list[Record]:
        with self.opened() as source:
            return drain(source, sizes)


def drain(source: Source, sizes: Sequence[int] = (7,)) -> list[Record]:
    records: list[Record] = []
    polls = 0
    while not source.ended:
        got = source.poll(sizes[polls % len(sizes)], 10)
        assert len(got) <= sizes[polls % len(sizes)]
        records += got
        polls += 1
    assert source.poll(10, 0) == []
    return records


def seen(records: Sequence[Record]) -> list[Any]:
    """What can be compared: arrays as lists."""
    return [
        (
            r.value,
            r.position,
            r.cursor,
            r.key,
            None if r.fields is None else {k: np.asarray(v).tolist() for k, v in r.fields.items()},
        )
        for r in records
    ]


@pytest.fixture(params=SOURCES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    return Case(SOURCES[request.param], tmp_path)


def ends(records: Sequence[Record]) -> tuple[dict[int, int], dict[int, int]]:
    offsets = {r.position.partition: r.position.offset + 1 for r in records}
    return offsets, {r.position.partition: r.cursor for r in records}


def test_offsets_are_dense_and_cursors_grow(case: Case) -> None:
    records = case.read()
    assert len(records) == COUNT
    last: dict[int, Record] = {}
    for record in records:
        before = last.get(record.position.partition)
        if before is not None:
            assert record.position.offset == before.position.offset + 1
            assert record.cursor > before.cursor
        last[record.position.partition] = record
    with case.opened() as source:
        assert {record.position.topic for record in records} == {source.topic}


@pytest.mark.parametrize("sizes", [(1,), (1000,), (1, 13, 2)])
def test_poll_sizes_change_nothing(case: Case, sizes: Sequence[int]) -> None:
    assert seen(case.read(sizes)) == seen(case.read())


def test_resuming_anywhere_continues_exactly(case: Case) -> None:
    whole = seen(case.read())
    for count in range(0, COUNT + 1, 8):
        with case.opened() as source:
            head = source.poll(count, 10) if count else []
            while len(head) < count:
                head += source.poll(count - len(head), 10)
            source.poll(5, 10)  # read ahead: the state is behind what was delivered
            offsets, cursors = ends(head)
            fingerprint = source.fingerprint(cursors)
        stored = msgpack.unpackb(msgpack.packb(fingerprint))
        assert json.loads(json.dumps(stored)) == fingerprint
        with case.opened(Resume(offsets, cursors, stored)) as source:
            assert seen(head + drain(source)) == whole
            offsets, cursors = ends(head)
        with case.opened(Resume(offsets, cursors, stored)) as source:
            assert source.fingerprint(cursors) == fingerprint


def test_resuming_at_the_end_delivers_nothing(case: Case) -> None:
    with case.opened() as source:
        offsets, cursors = ends(drain(source))
        fingerprint = source.fingerprint(cursors)
    with case.opened(Resume(offsets, cursors, fingerprint)) as source:
        assert drain(source) == []


def test_a_foreign_input_is_refused(case: Case) -> None:
    with case.opened() as source:
        offsets, cursors = ends(source.poll(20, 10))
        fingerprint = source.fingerprint(cursors)
    with pytest.raises(StateMismatch), case.opened(Resume(offsets, cursors, fingerprint), salt=1):
        pass


def test_every_connector_is_in_this_suite(tmp_path: Path) -> None:
    """Kafka's needs a broker, and has its own run of the contract."""
    covered = {type(make(tmp_path, 0)) for make in SOURCES.values()} | {FileSink, MemorySink}
    known = {parent for each in covered for parent in each.__mro__}
    for module in pkgutil.iter_modules(connectors.__path__, "connectors."):
        if "kafka" in module.name:
            continue
        for name, found in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if name.endswith(("Source", "Sink")) and found not in (Source, Sink):
                assert found in known, f"add {name} to SOURCES or SINKS"
