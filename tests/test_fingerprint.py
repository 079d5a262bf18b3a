"""What of a long file is compared when a state goes on, and what isn't: as the README says."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors import inputs
from connectors.files import FileSource
from streamlearn.events import Resume, StateMismatch
from tests.processes import ROOT
from tests.test_file_source import drain, read


@pytest.mark.parametrize("at", [3, 200_000])
def test_a_changed_byte_is_refused_with_a_word_where(tmp_path: Path, at: int) -> None:
    path = tmp_path / "f.jsonl"
    data = bytearray(b"0123456\n" * 25_001)
    path.write_bytes(data)
    source = FileSource({"path": str(path)})
    source.open(Resume())
    cursor = drain(source)[-1].cursor
    resume = Resume({0: 25_001}, {0: cursor}, source.fingerprint({0: cursor}))
    source.close()
    data[at] ^= 1
    path.write_bytes(data)
    word = "first 65536 bytes differ" if at == 3 else f"before byte {cursor} differ"
    with pytest.raises(StateMismatch, match=rf"{word}.*--checkpoint\.folder"):
        read(path, resume)


def test_what_is_compared_of_a_long_file_is_what_the_readme_says(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    words = "compared are the first 64 KiB and the last 4 KiB of what was learned"
    assert words in " ".join(readme.split())
    assert (inputs.HEAD, inputs.TAIL) == (64 << 10, 4 << 10)
    path = tmp_path / "f.jsonl"
    data = bytearray(b"0123456\n" * 25_000)
    path.write_bytes(data)
    source = FileSource({"path": str(path)})
    source.open(Resume())
    resume = Resume({0: 25_000}, {0: len(data)}, source.fingerprint({0: len(data)}))
    source.close()
    for at in (inputs.HEAD - 1, inputs.HEAD, len(data) - inputs.TAIL - 1, len(data) - inputs.TAIL):
        changed = data.copy()
        changed[at] ^= 1
        path.write_bytes(changed + b"new\n")
        if inputs.HEAD <= at < len(data) - inputs.TAIL:
            assert [record.value for record in read(path, resume)] == [b"new"]
        else:
            with pytest.raises(StateMismatch):
                read(path, resume)
