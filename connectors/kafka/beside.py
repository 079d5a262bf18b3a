"""Source and sink whose Kafka side works in a process of its own, beside the learner (see `host`).

In one process the two would share an interpreter: while Kafka's client has it, the learner waits, which costs
it as much time as the client works. What passes between the processes is packed and unpacked in C.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from connectors.kafka.boxes import beyond
from connectors.kafka.columns import records_of_columns
from connectors.kafka.hosted import Hosted, hosted
from streamlearn.events import Claim, Output, Position, Record, Resume, Standing, Traffic, UsageError


def beside(
    source: str,
    of: Mapping[str, Any],
    sink: str,
    to: Mapping[str, Any],
    stopped: Callable[[], bool] = lambda: False,
) -> tuple[BesideSource, BesideSink]:
    """Source and sink by import strings (`KafkaSource`, or a class derived from it that is marked `beside`;
    `KafkaSink`) and their options, in a process beside this one. Raises what making them raises; Stopped if
    `stopped` says so while that process has not begun, Unreachable if it doesn't begin."""
    host = hosted()
    host.functions["stopped"] = stopped
    try:
        level = logging.getLogger("connectors").getEffectiveLevel()
        topic = host.call("make", level, source, dict(of), sink, dict(to))
    except (TypeError, OverflowError) as error:
        host.end()
        raise UsageError(f"settings of source and sink can't be told to another process: {error}") from error
    except BaseException:
        host.end()
        raise
    merged = of.get("merge") == "timestamp"
    return BesideSource(host, str(topic), merged), BesideSink(host)


class BesideSource:
    """A `GroupSource`: see `KafkaSource`, which does the work."""

    def __init__(self, host: Hosted, topic: str, merged: bool) -> None:
        self._host, self.topic, self._merged = host, topic, merged
        self._left: list[Record] = []
        self._traffic: Traffic | None = None

    def claim(self, instance: str | None, standby: Callable[[], None], stopped: Callable[[], bool]) -> Claim:
        self._host.functions |= {"standby": standby, "stopped": stopped}
        return Claim(**self._host.call("claim", instance))

    def standing(self) -> Standing:
        return Standing(**self._host.call("standing"))

    def open(self, resume: Resume) -> None:
        self._host.functions["stopped"] = resume.stopped
        given = {name: value for name, value in vars(resume).items() if name != "stopped"}
        self._host.call("open", given)

    def poll(self, max_records: int, timeout: float) -> list[Record]:
        if not max_records:
            self._host.call("poll")
            return []
        # Merged, a record may come only behind a decision, and nobody has asked for that yet.
        found = self._left or self._host.records(max_records, timeout, ahead=not self._merged)
        self._left = found[max_records:]
        return found[:max_records]

    @property
    def ended(self) -> bool:
        """A topic never ends."""
        return False

    def fingerprint(self, cursors: Mapping[int, int]) -> dict[str, Any]:
        found: dict[str, Any] = self._host.call("fingerprint", dict(cursors))
        return found

    def decide(self) -> bool:
        # Records that the host has handed out, and the worker has not taken, come before the decision.
        under_way = bool(self._left) or self._host.asked
        return self._merged and not under_way and bool(self._host.call("decide"))

    def commands(self) -> list[Record]:
        return records_of_columns(self._host.call("commands")) if self._host.commands else []

    def waits(self) -> None:
        self._host.look("waits")

    def ends(self) -> dict[int, int]:
        found: dict[int, int] = self._host.call("ends")
        return found

    def passed(self, offsets: Mapping[int, int]) -> dict[int, int]:
        found: dict[int, int] = self._host.call("passed", dict(offsets))
        return found

    def commands_passed(self, at: int) -> int:
        return beyond(self._host.gap, at)

    def ages(self) -> list[tuple[float, int]]:
        return [(seconds, count) for seconds, count in self._host.call("ages")]

    def traffic(self, offsets: Mapping[int, int]) -> Traffic | None:
        if (found := self._host.look(dict(offsets))) is not None:
            self._traffic = Traffic(**found)
        return self._traffic

    def threads(self) -> list[tuple[str, list[tuple[str, str, int]]]]:
        """Of the Kafka process: name, and calls (function, file, line), innermost first. From any thread."""
        return [(name, [(*call,) for call in calls]) for name, calls in self._host.look("threads") or []]

    @property
    def silence(self) -> float:
        return self._host.hung

    @property
    def answered_at(self) -> float:
        return self._host.answered_at

    @property
    def away(self) -> str | None:
        return self._host.away

    def close(self) -> None:
        self._host.close()


class BesideSink:
    """A `GroupSink`: see `KafkaSink`, which does the work."""

    grouped = True
    """Its commits say which checkpoint is the truth."""

    def __init__(self, host: Hosted) -> None:
        self._host = host

    def open(self, marks: Mapping[str, int] | None, epoch: int) -> None:
        self._host.call("begin", None if marks is None else dict(marks), epoch)

    def write(self, outputs: Sequence[Output]) -> None:
        if outputs:
            self._host.write(outputs)

    def flush(self) -> dict[str, int]:
        """Hand over; raises Stalled while the broker takes nothing and much waits."""
        self._host.flush()
        return {}

    def sync(self) -> None:
        """A commit names what is durable: nothing is waited for here."""

    def name(
        self,
        checkpoint: str,
        offsets: Mapping[str, Mapping[int, int]],
        answered: Position | None = None,
        answer: bytes = b"",
    ) -> None:
        self._host.call(
            "name", checkpoint, {topic: dict(of) for topic, of in offsets.items()}, answered, answer
        )

    def passed(self, place: tuple[str, int], offset: int) -> None:
        self._host.call("pass", place, offset)

    def settle(self, timeout: float) -> bool:
        return bool(self._host.call("settle", timeout))

    @property
    def named(self) -> str | None:
        return self._host.named

    def close(self) -> None:
        """Ends without waiting for what was not settled; the source closes what they share."""
