"""What a worker says when it starts, and of single records: for people one block, for machines objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.processes import QUIET, count_lines, flags, here, line, write_events
from tests.streams import vectors

EVENTS = vectors(100)
ROWS = ("reads", "writes", "state", "learns", "on", "metrics")
WATCHED = ("--exporter.enabled", "true", "--exporter.port", "0")


def said(capfd: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    capfd.readouterr()
    assert here(*words) == status
    return capfd.readouterr().err


def objects(text: str) -> list[dict[str, Any]]:
    """Of standard error: every line must be one."""
    return [json.loads(each) for each in text.splitlines()]


def test_the_block(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_events(tmp_path / "events.jsonl", EVENTS)
    err = said(capfd, *flags(tmp_path, path, *WATCHED, "--codec.shape", "5"))
    first, *rest = err[err.index("streamlearn ") :].splitlines()
    assert first.split()[0] == "streamlearn"
    block = {text.split()[0]: text.partition(text.split()[0])[2].strip() for text in rest[: len(ROWS)]}
    assert tuple(block) == ROWS
    assert block["reads"] == f"{path} from the start"
    assert str(tmp_path / "predictions.jsonl") in block["writes"] and "dead_letters.jsonl" in block["writes"]
    assert block["state"] == f"{tmp_path / 'state'}: a first start, epoch 1"
    assert block["learns"].startswith("prototype_replay, net mlp, shape of x [5], memory ")
    assert block["on"].startswith("cpu, 1 thread(s), torch ")
    assert block["metrics"].startswith("http://127.0.0.1:") and block["metrics"].endswith("/metrics")


def test_the_block_for_machines(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_events(tmp_path / "events.jsonl", EVENTS)
    words = flags(tmp_path, path, "--log.format", "json")
    (started,) = [each for each in objects(said(capfd, *words)) if each["message"] == "started"]
    assert started["reads"] == f"{path} from the start"
    assert set(ROWS) <= set(started)
    assert (started["step"], started["epoch"]) == (0, 1)
    found = objects(said(capfd, *words))
    (again,) = [each for each in found if each["message"] == "started"]
    assert again["reads"] == f"{path} from record 100"
    assert again["epoch"] == 2 and again["step"] > 0


def test_a_record_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Each reason once, the rest of its kind in one line at the end."""
    path = tmp_path / "events.jsonl"
    records = [line(event) for event in EVENTS[:60]]
    path.write_bytes(b"".join([*records[:30], b"cut\n", b"cut\n", b'{"id": "n"}\n', b"cut\n", *records[30:]]))
    found = objects(said(capfd, *flags(tmp_path, path, "--log.format", "json")))
    dead = [each for each in found if each["message"].startswith("dead letter, ")]
    assert [(each["reason"], each["offset"]) for each in dead] == [
        ("undecodable", 30),
        ("missing_features", 32),
        ("undecodable", 33),
    ]
    assert {(each["topic"], each["partition"]) for each in dead} == {(str(path), 0)}
    assert all(each["step"] >= 0 for each in dead)
    assert dead[2]["suppressed"] == 1
    assert count_lines(tmp_path / "state" / "dead_letters.jsonl") == 4


def test_updates_that_are_left_out_are_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_events(tmp_path / "events.jsonl", EVENTS)
    more = "--method.name er --model.head linear --learning.optimiser sgd".split()
    more += ["--learning.learning_rate", "1000"]
    found = objects(said(capfd, *flags(tmp_path, path, *more, "--log.format", "json", *QUIET)))
    (first, *_) = [each for each in found if "updates were left out" in each["message"]]
    assert first["level"] == "warning"
    assert first["topic"] == str(path)
    assert first["step"] > 0
