"""Expressions that many panels share the form of. `$job` is the scrape job that the reader chose."""

from __future__ import annotations

from ops.grafana.spec import Query

RATE = "$__rate_interval"


def rate(metric: str, by: str = "", labels: str = "") -> str:
    """A second, over all workers of the job; by: the label to keep."""
    grouped = f" by ({by})" if by else ""
    return f'sum{grouped} (rate(streamlearn_{metric}{{job="$job"{labels}}}[{RATE}]))'


def gauge(metric: str, by: str = "") -> str:
    grouped = f" by ({by})" if by else ""
    return f'max{grouped} (streamlearn_{metric}{{job="$job"}})'


def quantiles(metric: str) -> tuple[Query, ...]:
    """Half, and all but one in twenty and in a hundred, took no longer."""
    return tuple(
        Query(
            f'histogram_quantile({q}, sum by (le) (rate(streamlearn_{metric}_bucket{{job="$job"}}[{RATE}])))',
            f"{100 * q:g} %",
        )
        for q in (0.5, 0.95, 0.99)
    )


def process(metric: str) -> str:
    """Of the worker's process, by worker."""
    return f'max by (instance) (process_{metric}{{job="$job"}})'


def role(name: str) -> str:
    """1 for each worker that is it."""
    return f'max by (instance) (streamlearn_role{{job="$job",role="{name}"}})'


def newest(metric: str, labels: str = "", legend: str = "") -> Query:
    """The figure of whichever worker learns: a standby has none, or zero."""
    return Query(f'max(streamlearn_{metric}{{job="$job"{labels}}})', legend or metric)
