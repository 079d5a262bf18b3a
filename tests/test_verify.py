"""`checkpoints verify` reads every byte, also those that no state needs any more."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from streamlearn.checkpoint import CheckpointStore, Manifest
from streamlearn.inspect import checkpoints
from streamlearn.parts import SEGMENT, Chunk
from tests.processes import said
from tests.test_checkpoint import EVENTS, begun, learner, newest, small_segments, write

__all__ = ["small_segments"]  # a fixture of every test here, too


@pytest.fixture
def worn(tmp_path: Path) -> list[Manifest]:
    """The checkpoints of two epochs, all kept, in whose packs some segments were superseded."""
    one = learner()
    written: list[Manifest] = []
    one.learn(EVENTS[:200])
    store = begun(tmp_path, keep=100)
    for end in range(203, 240, 3):
        if end == 221:
            store = begun(tmp_path, keep=100, after=written[-1])
        one.learn(EVENTS[one.counts.records : end])
        written.append(write(store, one))
    return written


def dead(manifest: Manifest) -> list[tuple[Path, int]]:
    """Pack and place of every byte in the packs of a checkpoint that it doesn't need."""
    entry = manifest.body["parts"]["memory"]
    table = Chunk(*entry["segments"]).read_segments(manifest.path.with_suffix(".parts"), "memory")
    assert table.dtype == SEGMENT
    bytes_of = []
    for number, pack in enumerate(manifest.body["packs"]):
        path = manifest.path.parent / f"{pack}.memory"
        needed: set[int] = set()
        for at in table[table["pack"] == number]:
            needed |= set(range(int(at["offset"]), int(at["offset"]) + int(at["length"])))
        bytes_of += [(path, place) for place in range(path.stat().st_size) if place not in needed]
    return bytes_of


def test_a_flipped_byte_is_named_wherever_it_is(
    tmp_path: Path, worn: list[Manifest], capsys: pytest.CaptureFixture[str]
) -> None:
    last, chance = worn[-1], random.Random(0)
    assert checkpoints(["verify", str(tmp_path)]) == 0
    everywhere = dead(last)
    assert len(everywhere) > 300, "nothing was superseded"
    places = chance.sample(everywhere, 40)
    files = [last.path, last.path.with_suffix(".parts")]
    files += [last.path.parent / f"{pack}.memory" for pack in last.body["packs"]]
    for path in files:
        places += [(path, chance.randrange(path.stat().st_size)) for _ in range(15)]
    for path, place in places:
        whole = path.read_bytes()
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ (1 << chance.randrange(8))]) + whole[place + 1 :]
        )
        capsys.readouterr()
        assert checkpoints(["verify", last.id, str(tmp_path)]) == 3, (path, place)
        assert path.name in capsys.readouterr().out
        path.write_bytes(whole)
    assert checkpoints(["verify", str(tmp_path)]) == 0


def test_white_space_of_a_manifest_counts_as_well(tmp_path: Path, worn: list[Manifest]) -> None:
    path = worn[-1].path
    path.write_bytes(path.read_bytes().replace(b"\n", b"\t", 1))
    assert checkpoints(["verify", worn[-1].id, str(tmp_path)]) == 3


def test_what_no_state_needs_hinders_nobody(
    tmp_path: Path, worn: list[Manifest], capfd: pytest.CaptureFixture[str]
) -> None:
    """It is named, and that's all: the checkpoint is loaded, shown and used as before."""
    path, place = dead(worn[-1])[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    said(capfd, "checkpoints", "verify", str(tmp_path), status=3)
    assert newest(tmp_path).id == worn[-1].id
    assert worn[-1].id in said(capfd, "checkpoints", "show", str(tmp_path))
    said(capfd, "checkpoints", "use", worn[-1].id, str(tmp_path))
    assert newest(tmp_path).body["copy_of"] == worn[-1].id


def test_a_pack_keeps_its_hash_for_as_long_as_it_is_used(tmp_path: Path, worn: list[Manifest]) -> None:
    hashes: dict[str, str] = {}
    for name in CheckpointStore(tmp_path).names():
        body = CheckpointStore(tmp_path).read(name).body
        for pack, digest in zip(body["packs"], body["pack_sha256"], strict=True):
            assert len(digest) == 64 and hashes.setdefault(pack, digest) == digest
    assert len(hashes) > 4
