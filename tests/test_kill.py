"""kill -9 at any moment changes nothing: real processes, really killed; the harness can tell if it did."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import streamlearn.methods
from ops.harness.compare import Result, compare
from ops.harness.cover import FEWEST_TO_COVER
from ops.harness.place import evidence
from ops.harness.stream import FORMATS, Stream, write_stream
from ops.harness.trial import Plan, attempt, table
from streamlearn.codec import Codec
from streamlearn.config import CodecSettings
from streamlearn.events import Position, Record, Rejection
from streamlearn.method import available


def proven(plan: Plan, folder: Path) -> None:
    outcome = attempt(plan, folder, say=False)
    assert outcome.passed, table(outcome)
    assert len(outcome.kills) >= plan.kills
    if plan.kills >= FEWEST_TO_COVER:
        assert any(life.in_write for life in outcome.kills), table(outcome)
        assert any(not life.during for life in outcome.kills), table(outcome)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("method", available(streamlearn.methods))
def test_ten_kills_change_nothing(method: str, tmp_path: Path) -> None:
    proven(Plan(method, kills=10, events=4000), tmp_path / "work")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("format", "stdin"), [("jsonl.gz", False), ("jsonl", True)])
def test_kills_while_reading_what_cannot_seek_change_nothing(
    format: str, stdin: bool, tmp_path: Path
) -> None:
    proven(Plan("finetune", kills=4, events=2000, seed=1, format=format, stdin=stdin), tmp_path / "work")


@pytest.mark.parametrize("format", ["jsonl", "jsonl.gz", "msgpack"])
def test_the_stream_is_what_it_says(format: str, tmp_path: Path) -> None:
    stream = write_stream(tmp_path, format, 500, seed=3)
    again = write_stream(tmp_path, format, 500, seed=3)
    assert again == stream
    assert sorted(stream.predicted + stream.dead) == list(range(500))
    assert 300 < stream.learned < len(stream.predicted)
    if format == "msgpack":
        return
    raw = stream.path.read_bytes()
    lines = (gzip.decompress(raw) if format == "jsonl.gz" else raw).split(b"\n")[:-1]
    assert len(lines) == 500
    items = Codec(CodecSettings()).decode(
        [Record(line, Position("t", 0, i), 0) for i, line in enumerate(lines)]
    )
    undecodable = {i for i, item in enumerate(items) if isinstance(item, Rejection)}
    assert undecodable and undecodable < set(stream.dead)


def test_all_formats_hold_the_same_number_of_records(tmp_path: Path) -> None:
    assert {write_stream(tmp_path, format, 300, seed=0).records for format in FORMATS} == {300}


# -- the comparison sees what it is there to see


def output(offset: int, epoch: int | None) -> bytes:
    source = ["t", 0, offset]
    if epoch is None:
        return json.dumps({"reason": "bad_row", "source": source}, separators=(",", ":")).encode() + b"\n"
    fields = {"id": f"e{offset}", "label": "a", "epoch": epoch, "source": source}
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


STREAM = Stream(Path("t"), records=6, predicted=[0, 1, 3, 4], dead=[2, 5], labeled=[0, 1, 3])


def left_behind(folder: Path, epochs: tuple[int, ...]) -> Result:
    """What a run over STREAM leaves, its predictions made in these epochs."""
    own = folder / "state" / "000001"
    own.mkdir(parents=True)
    for name, content in (("json", b'{"packs": ["000000-00000000"]}'), ("parts", b""), ("memory", b"")):
        (own / f"000000-00000000.{name}").write_bytes(content)
    result = Result(
        folder / "out.jsonl",
        folder / "dead.jsonl",
        folder / "state",
        {
            "parts": {"model": "1", "counts": "2"},
            "events_learned": 2,
            "events_held_out": 1,
            "offsets": {"t": {"0": 6}},
        },
        [{"id": "1", "whole": True, "problem": None}],
    )
    pairs = zip(STREAM.predicted, epochs, strict=True)
    result.predictions.write_bytes(b"".join(output(offset, epoch) for offset, epoch in pairs))
    result.dead_letters.write_bytes(b"".join(output(offset, None) for offset in STREAM.dead))
    return result


def lines(change: Callable[[list[bytes]], object], dead: bool = False) -> Callable[[Result], Result]:
    def apply(result: Result) -> Result:
        path = result.dead_letters if dead else result.predictions
        content = path.read_bytes().splitlines(keepends=True)
        change(content)
        path.write_bytes(b"".join(content))
        return result

    return apply


def file(name: str) -> Callable[[Result], Result]:
    def apply(result: Result) -> Result:
        (result.folder / "000001" / name).write_bytes(b"")
        return result

    return apply


def shown(**fields: object) -> Callable[[Result], Result]:
    return lambda result: replace(result, shown={**result.shown, **fields})


FAULTS: dict[str, tuple[Callable[[Result], Result], set[str]]] = {
    "a prediction twice": (
        lines(lambda rows: rows.insert(2, rows[1])),
        {"killed: one output per record", "predictions: byte-identical but for the epoch"},
    ),
    "the last prediction twice": (
        lines(lambda rows: rows.append(rows[-1])),
        {"killed: one output per record", "predictions: byte-identical but for the epoch"},
    ),
    "a prediction missing": (
        lines(lambda rows: rows.pop(1)),
        {"killed: one output per record", "predictions: byte-identical but for the epoch"},
    ),
    "the last prediction missing": (
        lines(lambda rows: rows.pop()),
        {"killed: one output per record", "predictions: byte-identical but for the epoch"},
    ),
    "no prediction at all": (
        lines(lambda rows: rows.clear()),
        {
            "killed: one output per record",
            "predictions: byte-identical but for the epoch",
            "predictions: epochs never go back",
        },
    ),
    "another label": (
        lines(lambda rows: rows.__setitem__(1, rows[1].replace(b'"a"', b'"b"'))),
        {"predictions: byte-identical but for the epoch"},
    ),
    "an epoch that goes back": (
        lines(lambda rows: rows.__setitem__(3, rows[3].replace(b'"epoch":3', b'"epoch":1'))),
        {"predictions: epochs never go back"},
    ),
    "a dead letter twice": (
        lines(lambda rows: rows.append(rows[-1]), dead=True),
        {"killed: one output per record", "dead letters: byte-identical"},
    ),
    "a dead letter with another reason": (
        lines(lambda rows: rows.__setitem__(0, rows[0].replace(b"bad_row", b"bad_id!")), dead=True),
        {"dead letters: byte-identical"},
    ),
    "another part": (shown(parts={"model": "1", "counts": "3"}), {"state: SHA-256 of all parts"}),
    "a part missing": (shown(parts={"model": "1"}), {"state: SHA-256 of all parts"}),
    "an event learned twice": (shown(events_learned=3), {"killed: events learned"}),
    "the stream not read to its end": (shown(offsets={"t": {"0": 5}}), {"killed: events learned"}),
    "a damaged checkpoint": (
        lambda result: replace(result, verified=[{"id": "1", "whole": False, "problem": "cut"}]),
        {"killed: checkpoints whole"},
    ),
    "a temporary file": (file("000001-00000000.json.tmp"), {"state folder: nothing left over"}),
    "an orphan": (file("000001-00000000.parts"), {"state folder: nothing left over"}),
}


def broken(reference: Result, killed: Result) -> set[str]:
    return {check.name for check in compare(STREAM, reference, killed) if not check.kept}


def test_runs_that_differ_in_epochs_alone_compare_as_equal(tmp_path: Path) -> None:
    reference = left_behind(tmp_path / "reference", (1, 1, 1, 1))
    assert not broken(reference, left_behind(tmp_path / "killed", (1, 2, 2, 3)))


@pytest.mark.parametrize("fault", FAULTS)
def test_the_comparison_finds(fault: str, tmp_path: Path) -> None:
    change, found = FAULTS[fault]
    reference = left_behind(tmp_path / "reference", (1, 1, 1, 1))
    assert broken(reference, change(left_behind(tmp_path / "killed", (1, 2, 2, 3)))) == found


def test_what_both_runs_have_wrong_is_found(tmp_path: Path) -> None:
    wrong = [left_behind(tmp_path / name, (1, 1, 1, 1)) for name in ("reference", "killed")]
    for result in wrong:
        lines(lambda rows: rows.pop(1))(result)
    assert broken(*wrong) == {"reference: one output per record", "killed: one output per record"}


@pytest.mark.parametrize(
    ("names", "during"),
    [
        ([], ""),
        (["000003-00000000.json", "000003-00000000.parts", "000001-00000001.memory"], ""),
        (["000004-00000000.memory.tmp"], "memory.tmp"),
        (["000004-00000000.memory", "000004-00000000.parts.tmp"], "parts.tmp"),
        (["000004-00000000.parts", "000004-00000000.json.tmp"], "json.tmp"),
        (["000004-00000000.memory"], "between files"),
        (["000004-00000000.parts"], "between files"),
        (["000002-00000000.parts"], "pruning"),
        (["000009-0000000a.memory"], ""),
    ],
)
def test_the_files_say_what_a_kill_hit(names: list[str], during: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).write_text('{"packs": ["000001-00000001"]}')
    if "000003-00000000.json" not in names and during == "pruning":
        (tmp_path / "000003-00000000.json").write_text('{"packs": []}')
    adopted = {"000009-0000000a.memory"}
    assert evidence(tmp_path, adopted)[0] == during
