"""What /healthz, /readyz, the log and the alerts of a worker on a real Kafka say, and when, of a fault.

The learner hangs with records in its hands, the Kafka loop hangs in a callback, the client hands nothing
over any more, the broker is killed, the state's disk is full. Each is looked at until everybody has said
something, who has it to say, and at most for as long as the slowest alert may take. A worker that ends stays
ended, as if nobody started it again. A full disk needs the right to mount a file system; the alerts are those
of a real Prometheus (Debian's package) with the rules and the times of ops/prometheus.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from ops.bench.common import arguments, made_with, say, table, work_dir, write
from ops.bench.kafka import CLASSES, DIM, fill, started, topics
from ops.bench.million import MATCHED
from ops.bench.stream import records
from ops.compose.shell import ROOT
from ops.harness.hanging import VARIABLE
from ops.harness.prometheus import Prometheus
from ops.kafka.broker import Broker

LOOK_SECONDS = 0.1
SCRAPE_SECONDS = 5.0
"""As in ops/prometheus/prometheus.yml."""
RULES = sorted((ROOT / "ops" / "prometheus" / "rules").glob("*.yml"))
LEAST_SECONDS = 30.0
HEALTH, WORDS = ("healthz", "readyz"), ("log", "alert")
FIRING = 'ALERTS{alertstate="firing"}'
DEADLINE = 120.0
EVENTS = 2000
HANGING = (
    "--source.connector ops.harness.hanging:HangingKafka --sink.connector connectors.kafka:KafkaSink".split()
)
DECODING = "--codec.connector ops.harness.hanging:HangingCodec".split()


class Watched:
    """A worker on a topic of its own, which has answered EVENTS of it, and goes on being sent some."""

    def __init__(
        self, broker: Broker, name: str, folder: Path, flags: list[str], values: list[bytes]
    ) -> None:
        self._broker, self.topic, self._values = broker, name, values
        self._prometheus: Prometheus | None = None
        self.log = folder / f"{name}.log"
        topics(broker, name)
        asyncio.run(fill(broker, name, values))
        with self.log.open("w") as log:
            self.process = started(broker, name, folder, [*MATCHED, *flags], 0, log)
        begun = time.monotonic()
        while not (self._started() and f'outcome="predicted"}} {len(values)}.0' in self.ask("/metrics")[1]):
            if time.monotonic() - begun > DEADLINE or self.process.poll() is not None:
                raise SystemExit(f"{name}: it does not work:\n{self.said}")
            time.sleep(LOOK_SECONDS)
        server = Prometheus(
            folder / f"{name}.prometheus", [self.url.removeprefix("http://")], RULES, SCRAPE_SECONDS
        )
        self._prometheus = server.start()
        server.until("streamlearn_model_step")

    @property
    def said(self) -> str:
        return self.log.read_text()

    def _started(self) -> bool:
        self.url = self.said.partition("\n  metrics  ")[2].partition("/metrics")[0]
        return bool(self.url)

    def ask(self, path: str) -> tuple[int, str]:
        """Status and text; 0 where nobody answers."""
        try:
            with urlopen(f"{self.url}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def more(self) -> None:
        asyncio.run(fill(self._broker, self.topic, self._values[:100]))

    def firing(self) -> list[str]:
        found = self._prometheus.query(FIRING) if self._prometheus is not None else []
        return sorted({each.labels["alertname"].removeprefix("Streamlearn") for each in found})

    def watch(
        self, fault: str, seconds: float, make: Callable[[], object], speak: Sequence[str]
    ) -> dict[str, Any]:
        """Bring it about; when which of them said something first, and what.

        speak: those who have something to say of this fault. seconds: to wait for them, at most.
        """
        known = len(self.said)
        names = (*HEALTH, *WORDS, "ended")
        row: dict[str, Any] = {"fault": fault} | dict.fromkeys(names)
        words = dict.fromkeys(names, "")
        make()
        begun = time.monotonic()
        while (now := time.monotonic() - begun) < seconds:
            for path in HEALTH:
                status, text = self.ask(f"/{path}") if row["ended"] is None else (0, "")
                if row[path] is None and status == 503:
                    row[path], words[path] = round(now, 1), text.strip()
            new = [
                line for line in self.said[known:].splitlines() if " ERROR " in line or " WARNING " in line
            ]
            if row["log"] is None and new:
                row["log"], words["log"] = round(now, 1), new[0]
            if row["alert"] is None and (alerts := self.firing()):
                row["alert"], words["alert"] = round(now, 1), ", ".join(alerts)
            if row["ended"] is None and self.process.poll() is not None:
                row["ended"] = round(now, 1)
                words["ended"] = f"status {self.process.returncode}: {self.said.splitlines()[-1]}"
            gone = HEALTH if row["ended"] is not None else ()
            if all(row[name] is not None for name in speak if name not in gone):
                break
            time.sleep(LOOK_SECONDS)
        return row | {f"{name}_says": text for name, text in words.items()}

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        if self._prometheus is not None:
            self._prometheus.stop()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@contextmanager
def small_disk(at: Path) -> Iterator[Path | None]:
    """A file system of a few megabytes; None where none may be mounted."""
    at.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(at)], check=False)
    try:
        yield at if done.returncode == 0 else None
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", "-l", str(at)], check=True)


def exhaust(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def main(options: Namespace) -> None:
    about = made_with()
    patience = str(options.patience)
    flags = ["--exporter.stall_seconds", str(options.stall), "--checkpoint.seconds", "1"]
    flags += ["--source.patience", patience, "--checkpoint.patience", patience, "--seed", str(options.seed)]
    values = list(records("msgpack", EVENTS, DIM, CLASSES, options.seed))
    seen = max(options.stall, options.patience) + max(options.alerts, LEAST_SECONDS)
    words = WORDS if options.alerts else WORDS[:1]
    rows = []
    with work_dir(options.work_dir) as folder, small_disk(folder / "disk") as disk:
        faults = folder / "faults"
        faults.mkdir()
        os.environ[VARIABLE] = str(faults)
        broker = Broker(folder / "broker")
        broker.start()
        try:
            for fault, name, more in (
                ("the learner hangs", "decode", DECODING),
                ("the Kafka loop hangs", "loop", HANGING),
                ("records don't come", "deliver", HANGING),
            ):
                say(fault)
                with Watched(broker, name, folder, [*flags, *more], values) as worker:

                    def make(flag: Path = faults / name, worker: Watched = worker) -> None:
                        flag.touch()
                        if flag.name == "deliver":
                            while not flag.with_suffix(".hangs").exists():
                                time.sleep(LOOK_SECONDS)
                        worker.more()

                    rows.append(worker.watch(fault, seen, make, (*HEALTH, *words)))
                (faults / name).unlink()
            if disk is None:
                say("no file system may be mounted here: a full disk is left out")
            else:
                say("the disk is full")
                state = ["--checkpoint.folder", str(disk / "state")]
                with Watched(broker, "full", folder, [*flags, *state], values) as worker:

                    def full(worker: Watched = worker) -> None:
                        exhaust(disk)
                        worker.more()

                    rows.append(worker.watch("the disk is full", seen, full, (*HEALTH, *words, "ended")))
            say("the broker is gone")
            with Watched(broker, "gone", folder, flags, values) as worker:
                kill: Callable[[], object] = broker.kill
                rows.append(worker.watch("the broker is gone", seen, kill, (*words, "ended")))
        finally:
            broker.wipe()
    seconds = ("fault", "healthz", "readyz", "log", "alert", "ended")
    table([{name: row[name] if row[name] is not None else "-" for name in seconds} for row in rows])
    for row in rows:
        print(row["fault"], *(f"  {name}: {row[name]}" for name in row if name.endswith("_says")), sep="\n")
    write(options.out, about, options, {"rows": rows})


if __name__ == "__main__":
    parser = arguments("faults", __doc__)
    parser.add_argument("--stall", type=float, default=60.0, help="exporter.stall_seconds (default 60)")
    parser.add_argument(
        "--patience", type=float, default=300.0, help="source.patience and checkpoint.patience (default 300)"
    )
    parser.add_argument(
        "--alerts",
        type=float,
        default=480.0,
        help="seconds that an alert may take more (default 480; 0: none is waited for)",
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main(parser.parse_args())
