"""Workers on a real Kafka: topics and a folder of their own, and the command in processes of its own.

A process is forked from one that has loaded everything (multiprocessing's fork server): it is a process as
any other, can be frozen and killed, and starts in a fraction of a second where importing takes many.
"""

from __future__ import annotations

import asyncio
import json
import math
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from aiokafka import AIOKafkaProducer
from kafka import KafkaProducer, TopicPartition
from kafka.admin import MemberToRemove
from kafka.structs import OffsetAndMetadata

from connectors.kafka import host, hosted
from ops.bench.common import family
from ops.kafka.broker import Broker
from streamlearn import cli
from streamlearn.events import Event
from streamlearn.logs import teardown
from streamlearn.parts import seal
from tests.kafka import Message, administrator, produce, read_all
from tests.processes import DEADLINE, hashes, line, newest, state, wait_for

PURPOSES = ("", ".predictions", ".dead_letters", ".commands", ".answers")
SMALL = ("--method.name", "er", "--memory.capacity", "50", "--learning.stream_batch", "10")
"""A learner that costs little."""

PAUSE = threading.Event()
_FORKS = multiprocessing.get_context("forkserver")
_LOADED = "run check inspect tell topics".split()
_FORKS.set_forkserver_preload(
    [__name__, "connectors.kafka.host", "connectors.kafka.tell", *(f"streamlearn.{name}" for name in _LOADED)]
)


def _enter(words: Sequence[str], log: str, env: Mapping[str, str], before: Callable[[], None] | None) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(env)
    if before is not None:
        before()
    hosted.start = Forked
    sys.exit(cli.main(words))


class Forked:
    """The host of a worker's Kafka side, forked from the worker: it has loaded everything, and is patched."""

    def __init__(self, ends: Sequence[socket.socket]) -> None:
        self.status: int | None = None
        self.pid = os.fork()
        if self.pid:
            return
        # What else the worker has open would keep what waits for its end from seeing it.
        begin = 3
        for number in sorted(end.fileno() for end in ends):
            os.closerange(begin, number)
            begin = number + 1
        os.closerange(begin, os.sysconf("SC_OPEN_MAX"))
        teardown()
        host.host(ends)

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        end = time.monotonic() + (math.inf if timeout is None else timeout)
        while self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                raise subprocess.TimeoutExpired("host", timeout or 0.0)
            else:
                PAUSE.wait(0.005)
        return self.status

    def kill(self) -> None:
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)


HOLD = "STREAMLEARN_TEST_HOLD"


def hold_commits() -> None:
    """In the worker's process: a transaction is complete but for its end, while the file HOLD is there."""
    send, hold = AIOKafkaProducer.send_offsets_to_transaction, Path(os.environ[HOLD])

    async def held(self: Any, *given: Any) -> None:
        await send(self, *given)
        if hold.exists():
            print("HELD", file=sys.stderr, flush=True)
        while hold.exists():
            await asyncio.sleep(0.02)

    AIOKafkaProducer.send_offsets_to_transaction = held


