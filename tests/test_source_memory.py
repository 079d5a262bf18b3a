"""What a file source holds on to, and what it is called."""

from __future__ import annotations

import json
from pathlib import Path

from connectors.files import ByteReader, FileSource
from connectors.formats import Queue
from streamlearn.events import Resume
from tests.processes import flags, hashes, here, newest
from tests.streams import vectors


def test_what_was_taken_is_let_go(tmp_path: Path) -> None:
    """Reading ahead in blocks, the queue is hardly ever empty; it once kept every record it had given."""
    path = tmp_path / "e.jsonl"
    path.write_text("".join(json.dumps({"id": i, "x": [1]}) + "\n" for i in range(20_000)))
    source = FileSource({"path": str(path)})
    source.open(Resume())
    count = longest = 0
    while not source.ended:
        count += len(source.poll(64, 0))
        reader = source._reader
        assert isinstance(reader, ByteReader) and isinstance(reader._cutter, Queue)
        longest = max(longest, len(reader._cutter._values))
    assert count == 20_000
    block = 1 << 20
    assert longest < 2 * block / len('{"id": 1, "x": [1]}\n') + 128


def test_a_file_that_moved_keeps_its_name(tmp_path: Path) -> None:
    """Ids made of positions are part of the state, and outputs are found again by their source."""
    events = vectors(120)
    lines = [{"x": event.x.tolist(), "y": event.y} for event in events]
    content = "".join(json.dumps(line) + "\n" for line in lines)
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "events.jsonl").write_text(content)
    stay = ("--checkpoint.events", "40", "--checkpoint.keep", "9")
    assert here(*flags(whole, whole / "events.jsonl", *stay)) == 0
    before = (whole / "predictions.jsonl").read_bytes()
    # back to an older checkpoint, with all outputs there, and the file found under another path
    (whole / "events.jsonl").rename(whole / "renamed.jsonl")
    expected = hashes(whole)
    newest(whole).path.unlink()
    assert here(*flags(whole, whole / "renamed.jsonl", *stay)) == 0
    assert (whole / "predictions.jsonl").read_bytes() == before
    assert hashes(whole) == expected
