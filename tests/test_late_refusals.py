"""What is only found once the shape of x is known, or later: too little memory, nets that don't fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from streamlearn.learner import OnlineLearner
from streamlearn.nets import NetError, make_encoder
from tests.processes import count_lines, flags, here, next_offset, tree, write_events
from tests.streams import vectors

EVENTS = vectors(120)
HUGE = str(10**15)
"""Examples that no address space holds: memory is refused at once, not taken page by page."""


class Net(nn.Module):
    """Takes three numbers, makes four."""

    def __init__(self, shape: Sequence[int], width: int | None, features: int = 4) -> None:
        super().__init__()
        self.features = features
        self.linear = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x)
        return out


def raises(shape: Sequence[int], width: int | None) -> nn.Module:
    raise TypeError("only images, please")


def promises_more(shape: Sequence[int], width: int | None) -> nn.Module:
    return Net(shape, width, 5)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--model.net", "conv"], "model.net = 'conv' wants images of shape [C, H, W], the events have [5]"),
        (["--model.net", f"{__name__}:raises"], ":raises' can't be made for x of shape [5]: only images, pl"),
        (["--model.net", f"{__name__}:Net"], ":Net' doesn't take x of shape [5]: "),
        (["--model.net", "no.such:net"], "model.net = 'no.such:net' can't be imported: No module named 'no'"),
        (["--memory.capacity", HUGE], "set memory.capacity, codec.shape or model.width lower"),
        (["--model.width", HUGE], "set memory.capacity, codec.shape or model.width lower"),
    ],
)
@pytest.mark.parametrize("shape", [[], ["--codec.shape", "5"]], ids=["found", "given"])
def test_one_line_and_status_2(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], shape: list[str], more: list[str], words: str
) -> None:
    path = write_events(tmp_path / "events.jsonl", EVENTS)
    before = tree(tmp_path)
    assert here("check", *flags(tmp_path, path, *more, *shape)[1:]) == 2
    assert words in capfd.readouterr().err
    assert tree(tmp_path) == before
    assert here(*flags(tmp_path, path, *more, *shape)) == 2
    err = capfd.readouterr().err
    assert words in err and err.count(" ERROR ") == 1
    assert "Traceback" not in err
    assert here(*flags(tmp_path, path, *shape)) == 0, "set right, it starts in the same folder"
    assert count_lines(tmp_path / "predictions.jsonl") == 120


def test_a_net_must_keep_its_promise() -> None:
    assert make_encoder(f"{__name__}:Net", [3], None, 0).training
    with pytest.raises(NetError, match=r"features of shape \[2, 4\] of two rows: .* promises \[2, 5\]"):
        make_encoder(f"{__name__}:promises_more", [3], None, 0)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")]
)
def test_memory_that_runs_out_in_the_middle(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    path = write_events(tmp_path / "events.jsonl", EVENTS)
    learn, calls = OnlineLearner.learn, [0]

    def short(learner: OnlineLearner, items: Any) -> Any:
        calls[0] += 1
        if calls[0] > 1:
            raise error
        return learn(learner, items)

    with monkeypatch.context() as patch:
        patch.setattr(OnlineLearner, "learn", short)
        assert here(*flags(tmp_path, path)) == 2
    err = capfd.readouterr().err
    assert "set memory.capacity, codec.shape or model.width lower" in err and "Traceback" not in err
    assert here(*flags(tmp_path, path)) == 0
    assert next_offset(tmp_path) == count_lines(tmp_path / "predictions.jsonl") == 120
    assert not torch.are_deterministic_algorithms_enabled()
