"""The results of a benchmark: JSON lines, one a finished run, durable before the next one is counted.

A result belongs to the run whose `key` it has (see `bench_plan.definition`); the newest line of a key
counts. Results of other settings stay in the file and are not used. To have a run done again by other
code, take its line out of the file.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import orjson

from streamlearn.settings import SettingsError

Result = Mapping[str, Any]


class Results:
    """What a file of results holds, and a place to add to it. One process may write at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, Result] = {}
        """By key."""
        self.problems: list[str] = []
        self._file: IO[bytes] | None = None

    def read(self) -> Results:
        """Take in every whole line; a last one without its end is none. Raises OSError."""
        content = self.path.read_bytes() if self.path.exists() else b""
        *lines, torn = content.split(b"\n")
        for number, line in enumerate(lines, 1):
            try:
                result = orjson.loads(line)
                self.found[result["key"]] = result
            except (orjson.JSONDecodeError, KeyError, TypeError):
                if line.strip():
                    self.problems.append(f"{self.path}, line {number}: no result; its run is done again")
        if torn:
            self.problems.append(f"{self.path}: the last line is torn; its run is done again")
        return self

    def __enter__(self) -> Results:
        """Open for adding; a torn last line is cut off. Raises SettingsError if another bench writes."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = open(self.path, "a+b")  # closed by __exit__
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise SettingsError(
                f"{self.path}: another bench is adding to it; wait, or name --results"
            ) from error
        self._file = file
        self.read()
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        if whole < file.tell():
            file.truncate(whole)
        return self

    def add(self, result: Result) -> None:
        """Add one line, on disk when this returns. Raises OSError."""
        assert self._file is not None
        self._file.write(orjson.dumps(result) + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.found[result["key"]] = result

    def __exit__(self, kind: type[BaseException] | None, *_: TracebackType | BaseException | None) -> None:
        assert self._file is not None
        self._file.close()
        self._file = None
