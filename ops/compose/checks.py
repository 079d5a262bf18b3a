"""What is checked of the services that were brought up, all of it from outside."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from ops.compose.account import Account, Books, learned_once, published_once
from ops.compose.shell import ROOT, Failed, attempt, call, until
from ops.compose.stack import Stack
from ops.harness.compare import Check

STREAM = 1797
"""Events of the demo's stream."""
BESIDE = 100
"""Events that are sent before a fault, and again behind it."""
KILLED = 137
OURS = ("worker", "publisher")
READ_ONLY = (*OURS, "prometheus")
TARGETS = {"worker:9464": "up", "127.0.0.1:9090": "up"}
TRY = """
import os, errno
def refused(folder):
    try:
        open(os.path.join(folder, "x"), "w").close()
    except OSError as error:
        return errno.errorcode[error.errno]
    return ""
print(os.getuid(), *map(refused, ("/", "/etc", "/opt/venv", "/usr", "/var/lib/streamlearn", "/tmp")), sep=",")
"""
"""Run in a container: its user, and what opening a file in each folder came to."""


class Checks:
    """Of one stack that is up."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.books = Books(stack.broker)

    def all(self) -> Iterator[Check]:
        """In an order in which each leaves things as the next needs them. Raises Failed."""
        yield from self.quick()
        yield from self.standby()
        yield from self.last()

    def quick(self) -> Iterator[Check]:
        """All but the standby, and what can be told once the publisher's stream has ended."""
        yield from self.first()
        yield from self.confined()
        yield from self.observed()
        yield self.told()
        for service in ("worker", "publisher", "prometheus", "kafka"):
            yield from self.killed(service)
        yield from self.crashed()
        yield from self.stopped()
        yield from self.gone_and_back()

    # ---- what is there

    def first(self) -> Iterator[Check]:
        """Events of the publisher are answered and learned."""
        code = self.stack.state("topics")["ExitCode"]
        yield Check("topics: made, and ended", code == 0, f"exit status {code}")
        account = until("100 events", 120, lambda: self._at_least(100), pause=1.0)
        known = [output for output in account.outputs if b'"label":null' not in output.content[3]]
        yield Check("events are predicted", bool(known), f"{len(known)} with a label")
        status = until("events are learned", 60, self._learning)
        detail = (
            f"{status['learned']} events in {status['step']} steps, classes {' '.join(status['classes'])}"
        )
        yield Check("events are learned", status["learned"] > 0 and status["known_classes"] >= 2, detail)

    def _at_least(self, count: int) -> Account | None:
        account = self.books.settled(10)
        return account if len(account.outputs) >= count else None

    def _learning(self) -> dict[str, Any] | None:
        status: dict[str, Any] = self.stack.get("METRICS_PORT", "/status")
        return status if status["learned"] else None

    def confined(self) -> Iterator[Check]:
        """What each container may do is what the compose file says."""
        open_ports, bound = 0, True
        for service in ("kafka", *READ_ONLY):
            about = self.stack.inspect(service)
            host, user = about["HostConfig"], about["Config"]["User"]
            kept = user not in ("", "0", "root") and host["CapDrop"] == ["ALL"]
            kept &= "no-new-privileges:true" in (host["SecurityOpt"] or ())
            kept &= all(host[limit] for limit in ("Memory", "NanoCpus", "PidsLimit"))
            kept &= bool(host["ReadonlyRootfs"]) == (service in READ_ONLY)
            limits = f"{host['Memory'] >> 20} MiB, {host['NanoCpus'] / 1e9:g} cpus, {host['PidsLimit']} pids"
            files = "read-only" if host["ReadonlyRootfs"] else "writable"
            yield Check(f"{service}: confined", kept, f"user {user}, root {files}, no capabilities, {limits}")
            for bindings in about["NetworkSettings"]["Ports"].values():
                for binding in bindings or ():
                    open_ports += 1
                    bound &= binding["HostIp"] == "127.0.0.1"
        yield Check("published ports: on loopback", bound and open_ports == 3, f"{open_ports} ports")
        for service in OURS:
            user, *refused = self.stack.inside(service, "python", "-c", TRY).strip().split(",")
            kept = user == "10001" and refused == ["EROFS"] * 5 + [""]
            yield Check(f"{service}: writes nowhere but in its volume and /tmp", kept, ", ".join(refused[:5]))
        status = self.stack.inside("worker", "cat", "/proc/1/status")
        lines = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        kept = int(lines["CapEff"], 16) == int(lines["CapBnd"], 16) == 0 and lines["NoNewPrivs"] == "1"
        command = self.stack.inside("worker", "cat", "/proc/1/cmdline").split("\0")[:3]
        kept &= command == ["/opt/venv/bin/python", "/opt/venv/bin/streamlearn", "run"]
        yield Check("worker: process 1, nothing it may gain", kept, " ".join(command))

    def observed(self) -> Iterator[Check]:
        """Prometheus scrapes all it should, from the files of the checkout."""
        call_inside = self.stack.inside
        said = call_inside("prometheus", "promtool", "check", "config", "/etc/prometheus/prometheus.yml")
        found = until("all targets are up", 60, lambda: self._targets(TARGETS))
        yield Check("prometheus: all targets up", found == TARGETS, ", ".join(sorted(found)))
        files = sorted(path.name for path in (ROOT / "ops" / "prometheus" / "rules").glob("*.yml"))
        loaded = [name for name in files if f"/{name}" in said]
        groups = self.stack.get("PROMETHEUS_PORT", "/api/v1/rules")["data"]["groups"]
        rules = sum(len(group["rules"]) for group in groups)
        bad = [rule["name"] for group in groups for rule in group["rules"] if rule["health"] == "err"]
        kept = not bad and loaded == files and bool(rules) == bool(files)
        yield Check("prometheus: rules", kept, f"{rules} of {len(loaded)} files, {len(bad)} with errors")
        before = sum(self.stack.query("sum(streamlearn_events_total)"))
        after = until("the counters rise", 30, lambda: self._risen("sum(streamlearn_events_total)", before))
        yield Check("prometheus: counters rise", after > before, f"{before:.0f}, then {after:.0f} events")

    def _targets(self, wanted: dict[str, str]) -> dict[str, str] | None:
        found = self.stack.targets()
        return found if found == wanted else None

    def _risen(self, expression: str, above: float) -> float | None:
        found = sum(self.stack.query(expression))
        return found if found > above else None

    def told(self) -> Check:
        """Commands work from inside with no setting given."""
        said = self.stack.inside("worker", "streamlearn", "tell", "checkpoint", "--json")
        answer = json.loads(said)
        return Check("command: tell checkpoint", bool(answer["checkpoint"]), str(answer["checkpoint"]))

    # ---- what happens to it

    def under(self, name: str, fault: Callable[[], str]) -> Iterator[Check]:
        """Events are sent before a fault and behind it; nothing may be lost or come twice."""
        self.books.send(BESIDE)
        detail = fault()
        self.books.send(BESIDE)
        yield Check(name, True, detail)
        yield from self.books.settled().checks(name)

    def killed(self, service: str) -> Iterator[Check]:
        """`docker kill -s KILL`, and started again."""

        def fault() -> str:
            seen = self._seen() if service == "prometheus" else 0.0
            code = self.stack.kill(service)
            if code != KILLED:
                raise Failed(f"{service} ended with {code}, not by the kill")
            self.stack.start(service)
            if service == "publisher":
                return f"status {code}, goes on"
            self.stack.healthy(service)
            if service == "kafka":
                self.stack.healthy("worker")
            if service == "prometheus" and until("the figures are there", 30, self._seen) < seen:
                raise Failed("figures of before are gone")
            return f"status {code}, healthy again"

        yield from self.under(f"{service} killed", fault)

    def _seen(self) -> float:
        """How many samples of the worker's step Prometheus holds."""
        return sum(self.stack.query("count_over_time(streamlearn_model_step[1h])")) or 0.0

    def crashed(self) -> Iterator[Check]:
        """The worker's process dies by itself: the engine starts it again."""

        def fault() -> str:
            before = self.stack.inspect("worker")
            call("kill", "-KILL", str(before["State"]["Pid"]))
            wanted = before["RestartCount"] + 1
            until("the engine starts it again", 60, lambda: self._restarts() >= wanted)
            self.stack.healthy("worker")
            return f"started again by the engine, {self._restarts()} times in all"

        yield from self.under("worker crashed", fault)

    def _restarts(self) -> int:
        return int(self.stack.inspect("worker")["RestartCount"])

    def stopped(self) -> Iterator[Check]:
        """SIGTERM reaches the worker: a checkpoint, then status 0."""

        def fault() -> str:
            code = self.stack.stop("worker")
            if code != 0 or "stopping: a checkpoint first" not in self.stack.log("worker"):
                raise Failed(f"status {code} after SIGTERM")
            self.stack.start("worker")
            self.stack.healthy("worker")
            return f"status {code} after SIGTERM, started again"

        yield from self.under("worker stopped", fault)

    def gone_and_back(self) -> Iterator[Check]:
        """`down`, which keeps the volumes, and `up`."""

        def fault() -> str:
            before = self.stack.get("METRICS_PORT", "/status")
            self.stack.down()
            if attempt("docker", "inspect", f"{self.stack.project}_default").returncode == 0:
                raise Failed("`down` left the network")
            self.stack.up()
            self.stack.healthy("kafka", "worker", "prometheus")
            after = self.stack.get("METRICS_PORT", "/status")
            if after["step"] < before["step"] or after["epoch"] <= before["epoch"]:
                raise Failed(f"step {before['step']} before, {after['step']} behind: it began anew")
            return f"step {before['step']} before, {after['step']} behind, epoch {after['epoch']}"

        yield from self.under("down and up", fault)

    def standby(self) -> Iterator[Check]:
        """With the override a second worker stands by, is scraped, and takes over from a killed one."""
        self.stack.up(self.stack.standby)
        self.stack.healthy("worker", "standby", "prometheus")
        role = self.stack.get("STANDBY_METRICS_PORT", "/status")["role"]
        wanted = {**TARGETS, "standby:9464": "up"}
        found = until("both are scraped", 60, lambda: self._targets(wanted))
        yield Check("standby: stands by, and is scraped", role == "standby", ", ".join(sorted(found)))

        def fault() -> str:
            self.stack.kill("worker")
            until("the standby learns", 60, lambda: self._role("STANDBY_METRICS_PORT") == "learner")
            self.stack.start("worker")
            self.stack.healthy("worker", "standby")
            roles = self._role("METRICS_PORT"), self._role("STANDBY_METRICS_PORT")
            if roles != ("standby", "learner"):
                raise Failed(f"the roles are {roles}")
            return "the standby learns, the killed one stands by"

        yield from self.under("standby takes over", fault)

    def _role(self, port: str) -> str:
        return str(self.stack.get(port, "/status")["role"])

    # ---- the end

    def last(self) -> Iterator[Check]:
        """The publisher has sent its whole stream; everything is counted once more, and in the state."""
        until("the publisher ends", 600, lambda: not self.stack.state("publisher")["Running"], pause=1.0)
        code = self.stack.state("publisher")["ExitCode"]
        yield Check("publisher: ended by itself", code == 0, f"exit status {code}")
        account = self.books.settled()
        yield published_once(account.events, STREAM)
        yield from account.checks("at the end")
        self.stack.inside("standby", "streamlearn", "tell", "checkpoint")
        shown = json.loads(self.stack.inside("standby", "streamlearn", "checkpoints", "show", "--json"))
        yield learned_once(shown, account)
        wanted = len(account.events)
        read = shown["offsets"]["events"]["0"]
        last = max(event.offset for event in account.events)
        yield Check("state: everything was read", read > last, f"{wanted} events, next offset {read}")
