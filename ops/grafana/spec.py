"""What a dashboard shows. Plain values: how Grafana writes them down is `draw`'s concern."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

WHOLE = 24
"""Columns of a dashboard."""
GREEN, YELLOW, RED, BLUE = "green", "yellow", "red", "blue"


class Kind(Enum):
    """How a panel's figures are drawn."""

    LINES = "lines over time"
    STACK = "areas over time, one on the other"
    NUMBER = "the newest value, large"
    BARS = "the newest values, a bar each"
    HEAT = "a row each, its colour over time"
    STATES = "a row each, its state over time"


@dataclass(frozen=True)
class Query:
    """One expression. `$job` is the scrape job that the reader chose; legend: with labels as {{label}}."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Limit:
    """From `value` on it is `color`, and a line is drawn there."""

    value: float
    color: str


@dataclass(frozen=True)
class Panel:
    """title: what it is; description: for whoever sees it for the first time; unit: in Grafana's words.

    limits: ascending; below: the colour under the first. low, high: of the axis. words: values as text and
    colour. silent: why it may show nothing; such a panel says so itself.
    """

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    kind: Kind = Kind.LINES
    width: int = 8
    limits: tuple[Limit, ...] = ()
    below: str = GREEN
    low: float | None = None
    high: float | None = None
    words: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    silent: str = ""

    @property
    def height(self) -> int:
        return 4 if self.kind is Kind.NUMBER or self.width == WHOLE else 8


@dataclass(frozen=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Mark:
    """Vertical lines over all panels where the expression has a value. text: with labels as {{label}}."""

    name: str
    expr: str
    color: str
    text: str


@dataclass(frozen=True)
class Dashboard:
    """uid: its address in Grafana, and the name of its file."""

    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]
    marks: tuple[Mark, ...]

    @property
    def panels(self) -> Iterator[Panel]:
        for row in self.rows:
            yield from row.panels


NEW_CLASS = Mark(
    "New class",
    'max by (job) (streamlearn_known_classes{job="$job"})'
    ' > (max by (job) (max_over_time(streamlearn_known_classes{job="$job"}[1h] offset $__interval)) > 0)',
    BLUE,
    "a class appeared",
)
"""More classes than were seen before. Zeros are workers that stand by or have not loaded their state yet."""
STARTED = Mark(
    "Start",
    'max by (job) (process_start_time_seconds{job="$job"})'
    ' > max by (job) (max_over_time(process_start_time_seconds{job="$job"}[1h] offset $__interval))',
    YELLOW,
    "a worker was started",
)
"""Started later than any that was seen before: a crash may leave a gap in the series, or none."""
