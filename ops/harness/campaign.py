"""The workers of one group under supervision: started, watched, started again; and the events they get."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ops.harness.forks import FRESH
from ops.harness.life import HarnessError
from ops.harness.member import Member
from ops.harness.topics import Asker, Commit, Message, publish
from ops.kafka.broker import Broker
from streamlearn.checkpoint import CheckpointStore, Damaged

T = TypeVar("T")

START_SECONDS, WORK_SECONDS, END_SECONDS = 180.0, 240.0, 120.0
"""Deadlines: until a worker is ready, until there is progress, until a worker has ended."""
BROKER_SECONDS = 300.0
"""In so long a broker must serve; much, for a busy machine."""
LOOK_SECONDS = 0.005
UNREACHABLE, FENCED = 4, 7
LEAST_CHUNK = 20


@dataclass(frozen=True)
class Group:
    """A group of workers: what it reads, where it writes, how a worker of it is started."""

    name: str
    topic: str
    predictions: str
    dead_letters: str
    folder: Path
    address: str
    options: tuple[str, ...]

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def words(self) -> list[str]:
        return [
            "run",
            *("--source.bootstrap_servers", self.address, "--source.topic", self.topic),
            *("--source.group_id", self.name, "--sink.predictions", self.predictions),
            *("--sink.dead_letters", self.dead_letters, "--checkpoint.folder", str(self.state)),
            *("--exporter.port", "0", *self.options),
        ]


@dataclass
class Act:
    """One thing that was done to the workers or the broker, and what came of it."""

    kind: str
    """kill / start-up / SIGTERM / broker kill / absence / stop / standby"""
    aim: str = ""
    counted: bool = False
    """A worker was killed while it worked: outputs had become visible since it was ready, and not all of
    what there was to do was done."""
    in_transaction: bool = False
    """The broker says that the worker's transaction was open when it was killed."""
    during: str = ""
    """What the files say was being written: "memory.tmp", ..., "pruning", or "" for other work."""
    epoch: int = 0
    records: int = 0
    """How far P came between the start of the act and the kill."""
    taken_over: bool = False
    """A worker that stood by went on."""
    survived: bool | None = None
    """The learner went on as if nothing had been."""
    seconds: float = 0.0

    @property
    def in_write(self) -> bool:
        return bool(self.during) and self.during != "pruning"


