"""One start of `streamlearn run`: what it is told, how it is watched, how it ends."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ops.harness.forks import Forked
from ops.harness.place import ROOT, Place, evidence, scan

START_SECONDS, END_SECONDS, WRITE_SECONDS = 180.0, 180.0, 5.0
"""Deadlines: of a start-up, of an orderly end, and of waiting for a checkpoint's file to show."""
LOOK_SECONDS = 0.002


class HarnessError(Exception):
    """A run did what it must never do; the message says what."""


@dataclass
class Life:
    """What became of one start."""

    aim: str
    """progress / write / reading again / start-up / SIGTERM / finish"""
    epoch: int = 0
    status: int = 0
    counted: bool = False
    """Killed while it worked: outputs or checkpoints had grown since it was ready."""
    during: str = ""
    """What the files say it was killed in: "memory.tmp", ..., "pruning", or "" for other work."""
    seconds: float = 0.0
    start_seconds: float = 0.0
    finished: bool = False
    """It came to the end of the stream."""
    new_records: int = 0
    """How far C came in this life; 0: nothing new was kept."""
    new_bytes: int = 0
    """How far the outputs came."""
    left: list[str] = field(default_factory=list)

    @property
    def in_write(self) -> bool:
        return bool(self.during) and self.during != "pruning"

    @property
    def stopped(self) -> bool:
        """Ended in order by SIGTERM, somewhere in the stream."""
        return self.aim == "SIGTERM" and not self.finished

    def plain(self) -> dict[str, Any]:
        return asdict(self)


class Start:
    """A started process and what was there before it."""

    def __init__(self, place: Place, aim: str, fresh: bool) -> None:
        self.place = place
        self.life = Life(aim)
        place.folder.mkdir(parents=True, exist_ok=True)
        self.packs = {path.name for path in place.state.glob("[0-9]*/*.memory")}
        self.old_epochs = set(place.epochs())
        self.durable, self.bytes = place.durable(), place.size()
        self.log_from = place.log.stat().st_size if place.log.exists() else 0
        self.begun = time.monotonic()
        self.feeder: subprocess.Popen[bytes] | None = None
        self.process: Forked | subprocess.Popen[bytes]
        if place.stdin:
            self._feed()
        else:
            self.process = Forked(place.words(), place.log, fresh)

    def _feed(self) -> None:
        """Start it behind a pipe."""
        place = self.place
        self.feeder = subprocess.Popen(["cat", str(place.events)], stdout=subprocess.PIPE)
        assert self.feeder.stdout is not None
        with open(place.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "streamlearn", *place.words()],
                stdin=self.feeder.stdout,
                stdout=log,
                stderr=log,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                cwd=ROOT,
            )
        self.feeder.stdout.close()

    def ended(self, seconds: float) -> bool:
        """Wait for the process's end for at most so long: the only way in which anything here waits."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def until(self, condition: Callable[[], bool], seconds: float, look: float = LOOK_SECONDS) -> bool:
        """Wait until `condition` holds; False if the process ended or the time was over before."""
        deadline = time.monotonic() + seconds
        while not condition():
            if (self.process.poll() is not None if not look else self.ended(look)) or (
                time.monotonic() > deadline
            ):
                return False
        return True

    def text(self) -> str:
        with open(self.place.log, "rb") as log:
            log.seek(self.log_from)
            return log.read().decode(errors="replace")

    def ready(self) -> bool:
        """Past start-up: the banner, printed when all is loaded and before the first record, is there."""
        if not self.until(lambda: "\n  metrics" in self.text(), START_SECONDS, 0.01):
            if self.process.poll() is None:
                raise self.error(f"was not ready within {START_SECONDS:.0f} s")
            return "\n  metrics" in self.text()
        self.life.start_seconds = time.monotonic() - self.begun
        return True

    def own_epoch(self) -> Path | None:
        """The folder of this life's epoch, once it is there."""
        new = set(self.place.epochs()) - self.old_epochs
        return self.place.state / f"{max(new):06d}" if new else None

    def marks(self) -> tuple[int, list[str]]:
        """What changes when work is done: bytes of output, names in the epoch's folder."""
        own = self.own_epoch()
        return self.place.size(), sorted(entry.name for entry in scan(own)) if own else []

    def kill(self) -> None:
        self.process.kill()
        self.over()

    def abandon(self) -> None:
        """End what still runs (after an error or an interrupt)."""
        for process in (self.process, self.feeder):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()

    def over(self) -> None:
        """Wait for the end and write down what is there now."""
        if not self.ended(END_SECONDS):
            self.process.kill()
            self.process.wait()
            raise self.error(f"had not ended after {END_SECONDS:.0f} s")
        if self.feeder is not None:
            self.feeder.kill()
            self.feeder.wait()
        life, place = self.life, self.place
        life.status = self.process.wait()
        life.seconds = time.monotonic() - self.begun
        own = self.own_epoch()
        life.epoch = int(own.name) if own else 0
        life.during, life.left = evidence(own, self.packs) if own else ("", [])
        life.new_records = place.durable() - self.durable
        life.new_bytes = place.size() - self.bytes
        if life.new_records < 0:
            raise self.error(f"moved C back by {-life.new_records} records")
        held = place.newest().get("outputs", {})
        for name, path in (("predictions", place.predictions), ("dead_letters", place.dead_letters)):
            if held and held[name] > (path.stat().st_size if path.exists() else 0):
                raise self.error(f"left a checkpoint that counts on {name} that aren't there (C > P)")

    def error(self, text: str) -> HarnessError:
        tail = "\n".join(self.text().splitlines()[-15:])
        life = self.life
        return HarnessError(
            f"the life aimed at {life.aim} (from record {self.durable}, status {self.process.returncode}, "
            f"epochs before: {max(self.old_epochs, default=0)}) {text}\n{tail}"
        )


