"""Log lines: their form, what is let through, and that no stranger's text forges one."""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
from collections.abc import Iterator

import pytest

from streamlearn import logs
from streamlearn.logs import RateLimit, setup, teardown

SECOND = 1795240800.25  # 2026-11-21T06:00:00.250Z


@pytest.fixture(autouse=True)
def _undone() -> Iterator[None]:
    yield
    teardown()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def at_six(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every record says that it is six o'clock."""
    made = logging.getLogRecordFactory()

    def factory(*args: object, **kwargs: object) -> logging.LogRecord:
        record = made(*args, **kwargs)
        record.created = SECOND
        return record

    monkeypatch.setattr(logging, "_logRecordFactory", factory)


def objects(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    at_six(monkeypatch)
    stream = io.StringIO()
    setup("info", "human", stream)
    logging.getLogger("streamlearn.worker").info("read %d records", 3)
    logging.getLogger("streamlearn.worker").debug("not shown")
    logging.getLogger("connectors.files").error("gone")
    assert stream.getvalue().splitlines() == [
        "2026-11-21T06:00:00Z INFO worker: read 3 records",
        "2026-11-21T06:00:00Z ERROR connectors.files: gone",
    ]


def test_a_line_for_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    at_six(monkeypatch)
    stream = io.StringIO()
    setup("debug", "json", stream)
    more = {"step": 7, "loss": float("nan"), "level": "mine", "where": ("a", 1)}
    logging.getLogger("streamlearn.worker").debug("a\nb", extra={"fields": more})
    assert len(stream.getvalue().splitlines()) == 1
    assert objects(stream) == [
        {
            "time": "2026-11-21T06:00:00.250Z",
            "level": "debug",
            "logger": "streamlearn.worker",
            "message": "a\nb",
            "step": 7,
            "loss": None,
            "level_": "mine",
            "where": ["a", 1],
        }
    ]


@pytest.mark.parametrize("value", ["\udc80", 2**70, {"a": "\udc80"}], ids=["surrogate", "large", "nested"])
def test_no_field_breaks_a_line_of_json(value: object) -> None:
    stream = io.StringIO()
    setup("info", "json", stream)
    logging.getLogger("streamlearn.worker").info(
        "odd", extra={"fields": {"value": value, "object": object()}}
    )
    (line,) = objects(stream)
    assert line["message"] == "odd"
    assert line["value"]


@pytest.mark.parametrize("form", ["human", "json"])
def test_an_exception_is_told(form: str) -> None:
    stream = io.StringIO()
    setup("info", form, stream)
    try:
        raise KeyError("the cat")
    except KeyError:
        logging.getLogger("streamlearn.worker").exception("failed")
    if form == "json":
        (line,) = objects(stream)
        assert "Traceback" in str(line["exception"]) and "KeyError: 'the cat'" in str(line["exception"])
    else:
        first, *rest = stream.getvalue().splitlines()
        assert first.endswith("ERROR worker: failed")
        assert all(line.startswith("    ") for line in rest)
        assert rest[-1].strip() == "KeyError: 'the cat'"


def test_quoted_text_forges_no_line_and_reaches_no_terminal() -> None:
    stream = io.StringIO()
    setup("info", "human", stream)
    label = "cat\n2026-11-21T06:00:00Z ERROR worker: all is lost\r\x1b[2J\x9b1m"
    logging.getLogger("streamlearn.worker").info("new class %s", label)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[1] == "    2026-11-21T06:00:00Z ERROR worker: all is lost\\x0d\\x1b[2J\\x9b1m"


@pytest.mark.parametrize("form", ["human", "json"])
def test_repeats_are_held_back_and_counted(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(logs, "RateLimit", lambda: RateLimit(10.0, clock))
    stream = io.StringIO()
    setup("info", form, stream)
    log = logging.getLogger("streamlearn.worker")
    for i in range(38):
        clock.now = i * 0.25
        log.warning("no answer from %s", i)
    clock.now = 10.0
    log.warning("no answer from %s", "x")
    clock.now = 20.0
    log.warning("no answer from %s", "y")
    if form == "json":
        found = [str(line["message"]) for line in objects(stream)]
        assert [line.get("suppressed") for line in objects(stream)] == [None, 37, None]
    else:
        found = [line.partition("worker: ")[2] for line in stream.getvalue().splitlines()]
    assert found == [
        "no answer from 0",
        "no answer from x (… 37 more like this in between)",
        "no answer from y",
    ]


def record(text: str, level: int = logging.WARNING, name: str = "a", *args: object) -> logging.LogRecord:
    return logging.LogRecord(name, level, "", 0, text, args, None)


def test_only_the_same_is_held_back() -> None:
    limit = RateLimit(10.0, Clock())
    assert limit.filter(record("x"))
    assert not limit.filter(record("x"))
    assert limit.filter(record("y"))
    assert limit.filter(record("x", logging.ERROR))
    assert limit.filter(record("x", name="b"))
    assert all(limit.filter(record("x", logging.INFO)) for _ in range(3))
    # a template without words is no message: what it shows decides
    assert limit.filter(record("%s: %s", logging.ERROR, "a", "disk", "full"))
    assert limit.filter(record("%s: %s", logging.ERROR, "a", "disk", "gone"))
    assert not limit.filter(record("%s: %s", logging.ERROR, "a", "disk", "full"))


def test_memory_for_repeats_is_bounded() -> None:
    limit = RateLimit(10.0, Clock())
    for i in range(3 * logs.MOST_KEYS):
        assert limit.filter(record(f"message {i}"))
    assert len(limit._seen) == logs.MOST_KEYS
    assert not limit.filter(record(f"message {3 * logs.MOST_KEYS - 1}"))


def test_python_warnings_are_log_lines() -> None:
    stream = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        setup("warning", "human", stream)
        warnings.warn("this is slow", RuntimeWarning, stacklevel=1)
        teardown()
    assert re.search(
        r"WARNING py\.warnings: .*test_logs\.py:\d+: RuntimeWarning: this is slow", stream.getvalue()
    )


def test_set_up_again_replaces_and_leaves_others_alone() -> None:
    first, second = io.StringIO(), io.StringIO()
    root = list(logging.getLogger().handlers), logging.getLogger().level
    setup("info", "human", first)
    setup("error", "human", second)
    logging.getLogger("streamlearn.worker").warning("nobody hears")
    logging.getLogger("streamlearn.worker").error("once")
    logging.getLogger("elsewhere").error("not ours")
    assert first.getvalue() == ""
    assert second.getvalue().count("\n") == 1
    assert (list(logging.getLogger().handlers), logging.getLogger().level) == root
    teardown()
    assert not logging.getLogger("streamlearn").handlers
    assert logging.getLogger("streamlearn").level == logging.NOTSET


def test_standard_error_is_the_one_of_the_moment(capsys: pytest.CaptureFixture[str]) -> None:
    setup()
    logging.getLogger("streamlearn.worker").info("here")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("INFO worker: here\n")


@pytest.mark.parametrize(("level", "form"), [("loud", "human"), ("info", "xml")])
def test_a_wrong_setting_is_named(level: str, form: str) -> None:
    with pytest.raises(ValueError, match=r"not '(loud|xml)'"):
        setup(level, form)


@pytest.mark.parametrize("form", ["human", "json"])
def test_what_was_held_back_is_said_though_no_other_comes(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(logs, "RateLimit", lambda: RateLimit(10.0, clock))
    stream = io.StringIO()
    setup("info", form, stream)
    for i in range(500):
        logging.getLogger("streamlearn.worker").warning("bad record %d", i)
    logs.sweep()
    assert stream.getvalue().count("\n") == 1, "not yet"
    clock.now = 10.0
    logs.sweep()
    logs.sweep()
    found = stream.getvalue().splitlines()
    assert len(found) == 2
    assert "bad record 499 (… 498 more like this in between)" in found[1]
    logging.getLogger("streamlearn.worker").warning("bad record %d", 500)
    teardown()
    assert "bad record 500" in stream.getvalue().splitlines()[2], "all of it, at the end"


@pytest.mark.parametrize("form", ["human", "json"])
def test_lines_say_the_step(form: str) -> None:
    stream = io.StringIO()
    setup("info", form, stream)
    log = logging.getLogger("streamlearn.worker")
    log.warning("before")
    step = 6
    logs.about(lambda: {"step": step, "epoch": 2})
    log.info("fine")
    step = 7
    log.warning("odd", extra={"fields": {"topic": "t", "partition": 0, "offset": 12, "step": "its own"}})
    if form == "json":
        first, second, third = objects(stream)
        assert "step" not in first
        assert (second["step"], second["epoch"]) == (6, 2)
        assert (third["topic"], third["partition"], third["offset"]) == ("t", 0, 12)
        assert third["step"] == "its own"
    else:
        said = [line.split(" ", 1)[1] for line in stream.getvalue().splitlines()]
        assert said == ["WARNING worker: before", "INFO worker: fine", "WARNING worker [step 7]: odd"]
