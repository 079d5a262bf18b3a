"""`python -m tests.metrics_table > ops/METRICS.md`: every metric that a worker exports, as a table."""

from __future__ import annotations

from streamlearn.exposition import WorkerCollector
from streamlearn.observe import Vitals
from tests.exposed import FULL

HEAD = """\
# Metrics

Made by `python -m tests.metrics_table > ops/METRICS.md`; a test says when it is not what a worker exports.

`/metrics` serves them in Prometheus' text format, or as OpenMetrics where that is asked for. Units are in
the names (`_seconds`, `_bytes`), accuracies and shares lie in 0..1, moments are seconds since 1970. A
counter counts from the start of the process, so that a crash, which takes the learner back to its last
checkpoint, counts nothing twice in a rate; `/status` has the counts of the state, since its first start. A
figure that is not known yet is left out.

However many classes there are, one worker has fewer than 600 series, and four more for every partition: the
first 50 classes have a series of their own in `class_recall` and `memory_class_share` (the rest is
`other`), the 25 oldest and the 25 newest held-out sets in `set_accuracy` (`worst_set_drop` and the averages
are over all), the five nearest pairs of classes in `prototype_distance`.

What is measured on the way costs a clock's reading a batch. All else is looked up when somebody asks, on
the thread that answers: lag and offsets of the topic's end are those of the last look at the brokers (every
two seconds, by a thread that doesn't wait for the learner), the memory's composition and the device those
of the moment. Nothing of it changes a bit of the state.

Beside these there are the process' own: `process_resident_memory_bytes`, `process_cpu_seconds_total`,
`process_start_time_seconds`, `process_open_fds`; on Kafka they are the learner's, and the process beside it
that talks to the brokers has none.

| metric | kind | labels | |
|---|---|---|---|
"""


def rows() -> list[tuple[str, str, str, str]]:
    """Name as Prometheus has it, kind, labels, help."""
    vitals = Vitals(60)
    vitals.observation = FULL
    found = []
    for family in WorkerCollector(vitals).collect():
        name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        found.append((name, family.type, ", ".join(labels), family.documentation))
    return sorted(found)


def table() -> str:
    lines = (f"| `{name}` | {kind} | {labels} | {text} |" for name, kind, labels, text in rows())
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
