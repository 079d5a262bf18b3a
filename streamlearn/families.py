"""Metric families in the form of prometheus_client, by our conventions: prefix, units, what is left out."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import TypeVar

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from streamlearn.histograms import Histogram

Labels = TypeVar("Labels", bound=tuple[str, ...])
"""Values of the labels, in the order of their names."""


def counter(name: str, text: str, values: Mapping[Labels, float], *labels: str) -> Metric:
    """name: without prefix and _total."""
    family = CounterMetricFamily(f"streamlearn_{name}", text, labels=labels, unit=_unit(name))
    for of, value in values.items():
        # below zero: the base is set and the first observation is still to come
        family.add_metric(of, max(0, value))
    return family


def gauge(name: str, text: str, values: Mapping[Labels, float | None], *labels: str) -> Metric:
    """A value that is None is left out."""
    family = GaugeMetricFamily(f"streamlearn_{name}", text, labels=labels, unit=_unit(name))
    for of, value in values.items():
        if value is not None:
            family.add_metric(of, value)
    return family


def histogram(name: str, text: str, values: Mapping[Labels, Histogram], *labels: str) -> Metric:
    family = HistogramMetricFamily(f"streamlearn_{name}", text, labels=labels, unit=_unit(name))
    for of, seen in values.items():
        bounds = [*map(repr, seen.bounds), "+Inf"]
        family.add_metric(of, list(zip(bounds, accumulate(seen.counts), strict=True)), seen.sum)
    return family


def info(name: str, text: str, values: Mapping[str, str]) -> Metric:
    printed = {label: printable(value) for label, value in values.items()}
    return InfoMetricFamily(f"streamlearn_{name}", text, printed)


def _unit(name: str) -> str:
    unit = name.rpartition("_")[2]
    return unit if unit in ("seconds", "bytes") else ""


def printable(text: str) -> str:
    """Text that UTF-8 can hold: the topic of a file source is a path, and paths may be any bytes."""
    return text.encode("utf-8", "backslashreplace").decode()
