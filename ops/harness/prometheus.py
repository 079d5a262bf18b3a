"""A real Prometheus (Debian's package) that scrapes what is tested, and is asked as a dashboard asks it."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import urlopen

from ops.compose.shell import until
from ops.kafka.ports import free_ports
from ops.kafka.process import Background

STOP_SECONDS = 20.0
ANSWER_SECONDS = 20.0
PAUSE = 0.02
DEADLINE = 60.0
"""Seconds until it is ready, ended, or has what is waited for."""


def tool(name: str) -> str:
    """`prometheus` or `promtool`, with its path. `bash ops/test` installs them."""
    found = shutil.which(name)
    assert found is not None, f"{name} is not installed (Debian package prometheus; `bash ops/test` does it)"
    return found


class Series(NamedTuple):
    """One element of a result: its labels (with `__name__` where the expression keeps it) and its value."""

    labels: dict[str, str]
    value: float


class Prometheus:
    """One server with its data in `folder`. A context manager: started, and stopped at the end.

    targets: HOST:PORT of what is scraped, all as job "streamlearn"; one that comes later can be put in by
    `scrape`. rules: files of recording and alerting rules. interval: seconds between two scrapes, and
    between two evaluations of the rules.
    """

    def __init__(
        self,
        folder: Path,
        targets: Sequence[str],
        rules: Sequence[Path] = (),
        interval: float = 0.5,
        job: str = "streamlearn",
    ) -> None:
        self._folder = folder
        self._job, self._rules, self._every = job, rules, f"{round(interval * 1000)}ms"
        self._process = Background(folder / "prometheus.pid")
        self._targets = list(targets)
        self.log = folder / "prometheus.log"
        self.url = ""

    def start(self) -> Prometheus:
        """Returns once it answers queries."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self.scrape(*self._targets)
        every = {"scrape_interval": self._every, "evaluation_interval": self._every}
        found = [{"files": [str(self._folder / "targets.json")], "refresh_interval": "1s"}]
        config = {
            "global": every | {"scrape_timeout": self._every},
            "rule_files": [str(path.absolute()) for path in self._rules],
            "scrape_configs": [{"job_name": self._job, "file_sd_configs": found}],
        }
        # What is JSON is YAML.
        (self._folder / "prometheus.yml").write_text(json.dumps(config), "utf-8")
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        command = [
            tool("prometheus"),
            f"--config.file={self._folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=warn",
        ]
        self._process.start(command, self.log, tether=True)
        try:
            until("Prometheus is ready", DEADLINE, self._ready, PAUSE)
        except BaseException:
            print(self.log.read_text("utf-8"))
            self.stop()
            raise
        return self

    def _ready(self) -> bool:
        try:
            with urlopen(f"{self.url}/-/ready", timeout=ANSWER_SECONDS) as answer:
                return bool(answer.status == 200)
        except (HTTPError, URLError, ConnectionError, TimeoutError):
            return False

    def scrape(self, *targets: str) -> None:
        """Scrape these from now on (it looks once a second)."""
        aside = self._folder / "targets.new"
        aside.write_text(json.dumps([{"targets": targets}]), "utf-8")
        aside.replace(self._folder / "targets.json")

    def query(self, expression: str) -> list[Series]:
        """The value now. AssertionError, with Prometheus' own words, for an expression that it refuses."""
        question = urlencode({"query": expression})
        try:
            with urlopen(f"{self.url}/api/v1/query?{question}", timeout=ANSWER_SECONDS) as answer:
                data = json.load(answer)["data"]
        except HTTPError as error:
            with error:
                raise AssertionError(f"{expression}: {error.read().decode()}") from error
        if data["resultType"] == "scalar":
            return [Series({}, float(data["result"][1]))]
        assert data["resultType"] == "vector", f"{expression}: a {data['resultType']}"
        return [Series(each["metric"], float(each["value"][1])) for each in data["result"]]

    def until(self, expression: str) -> list[Series]:
        """Wait until there is a result, as it is for `streamlearn_model_step > 3`; that result."""
        return until(f"a result of {expression}", DEADLINE, lambda: self.query(expression) or None, PAUSE)

    def stop(self) -> None:
        """May be called again."""
        if not self._process.end(signal.SIGTERM, STOP_SECONDS):
            assert self._process.end(signal.SIGKILL, DEADLINE)

    def __enter__(self) -> Prometheus:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, *_: TracebackType | BaseException | None) -> None:
        self.stop()
