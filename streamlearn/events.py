"""What travels: records in, events, predictions and rejections out, and the two protocols at the edge.

A connector is any object that satisfies `Source` or `Sink`; nothing else of streamlearn is known to it
except this module and `streamlearn.codec`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

Array = NDArray[Any]
"""A numpy array of any dtype and shape."""


class Position(NamedTuple):
    """Where a record stands: for a file, the topic is the path as given and the partition is 0."""

    topic: str
    partition: int
    offset: int


NOWHERE = Position("", 0, -1)
"""The position of an event that no source delivered (notebooks, tests)."""


class Row(dict[Any, Any]):
    """The fields of a whole row of a table whose rows come one by one (CSV).

    first: the fields of the table's first whole row. What a column is for is told by that one, so that it is
    the same for every row, wherever reading begins.
    """

    __slots__ = ("first",)
    first: Mapping[str, Any]


@dataclass(slots=True)
class Record:
    """One record as a source delivers it, undecoded.

    `value` holds the bytes as they were read. A source that reads tables or arrays (CSV, NPZ, data sets)
    also gives `fields`, the same record as named values (CSV: a `Row`); the codec then decodes `fields`, and
    `value` is what a dead letter carries (where it is empty, because a row of arrays has no bytes of its own,
    it carries `fields` as JSON). `cursor` is the place in the source at which reading resumes after this
    record (for a file: bytes of the uncompressed content; for arrays: rows). A tombstone is a message
    without a value.
    """

    value: bytes
    position: Position
    cursor: int = 0
    key: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    fields: Mapping[str, Any] | None = None
    tombstone: bool = False

    @property
    def size(self) -> int:
        """Bytes of the record: of its value, or of the arrays of one that has only fields."""
        if self.value or self.fields is None:
            return len(self.value)
        return sum([getattr(value, "nbytes", 0) for value in self.fields.values()])


@dataclass(slots=True)
class Event:
    """A decoded record: features `x` (uint8, float32 or float64), label `y` or None (predict only).

    `task` says which evaluation set the event would belong to; no learning depends on it.
    """

    id: str
    x: Array
    y: str | None = None
    ts: float | None = None
    position: Position = NOWHERE
    record: Record | None = None
    task: str | None = None


@dataclass(slots=True)
class Rejection:
    """A record that is not learned and goes to the dead letters.

    `reason` is one of `streamlearn.codec.REASONS`; `detail` says what was wrong in this record.
    """

    reason: str
    detail: str
    record: Record

    @property
    def position(self) -> Position:
        return self.record.position


@dataclass(slots=True)
class Prediction:
    """The answer to one event, made before the event was learned: a function of (state, record) alone.

    `scores` maps the likeliest labels to probabilities, best first. With no class known yet `label` is
    None and `scores` is empty. `y` is the event's own label, for scoring; it is not published.
    """

    id: str
    label: str | None
    scores: dict[str, float]
    known_classes: int
    model_step: int
    position: Position = NOWHERE
    y: str | None = None
    record: Record | None = None


@dataclass(slots=True)
class Tombstone:
    """A record without a value, on a topic where that means: forget the example that the key names.

    It is its own output: on Kafka a tombstone among the predictions.
    """

    id: str
    record: Record

    @property
    def position(self) -> Position:
        return self.record.position


Item = Event | Rejection | Tombstone
"""What a record becomes."""

Output = Prediction | Rejection | Tombstone
"""Every record has exactly one output."""


@dataclass(frozen=True)
class Resume:
    """Where a source goes on: the state's C. A first start has `offsets == {}`.

    offsets: next offset of every partition.
    cursors: the `Record.cursor` behind the last record below that offset, by partition.
    fingerprint: what the source said of itself when the checkpoint was taken.
    topic: the name under which the source was first read. A file that is found again keeps it, wherever
        it lies now: positions, and ids made of them, are part of the state.
    commands: next offset of the topic of commands, where there is one.
    stopped: a source whose `open` can take long asks now and then, and raises Stopped once it is true.
    """

    offsets: Mapping[int, int] = field(default_factory=dict)
    cursors: Mapping[int, int] = field(default_factory=dict)
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    topic: str = ""
    commands: int | None = None
    stopped: Callable[[], bool] = field(default=lambda: False, compare=False)


class ConnectorError(Exception):
    """Base of what a connector raises on purpose; the message says what was wrong, where, what to do."""


class Unreachable(ConnectorError):
    """The source or the sink can't be reached or read (exit status 4)."""


