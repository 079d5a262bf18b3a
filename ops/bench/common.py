"""What the benchmark scripts share: a real `streamlearn run`, tables, results that say how they were made."""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from streamlearn.collector import seldom_collected

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("torch", "numpy", "orjson", "msgpack", "river")
SAMPLE_SECONDS = 0.5
INNER_LIST = re.compile(r"\[[^\[\]{}]*\]")
"""A list of plain values in JSON: written on one line."""

Row = Mapping[str, Any]


@contextmanager
def collector_as_in_the_worker() -> Iterator[None]:
    """Python's cycle collector looks seldom, and not at what has been made until now, events among it.

    A look at all that is loaded is a tenth of a second of whichever learner it happens to hit.
    """
    gc.collect()
    with seldom_collected():
        gc.freeze()
        yield


def arguments(name: str, about: str | None) -> argparse.ArgumentParser:
    """A parser with the options that all scripts have."""
    parser = argparse.ArgumentParser(prog=f"python -m ops.bench.{name}", description=about)
    parser.add_argument("--seed", type=int, default=0, help="of data and learners (default 0)")
    parser.add_argument("--out", type=Path, default=RESULTS / f"{name}.json", help="result file")
    parser.add_argument("--work-dir", type=Path, help="where big files go for a while (default: a new one)")
    return parser


def data_dir(parser: argparse.ArgumentParser) -> None:
    """Add --data-dir."""
    given = os.environ.get("STREAMLEARN_TEST_DATA")
    parser.add_argument(
        "--data-dir", type=Path, default=Path(given) if given else ROOT.parent / "shared" / "data"
    )


def needed(path: Path) -> Path:
    """`path`, which must be there; SystemExit with a sentence otherwise."""
    if not path.exists():
        raise SystemExit(f"{path} is not there: name the folder that holds {path.name} with --data-dir")
    return path


@contextmanager
def work_dir(given: Path | None) -> Iterator[Path]:
    """A folder for big files; a temporary one is deleted afterwards."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="streamlearn-bench-") as folder:
        yield Path(folder)


@dataclass
class Run:
    """How one `streamlearn run` went. Seconds count from the banner to the end of the source.

    cpu_seconds: of all its threads in that time; on a busy machine they say more than the clock.
    samples: (seconds, records, resident bytes) every half second; without the exporter records are 0.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    samples: list[tuple[float, int, int]] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)
    checkpoints: int = 0

    @property
    def learner(self) -> dict[str, Any]:
        """The figures of the report's one learner."""
        figures: dict[str, Any] = next(iter(self.report["learners"].values()))
        return figures

    @property
    def accuracy(self) -> float:
        """Cumulative prequential accuracy."""
        return float(self.learner["prequential"]["cumulative"]["accuracy"])


def environment() -> dict[str, str]:
    """Of child processes: this checkout first, one thread for every library."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return os.environ | threads | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def streamlearn(
    folder: Path,
    flags: Sequence[str],
    sample: bool = False,
    page: str = "/status",
    every: float = SAMPLE_SECONDS,
) -> Run:
    """`streamlearn run` in a process of its own, with state, report and predictions under `folder`.

    sample: ask its `page` and the kernel every so many seconds; another page than /status is fetched and not
    looked at. Raises SystemExit if it ends with an error.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "streamlearn", "run", "--checkpoint.folder", str(folder / "state")]
    command += ["--sink.predictions", str(folder / "predictions.jsonl"), "--report", str(folder / "report")]
    command += ["--exporter.port", "0", *flags]
    run = Run()
    said: list[str] = []
    begun = time.perf_counter()
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=environment(), cwd=ROOT
    )
    assert process.stderr is not None
    done = threading.Event()
    sampler: threading.Thread | None = None
    started = ended = 0.0
    try:
        for line in process.stderr:
            said.append(line)
            if line.startswith("  metrics"):
                started, run.cpu_seconds = time.perf_counter(), -cpu_seconds(process.pid)
                url = line.split()[1].removesuffix("/metrics")
                if sample:
                    asked = (process.pid, url, page, every, run, started, done)
                    sampler = threading.Thread(target=_sample, args=asked)
                    sampler.start()
            elif "the source has ended" in line:
                ended = time.perf_counter()
                run.cpu_seconds += cpu_seconds(process.pid)
        status = process.wait()
    finally:
        done.set()
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stderr.close()
        if sampler is not None:
            sampler.join()
    if status or not ended:
        raise SystemExit(f"{' '.join(command)}\nended with status {status}:\n{''.join(said[-20:])}")
    run.seconds, run.wall_seconds = ended - started, time.perf_counter() - begun
    run.report = json.loads((folder / "report" / "summary.json").read_bytes())
    return run


def _sample(
    pid: int, url: str, page: str, every: float, run: Run, started: float, done: threading.Event
) -> None:
    """Fill run.samples until `done`."""
    while not done.wait(every):
        try:
            found = urlopen(f"{url}{page}", timeout=5).read() if url.startswith("http") else b"{}"
            status = json.loads(found) if page == "/status" else {}
            resident = resident_bytes(pid)
        except (OSError, ValueError):  # it is about to end
            continue
        records = int(status.get("records", 0)) + sum(status.get("dead_letters", {}).values())
        run.samples.append((time.perf_counter() - started, records, resident))
        run.checkpoints = int(status.get("last_checkpoint", {}).get("written", 0))


def resident_bytes(pid: int) -> int:
    """VmRSS of a process. Raises OSError, ValueError when it has ended."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ValueError("no VmRSS: the process has ended")


def family(pid: int) -> list[int]:
    """A process and those that it has started, as a worker has. Raises OSError when it has ended."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that has ended meanwhile
            found += map(int, (task / "children").read_text().split())
    return found


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and its children so far. Raises OSError when it has ended."""
    behind = [Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split() for each in family(pid)]
    return sum(int(of[11]) + int(of[12]) for of in behind) / os.sysconf("SC_CLK_TCK")


def loop(module: str, *flags: str) -> dict[str, Any]:
    """The JSON line that `python -m ops.bench.<module> flags` prints, from a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", f"ops.bench.{module}", *flags],
        stdout=subprocess.PIPE,
        env=environment(),
        cwd=ROOT,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def made_with() -> dict[str, Any]:
    """Host, date and versions."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": model,
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "commit": commit.stdout.strip(),
        "versions": versions,
    }


def write(
    path: Path, about: Mapping[str, Any], options: argparse.Namespace, result: Mapping[str, Any]
) -> None:
    """The result file. about: `made_with()` of when the measuring began."""
    path.parent.mkdir(parents=True, exist_ok=True)
    given = {name: str(v) if isinstance(v, Path) else v for name, v in vars(options).items()}
    given = {name: v for name, v in given.items() if name not in ("out", "work_dir", "data_dir")}
    # allow_nan: a figure that isn't a number is a fault of the script
    body = json.dumps({**about, "options": given, **result}, indent=1, allow_nan=False)
    path.write_text(INNER_LIST.sub(lambda found: " ".join(found[0].split()), body) + "\n")
    print(f"written to {path}", file=sys.stderr)


def table(rows: Sequence[Row]) -> None:
    """Print rows of equal keys in columns."""
    if not rows:
        return
    names = list(rows[0])
    cells = [names] + [[_text(row[name]) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    for line in cells:
        first, *rest = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join([first, *rest]))
    print(flush=True)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def say(text: str) -> None:
    """Progress, on standard error."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