@dataclass
class Campaign:
    """One group, its broker and the events that are published while it works."""

    group: Group
    broker: Broker
    messages: list[Message]
    dice: random.Random
    fresh: float = FRESH
    members: list[Member] = field(default_factory=list)
    fed: int = 0
    share: int = LEAST_CHUNK
    """Events that there should be to do when something happens."""
    rate: float = 1000.0
    """Events a second, as seen lately."""
    started: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    """How workers have ended, -9 by the harness aside."""
    start_seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.asker = Asker(self.broker.address)

    # -- workers

    def start(self) -> Member:
        log = self.group.folder / "logs" / f"{self.started:04d}.log"
        self.started += 1
        member = Member(self.group.words(), self.group.state, log, self.dice.random() < self.fresh)
        self.members.append(member)
        return member

    def reap(self) -> None:
        """Take note of workers that have ended, and start those again that ended by themselves, as a
        supervisor does. Raises HarnessError for a status that none may have."""
        for member in [m for m in self.members if m.status is not None]:
            self.members.remove(member)
            if member.start_seconds and not member.fresh:
                self.start_seconds.append(member.start_seconds)
            status = member.status
            if member.killed and status == -9:
                continue
            asked = member.asked_to_end
            self.statuses[f"{status} {'after SIGTERM' if asked else 'by itself'}"] += 1
            if status not in (UNREACHABLE, FENCED) and not (asked and status == 0):
                tail = "\n".join(member.text().splitlines()[-20:])
                raise HarnessError(f"worker {member.log} ended with status {status}:\n{tail}")
            if not asked and not member.killed:
                self.start()

    def learner(self) -> Member:
        """The worker that learns, once there is one; started if there is none at all."""
        return self.until(self._ready, START_SECONDS, "no worker became ready")

    def _ready(self) -> Member | None:
        able = [m for m in self.members if not m.frozen]
        if not able:
            self.start()
        return max((m for m in able if m.epoch), key=lambda m: m.epoch, default=None)

    def standby(self) -> Member:
        """A worker that stands by, started if there is none (or one that learns, if the learner went)."""
        waiting = [m for m in self.members if m.standing_by and not m.frozen]
        member = waiting[0] if waiting else self.start()
        self.until(
            lambda: member.standing_by or member.epoch or member not in self.members,
            START_SECONDS,
            f"{member.name} doesn't stand by",
        )
        return member

    def until(self, what: Callable[[], T | None], seconds: float, message: str) -> T:
        """What `what` returns once that is true. Meanwhile ended workers are started again."""
        deadline = time.monotonic() + seconds
        while True:
            self.reap()
            found = what()
            if found:
                return found
            if time.monotonic() > deadline:
                raise HarnessError(f"{message} within {seconds:.0f} s\n{self.tails()}")
            time.sleep(LOOK_SECONDS)

    def wait(self, seconds: float) -> None:
        """Let time pass; ended workers are started again."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.reap()
            time.sleep(min(left, 0.1))

    def tails(self) -> str:
        """The last lines of the logs of those that run."""
        return "\n".join(f"{m.log}:\n" + "\n".join(m.text().splitlines()[-12:]) for m in self.members)

    def end(self, member: Member) -> int:
        """SIGTERM; the status it ended with."""
        member.terminate()
        self.until(lambda: member not in self.members, END_SECONDS, f"{member.name} didn't end on SIGTERM")
        assert member.status is not None
        return member.status

    def abandon(self) -> None:
        """Kill what still runs."""
        for member in self.members:
            member.kill()
        self.asker.forget()

    # -- events

    def committed(self) -> Commit:
        return self.asker.committed(self.group.name, self.group.topic)

    def feed(self, count: int | None = None) -> None:
        """Publish `count` events more; as many as `share` needs to be to do, if None.

        HarnessError where nothing is left to do or to publish: who waits for work then waits for ever.
        """
        if count is None:
            answered = self.committed().total
            if answered == len(self.messages):
                raise HarnessError(f"all {answered} events were done too early: give more --events")
            count = self.share - (self.fed - answered)
        if count > 0:
            publish(self.broker.address, self.group.topic, self.messages[self.fed : self.fed + count])
            self.fed = min(self.fed + count, len(self.messages))

    def worked(self, member: Member, above: int, seconds: float = WORK_SECONDS) -> bool:
        """Wait until P is above `above`; False if `member` ended before."""
        begun = time.monotonic()
        found = self.until(
            lambda: "ended" if member not in self.members else self.committed().total > above,
            seconds,
            f"no output of a record above {above} (of {self.fed})",
        )
        if found == "ended":
            return False
        seen = (self.committed().total - above) / max(0.01, time.monotonic() - begun)
        self.rate += (seen - self.rate) / 4
        return True

    def done(self) -> bool:
        """Is everything answered, and in a checkpoint that the commit names? A worker that was killed behind
        its last answer has some records to read again yet."""
        commit = self.committed()
        if self.fed < len(self.messages) or commit.total < self.fed or commit.checkpoint is None:
            return False
        try:
            manifest = CheckpointStore(self.group.state).read(commit.checkpoint)
        except Damaged:  # another one has taken its place meanwhile
            return False
        return sum(manifest.body["position"]["offsets"].get(self.group.topic, {}).values()) == self.fed

    # -- promises

    def promised(self) -> None:
        """C <= P in every partition, and the checkpoint that the commit names is there. Asked when nobody
        learns. Raises HarnessError."""
        commit = self.committed()
        if commit.checkpoint is None:
            return
        try:
            manifest = CheckpointStore(self.group.state).read(commit.checkpoint)
        except Damaged as error:
            raise HarnessError(f"the checkpoint that the commit names: {error}") from error
        offsets = manifest.body["position"]["offsets"].get(self.group.topic, {})
        for partition, offset in offsets.items():
            published = commit.offsets.get(int(partition), -1)
            if offset > published:
                raise HarnessError(
                    f"C > P: the commit names {commit.checkpoint}, which goes on at {offset} of partition "
                    f"{partition}, but outputs are only visible below {published}"
                )