class Fenced(ConnectorError):
    """Another worker or publisher took over, or the broker's transaction timeout passed (exit status 7)."""


class StateMismatch(ConnectorError):
    """The source or sink is not the one that the checkpoint was taken of (exit status 3)."""


class UsageError(ConnectorError):
    """The settings ask for something that can't be done (exit status 2)."""


class Stalled(OSError):
    """The reader of an output doesn't take more at the moment; what is unwritten stays, flush again."""


class Stopped(Exception):
    """`Source.open` was left because `Resume.stopped` had become true; the message says where."""


class Source(Protocol):
    """Where records come from. One thread calls it. Offsets grow by one a record within a partition.

    A source may also have `decide() -> bool`, called before `poll`: it settles what the order of coming
    records depends on beside the records. True if something has changed: `fingerprint` says it from now on,
    and no record is polled before a checkpoint holds it. And `waits()`, called now and then by who waits for
    a full disk before it polls again: it doesn't hang.
    """

    topic: str

    def open(self, resume: Resume) -> None:
        """Go to `resume`. Raises StateMismatch if this is another source, Unreachable if it can't be read.

        Raises Stopped if it was left on demand (see `Resume`).
        """

    def poll(self, max_records: int, timeout: float) -> list[Record]:
        """The next records, at most `max_records`, waiting at most `timeout` seconds for the first one.

        An empty list means that nothing came in that time, or that `ended` is true.
        """

    @property
    def ended(self) -> bool:
        """True once a finite source has delivered its last record."""

    def fingerprint(self, cursors: Mapping[int, int]) -> dict[str, Any]:
        """What identifies this source up to `cursors`, in types that msgpack and JSON hold."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Claim:
    """What a group of workers has committed, given to the one of them that learns from now on.

    checkpoint: id of the checkpoint that the commit names; None where nothing has been committed.
    epoch: of the worker that committed it, 0 for none. start: where a first start begins, by partition.
    published: P, the next offset of every partition whose output is not visible yet. commands: the next
    command that was not answered; None where there is no topic of commands. commands_begin: the first that
    there is. commands_id: of that topic, another one if it is made anew; empty where nobody knows.
    """

    checkpoint: str | None
    epoch: int
    start: Mapping[int, int]
    published: Mapping[int, int]
    commands: int | None = None
    commands_begin: int = 0
    commands_id: str = ""


@dataclass(frozen=True)
class Standing:
    """What one that stands by sees of its group.

    checkpoint, published: as in `Claim`, by now. led: whether another one surely learns, and isn't merely
    remembered by the broker. elsewhere: whether the group has given the partitions to another one.
    """

    checkpoint: str | None = None
    published: Mapping[int, int] = field(default_factory=dict)
    led: bool = False
    elsewhere: bool = False


@dataclass(frozen=True)
class Traffic:
    """What a group's source says of itself, as of this moment or the last look at the brokers.

    ends: the next offset of every partition. lag: records that wait behind what was applied. queues:
    records and outputs that wait in memory. counts: since the process started, of `rebalances`, `commits`,
    `fetch_pauses`, `records_lost` (answered, gone before they were kept). answered_at: when a broker did, in
    seconds since 1970. behind: records that the learner has not got, while brokers answer. held: ours.
    """

    ends: Mapping[int, int]
    lag: Mapping[int, int]
    queues: Mapping[str, int]
    counts: Mapping[str, int]
    answered_at: float
    behind: bool
    held: bool


class GroupSource(Source, Protocol):
    """A source whose workers form a group of which one learns."""

    def claim(self, instance: str | None, standby: Callable[[], None], stopped: Callable[[], bool]) -> Claim:
        """Become the one that learns; until then `standby` is called now and then. Before `open`.

        instance: a name by which this worker is known again after a restart. Raises Unreachable,
        StateMismatch, and Stopped once `stopped` is true.
        """

    def survey(self) -> Claim:
        """What `claim` would give now, changing nothing: for `streamlearn check`."""

    def use(
        self,
        checkpoint: str,
        resume: Resume,
        reached: Sequence[tuple[str, Mapping[str, Mapping[int, int]], str]],
        make: Callable[[int, Mapping[str, Mapping[int, int]]], tuple[str, int]],
        skip: bool,
    ) -> dict[int, int]:
        """With no worker running: have the commit name a copy of a checkpoint, P as it was; returns P.

        resume: where the checkpoint goes on. reached: id and C, by topic and partition, of every checkpoint,
        newest first, and the id of the topic of commands that it knows: what P is raised to where it is lower
        or missing. make: makes the copy, given the least epoch that it may have and what C is raised to;
        returns its id and epoch. skip: raise C over records that are gone. Raises Unreachable, StateMismatch.
        """

    def standing(self) -> Standing:
        """What a worker that stands by can know; nothing while nobody answers.

        Raises Unreachable once nobody has answered for longer than patience, UsageError where it would stand
        by for ever.
        """

    def commands(self) -> list[Record]:
        """Commands that have come since the last call."""

    def traffic(self, offsets: Mapping[int, int]) -> Traffic | None:
        """From any thread. offsets: how far the learner is. None before reading has begun."""

    def passed(self, offsets: Mapping[int, int]) -> dict[int, int]:
        """By partition, where known: to where no record lies behind `offsets` (marks of transactions do)."""

    def commands_passed(self, at: int) -> int:
        """The same of the commands: where whoever has all below `at` may go on."""

    @property
    def silence(self) -> float:
        """Seconds for which the thread that reads has given no sign of life. From any thread."""

    @property
    def answered_at(self) -> float | None:
        """See `Observation`. From any thread."""

    @property
    def away(self) -> str | None:
        """That no broker has answered since the start, in words. From any thread."""

    def ages(self) -> list[tuple[float, int]]:
        """Of answers that became visible since the last call: seconds since their records' time, how many."""

    def ends(self) -> dict[int, int]:
        """The next offset of every partition as the log is now. Raises Unreachable, Stopped."""


