"""Records from a Kafka topic."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from connectors.kafka.boxes import Named, Place
from connectors.kafka.committed import Committed, read_committed
from connectors.kafka.contact import Contact
from connectors.kafka.ends import ends_of, lag_of
from connectors.kafka.going_back import Offsets, furthest, read_now, skipped
from connectors.kafka.link import Link
from connectors.kafka.members import Members, surveyed
from connectors.kafka.merge import MergedInbox
from connectors.kafka.options import options_of
from connectors.kafka.plane import DataPlane
from connectors.kafka.refusals import refuse_beyond, refuse_fewer, refuse_other, refuse_outside
from connectors.kafka.topics import Topic, cleaned, commands_of, describe, refuse_missing, say_which_wait
from streamlearn.events import (
    Claim,
    Record,
    Resume,
    Standing,
    StateMismatch,
    Stopped,
    Traffic,
    Unreachable,
    UsageError,
)

log = logging.getLogger(__name__)

STANDBY_SECONDS = 1.0
ANSWER_SECONDS = 10.0
JOIN_SECONDS = 15.0
"""Longer than a session: whoever was killed has left the group by then."""


class KafkaSource:
    """All partitions of a topic, in the order of arrival, or merged by time; order is kept within each.

    Paired with a `KafkaSink` (which does it) it is a member of the consumer group: one member learns, the
    others stand by, and what the group has committed says where to go on (`claim`). Alone it reads without
    a group: then the state on disk says where.

    Options: `bootstrap_servers`, `topic`, `group_id`, `start` (earliest / latest), `commands`, `security`,
    `client`, `deadline`, `patience`, `merge` (arrival / timestamp), `merge_idle` as in the settings;
    `instance`: the member's name in the group, by which a restarted worker is known again at once (static
    membership).
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        if not options.get("topic"):
            raise UsageError("source.topic is not set: name the topic to read")
        self.topic = str(options["topic"])
        self._options = options_of(options)
        self._options.topic = self.topic
        self._group = str(options.get("group_id") or "streamlearn")
        self._start = str(options.get("start") or "earliest")
        self._instance = options.get("instance")
        self._commands = str(options.get("commands") or f"{self._group}.commands")
        self._link: Link | None = None
        self._topics: dict[str, Topic] = {}
        self._begin: dict[Place, int] = {}
        self.paired = False
        self._outputs: tuple[str, ...] = ()
        self._answers = ""
        self._exactly_once = True
        self._interval = 0.1
        self._producer: Mapping[str, Any] = {}
        self._stopped: Callable[[], bool] = lambda: False
        self._contact = Contact(self._options)
        self._members = Members(self._options, self.topic)

    def pair(
        self,
        outputs: tuple[str, ...],
        answers: str,
        exactly_once: bool,
        interval: float,
        producer: Mapping[str, Any],
    ) -> None:
        """Called by the sink whose outputs and whose commits go the same way."""
        self.paired = True
        self._answers = answers
        self._outputs, self._exactly_once = outputs, exactly_once
        self._interval, self._producer = interval, producer

    @property
    def link(self) -> Link:
        if self._link is None:
            raise Unreachable(f"{self._options.where}: not connected")
        return self._link

    @property
    def topics(self) -> Mapping[str, Topic]:
        return self._topics

    # -- the group

    def claim(self, instance: str | None, standby: Callable[[], None], stopped: Callable[[], bool]) -> Claim:
        """Become the one that learns, which may take until another has gone; meanwhile call `standby`.

        instance: the name of this member of the group. Raises Unreachable, StateMismatch, Stopped.
        """
        options = self._options
        self._stopped = stopped
        options.group, options.instance = self._group, self._instance or instance
        options.exactly_once, options.commit_interval = self._exactly_once, self._interval
        options.producer = self._producer
        link = self._connect([self.topic, *self._outputs], [self._commands, self._answers], stopped)
        plane = link.plane
        names = list(self._topics)
        while True:
            stood_by = False
            while not link.call(lambda: plane.assigned(STANDBY_SECONDS), stopped):
                standby()
                stood_by = True
                if stopped():
                    raise Stopped("stopped while standing by")
            if stood_by:
                # They may have grown meanwhile.
                self._topics |= link.call(lambda: describe(options, names), stopped).there
            if not link.call(lambda: plane.whole(self._read()), stopped):
                continue
            committed, still = link.call(lambda: plane.claim(self.topic), stopped)
            if still:
                return self._claim_of(committed, stopped)

    def survey(self) -> Claim:
        """What `claim` would say now, without becoming a member of the group."""
        link = self._connect([self.topic, *self._outputs], [self._commands, self._answers], lambda: False)
        grouped = replace(self._options, group=self._group)
        return self._claim_of(link.call(lambda: surveyed(grouped, self.topic)), lambda: False)

    def _claim_of(self, committed: Committed, stopped: Callable[[], bool]) -> Claim:
        self._options.ids = self._ids
        link, committed = self.link, committed.among(self._ids)
        plane = link.plane
        first, last = link.call(plane.bounds, stopped)
        begin = (first if self._start == "earliest" else last) | {
            place: last[place] for place in last if place[0] == self._commands
        }
        self._begin = {place: begin[place] for place in first}
        refuse_fewer(self._group, self.topic, committed.published, first)
        published = {
            # A partition without a commit came later: all of it is new.
            place: committed.published.get(place, begin[place] if committed.checkpoint is None else offset)
            for place, offset in first.items()
        }
        at = self._commands_place
        if at in published and at not in committed.published:
            say_which_wait(self._commands, first[at], last[at], committed.checkpoint is None)
        plane.committer.published = published
        plane.gaps.learn(committed.gaps)
        return Claim(
            committed.checkpoint,
            committed.epoch,
            {p: offset for (topic, p), offset in begin.items() if topic == self.topic},
            {p: offset for (topic, p), offset in published.items() if topic == self.topic},
            published.get(at),
            first.get(at, 0),
            self._options.id_beside(self._commands),
        )

    def _connect(self, names: list[str], more: list[str], stopped: Callable[[], bool]) -> Link:
        """Connect and find the topics: `names`, and those of `more` that there are."""
        if self._link is None:
            self._link = Link(self._options)
            self._link.start()
        link = self._link
        options = self._options
        options.reads = frozenset((self.topic, self._commands))
        found = link.call(lambda: describe(options, [*names, *more]), self._contact.asks(stopped))
        self._contact.answered()
        refuse_missing(options, found, names)
        self._topics = dict(found.there)
        options.limits = {name: topic.largest for name, topic in self._topics.items()}
        if more:
            link.plane.commands_topic = commands_of(options, found, *more)
        options.ids = self._ids
        link.call(lambda: link.plane.connect(self._read()), stopped)
        return link

    def _read(self) -> dict[str, int]:
        """The topics that are read, with their partition counts."""
        names = {self.topic, self.link.plane.commands_topic} - {""}
        return {name: self._topics[name].partitions for name in sorted(names)}

    @property
    def _ids(self) -> dict[str, str]:
        return {name: self._topics[name].id for name in self._read()}

    def use(
        self,
        checkpoint: str,
        resume: Resume,
        reached: Sequence[tuple[str, Offsets, str]],
        make: Callable[[int, Offsets], tuple[str, int]],
        skip: bool,
    ) -> dict[int, int]:
        """Have the group's commit name a copy of another checkpoint, P as it was; returns P.

        Where P is gone, or an offset that isn't ours stands in its place, it is the furthest C of those
        checkpoints that a commit may have named: outputs may come again, none is left out. Arguments as in
        `GroupSource`. Raises StateMismatch if the checkpoint is of another topic, if a worker of the group
        is running, if no commit has got as far as the checkpoint, or if records behind it are gone and not
        to be skipped; Unreachable.
        """
        self._options.group = self._group
        self._options.exactly_once, self._options.producer = self._exactly_once, self._producer
        link = self._connect([self.topic, *self._outputs], [self._commands, self._answers], lambda: False)
        refuse_other(resume, self.topic, self._topics[self.topic].id)
        plane = link.plane
        busy = StateMismatch(
            f"a worker of group {self._group} is running, or was killed a few seconds ago: stop it first"
        )
        if not link.call(lambda: plane.assigned(JOIN_SECONDS)):
            raise busy
        committed, still = link.call(lambda: plane.claim(self.topic, strict=False))
        if not still:
            raise busy
        committed = committed.among(self._ids)
        ids = [name for name, *_ in reached]
        oldest = ids.index(committed.checkpoint) if committed.checkpoint in ids else 0
        if checkpoint in ids[:oldest]:
            raise StateMismatch(
                f"no commit has named checkpoint {checkpoint}, the newest that one has is "
                f"{committed.checkpoint}: outputs of what it learned since were never published. Choose that "
                "one, or an older one"
            )
        first, last = link.call(plane.bounds)
        plane.gaps.learn(committed.gaps)
        known = read_now(reached, self._commands, self._ids.get(self._commands, ""))
        begin = skipped(dict(known).get(checkpoint, {}), first, last, skip, plane.gaps.over)
        published = furthest(committed.published, [begin, *dict(known[oldest:]).values()], last)
        at = self._commands_place
        if at in published:
            published[at] = max(published[at], first[at])
        name, epoch = make(committed.epoch + 1, begin)

        async def commit() -> None:
            plane.publish(published, epoch)

        link.call(commit)
        plane.outbox.name(Named(name, {}))
        if not plane.outbox.wait_sent(self._options.deadline):
            raise Unreachable(f"{self._options.where}: the commit was not taken in time; try again")
        return {partition: offset for (topic, partition), offset in published.items() if topic == self.topic}

    @property
    def _commands_place(self) -> Place:
        return self._commands, 0

    def standing(self) -> Standing:
        """For one that stands by, who waits for a broker that is away as long as a learner would."""
        options, plane = self._options, self.link.plane
        try:
            timeout = min(ANSWER_SECONDS, options.patience)
            found = self.link.call(
                lambda: read_committed(options, self.topic, asker=plane.standby), self._stopped, timeout
            )
            strange = self.link.call(lambda: self._members.look(plane.standby), self._stopped, timeout)
        except Unreachable as error:
            away = self._contact.silence
            if away > options.patience:
                raise Unreachable(
                    f"{options.where}: no broker has answered for {away:.0f} s (source.patience): giving up"
                ) from error
            log.warning("standing by, though no broker answers: %s", error)
            return Standing()
        self._contact.answered()
        published = {p: offset for (topic, p), offset in found.published.items() if topic == self.topic}
        elsewhere = plane.elsewhere and not strange  # whoever learns another topic is nobody's to replace
        return Standing(found.checkpoint, published, self._members.led, elsewhere)

    # -- reading

    def open(self, resume: Resume) -> None:
        """Go to `resume`; a partition that it doesn't name is read from its beginning."""
        if self._link is None:
            self._connect([self.topic], [], resume.stopped)
        link = self.link
        first, last = link.call(link.plane.bounds, resume.stopped)
        refuse_other(resume, self.topic, self._topics[self.topic].id)
        for note in () if self.paired else cleaned(self.topic, self._topics[self.topic]):
            log.warning("%s", note)  # else the sink says it: see `KafkaSink`
        start: dict[Place, int] = {}
        for place in first:
            if place[0] == self._commands:
                start[place] = resume.commands if resume.commands is not None else last[place]
            elif not resume.offsets:
                start[place] = self._begin.get(place, (first if self._start == "earliest" else last)[place])
            else:
                start[place] = resume.offsets.get(place[1], first[place])
            start[place] = link.plane.gaps.over(place, start[place])
            refuse_outside(place, start[place], first[place], last[place])
        refuse_beyond(self._group, link.plane.committer.published, last)
        if isinstance(link.plane.inbox, MergedInbox):
            self._begin_merging(link.plane.inbox, start, resume)
        link.call(lambda: _flow(link, start))

    def _begin_merging(self, merged: MergedInbox, start: Mapping[Place, int], resume: Resume) -> None:
        places = {place: offset for place, offset in start.items() if place[0] == self.topic}
        # A partition that the state doesn't know joins as one that is added later does. (One that has only
        # just come to count has no offset there yet.)
        known = resume.fingerprint.get("merged", list(resume.offsets or (p for _, p in places)))
        idle = [place for place in places if place[1] not in known]
        merged.over = self.link.plane.gaps.over
        merged.begin(places, idle, self.link.plane.committer.published)

    def poll(self, max_records: int, timeout: float) -> list[Record]:
        return self.link.plane.inbox.take(max_records, timeout)

    @property
    def ended(self) -> bool:
        """A topic never ends."""
        return False

    def fingerprint(self, cursors: Mapping[int, int]) -> dict[str, Any]:
        known = {"topic_id": self._topics[self.topic].id, "group": self._group}
        inbox = self.link.plane.inbox
        merged = [partition for _, partition in inbox.active] if isinstance(inbox, MergedInbox) else []
        return known | ({"merged": merged} if merged else {})

    def decide(self) -> bool:
        """See `Source`: which partitions are merged."""
        plane = self.link.plane
        return isinstance(plane.inbox, MergedInbox) and plane.inbox.decide(plane.watch.drained)

    def commands(self) -> list[Record]:
        return self.link.plane.take_commands()

    def waits(self) -> None:
        """See `Source`: the watch over the learner is told."""
        if self._link is not None:
            self._link.plane.inbox.taken_at = time.monotonic()

    def ends(self) -> dict[int, int]:
        last = ends_of(self.link, self._options, self._stopped, self.waits)
        return {partition: offset for (topic, partition), offset in last.items() if topic == self.topic}

    @property
    def plane(self) -> DataPlane | None:
        """None yet while it connects. From any thread."""
        return getattr(self._link, "plane", None)

    def traffic(self, offsets: Mapping[int, int]) -> Traffic | None:
        plane = self.plane
        if plane is None or not plane.next:
            return None
        drained, reads = plane.watch.drained, dict(plane.next)
        ends, lag = lag_of(self.topic, plane, drained, reads, offsets)
        return Traffic(
            ends,
            lag,
            {"records": plane.inbox.depth, "outputs": plane.outbox.depth},
            plane.counts | {"records_lost": plane.committer.tally.lost},
            plane.watch.answered_at,
            plane.watch.behind(reads),
            plane.held(),
        )

    def passed(self, offsets: Mapping[int, int]) -> dict[int, int]:
        over = self.link.plane.gaps.over
        raised = {partition: over((self.topic, partition), at) for partition, at in offsets.items()}
        return {partition: to for partition, to in raised.items() if to > offsets[partition]}

    def commands_passed(self, at: int) -> int:
        return self.link.plane.gaps.over(self._commands_place, at)

    @property
    def silence(self) -> float:
        return self._link.silence if self._link is not None else 0.0

    @property
    def answered_at(self) -> float:
        plane = self.plane
        return self._contact.at if plane is None else max(self._contact.at, float(plane.watch.answered_at))

    @property
    def away(self) -> str | None:
        return self._contact.away

    def ages(self) -> list[tuple[float, int]]:
        return self.link.plane.ages.take()

    def close(self) -> None:
        if self._link is not None:
            self._link.stop()


async def _flow(link: Link, start: Mapping[Place, int]) -> None:
    link.plane.flow(start)
