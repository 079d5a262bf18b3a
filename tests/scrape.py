"""An exporter that runs, and a client that asks it over loopback."""

from __future__ import annotations

import http.client
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from streamlearn.exporter import Exporter
from streamlearn.observe import Vitals

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def parsed(text: str, accept: str = "") -> Iterable[Metric]:
    """The families of a /metrics page, read by prometheus_client's own parsers."""
    parse: Any = parse_openmetrics if "openmetrics" in accept else parse_text
    found: Iterable[Metric] = parse(text)
    return found


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


class Site:
    """An exporter that runs, and a client."""

    def __init__(self, vitals: Vitals) -> None:
        self.vitals = vitals
        self.exporter = Exporter(vitals, "127.0.0.1", 0)
        self.url = self.exporter.start()

    def ask(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
        with closing(http.client.HTTPConnection("127.0.0.1", self.exporter.port, timeout=10)) as connection:
            connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
            response = connection.getresponse()
            return Answer(response.status, response.msg, response.read())

    def samples(self, accept: str = "") -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        found = {}
        for family in parsed(self.ask("/metrics", Accept=accept).text, accept):
            for sample in family.samples:
                found[sample.name, frozenset(sample.labels.items())] = sample.value
        return found


@contextmanager
def serving(vitals: Vitals) -> Iterator[Site]:
    site = Site(vitals)
    with closing(site.exporter):
        yield site
