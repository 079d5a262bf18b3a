"""A state that was made on another kind of device goes on here, and says that bits may differ.

No test here has such a device: what is looked at is what this side makes of a state that names one.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from streamlearn.checkpoint import CheckpointStore
from streamlearn.state import Part
from streamlearn.trainer import Generators
from tests.processes import count_lines, flags, hashes, here, newest, write_events
from tests.streams import plain, vectors

CPU = torch.device("cpu")
OTHER = torch.arange(16, dtype=torch.uint8)
"""As long as the state of a generator of torch on CUDA: a seed and an offset."""
EVENTS = vectors(120)
STREAM = ("--method.name", "onpro", "--views.noise", "0.1")
"""Draws from the views' generator in every step."""


def moved(generators: Part, views: torch.Tensor) -> Part:
    return Part({**generators.tensors, "views": views}, generators.values)


def drawn(generators: Generators) -> list[object]:
    return [
        torch.rand(4, generator=generators.views).tolist(),
        generators.slots.random(4).tolist(),
        generators.draws.random(4).tolist(),
    ]


def test_generators_take_another_devices_state_for_a_new_beginning() -> None:
    before = Generators(5, CPU)
    drawn(before)
    part = before.part()
    here, again, other = Generators(0, CPU), Generators(1, CPU), Generators(2, CPU)
    here.load(moved(part, OTHER))
    again.load(moved(part, OTHER))
    other.load(moved(part, OTHER.flip(0)))
    assert plain(here.part()) == plain(again.part()), "it follows from the state, not from the seed"
    went_on, elsewhere = drawn(here), drawn(other)
    assert went_on[1:] == elsewhere[1:] == drawn(before)[1:], "what is drawn on the host goes on as it was"
    assert went_on[0] != elsewhere[0]


def test_generators_of_the_same_kind_go_on() -> None:
    before, after = Generators(5, CPU), Generators(0, CPU)
    drawn(before)
    after.load(before.part())
    assert drawn(after) == drawn(before)


@pytest.fixture(scope="module")
def from_cuda(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder whose newest checkpoint says that it was made on CUDA, and the hashes of the one before."""
    folder = tmp_path_factory.mktemp("cuda")
    write_events(folder / "events.jsonl", EVENTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert here(*flags(folder, "events.jsonl", *STREAM)) == 0
    before, manifest = hashes(folder), newest(folder)
    store = CheckpointStore(folder / "state")
    parts = dict(store.load(manifest))
    generators = parts["generators"]
    assert isinstance(generators, Part)
    parts["generators"] = moved(generators, OTHER)
    theirs = ("format", "id", "epoch", "number", "created", "packs", "parts")
    about = {name: value for name, value in manifest.body.items() if name not in theirs}
    about["runtime"] |= {"device": "cuda"}
    store.begin(manifest)
    store.write(parts, about)
    return folder, before


@pytest.fixture
def folder(from_cuda: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(shutil.copytree(from_cuda[0], tmp_path / "copy"))
    return tmp_path / "copy"


def test_a_worker_goes_on_with_another_devices_state(
    folder: Path, from_cuda: tuple[Path, dict[str, str]], capfd: pytest.CaptureFixture[str]
) -> None:
    assert here(*flags(folder, "events.jsonl", *STREAM)) == 0
    err = capfd.readouterr().err
    assert "not what the checkpoint was made with, bits may differ from here on: device: cuda -> cpu" in err
    after, before = hashes(folder), from_cuda[1]
    assert after.pop("generators") != before.pop("generators")
    assert after == before, "all else is what it was"

    write_events(folder / "events.jsonl", [*EVENTS, *vectors(60, seed=1)])
    assert here(*flags(folder, "events.jsonl", *STREAM)) == 0
    assert "bits may differ" not in capfd.readouterr().err, (
        "it is said once: from then on it is of this device"
    )
    assert count_lines(folder / "predictions.jsonl") == 180
    assert newest(folder).body["runtime"]["device"] == "cpu"
    assert newest(folder).body["records"] == 180


def test_it_goes_on_alike_every_time(folder: Path) -> None:
    found = []
    write_events(folder / "events.jsonl", [*EVENTS, *vectors(60, seed=1)])
    for name in ("one", "two"):
        shutil.copytree(folder / "state", folder / name / "state")
        shutil.copy(folder / "predictions.jsonl", folder / name)
        assert here(*flags(folder / name, "events.jsonl", *STREAM)) == 0
        found.append((hashes(folder / name), (folder / name / "predictions.jsonl").read_bytes()))
    assert found[0] == found[1]
