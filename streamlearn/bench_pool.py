"""Runs of a benchmark in processes of their own, several at a time.

Every run has a fresh process, so that nothing of another run (memory, threads, generators) is in its
figures. A process whose parent is gone ends by itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson

from streamlearn.bench_plan import Run

SINGLE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""One thread for every library; the learner's own setting, model.threads, goes for torch."""
SAID = 2000
"""Characters of a failed process's standard error that are shown."""

Tell = Callable[[Run, float], None]


@dataclass(frozen=True)
class Ended:
    """How a run ended: with a result, or with what went wrong; `every_run`: others would fail alike."""

    run: Run
    result: dict[str, Any] | None
    failure: str = ""
    every_run: bool = False


class Pool:
    """At most `processes` runs at a time. `tell` is called by several threads: a run, its share done < 1."""

    def __init__(self, processes: int, tell: Tell) -> None:
        self._threads = ThreadPoolExecutor(processes)
        self._tell = tell
        self._living: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, runs: Sequence[Run]) -> Iterator[Ended]:
        """Do all runs; yields each as it ends. Whoever stops iterating ends the others."""
        waiting: set[Future[Ended]] = {self._threads.submit(self._one, run) for run in runs}
        try:
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            self._stop()

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
            for process in self._living:
                process.kill()
        self._threads.shutdown(cancel_futures=True)

    def _one(self, run: Run) -> Ended:
        task = {
            "parent": os.getpid(),
            "settings": run.settings.model_dump(mode="json"),
            "evaluation": run.evaluation,
        }
        with tempfile.TemporaryFile() as errors:
            with self._lock:
                if self._stopped:
                    return Ended(run, None, "stopped")
                process = subprocess.Popen(
                    [sys.executable, "-m", "streamlearn.bench_runs"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env=os.environ | SINGLE,
                    # An interrupt from the keyboard is ours to handle.
                    start_new_session=True,
                )
                self._living.add(process)
            try:
                said = self._follow(run, process, orjson.dumps(task) + b"\n")
            finally:
                process.kill()
                process.wait()
                with self._lock:
                    self._living.discard(process)
            if "result" in said:
                return Ended(run, said["result"])
            if "failed" in said:
                return Ended(run, None, said["failed"], said["every_run"])
            errors.seek(0)
            shown = errors.read().decode(errors="replace")[-SAID:].strip()
            return Ended(run, None, f"its process ended with status {process.returncode}\n{shown}".strip())

    def _follow(self, run: Run, process: subprocess.Popen[bytes], task: bytes) -> dict[str, Any]:
        """The last thing that the process says, {} if it ends without."""
        assert process.stdin is not None and process.stdout is not None
        with suppress(BrokenPipeError), process.stdin:
            process.stdin.write(task)
        with process.stdout as lines:
            for line in lines:
                said: dict[str, Any] = orjson.loads(line)
                if "done" not in said:
                    return said
                self._tell(run, min(0.99, said["done"] / max(1, said["of"])))
        process.wait()
        return {}
