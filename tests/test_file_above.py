"""What an output file holds above its mark at the next start: left out, cut, or refused."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.above import Runs
from streamlearn.events import Output, Position, Record, Rejection, StateMismatch
from tests.streams import WHOLE_STREAMS
from tests.test_file_sink import OUTPUTS, prediction, rejection, sink_in, write

OURS = b'{"source": ["t", 0, 9]}\n'


@pytest.mark.parametrize(
    ("left", "loud"),
    [
        (b"", False),
        (b"{", False),
        (b'{"id":"a", "sco', False),
        (b'{"reason":"shape","deta', False),
        (b'{"reason":"shape","source":["t",0,9]}', False),  # all but its newline
        (bytes(9000), True),
        (bytes(9000) + b"\n", True),
        (bytes(9000) + b"\n" + OURS, True),
        (b'{"id":"a", "sco' + bytes(100) + b'"t",0,9]}\n' + OURS, True),
        (b'{"id":"a", "sco' + bytes(100), True),
    ],
)
def test_what_a_crash_leaves_above_the_mark_is_cut(
    tmp_path: Path, left: bytes, loud: bool, caplog: pytest.LogCaptureFixture
) -> None:
    marks = write(sink_in(tmp_path), OUTPUTS[:10])
    write(sink_in(tmp_path), OUTPUTS[10:14], marks)
    good = (tmp_path / "d").read_bytes()
    (tmp_path / "d").write_bytes(good + left)
    sink = sink_in(tmp_path)
    sink.open(marks, 3)
    assert (tmp_path / "d").read_bytes() == good
    words = [f"{tmp_path / 'd'}: what stands at byte {len(good)},", f" {len(left)} bytes were cut"]
    assert [all(word in message for word in words) for message in caplog.messages] == [True] * loud
    sink.close()
    write(sink, OUTPUTS[10:], marks)
    written = (tmp_path / "d").read_bytes(), (tmp_path / "p").read_bytes()
    write(sink_in(tmp_path), OUTPUTS)
    assert all(
        (tmp_path / name).read_bytes() == 2 * content for name, content in zip("dp", written, strict=True)
    )


@pytest.mark.parametrize("line", [b"garbage", b"{}", b"[1]", b'{"id": 1}', b'{"source": "t12"}', b"a\0b"])
@pytest.mark.parametrize("end", [b"", b"\n", b"\n" + OURS])
@pytest.mark.parametrize("name", ["p", "d"])
def test_what_somebody_else_wrote_above_the_mark_is_refused(
    tmp_path: Path, line: bytes, end: bytes, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    marks = write(sink_in(tmp_path), OUTPUTS[:10])
    write(sink_in(tmp_path), OUTPUTS[10:14], marks)
    at = (tmp_path / name).stat().st_size
    for each in "pd":
        with open(tmp_path / each, "ab") as file:
            file.write(line + end if each == name else b'{"id":"torn')
    before = {each: (tmp_path / each).read_bytes() for each in "pd"}
    mark = marks["predictions" if name == "p" else "dead_letters"]
    found = re.escape(repr(line.partition(b"\0")[0]))
    for refused in (lambda: sink_in(tmp_path).open(marks, 3), lambda: sink_in(tmp_path).look(marks)):
        with pytest.raises(
            StateMismatch,
            match=rf"/{name}: what stands at byte {at}, above .* \(byte {mark}\), is no output .*: {found}\. "
            r"It .* move what stands from there on elsewhere, or give the file that the state has written",
        ):
            refused()
    assert {each: (tmp_path / each).read_bytes() for each in "pd"} == before, "neither is cut"
    assert caplog.messages == []


def test_somebody_s_file_is_refused_where_the_mark_is_0(tmp_path: Path) -> None:
    marks = write(sink_in(tmp_path), [])
    (tmp_path / "mine.csv").write_bytes(b"a,b\n1,2\n")
    with pytest.raises(StateMismatch, match="move what stands from there on elsewhere, or name a new file"):
        sink_in(tmp_path, predictions=str(tmp_path / "mine.csv")).open(marks, 0)
    assert (tmp_path / "mine.csv").read_bytes() == b"a,b\n1,2\n"


def test_a_file_in_the_place_of_a_stream_is_appended_to(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A stream has no mark; and the mark of a file that was written before it is not the next file's."""
    marks = write(sink_in(tmp_path, predictions="-"), OUTPUTS[:10])
    mine = tmp_path / "mine.csv"
    mine.write_bytes(b"a,b\n1,2\n")
    sink = sink_in(tmp_path, predictions=str(mine))
    assert sink.look(marks) == [] and not sink.answered(marks)
    marks = write(sink, OUTPUTS[10:], marks)
    whole = mine.read_bytes()
    assert whole.startswith(b"a,b\n1,2\n{") and whole.count(b"\n") == 10
    assert marks["predictions"] == len(whole) and caplog.messages == []
    other = sink_in(tmp_path, predictions=str(tmp_path / "other"))
    (tmp_path / "other").write_bytes(b"theirs\n" * 1000)
    for refused in (lambda: other.open(marks, 0), lambda: other.look(marks), lambda: other.answered(marks)):
        with pytest.raises(StateMismatch, match="other has no line that ends at byte"):
            refused()
    assert (tmp_path / "other").read_bytes() == b"theirs\n" * 1000