class Run:
    """`streamlearn WORDS` in a process of its own; what it says is in `log`. A context manager: it is killed.

    before: called in that process first.
    """

    def __init__(
        self,
        words: Sequence[str],
        log: Path,
        env: Mapping[str, str] | None = None,
        before: Callable[[], None] | None = None,
    ) -> None:
        self._log, self._words = log, words
        # Not the fork server's: that one is as old as the first test.
        given = {name: value for name, value in os.environ.items() if name.startswith("STREAMLEARN_")}
        self.process = _FORKS.Process(
            target=_enter, args=(list(words), str(log), given | dict(env or {}), before)
        )
        self.process.daemon = True
        self.process.start()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: TracebackType | BaseException | None) -> None:
        self.process.kill()
        self.process.join(DEADLINE)
        if kind is not None:
            print(f"--- {' '.join(self._words)}\n{self.said}", file=sys.stderr)

    @property
    def said(self) -> str:
        return self._log.read_text("utf-8") if self._log.exists() else ""

    def running(self) -> bool:
        return self.process.is_alive()

    def until(self, what: Callable[[], object], message: str) -> None:
        wait_for(what, message, self.running)

    def says(self, text: str) -> None:
        """Wait until it has said `text`."""
        self.until(lambda: text in self.said, text)

    def send(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def freeze(self, whole: bool = False) -> None:
        """Stop the process; `whole`: its Kafka process too, which else goes on for a second."""
        for pid in self._processes(whole):
            os.kill(pid, signal.SIGSTOP)
            wait_for(partial(frozen, pid), "it is frozen")

    def thaw(self) -> None:
        for pid in self._processes(True):
            os.kill(pid, signal.SIGCONT)

    def _processes(self, whole: bool) -> list[int]:
        pid = self.process.pid
        assert pid is not None
        return family(pid)[::-1] if whole else [pid]

    def kill(self) -> None:
        self.process.kill()
        self.process.join(DEADLINE)
        assert self.process.exitcode == -signal.SIGKILL

    def ends(self) -> int:
        """The exit status, once it has ended."""
        self.process.join(DEADLINE)
        assert self.process.exitcode is not None, f"still running:\n{self.said}"
        return self.process.exitcode

    def stops(self) -> int:
        """The same, after SIGTERM."""
        self.send(signal.SIGTERM)
        return self.ends()


def frozen(pid: int) -> bool:
    """Is a process stopped?"""
    return state(pid) == "T"


@dataclass
class Place:
    """Topics and a group that nobody else uses, and a folder for the state."""

    broker: Broker
    folder: Path
    topic: str
    """Of the events. The others are named by `stem`, which is the same unless the events are shared."""
    group: str
    stem: str

    def words(self, command: str | Sequence[str], *more: str, state: str = "state") -> list[str]:
        words = command.split() if isinstance(command, str) else list(command)
        words += ["--source.bootstrap_servers", self.broker.address, "--source.topic", self.topic]
        words += ["--source.group_id", self.group, "--checkpoint.folder", str(self.folder / state)]
        words += ["--source.commands", f"{self.stem}.commands", "--sink.answers", f"{self.stem}.answers"]
        if self.stem != self.topic:
            words += ["--sink.predictions", f"{self.stem}.predictions"]
            words += ["--sink.dead_letters", f"{self.stem}.dead_letters"]
        return [*words, "--exporter.enabled", "false", "--checkpoint.seconds", "0.5", *SMALL, *more]

    @property
    def hold(self) -> Path:
        """Make it, and the commits of a worker with `**place.held` are held back until it is gone."""
        return self.folder / "hold"

    @property
    def held(self) -> dict[str, Any]:
        return {"before": hold_commits, "env": {HOLD: str(self.hold)}}

    def name(self, of: str) -> str:
        """A topic: of the events (""), or ".predictions" and so on."""
        return self.stem + of if of else self.topic

    def run(
        self,
        *more: str,
        log: str = "",
        before: Callable[[], None] | None = None,
        env: Mapping[str, str] | None = None,
        state: str = "state",
    ) -> Run:
        """A worker."""
        return self.command("run", *more, log=log, before=before, env=env, state=state)

    def command(
        self,
        command: str | Sequence[str],
        *more: str,
        log: str = "",
        before: Callable[[], None] | None = None,
        env: Mapping[str, str] | None = None,
        state: str = "state",
    ) -> Run:
        path = self.folder / (log or f"{uuid.uuid4().hex[:8]}.log")
        return Run(self.words(command, *more, state=state), path, env, before)

    def send(self, records: Sequence[Event | Message | bytes], to: str = "") -> None:
        """Produce to the events' topic, or to ".commands"."""
        given = [line(each).strip() if isinstance(each, Event) else each for each in records]
        produce(self.broker, self.name(to), given)

    def transact(self, values: Sequence[Event | bytes], of: str = "", commit: bool = True) -> None:
        """Send in a transaction, or abort that: behind the records is a mark, at an offset of its own."""
        producer = KafkaProducer(bootstrap_servers=self.broker.address, transactional_id=self.name(of))
        producer.init_transactions()
        producer.begin_transaction()
        for each in values:
            producer.send(self.name(of), each if isinstance(each, bytes) else line(each).strip())
        producer.flush()
        (producer.commit_transaction if commit else producer.abort_transaction)()
        producer.close()

    def delete_below(self, offset: int, of: str = "") -> None:
        """What retention does, in partition 0."""
        with administrator(self.broker) as admin:
            admin.delete_records({TopicPartition(self.name(of), 0): offset})

    def read(self, of: str = ".predictions", isolation: str = "read_committed") -> list[Message]:
        return read_all(self.broker, self.name(of), isolation)

    def predictions(self) -> list[dict[str, Any]]:
        """What they say but for the epoch, which differs between starts."""
        found = [json.loads(message.value or b"") for message in self.read()]
        return [{name: value for name, value in each.items() if name != "epoch"} for each in found]

    def answered(self, count: int, of: str = ".predictions") -> bool:
        return len(self.read(of)) >= count

    def until_answered(self, run: Run, count: int) -> None:
        run.until(lambda: self.answered(count), f"{count} predictions are visible")

    def committed(self) -> dict[tuple[str, int], tuple[int, dict[str, Any]]]:
        """Offset and metadata by what follows the topic's name ("" or ".commands") and partition."""
        with administrator(self.broker) as admin:
            found = admin.list_group_offsets(self.group)[self.group]
        return {
            (of, tp.partition): (at.offset, json.loads(at.metadata or "{}"))
            for tp, at in found.items()
            for of in ("", ".commands")
            if tp.topic == self.name(of)
        }

    def named(self) -> str | None:
        """The checkpoint that the commit names."""
        found = self.committed().get(("", 0))
        return None if found is None else found[1].get("checkpoint")

    def until_kept(self, run: Run, count: int) -> None:
        """So many events are answered, in a checkpoint, and that is the one to start from: all is quiet."""
        self.until_answered(run, count)
        run.until(
            lambda: self.reached() == count and self.named() == self.checkpoints()[-1], "the last commit"
        )

    def leave(self) -> None:
        """Have the group forget its members, of whom none runs, before their sessions end."""
        with administrator(self.broker) as admin:
            members = admin.describe_groups([self.group])[self.group].get("members")
            if members:
                gone = [MemberToRemove(group_instance_id=one["group_instance_id"]) for one in members]
                admin.remove_group_members(self.group, gone)

    def commit(self, offsets: Mapping[tuple[str, int], tuple[int, str]]) -> None:
        """Set the group's offsets by hand, with metadata."""
        self.leave()
        given = {
            TopicPartition(self.name(of), partition): OffsetAndMetadata(offset, metadata, -1)
            for (of, partition), (offset, metadata) in offsets.items()
        }
        with administrator(self.broker) as admin:
            done = admin.alter_group_offsets(self.group, given)
        assert {error.errno for error in done.values()} == {0}, done

    def forget_offsets(self) -> None:
        """What happens when committed offsets expire."""
        self.leave()
        with administrator(self.broker) as admin:
            admin.delete_groups([self.group])

    def checkpoints(self, state: str = "state") -> list[str]:
        """Ids, oldest first."""
        return sorted(
            f"{path.parent.name}-{path.stem}" for path in (self.folder / state).glob("[0-9]*/*.json")
        )

    def reached(self, checkpoint: str | None = None) -> int:
        """C of partition 0 in a checkpoint; default: the newest. -1: there is none."""
        ids = self.checkpoints()
        if not ids:
            return -1
        epoch, _, stem = (checkpoint or ids[-1]).partition("-")
        body = json.loads((self.folder / "state" / epoch / f"{stem}.json").read_bytes())
        return int(body["position"]["offsets"][self.topic]["0"])

    @property
    def hashes(self) -> dict[str, str]:
        return hashes(self.folder)

    @property
    def newest(self) -> Mapping[str, Any]:
        return newest(self.folder).body


def new_place(broker: Broker, folder: Path, partitions: int = 1, without: Sequence[str] = ()) -> Place:
    """With all topics but those of `without` (".commands", …)."""
    topic = f"events-{uuid.uuid4().hex[:12]}"
    _create(broker, [topic + purpose for purpose in PURPOSES if purpose not in without], partitions)
    return Place(broker, folder, topic, f"group-{topic}", topic)


def another_place(place: Place, folder: Path, committed: bool = True) -> Place:
    """The same events and a copy of the state, with outputs and a group of its own that has come as far."""
    stem = f"copy-{uuid.uuid4().hex[:12]}"
    _create(place.broker, [stem + purpose for purpose in PURPOSES if purpose])
    shutil.copytree(place.folder / "state", folder / "state")
    copy = Place(place.broker, folder, place.topic, f"group-{stem}", stem)
    for path in (folder / "state").glob("*/*.json"):
        body = json.loads(path.read_bytes())
        del body["sha256"]
        body["position"]["fingerprint"]["group"] = copy.group
        path.write_text(json.dumps({**body, "sha256": seal(body)}), "utf-8")
    if committed:
        copy.commit({at: (offset, json.dumps(said)) for at, (offset, said) in place.committed().items()})
    return copy


def _create(broker: Broker, names: Sequence[str], partitions: int = 1) -> None:
    one = (".commands", ".answers")
    options = {
        name: {"num_partitions": 1 if name.endswith(one) else partitions, "replication_factor": 1}
        for name in names
    }
    with administrator(broker) as admin:
        admin.create_topics(options, wait_for_metadata=True)