def live(place: Place, aim: str, reach: int, delay: float, dice: random.Random, fresh: bool = True) -> Life:
    """Start a run and end it as `aim` says; a run that comes to its end before that is no error.

    reach: bytes of output to wait for. delay: at most so many seconds pass from there to the kill.
    fresh: with an interpreter of its own (as all have that read a pipe).
    Raises HarnessError.
    """
    start = Start(place, aim, fresh)
    try:
        return _lived(start, reach, delay, dice)
    finally:
        start.abandon()


def _lived(start: Start, reach: int, delay: float, dice: random.Random) -> Life:
    aim = start.life.aim
    if aim == "start-up":
        if start.until(lambda: start.own_epoch() is not None, START_SECONDS, 0.0005):
            start.kill()
            return _judged(start)
    elif start.ready() and aim != "finish":
        before = start.marks()
        if _reached(start, aim, reach, dice) and not start.ended(dice.uniform(0, delay)):
            if aim == "SIGTERM":
                start.process.send_signal(signal.SIGTERM)
            else:
                start.kill()
                # The process may have ended by itself in the very moment.
                start.life.counted = start.life.status == -signal.SIGKILL and start.marks() != before
                return _judged(start)
    start.over()
    return _judged(start)


def _reached(start: Start, aim: str, reach: int, dice: random.Random) -> bool:
    """Wait for the moment that the aim asks for; False if the run ended before."""
    if aim == "reading again":
        return True
    before = start.marks()
    # Past the place and at work, even if an earlier life got further than it was to.
    if not start.until(lambda: start.place.size() >= reach and start.marks() != before, END_SECONDS):
        return False
    if aim != "write":
        return True
    own = start.own_epoch()
    assert own is not None
    suffix = dice.choice([".tmp", ".memory.tmp", ".parts.tmp", ".json.tmp", ".json.tmp"])
    seen = start.until(lambda: any(entry.name.endswith(suffix) for entry in scan(own)), WRITE_SECONDS, 0)
    if seen:
        # At once, or a little into it.
        start.ended(dice.choice([0.0, dice.uniform(0, 0.005)]))
        start.kill()
        start.life.counted = start.life.status == -signal.SIGKILL
        return False
    return start.process.poll() is None


def _judged(start: Start) -> Life:
    """The life, if it ended in one of the ways that it may. Raises HarnessError."""
    life = start.life
    life.finished = "the source has ended" in start.text() and life.status != -signal.SIGKILL
    # Behind its last checkpoint a process may be caught by SIGTERM when it no longer minds.
    if life.finished and life.status == -signal.SIGTERM:
        life.status = 0
    if life.status not in (0, -signal.SIGKILL):
        raise start.error("ended with a status that it may not have")
    if life.status == 0:
        newest = start.place.newest()
        if newest.get("epoch") != life.epoch:
            raise start.error(
                f"ended in order without a checkpoint of its own (the newest: {newest.get('id')})"
            )
        if life.in_write:
            raise start.error(f"ended in order and left {', '.join(life.left)}")
    return life
