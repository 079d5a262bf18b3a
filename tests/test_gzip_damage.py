"""Damaged gzip: a checksum stands behind what it vouches for, and is compared before that is learned."""

from __future__ import annotations

import gzip
import os
import re
import tracemalloc
from itertools import pairwise
from pathlib import Path

import pytest

from connectors import inputs
from connectors.files import FileSource
from connectors.gzip_stream import Gunzip
from connectors.inputs import Input
from streamlearn.events import Record, Resume, StateMismatch, Stopped, Unreachable
from tests.processes import count_lines, flags, here, line, next_offset, piped
from tests.streams import vectors

EVENTS = vectors(200, unlabeled=0)
CONTENT = [line(event) for event in EVENTS]


def members(*sizes: int) -> list[bytes]:
    """The events, so many a member, stored as they are: whatever is flipped in them still decompresses."""
    ends = [sum(sizes[:count]) for count in range(len(sizes) + 1)]
    parts = pairwise(ends)
    return [gzip.compress(b"".join(CONTENT[first:end]), 0, mtime=0) for first, end in parts]


def flipped(member: bytes, label: bytes = b'"class ') -> bytes:
    """The member with another label in its middle."""
    at = member.index(label, len(member) // 2) + len(label)
    return member[:at] + bytes([member[at] ^ 1]) + member[at + 1 :]


def drain(source: FileSource, most: int = 7) -> list[Record]:
    found: list[Record] = []
    while not source.ended:
        found += source.poll(most, 10)
    return found


def resume_at(path: Path, count: int) -> Resume:
    source = FileSource({"path": str(path)})
    source.open(Resume())
    cursor = drain(source)[count - 1].cursor
    found = Resume({0: count}, {0: cursor}, source.fingerprint({0: cursor}))
    source.close()
    return found


def test_nothing_of_a_damaged_file_is_learned_and_the_intact_one_is(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (whole,) = members(200)
    path = tmp_path / "events.jsonl.gz"
    path.write_bytes(flipped(whole))
    assert here(*flags(tmp_path, path)) == 4
    err = capfd.readouterr().err
    trailer = len(whole) - 5  # zlib compares a checksum when it has its last byte
    assert f"{path} holds corrupt gzip data (member 1, which begins at compressed byte 0, " in err
    assert f"is damaged at compressed byte {trailer}: incorrect data check)" in err
    assert "nothing new was learned from it; give an intact copy" in err
    assert count_lines(tmp_path / "predictions.jsonl") == 0
    path.write_bytes(whole)
    assert here(*flags(tmp_path, path)) == 0
    assert next_offset(tmp_path) == count_lines(tmp_path / "predictions.jsonl") == 200


def test_damage_behind_the_state_is_found_before_the_state_goes_on(tmp_path: Path) -> None:
    first, second, third = members(50, 70, 80)
    path = tmp_path / "f.jsonl.gz"
    path.write_bytes(first + second)
    resume = resume_at(path, 60)
    at = len(first + second)
    for damaged, words in (
        (first + second + flipped(third), f"member 3, which begins at compressed byte {at}, "),
        (first + flipped(second) + third, f"member 2, which begins at compressed byte {len(first)}, "),
        (first + second + b"garbage", f"member 3, which begins at compressed byte {at}, .*incorrect header"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(Unreachable, match=f"{words}.*nothing new was learned"):
            FileSource({"path": str(path)}).open(resume)
    path.write_bytes(flipped(first) + second + third)
    with pytest.raises((Unreachable, StateMismatch)):
        FileSource({"path": str(path)}).open(resume)
    path.write_bytes(first + second + third)
    source = FileSource({"path": str(path)})
    source.open(resume)
    assert [record.value + b"\n" for record in drain(source)] == CONTENT[60:]
    source.close()


def test_what_stands_before_the_state_is_decompressed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f.jsonl.gz"
    path.write_bytes(b"".join(members(150, 50)))
    resume = resume_at(path, 150)
    monkeypatch.setattr(inputs, "BLOCK", 512)
    fed = [0]
    feed = Gunzip.feed

    def counted(gunzip: Gunzip, data: bytes) -> bytes:
        fed[0] += len(data)
        return feed(gunzip, data)

    monkeypatch.setattr(Gunzip, "feed", counted)
    source = FileSource({"path": str(path)})
    source.open(resume)
    assert fed[0] <= path.stat().st_size + 512
    assert len(drain(source)) == 50
    assert fed[0] < path.stat().st_size + len(members(150, 50)[1]) + 2048
    source.close()


def test_what_is_appended_meanwhile_waits_for_the_next_start(tmp_path: Path) -> None:
    first, second = members(100, 100)
    path = tmp_path / "f.jsonl.gz"
    path.write_bytes(first)
    source = FileSource({"path": str(path)})
    source.open(Resume())
    with open(path, "ab") as file:
        file.write(flipped(second))
    assert len(drain(source)) == 100
    source.close()


def test_a_signal_ends_the_comparison(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl.gz"
    path.write_bytes(members(200)[0])
    with pytest.raises(Stopped, match="checksums"):
        FileSource({"path": str(path)}).open(Resume(stopped=lambda: True))


def test_it_takes_no_memory_and_is_said_where_it_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(inputs, "LONG", 10_000)
    path = tmp_path / "f.jsonl.gz"
    path.write_bytes(gzip.compress(bytes(64 << 20), 1))
    caplog.set_level("INFO")
    file = Input(str(path))
    tracemalloc.start()
    file.verify(lambda: False)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    file.close()
    assert most < 8 << 20
    assert [message.startswith(f"{path}: checksums of 0 MB") for message in caplog.messages] == [True]


def given(content: bytes, resume: Resume | None = None) -> tuple[int, str]:
    """How many records a pipe gives, and what it says then."""
    reading, writing = os.pipe()
    try:
        with os.fdopen(writing, "wb") as pipe:
            assert len(content) <= 65536
            pipe.write(content)
        source, count = FileSource({"path": "-", "fd": reading}), 0
        source.open(resume or Resume())
        with pytest.raises(Unreachable) as caught:
            while True:
                count += len(source.poll(7, 10))
        source.close()
    finally:
        os.close(reading)
    return count, str(caught.value)


def test_a_pipe_says_which_records_may_have_been_wrong(tmp_path: Path) -> None:
    first, second, third = members(50, 70, 80)
    count, said = given(flipped(first) + second)
    assert count == 50 and "came from record 0 on: " in said
    count, said = given(first + flipped(second) + third)
    assert count == 120 and "came from record 50 on: " in said
    assert f"(member 2, which begins at compressed byte {len(first)}, is damaged at" in said
    assert "the state has learned them. Go back to a checkpoint of before them" in said
    assert "`streamlearn checkpoints list`, then `use`" in said and "start anew" in said
    count, said = given(first + second + b"garbage" * 9)
    assert count == 120 and "came from" not in said, "what was delivered was found whole"
    count, said = given(first + second[:-100])
    assert count > 50 and "that was cut" in said and "came from" not in said
    (tmp_path / "f.jsonl.gz").write_bytes(first + second)
    resume = resume_at(tmp_path / "f.jsonl.gz", 60)
    count, said = given(first + flipped(second), resume)
    assert count == 60 and re.search("came from (before record 60|record 50) on", said)


def test_a_worker_says_it_too(tmp_path: Path) -> None:
    (whole,) = members(200)
    with piped(tmp_path) as worker:
        worker.send(flipped(whole))
        with pytest.raises(Unreachable, match=r"came from record 0 on.* has learned them"):
            worker.ends()
    assert next_offset(tmp_path) == 200