def test_a_zero_filled_tail_is_found_at_once(tmp_path: Path) -> None:
    marks = write(sink_in(tmp_path), OUTPUTS)
    good = (tmp_path / "p").stat().st_size
    os.truncate(tmp_path / "p", good + (4 << 30))
    assert write(sink_in(tmp_path), [], marks) == marks
    assert (tmp_path / "p").stat().st_size == good


def test_what_stands_below_the_mark_must_be_there(tmp_path: Path) -> None:
    marks = write(sink_in(tmp_path), OUTPUTS)
    with pytest.raises(StateMismatch, match="ends at byte"):
        sink_in(tmp_path).open({**marks, "predictions": marks["predictions"] - 1}, 0)


def sources(path: Path) -> list[list[Any]]:
    return [json.loads(line)["source"] for line in path.read_bytes().splitlines()]


def test_suppression_is_by_record(tmp_path: Path) -> None:
    marks = write(sink_in(tmp_path), [])
    write(sink_in(tmp_path), [prediction(5), prediction(2, partition=1), prediction(9, "u")], marks)
    sink = sink_in(tmp_path)
    again: list[Output] = [rejection(3), prediction(4), prediction(6), prediction(3, partition=1)]
    write(sink, [*again, prediction(0, "v"), prediction(9, "u")], marks)
    more = [["t", 0, 4], ["t", 0, 6], ["t", 1, 3], ["v", 0, 0]]
    assert sources(tmp_path / "p") == [["t", 0, 5], ["t", 1, 2], ["u", 0, 9], *more]
    assert sources(tmp_path / "d") == [["t", 0, 3]]


@WHOLE_STREAMS
@given(
    before=st.lists(st.booleans(), min_size=1, max_size=30),
    lives=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.randoms()), max_size=5),
    partitions=st.integers(1, 3),
)
def test_one_output_of_a_record_whatever_it_becomes_when_it_comes_again(
    tmp_path_factory: pytest.TempPathFactory,
    before: list[bool],
    lives: list[tuple[int, int, Any]],
    partitions: int,
) -> None:
    """Limits are adopted, so a record that was answered may be a dead letter now. Files tear anywhere."""
    folder = tmp_path_factory.mktemp("again")
    count = len(before)

    def output(number: int, dead: bool) -> Output:
        position = Position("t", number % partitions, number // partitions)
        if dead:
            return Rejection("shape", "", Record(b"\xff", position))
        return prediction(position.offset, partition=position.partition)

    marks = write(sink_in(folder), [])
    write(sink_in(folder), [output(i, dead) for i, dead in enumerate(before)], marks)
    reached = 0
    for kept, lost, dice in lives:
        for name, mark in (("p", marks["predictions"]), ("d", marks["dead_letters"])):
            os.truncate(folder / name, dice.randint(mark, (folder / name).stat().st_size))
        sink = sink_in(folder)
        sink.open(marks, 1)
        again = [output(i, dice.random() < 0.3) for i in range(reached, min(count, reached + kept + lost))]
        sink.write(again[:kept])
        marks, reached = sink.flush(), min(count, reached + kept)
        sink.write(again[kept:])
        sink.flush()
        sink.close()
    write(sink_in(folder), [output(i, i % 2 == 0) for i in range(reached, count)], marks)
    found = sources(folder / "p") + sources(folder / "d")
    assert sorted(found) == sorted(list(output(i, False).position) for i in range(count))


def test_the_marks_pass_what_became_another_output(tmp_path: Path) -> None:
    marks = write(sink_in(tmp_path), [])
    ends = write(sink_in(tmp_path), [prediction(i) for i in range(8)], marks)
    assert write(sink_in(tmp_path), [rejection(i) for i in range(8)], marks) == ends


@given(st.lists(st.integers(0, 40)))
def test_runs_are_a_set(offsets: list[int]) -> None:
    runs = Runs()
    for offset in offsets:
        runs.add(offset)
    assert [offset for offset in range(-1, 43) if offset in runs] == sorted(set(offsets))
    assert not offsets or runs.last == max(offsets)


def test_a_long_file_read_again_takes_little_memory() -> None:
    runs = Runs()
    for offset in range(100_000):
        runs.add(offset)
    assert len(runs._firsts) == 1
