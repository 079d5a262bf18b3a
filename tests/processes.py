"""The command line, run here or in a process of its own, and what it leaves. Every wait has a deadline."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import pytest
import torch

from streamlearn import cli, logs
from streamlearn.checkpoint import CheckpointStore, Manifest
from streamlearn.events import Event
from streamlearn.flags import load_settings
from streamlearn.wiring import make_codec, make_sink, make_source
from streamlearn.worker import Worker

DEADLINE = 60.0
ROOT = Path(__file__).parent.parent
QUIET = ("--exporter.enabled", "false")


def line(event: Event) -> bytes:
    """An event as a line of JSON."""
    fields = {"id": event.id, "x": event.x.tolist()} | ({} if event.y is None else {"y": event.y})
    return json.dumps(fields).encode() + b"\n"


def write_events(path: Path, events: Sequence[Event]) -> Path:
    path.write_bytes(b"".join(map(line, events)))
    return path


def flags(folder: Path, source: Path | str, *more: str) -> list[str]:
    """`run`, with everything that it writes in `folder`: predictions.jsonl and state/."""
    words = ["run", "--source.path", str(source), "--checkpoint.folder", str(folder / "state")]
    return [*words, "--sink.predictions", str(folder / "predictions.jsonl"), *QUIET, *more]


def here(*words: str) -> int:
    """The command in this process; leaves logging and torch as they were."""
    threads = torch.get_num_threads()
    try:
        return cli.main(words)
    finally:
        logs.teardown()
        torch.set_deterministic_debug_mode("default")
        torch.set_num_threads(threads)


def newest(folder: Path) -> Manifest:
    """The newest checkpoint below `folder`; no damage is tolerated."""

    def complain(text: str) -> None:
        raise AssertionError(text)

    found = CheckpointStore(folder / "state").newest(complain)
    assert found is not None
    return found[0]


def hashes(folder: Path) -> dict[str, str]:
    """The hash of every part of the newest state below `folder`."""
    return {name: entry["sha256"] for name, entry in newest(folder).body["parts"].items()}


def next_offset(folder: Path) -> int:
    position = newest(folder).body["position"]
    return int(position["offsets"][position["topic"]]["0"])


def outputs(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of predictions or dead letters; bytes decoded, without what a start changes."""
    found = [json.loads(text) for text in path.read_bytes().splitlines()]
    for each in found:
        each.pop("epoch", None)
        if "value" in each:
            each["value"] = base64.b64decode(each["value"])
    return found


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder below, with size and time of the last change."""
    stats = {str(path.relative_to(folder)): path.stat() for path in sorted(folder.rglob("*"))}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def state(pid: int) -> str:
    """A process's, in a letter: T stopped, Z ended and not collected yet. Raises FileNotFoundError."""
    return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]


def wait_for(what: Callable[[], object], message: str, alive: Callable[[], bool] = lambda: True) -> None:
    """Until `what` is true. Fails after DEADLINE, or once `alive` isn't true any more."""
    pause, deadline = threading.Event(), time.monotonic() + DEADLINE
    while not what():
        living = alive()
        assert living or what(), f"ended while it was waited for: {message}"
        assert time.monotonic() < deadline, f"not within {DEADLINE:g} s: {message}"
        pause.wait(0.01)


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


class Process:
    """`python -m streamlearn` in a process of its own, its output collected line by line."""

    def __init__(self, *words: str, stdin: bool = False, env: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "streamlearn", *words],
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
            bufsize=0,
        )
        self.out: list[str] = []
        self.err: list[str] = []
        self._readers = [
            threading.Thread(target=self._collect, args=pair)
            for pair in ((self.process.stdout, self.out), (self.process.stderr, self.err))
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _collect(stream: IO[bytes], lines: list[str]) -> None:
        for text in iter(stream.readline, b""):
            lines.append(text.decode().rstrip("\n"))

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: TracebackType | BaseException | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for reader in self._readers:
            reader.join()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        if kind is not None:
            print("\n".join(self.err), file=sys.stderr)

    @property
    def errors(self) -> str:
        return "\n".join(self.err)

    def running(self) -> bool:
        return self.process.poll() is None

    def until(self, what: Callable[[], object], message: str) -> None:
        wait_for(what, message, self.running)

    def says(self, text: str) -> None:
        """Wait until standard error holds `text`."""
        wait_for(lambda: text in self.errors, text, lambda: any(r.is_alive() for r in self._readers))

    def send(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)

    def hang_up(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def ends(self) -> int:
        """The exit status, once it has ended and all its output was read."""
        status = self.process.wait(DEADLINE)
        for reader in self._readers:
            reader.join(DEADLINE)
        return status


class Piped:
    """A worker in a thread of this process that reads a pipe; see `piped`."""

    def __init__(self, words: Sequence[str]) -> None:
        reading, self._writing = os.pipe()
        self._reading = reading
        settings = load_settings([*words[1:], "--source.options.fd", str(reading)], {})
        self.store = CheckpointStore(settings.checkpoint.folder, settings.checkpoint.keep)
        source = make_source(settings)
        self.worker = Worker(settings, source, make_sink(settings, source), make_codec(settings), self.store)
        self.status: int | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.status = self.worker.run()
        except BaseException as error:
            self.error = error

    def start(self) -> None:
        self.store.lock()
        self._thread.start()

    def send(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._writing, data) :]

    def until(self, what: Callable[[], object], message: str) -> None:
        wait_for(what, message, self._thread.is_alive)

    def hang_up(self) -> None:
        if self._writing >= 0:
            os.close(self._writing)
        self._writing = -1

    def ends(self) -> int | None:
        self.hang_up()
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error
        return self.status

    def close(self) -> None:
        self.worker.stop()
        self.hang_up()
        self._thread.join(DEADLINE)
        os.close(self._reading)
        self.store.unlock()


@contextmanager
def piped(folder: Path, *more: str) -> Iterator[Piped]:
    """A worker that reads what is `send`ed, with everything that it writes in `folder`."""
    worker = Piped(flags(folder, "-", *more))
    worker.start()
    try:
        yield worker
    finally:
        worker.close()


def said(capfd: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    """Standard output of a command, and its standard error where it fails."""
    capfd.readouterr()
    assert here(*words) == status
    captured = capfd.readouterr()
    assert "Traceback" not in captured.err
    return captured.out if status == 0 else captured.out + captured.err
