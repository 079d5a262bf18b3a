"""What every sink promises, checked on every sink. A new one adds a line to SINKS."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.file_sink import FileSink
from connectors.memory import MemorySink
from streamlearn.events import (
    Output,
    Position,
    Prediction,
    Record,
    Rejection,
    Sink,
    StateMismatch,
)


def output(number: int, dead: bool, partition: int = 0) -> Output:
    position = Position("t", partition, number)
    record = Record(b"value %d" % number, position)
    if dead:
        return Rejection("shape", "é" * (number % 4), record)
    return Prediction(f"id {number}", "cat", {"cat": 1.0}, 1, number, position)


OUTPUTS = [output(i // 2, i % 7 in (2, 3), i % 2) for i in range(60)]


@dataclass
class Files:
    """The file sink and the ways a crash leaves its files."""

    folder: Path

    def make(self) -> FileSink:
        return FileSink(
            {"predictions": str(self.folder / "p.jsonl"), "dead_letters": str(self.folder / "d.jsonl")}
        )

    def state(self) -> tuple[bytes, bytes]:
        return (self.folder / "p.jsonl").read_bytes(), (self.folder / "d.jsonl").read_bytes()

    def tear(self, marks: dict[str, int], share: float, other: float) -> None:
        for name, mark, part in (("p.jsonl", "predictions", share), ("d.jsonl", "dead_letters", other)):
            path = self.folder / name
            os.truncate(path, marks[mark] + int((path.stat().st_size - marks[mark]) * part))


@dataclass
class Memory:
    """The memory sink, which tears between outputs."""

    folder: Path

    def __post_init__(self) -> None:
        self.sink = MemorySink()

    def make(self) -> MemorySink:
        return self.sink

    def state(self) -> Any:
        return list(self.sink.predictions), list(self.sink.dead_letters)

    def tear(self, marks: dict[str, int], share: float, other: float) -> None:
        there: list[tuple[list[Any], int, float]] = [
            (self.sink.predictions, marks["predictions"], share),
            (self.sink.dead_letters, marks["dead_letters"], other),
        ]
        for outputs, mark, part in there:
            del outputs[mark + int((len(outputs) - mark) * part) :]


SINKS: dict[str, type[Files] | type[Memory]] = {"files": Files, "memory": Memory}


def run(sink: Sink, outputs: Sequence[Output], marks: dict[str, int] | None, size: int = 5) -> dict[str, int]:
    sink.open(marks, 1)
    for first in range(0, len(outputs), size):
        sink.write(outputs[first : first + size])
        sink.flush()
    found = sink.flush()
    sink.sync()
    sink.close()
    return found


@pytest.mark.parametrize("kind", SINKS)
@settings(max_examples=40)
@given(
    checkpoint=st.integers(0, len(OUTPUTS)),
    reached=st.integers(0, len(OUTPUTS)),
    share=st.floats(0, 1),
    other=st.floats(0, 1),
    size=st.integers(1, 20),
)
def test_a_crash_anywhere_leaves_no_trace(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    checkpoint: int,
    reached: int,
    share: float,
    other: float,
    size: int,
) -> None:
    calm, torn = (SINKS[kind](tmp_path_factory.mktemp("sink")) for _ in range(2))
    run(calm.make(), OUTPUTS, None)
    marks = run(torn.make(), OUTPUTS[:checkpoint], None, size)
    run(torn.make(), OUTPUTS[checkpoint:reached], marks, size)
    torn.tear(marks, share, other)
    run(torn.make(), OUTPUTS[checkpoint:], marks, size)
    assert torn.state() == calm.state()


@pytest.mark.parametrize("kind", SINKS)
def test_outputs_above_the_marks_are_not_written_again(tmp_path: Path, kind: str) -> None:
    case = SINKS[kind](tmp_path)
    marks = run(case.make(), OUTPUTS[:10], None)
    run(case.make(), OUTPUTS[10:], marks)
    before = case.state()
    after = run(case.make(), OUTPUTS[10:], marks)
    assert case.state() == before
    assert run(case.make(), [], after) == after


@pytest.mark.parametrize("kind", SINKS)
def test_it_says_before_it_is_opened_whether_outputs_stand_above_the_marks(tmp_path: Path, kind: str) -> None:
    case = SINKS[kind](tmp_path)
    marks = run(case.make(), OUTPUTS[:10], None)
    for more in (OUTPUTS[10:11], [OUTPUTS[25]]):
        assert not case.make().answered(marks)
        after = run(case.make(), more, marks)
        assert case.make().answered(marks)
        marks = after


@pytest.mark.parametrize("kind", SINKS)
def test_a_record_has_one_output_also_if_it_has_become_another(tmp_path: Path, kind: str) -> None:
    case = SINKS[kind](tmp_path)
    marks = run(case.make(), OUTPUTS[:10], None)
    after = run(case.make(), OUTPUTS[10:], marks)
    before = case.state()
    others = [output(i // 2, i % 7 not in (2, 3), i % 2) for i in range(10, 60)]
    assert run(case.make(), others, marks) == after
    assert case.state() == before


@pytest.mark.parametrize("kind", SINKS)
@settings(max_examples=40)
@given(
    crashes=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=6),
    size=st.integers(1, 20),
)
def test_crashes_while_reading_again_leave_no_trace(
    tmp_path_factory: pytest.TempPathFactory, kind: str, crashes: list[tuple[int, int]], size: int
) -> None:
    """A checkpoint may be taken between what was read again and what is there already."""
    calm, torn = (SINKS[kind](tmp_path_factory.mktemp("sink")) for _ in range(2))
    run(calm.make(), OUTPUTS, None)
    marks, checkpoint = run(torn.make(), [], None), 0
    for kept, lost in crashes:
        sink = torn.make()
        before, checkpoint = checkpoint, checkpoint + kept
        sink.open(marks, 1)
        for first in range(before, checkpoint, size):
            sink.write(OUTPUTS[first : min(first + size, checkpoint)])
            sink.flush()
        marks = sink.flush()
        sink.write(OUTPUTS[checkpoint : checkpoint + lost])
        sink.flush()
        sink.close()
    run(torn.make(), OUTPUTS[checkpoint:], marks, size)
    assert torn.state() == calm.state()


@pytest.mark.parametrize("kind", SINKS)
def test_what_was_not_flushed_is_dropped_by_close(tmp_path: Path, kind: str) -> None:
    case = SINKS[kind](tmp_path)
    sink = case.make()
    sink.open(None, 1)
    sink.write(OUTPUTS)
    sink.close()
    assert not any(case.state())


@pytest.mark.parametrize("kind", SINKS)
def test_an_output_shorter_than_its_mark_is_refused(tmp_path: Path, kind: str) -> None:
    case = SINKS[kind](tmp_path)
    marks = run(case.make(), OUTPUTS, None)
    case.tear({"predictions": 0, "dead_letters": 0}, 0.5, 0.5)
    with pytest.raises(StateMismatch):
        case.make().open(marks, 1)