class Sink(Protocol):
    """Where outputs go. `write`, `flush` and `close` are called by one thread, `sync` by another.

    A sink may also have `look(marks) -> list[str]`, for `streamlearn check`: before `open`, it changes
    nothing, raises what `open` would, and returns a sentence for whatever `open` would not take as it is.
    `answered(marks) -> bool`, also before `open` and changing nothing: whether outputs of ours stand above
    the marks. And `repeats(offsets) -> bool`: whether it found outputs of records from these offsets on.
    """

    def open(self, marks: Mapping[str, int] | None, epoch: int) -> None:
        """Resume behind `marks` (what `flush` returned when the checkpoint was taken), or start (None).

        Of records whose output is found there above the marks, whichever it is, none is written again when
        they come. An output without a mark is started. Raises StateMismatch if one is shorter than its mark.
        """

    def write(self, outputs: Sequence[Output]) -> None:
        """Take outputs in order of their positions. May buffer."""

    def flush(self) -> dict[str, int]:
        """Hand everything to the operating system; returns the marks, by output (for a file, in bytes; what
        can't be read back has none).

        A mark stands behind the last output that `write` was given, and before those that were found
        there by `open` and have not come again: whoever starts from it must find them.
        """

    def sync(self) -> None:
        """Make everything that was flushed durable (fsync)."""

    def close(self) -> None: ...


class GroupSink(Sink, Protocol):
    """A sink whose commits say which checkpoint is the truth: of several, the one that a commit names."""

    def name(
        self,
        checkpoint: str,
        offsets: Mapping[str, Mapping[int, int]],
        answered: Position | None = None,
        answer: bytes = b"",
    ) -> None:
        """A checkpoint is durable, with C `offsets` by topic and partition: the next commit may name it.

        answered: the command that it was taken for, whose `answer` leaves with the commit that names it.
        """

    def passed(self, place: tuple[str, int], offset: int) -> None:
        """Raise P of a partition to `offset`: what lies below, and was not written, is no record."""

    def settle(self, timeout: float) -> bool:
        """Wait until all that was flushed and named is committed; False after `timeout` seconds."""

    @property
    def named(self) -> str | None:
        """The checkpoint that the newest commit names."""
