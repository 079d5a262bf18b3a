"""A broker in a folder of its own: started, stopped, killed, frozen and wiped."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import signal
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from ops.kafka import place
from ops.kafka.jars import BROKER, BrokerError, fetch, java, once
from ops.kafka.place import Facts
from ops.kafka.ports import free_ports
from ops.kafka.process import Background
from ops.kafka.wire import serving_cluster

OPTIONS = ("-Xms256m", "-Xmx512m", "-Dstreamlearn.level=INFO")
STOP_DEADLINE = 30.0
ANSWER_DEADLINE = 2.0
POLL = 0.05
LOG_LINES = 30
REHEARSAL_DEADLINE = 120.0


class Broker:
    """One Kafka process. Its data, log, ports and passwords lie in `folder` and stay over stop and kill.

    Another `Broker` of the same folder, also in another process, means the same broker.

    Args:
        folder: Made by `start`.
        port: 0 means the folder's own, or any free one when it has none yet.
        secure: With a second listener, SASL_SSL with SCRAM-SHA-512. A folder that has one keeps it anyway.
        settings: More of server.properties, or other values than ours. They hold for the next `start`.

    Raises BrokerError when the folder holds a broker that was made without `secure`.
    """

    username = place.USERNAME

    def __init__(
        self, folder: Path, port: int = 0, secure: bool = False, settings: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder.absolute()
        self.log = self.folder / "broker.log"
        self.ca_file = self.folder / "tls" / "authority.crt"
        self.password_file = self.folder / "tls" / "password"
        self._settings = dict(settings or {})
        self._process = Background(self.folder / "pid")
        facts = place.load(self.folder)
        if facts is None:
            first, second, third = free_ports(3)
            facts = Facts(place.new_cluster(), first, second, third if secure else None)
        if secure and facts.secure_port is None:
            raise BrokerError(f"the broker in {folder} was made without the secure listener: wipe it first")
        self._facts = dataclasses.replace(facts, port=port or facts.port)

    @property
    def address(self) -> str:
        """host:port of the listener with neither TLS nor password."""
        return f"127.0.0.1:{self._facts.port}"

    @property
    def secure_address(self) -> str:
        """host:port of the listener with TLS and password. Raises BrokerError if there is none."""
        if self._facts.secure_port is None:
            raise BrokerError(f"the broker in {self.folder} has no secure listener")
        return f"127.0.0.1:{self._facts.secure_port}"

    @property
    def secure(self) -> bool:
        return self._facts.secure_port is not None

    @property
    def pid(self) -> int | None:
        """None when it isn't running."""
        return self._process.pid

    def running(self) -> bool:
        """Whether its process is there, frozen or not."""
        return self.pid is not None

    @property
    def frozen(self) -> bool:
        return self._process.frozen

    @property
    def made(self) -> bool:
        """Whether the folder holds a broker, running or not."""
        return place.load(self.folder) is not None

    def serves(self) -> bool:
        """Whether this broker, not another one at its port, answers within ANSWER_DEADLINE."""
        if not self.running():
            return False
        return serving_cluster(self._facts.port, ANSWER_DEADLINE) == self._facts.cluster

    def start(self, deadline: float = 60.0, tether: bool = True) -> None:
        """Fetch the jars and make the folder if need be, start, and return once it serves.

        Args:
            deadline: Seconds until it must serve, from when the jars are there.
            tether: It is killed when this process ends, however that ends; otherwise it goes on.

        Raises BrokerError if it runs already, ends at once or doesn't serve in time: with the end of its log.
        """
        if self.running():
            raise BrokerError(f"the broker in {self.folder} runs already (pid {self.pid})")
        self._start(prepared(), deadline=deadline, tether=tether)

    def _start(self, command: list[str], *options: str, deadline: float, tether: bool) -> None:
        until = time.monotonic() + deadline
        place.save(self.folder, self._facts)
        settings = place.properties(self.folder, self._facts) | self._settings
        place.write_properties(self.folder / "server.properties", settings)
        place.format_storage(self.folder, self._facts, command)
        before = self.log.stat().st_size if self.log.exists() else 0
        words = [*OPTIONS, *options, "kafka.Kafka", str(self.folder / "server.properties")]
        self._process.start([*command, *words], self.log, tether)
        while not self.serves():
            if not self.running():
                self.kill()  # takes note that it ended
                raise BrokerError(f"the broker in {self.folder} ended at its start:\n{self._said(before)}")
            if time.monotonic() > until:
                self.kill()
                raise BrokerError(f"no broker at {self.address} in {deadline:g} s:\n{self._said(before)}")
            time.sleep(POLL)

    def stop(self) -> None:
        """SIGTERM, and wait until it ended. Raises BrokerError if it goes on for STOP_DEADLINE."""
        self.thaw()
        if not self._process.end(signal.SIGTERM, STOP_DEADLINE):
            raise BrokerError(f"the broker in {self.folder} did not end in {STOP_DEADLINE:g} s: kill it")

    def kill(self) -> None:
        """SIGKILL, and wait until it ended. `start` goes on with its data as they are."""
        if not self._process.end(signal.SIGKILL, STOP_DEADLINE):
            raise BrokerError(f"the broker in {self.folder} was killed and does not end: is its disk stuck?")

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nothing is answered, until `thaw`."""
        self._process.send(signal.SIGSTOP)
        while not self.frozen:
            if not self.running():
                raise BrokerError(f"the broker in {self.folder} can't be frozen: it isn't running")
            time.sleep(POLL)

    def thaw(self) -> None:
        """SIGCONT."""
        self._process.send(signal.SIGCONT)

    def wipe(self) -> None:
        """Kill it and remove its folder. `start` makes it anew, empty, at the same ports."""
        self.kill()
        if self.made:
            shutil.rmtree(self.folder)

    def _said(self, before: int) -> str:
        """The last lines of the log, of those behind its first `before` bytes."""
        with self.log.open("rb") as file:
            file.seek(before)
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-LOG_LINES:])


def prepared() -> list[str]:
    """The command that runs Java with Kafka's jars and with an archive of its loaded classes.

    Both are made at the first time. With the archive a broker computes for 1.8 s until it is up, without for
    3 s. It comes from a rehearsal and fits one Java; another one says so in its log, and goes without.

    Raises BrokerError.
    """
    jars = fetch(BROKER)
    binary = Path(java()).resolve()
    key = hashlib.sha256(f"{binary} {binary.stat().st_mtime_ns}".encode()).hexdigest()[:16]
    classes = once(jars.with_name(f"{jars.name}-{key}.jsa"), partial(_rehearse, jars))
    return place.java_command(jars, f"-XX:SharedArchiveFile={classes}")


def _rehearse(jars: Path, classes: Path) -> None:
    broker = Broker(classes.with_name("rehearsal"))
    dump = f"-XX:ArchiveClassesAtExit={classes}"
    broker._start(place.java_command(jars), dump, deadline=REHEARSAL_DEADLINE, tether=True)
    broker.stop()
    classes.touch()  # by a Java that makes none, and misses none
