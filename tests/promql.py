"""Expressions of rules and dashboards: the metrics that they name, and those that a worker exports."""

from __future__ import annotations

import re
from dataclasses import replace

from prometheus_client import CollectorRegistry, ProcessCollector

from streamlearn.exposition import WorkerCollector
from streamlearn.observe import Vitals
from tests.exposed import FULL

KEYWORDS = {"on", "by", "and", "or", "unless", "ignoring", "offset", "group_left", "bool", "without"}


def metrics_in(expression: str) -> set[str]:
    """Names of metrics, as far as they can be told without a parser: no label, function, string or number."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    bare = re.sub(r"\{[^}]*\}", "", bare)
    bare = re.sub(r"\b(by|on|ignoring|without|group_left|group_right)\s*\([^)]*\)", " ", bare)
    bare = re.sub(r"\[[^\]]*\]|\boffset\s+[\w$]+", " ", bare)
    names = set(re.findall(r"(?<![\w:.])[a-zA-Z_][\w:]*(?!\s*\(|[\w:])", bare))
    return names - KEYWORDS


def exported() -> set[str]:
    """Names of samples that a worker with every figure exports."""
    vitals = Vitals(60)
    assert FULL.continual is not None
    recovered = replace(FULL.continual, stability_gap_recovery_events=100)
    vitals.observation = replace(FULL, continual=recovered)
    registry = CollectorRegistry()
    registry.register(WorkerCollector(vitals))
    ProcessCollector(registry=registry)
    return {sample.name for family in registry.collect() for sample in family.samples}
