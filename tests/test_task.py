"""The task that an event may name: from every kind of source to the event, and through a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import orjson
import pytest

from connectors.datasets import DatasetSource
from connectors.files import FileSource
from streamlearn.bookkeeping import item_from, plain_item
from streamlearn.events import NOWHERE, Event, Rejection, Resume
from tests.decoding import codec, decode, decode_row, event, reason


def read(path: Path, **settings: Any) -> list[Event]:
    source = FileSource({"path": str(path)})
    source.open(Resume())
    try:
        return [event(result) for result in codec(**settings).decode(source.poll(100, 0))]
    finally:
        source.close()


@pytest.mark.parametrize("suffix", ["jsonl", "msgpack", "csv", "npz"])
def test_a_task_comes_with_every_format(tmp_path: Path, suffix: str) -> None:
    path, tasks = tmp_path / f"events.{suffix}", ["fraud", "7"]
    objects: list[dict[str, Any]] = [
        {"x": [1, 2], "y": "a", "task": "fraud"},
        {"x": [3, 4], "y": "b", "task": 7},
    ]
    if suffix == "jsonl":
        path.write_bytes(b"\n".join(map(orjson.dumps, objects)))
    elif suffix == "msgpack":
        path.write_bytes(b"".join(map(msgpack.packb, objects)))
    elif suffix == "csv":
        path.write_text("amount,y,task,age\n1,a,fraud,2\n3,b,7,4\n")
    else:
        np.savez(path, x=np.array([[1, 2], [3, 4]]), y=np.array(["a", "b"]), task=np.array(tasks))
    events = read(path)
    assert [e.task for e in events] == tasks
    assert [e.x.tolist() for e in events] == [[1, 2], [3, 4]], "a column task is no feature"


def test_a_task_is_where_the_settings_say(tmp_path: Path) -> None:
    assert event(decode({"x": [1], "meta": {"site": "north"}}, task="meta.site")).task == "north"
    path = tmp_path / "events.csv"
    path.write_text("amount,y,task,site\n1,a,2,north\n")
    (row,) = read(path, task="site")
    assert (row.task, row.x.tolist()) == ("north", [1, 2]), "a column task is then a feature like others"


def test_what_is_no_task_is_ignored() -> None:
    """An event is not lost for a detail of the measuring."""
    in_json: list[object] = [None, True, 1.5, "", [], {}, ["a"], {"b": 1}, "t" * 10, 10**9]
    for value in in_json:
        assert event(decode({"x": [1], "task": value}, max_label_length=9)).task is None
    for value in [*in_json[1:], "\ud800", 10**5000, np.zeros(2), object()]:
        assert event(decode_row({"x": [1.0], "task": value}, max_label_length=9)).task is None


@pytest.mark.parametrize(
    ("value", "task"),
    [("t" * 9, "t" * 9), (0, "0"), (-3, "-3"), (np.int64(4), "4"), (np.str_("a"), "a"), (np.array(3), "3")],
)
def test_strings_and_integers_are_tasks(value: object, task: str) -> None:
    found = event(decode_row({"x": [1.0], "task": value}, max_label_length=9)).task
    assert (found, type(found)) == (task, str)


def test_without_a_task_there_is_none() -> None:
    assert event(decode({"x": [1]})).task is None
    assert event(decode_row({"x": [1.0]})).task is None
    assert event(decode({"x": [1]}, task="site")).task is None


def test_a_column_that_is_named_must_be_there() -> None:
    result = decode_row({"amount": "1", "y": "a"}, task="site")
    assert reason(result) == "bad_row"
    assert isinstance(result, Rejection)
    assert "no column 'site' (codec.task); it has amount, y" in result.detail
    assert reason(decode_row({"id": "1", "y": "a", "ts": "1", "task": "1"})) == "missing_features"


def test_data_sets_name_no_task() -> None:
    source = DatasetSource({"dataset": "digits"})
    source.open(Resume())
    assert {event(result).task for result in codec().decode(source.poll(20, 0))} == {None}
    source.close()


@pytest.mark.parametrize("task", [None, "fraud"])
def test_a_task_survives_a_checkpoint(task: str | None) -> None:
    given = Event("a", np.array([1.5, 2.5]), "y", 3.0, NOWHERE, task=task)
    found = item_from(msgpack.unpackb(msgpack.packb(plain_item(given))))
    assert isinstance(found, Event)
    assert (found.id, found.y, found.ts, found.position, found.task) == ("a", "y", 3.0, NOWHERE, task)
    assert found.x.tolist() == [1.5, 2.5]
