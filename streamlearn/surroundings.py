"""The figures of what is around the learner: health, source and brokers, offsets, the accelerator."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric

from streamlearn.events import Traffic
from streamlearn.families import counter, gauge, printable
from streamlearn.observe import ROLES, Observation, Vitals

COUNTS = (
    ("rebalances", "Times that the group's partitions were handed out anew."),
    ("fetch_pauses", "Times that reading was paused because the learner was behind."),
    ("commits", "Commits of outputs and offsets that the brokers took."),
    ("records_lost", "Answered records that a cleaner took out of the topic before they were kept."),
)
"""Names in Traffic.counts, and help."""


def surroundings(seen: Observation, vitals: Vitals) -> Iterator[Metric]:
    """Everything of an observation that is not about learning."""
    yield gauge("healthy", "1 while /healthz says so.", {(): float(vitals.sickness() is None)})
    yield gauge("ready", "1 while /readyz says so.", {(): float(vitals.unready() is None)})
    text = "1 while outputs can't be handed over: a full disk, a reader or broker that takes nothing."
    yield gauge("outputs_stalled", text, {(): float(vitals.output_problem is not None)})
    text = "1 for what this worker is: of a group one learns, the others stand by. All 0 while it starts."
    yield gauge("role", text, {(name,): float(name == vitals.role) for name in ROLES}, "role")
    yield gauge("paused", "1 while a command has paused the worker.", {(): float(seen.paused)})
    text = "1 if the process went on from a checkpoint, 0 if it began anew."
    yield gauge("resumed", text, {(): float(seen.resumed)})
    for name, text, offsets in (
        ("next_offset", "Offset at which reading goes on: every record below it was applied.", seen.offsets),
        ("checkpointed_offset", "Every record below it is in the newest checkpoint.", seen.checkpointed),
    ):
        by_place = {
            (printable(t), p): o for t, by_partition in offsets.items() for p, o in by_partition.items()
        }
        yield gauge(name, text, by_place, "topic", "partition")
    queues = {(queue,): depth for queue, depth in seen.queues.items()}
    yield gauge("queue_depth", "Records and outputs that wait in memory.", queues, "queue")
    traffic, topics = seen.traffic, [printable(topic) for topic in seen.offsets]
    # A file or a stream doesn't say how many records are to come: then the name alone is there.
    text = "Records in the topic that were not applied yet."
    lag = {(t, str(p)): n for t in topics for p, n in (traffic.lag if traffic is not None else {}).items()}
    yield gauge("consumer_lag_events", text, lag, "topic", "partition")
    if traffic is not None:
        yield from _traffic(traffic, topics)
    answered = traffic.answered_at if traffic is not None else seen.answered_at
    if answered is not None:
        text = "When a broker last answered, in seconds since 1970; at first when the worker began to ask."
        yield gauge("last_broker_answer_timestamp_seconds", text, {(): answered})
    device = seen.device
    if device is not None:
        text = (
            "Memory of the accelerator: of this process (allocated, reserved), of the device (free, total)."
        )
        yield gauge("device_memory_bytes", text, {(k,): n for k, n in device.memory.items()}, "kind")
        text = "Share of the last moments in which the accelerator was busy, with whatever process."
        yield gauge("device_utilization_ratio", text, {(): device.utilization})


def _traffic(traffic: Traffic, topics: list[str]) -> Iterator[Metric]:
    ends = {(topic, str(p)): n for topic in topics for p, n in traffic.ends.items()}
    text = "Offset behind the topic's last record, at the last look."
    yield gauge("end_offset", text, ends, "topic", "partition")
    for name, text in COUNTS:
        yield counter(name, text, {(): traffic.counts[name]})
    yield gauge("partitions_held", "1 while the partitions are this worker's.", {(): float(traffic.held)})
