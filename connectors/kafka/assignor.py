"""Who of a group learns: one member gets every partition, and keeps them when others join."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping

from aiokafka import TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import (
    ConsumerProtocolMemberAssignment,
    ConsumerProtocolMemberMetadata,
)

VERSION = 0
ASSIGNOR = "streamlearn-one-learner"
"""By this name a group of workers is known."""


def choose(held: Mapping[str, int]) -> str:
    """The member that learns: the one of the newest epoch; of equals the first by name."""
    return min(held, key=lambda member: (-held[member], member))


def one_learner(epoch: Callable[[], int]) -> type[AbstractPartitionAssignor]:
    """An assignor of its own for one consumer: `epoch` says of which epoch it is the learner, 0 for none.

    aiokafka takes assignors as classes and asks them for what a member says of itself: the epoch goes there.
    """

    class OneLearner(AbstractPartitionAssignor):  # type: ignore[misc]
        name = ASSIGNOR

        @classmethod
        def assign(
            cls, cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]
        ) -> dict[str, ConsumerProtocolMemberAssignment]:
            held = {name: _epoch(metadata.user_data) for name, metadata in members.items()}
            learner = choose(held)
            # What only others read is not for it: a client that is given such a topic ends.
            topics = sorted(members[learner].subscription)
            every = [(topic, sorted(cluster.partitions_for_topic(topic) or ())) for topic in topics]
            return {
                name: ConsumerProtocolMemberAssignment(VERSION, every if name == learner else [], b"")
                for name in members
            }

        @classmethod
        def metadata(cls, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
            return ConsumerProtocolMemberMetadata(VERSION, sorted(topics), str(epoch()).encode())

        @classmethod
        def on_assignment(cls, assignment: ConsumerProtocolMemberAssignment) -> None:
            pass

    return OneLearner


class Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Tells of a rebalance, that it begins and how it has ended, to functions that don't raise.

    aiokafka would only log it.
    """

    def __init__(
        self, revoked: Callable[[], None], given: Callable[[frozenset[TopicPartition]], None]
    ) -> None:
        self._revoked, self._given = revoked, given

    def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        self._revoked()

    def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self._given(frozenset(assigned))


def digest(topics: Iterable[str]) -> str:
    """A short name for a set of topics."""
    return f"{zlib.crc32(chr(0).join(sorted(topics)).encode()):08x}"


def _epoch(user_data: bytes) -> int:
    return int(user_data) if user_data and user_data.isdigit() else 0
