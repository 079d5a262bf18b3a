"""The services of docker-compose.yml as a whole: up, down, killed, asked."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ops.compose.engine import compose_command
from ops.compose.images import CLASSIC, MOUNTED, PATIENCE, Ours, packages
from ops.compose.shell import Failed, attempt, call, until
from ops.kafka.ports import free_ports

PORTS = ("KAFKA_PORT", "METRICS_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT", "STANDBY_METRICS_PORT")
UP_SECONDS, DOWN_SECONDS, HEALTH_SECONDS = 300.0, 180.0, 180.0


class Stack:
    """One project of docker-compose, on free ports of 127.0.0.1.

    variables: more of those that docker-compose.yml takes.
    """

    def __init__(self, project: str, ours: Ours, variables: Mapping[str, str] | None = None) -> None:
        """Raises NoEngine."""
        self.project = project
        self.files = ("docker-compose.yml", *ours.overrides)
        self.standby = ("docker-compose.yml", "ops/compose/standby.yml", *ours.overrides)
        self._command = compose_command()
        self.ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self._env = {**CLASSIC, **{name: str(port) for name, port in self.ports.items()}, **(variables or {})}
        if ours is MOUNTED:
            self._env["PACKAGES"] = str(packages())

    # ---- all of it

    def compose(self, *words: str, files: Sequence[str] | None = None, seconds: float = UP_SECONDS) -> str:
        """Standard output of docker-compose. files: not those of one worker alone. Raises Failed."""
        chosen = [word for file in files or self.files for word in ("-f", file)]
        command = [*self._command, "-p", self.project, *chosen, *words]
        return call(*command, seconds=seconds, env=self._env)

    def build(self) -> None:
        self.compose("build", "topics", seconds=PATIENCE)

    def up(self, files: Sequence[str] | None = None) -> None:
        """Returns once everything was started, in the order that health allows."""
        self.compose("up", "--detach", "--build", files=files)

    def down(self, volumes: bool = False, files: Sequence[str] | None = None) -> None:
        more = ["--volumes"] if volumes else []
        self.compose("down", "--remove-orphans", "--timeout", "60", *more, files=files, seconds=DOWN_SECONDS)

    def config(self, files: Sequence[str] | None = None) -> str:
        """The merged file; what it says of itself if it can't be read. Raises Failed."""
        return self.compose("config", files=files)

    # ---- one container

    def container(self, service: str) -> str:
        """Its id, running or not. Raises Failed if there is none."""
        labels = [f"com.docker.compose.project={self.project}", f"com.docker.compose.service={service}"]
        filters = [word for label in labels for word in ("--filter", f"label={label}")]
        found = call("docker", "ps", "--all", "--quiet", "--no-trunc", *filters).split()
        if len(found) != 1:
            raise Failed(f"{len(found)} containers of {service}")
        return found[0]

    def inspect(self, service: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(call("docker", "inspect", self.container(service)))[0]
        return found

    def state(self, service: str) -> dict[str, Any]:
        found: dict[str, Any] = self.inspect(service)["State"]
        return found

    def healthy(self, *services: str, seconds: float = HEALTH_SECONDS) -> None:
        """Returns once all are. Raises Failed."""
        for service in services:
            until(f"{service} is healthy", seconds, partial(self._healthy, service))

    def _healthy(self, service: str) -> bool:
        state = self.state(service)
        return bool(state["Running"] and state["Health"]["Status"] == "healthy")

    def kill(self, service: str) -> int:
        """`docker kill -s KILL`; the exit status once it is gone (137)."""
        call("docker", "kill", "--signal", "KILL", self.container(service))
        until(f"{service} is gone", 30, lambda: not self.state(service)["Running"])
        return int(self.state(service)["ExitCode"])

    def start(self, service: str) -> None:
        call("docker", "start", self.container(service))

    def stop(self, service: str) -> int:
        """`docker stop`: SIGTERM, and time to end; the exit status."""
        call("docker", "stop", "--time", "60", self.container(service), seconds=90)
        return int(self.state(service)["ExitCode"])

    def inside(self, service: str, *words: str, seconds: float = 90.0) -> str:
        """Standard output of a command in the container. Raises Failed."""
        return call("docker", "exec", self.container(service), *words, seconds=seconds)

    def log(self, service: str, lines: int = 30) -> str:
        """The last lines that it said."""
        done = attempt("docker", "logs", "--tail", str(lines), self.container(service))
        return f"{done.stdout}{done.stderr}".rstrip()

    # ---- from outside

    @property
    def broker(self) -> str:
        return f"127.0.0.1:{self.ports['KAFKA_PORT']}"

    def get(self, port: str, path: str) -> Any:
        """JSON of one of PORTS. Raises OSError, ValueError."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[port]}{path}", timeout=10) as answer:
            return json.load(answer)

    def targets(self) -> dict[str, str]:
        """Prometheus's targets and their health: {"worker:9464": "up"}."""
        found = self.get("PROMETHEUS_PORT", "/api/v1/targets?state=active")["data"]["activeTargets"]
        return {each["labels"]["instance"]: each["health"] for each in found}

    def query(self, expression: str) -> list[float]:
        """The values of an instant query."""
        words = urllib.parse.urlencode({"query": expression})
        found = self.get("PROMETHEUS_PORT", f"/api/v1/query?{words}")["data"]["result"]
        return [float(each["value"][1]) for each in found]
