"""The HTTP port, asked over loopback as Prometheus, a supervisor and a person ask it."""

from __future__ import annotations

import gzip
import http.client
import json
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from streamlearn import exporter as module
from streamlearn.exporter import Exporter, ExporterError
from streamlearn.observe import ROLES, Vitals
from tests.scrape import OPENMETRICS, Site, serving


@pytest.fixture
def site() -> Iterator[Site]:
    vitals = Vitals(60)
    vitals.play("learner")
    with serving(vitals) as running:
        yield running


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        (f"{OPENMETRICS};q=0.9, text/plain;version=0.0.4;q=0.5, */*;q=0.1", OPENMETRICS),
        ("application/openmetrics-text; version=nonsense", ""),  # either will do
        ("application/openmetrics-text; version=1.0.0\r\n X-Evil: 1", ""),
    ],
)
def test_the_format_is_negotiated(site: Site, accept: str, kind: str) -> None:
    answer = site.ask("/metrics", Accept=accept)
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith(kind)
    assert (answer.text.endswith("# EOF\n")) == answer.headers["Content-Type"].startswith(OPENMETRICS)
    assert "X-Evil" not in answer.headers


@pytest.mark.parametrize("accept", ["", OPENMETRICS], ids=["text", "openmetrics"])
def test_it_can_be_compressed(site: Site, accept: str) -> None:
    answer = site.ask("/metrics", Accept=accept, Accept_Encoding="gzip")
    assert answer.headers["Content-Encoding"] == "gzip"
    assert "streamlearn_events_total" in gzip.decompress(answer.body).decode()


def test_healthy_and_ready(site: Site) -> None:
    assert site.ask("/healthz")[::2] == (200, b"ok\n")
    assert site.ask("/readyz")[::2] == (200, b"ok\n")
    site.vitals.ready = False
    answer = site.ask("/readyz")
    assert (answer.status, answer.text) == (503, "not ready\n")
    assert json.loads(site.ask("/status").body)["ready"] is False
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert site.ask("/healthz").status == 200


def test_a_stalled_worker_is_seen(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.vitals.busy()
    assert site.ask("/healthz").status == 200
    later = time.monotonic() + 61
    monkeypatch.setattr("streamlearn.observe.time.monotonic", lambda: later)
    answer = site.ask("/healthz")
    assert answer.status == 503
    assert "nothing was applied for 61 s" in answer.text
    assert json.loads(site.ask("/status").body)["healthy"] is False
    assert "\nstreamlearn_healthy 0.0\n" in site.ask("/metrics").text
    site.vitals.idle()
    assert site.ask("/healthz").status == 200


REAL = time.monotonic


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    now = REAL() + seconds
    monkeypatch.setattr("streamlearn.observe.time.monotonic", lambda: now)


def test_records_that_do_not_come_are_something_to_apply(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """From when they should have come: looking again and again doesn't start the time anew."""
    site.vitals.behind()
    later(monkeypatch, 40)
    site.vitals.behind()
    assert site.ask("/healthz").status == 200
    later(monkeypatch, 61)
    assert "nothing was applied for 61 s" in site.ask("/healthz").text
    assert site.ask("/readyz").text.startswith("not ready: nothing was applied for 61 s")
    site.vitals.idle()
    assert site.ask("/readyz").status == 200


def test_a_call_that_does_not_return_is_seen(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with site.vitals.inside("reading"):
        later(monkeypatch, 61)
        assert site.ask("/healthz")[::2] == (503, b"reading has hung for 61 s\n")
    assert site.ask("/healthz").status == 200


def test_of_calls_within_calls_the_inner_one_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    vitals = site.vitals
    vitals.play("starting")
    with vitals.inside("joining the group"):
        assert site.ask("/readyz").text == "not ready: joining the group\n"
        with vitals.inside("reading a checkpoint"):
            assert site.ask("/readyz").text == "not ready: reading a checkpoint\n"
            later(monkeypatch, 61)
            assert site.ask("/healthz").text == "reading a checkpoint has hung for 61 s\n"
            assert site.ask("/readyz").text == "not ready: reading a checkpoint has hung for 61 s\n"
        assert site.ask("/healthz").status == 200, "what the inner one took isn't the outer one's"
        later(monkeypatch, 123)
        assert site.ask("/healthz").text == "joining the group has hung for 62 s\n"
    assert site.ask("/readyz").text == "not ready\n"


def test_what_waits_for_others_does_not_hang(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    vitals = site.vitals
    stopped = vitals.waits(lambda: True)
    assert stopped(), "also outside of everything"
    with vitals.inside("joining the group"):
        for seconds in (40, 80, 120):
            later(monkeypatch, seconds)
            assert stopped()
            assert site.ask("/healthz").status == 200
        later(monkeypatch, 181)
        assert site.ask("/healthz").text == "joining the group has hung for 61 s\n"
    with vitals.inside("writing the first checkpoint", hangs=False):
        later(monkeypatch, 500)
        assert site.ask("/healthz").status == 200, "the keeper has the say"


def test_what_a_start_waits_for(site: Site) -> None:
    vitals = site.vitals
    vitals.play("starting")
    vitals.away = lambda: "no broker answers yet"
    with vitals.inside("joining the group"):
        assert site.ask("/readyz").text == "not ready: no broker answers yet\n"
    roles = {role: site.samples()["streamlearn_role", frozenset({("role", role)})] for role in ROLES}
    assert roles == {"learner": 0, "standby": 0}
    assert json.loads(site.ask("/status").body)["role"] == "starting"


def test_standing_by_is_told_when_it_begins_and_ends() -> None:
    told: list[str] = []
    vitals = Vitals(60)
    vitals.cast = told.append
    ready = []
    for role in ("starting", "learner", "starting", "standby", "standby", "starting", "learner"):
        vitals.play(role)
        ready.append(vitals.ready)
    assert told == ["standby", "starting"]
    assert ready == [False, True, False, True, True, False, True]


def test_a_thread_that_gives_no_sign_of_life_is_seen(site: Site) -> None:
    site.vitals.source_silence = lambda: 59.0
    assert site.ask("/healthz").status == 200
    site.vitals.source_silence = lambda: 61.0
    assert "the thread that talks to the brokers has hung for 61 s" in site.ask("/healthz").text


def test_partitions_that_are_not_held(site: Site) -> None:
    site.vitals.held = lambda: False
    assert site.ask("/readyz").status == 503
    assert site.ask("/healthz").status == 200
    site.vitals.play("standby")
    assert site.ask("/readyz").status == 200


def test_a_port_can_be_tried() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        exporter = Exporter(Vitals(60), "127.0.0.1", taken.getsockname()[1])
        with pytest.raises(ExporterError, match=r"--exporter.port 0: any free one"):
            exporter.probe()
    exporter.probe()
    exporter.probe()
    exporter.start()
    exporter.close()


def test_a_dead_worker_is_seen(site: Site) -> None:
    site.vitals.failure = "the worker ended: \udc80 broke"
    assert site.ask("/healthz")[::2] == (503, b"the worker ended: \\udc80 broke\n")


@pytest.mark.parametrize("path", ["/nothing", "/metricsx", "//metrics/..", "/favicon.png"])
def test_elsewhere_is_nothing_but_the_way(site: Site, path: str) -> None:
    answer = site.ask(path)
    assert answer.status == 404
    assert all(known in answer.text for known in ("/metrics", "/healthz", "/readyz", "/status"))


def test_the_root_is_a_page_for_browsers_and_the_way_for_others(site: Site) -> None:
    page = site.ask("/", Accept="text/html,application/xhtml+xml,*/*;q=0.8")
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert page.text.startswith("<!doctype html>")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    plain = site.ask("/", Accept="*/*")
    assert (plain.status, plain.headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
    assert plain.text.startswith("there is\n") and "/status" in plain.text
    assert page.headers["Vary"] == plain.headers["Vary"] == "Accept"
    assert site.ask("/favicon.ico").headers["Content-Type"] == "image/svg+xml"


def test_a_query_and_a_slash_do_no_harm(site: Site) -> None:
    assert site.ask("/healthz?verbose=1").status == 200
    assert site.ask("/healthz/").status == 200


@pytest.mark.parametrize("path", ["/", "/metrics", "/status", "/healthz", "/nothing"])
def test_head_is_get_without_the_body(site: Site, path: str) -> None:
    head = site.ask(path, "HEAD")
    assert head.body == b""
    assert head.status == site.ask(path).status
    assert int(head.headers["Content-Length"]) > 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
def test_nothing_but_get_and_head(site: Site, method: str) -> None:
    answer = site.ask("/metrics", method, b"GET /status HTTP/1.1\r\n\r\n")
    assert answer.status == 405
    assert answer.headers["Allow"] == "GET, HEAD"
    assert answer.headers["Connection"] == "close"


def raw(port: int, request: bytes) -> bytes:
    """Send bytes; everything that comes back until the server hangs up."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        found = b""
        while more := connection.recv(65536):
            found += more
        return found


def test_a_body_is_not_taken_for_a_request(site: Site) -> None:
    inner = b"GET /status HTTP/1.1\r\n\r\n"
    head = f"GET /healthz HTTP/1.1\r\nContent-Length: {len(inner)}\r\n\r\n".encode()
    assert raw(site.exporter.port, head + inner).count(b"HTTP/1.1 ") == 1


def test_nonsense_is_refused_in_plain_text(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    answer = raw(site.exporter.port, b"GET /<script> HTTP/one.1\r\n\r\n")
    assert answer.split()[0] == b"400"  # no version, so no head
    assert b"<" not in answer.splitlines()[0]
    assert site.ask("/healthz").status == 200
    assert capfd.readouterr() == ("", "")


def test_a_connection_can_be_kept(site: Site) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", site.exporter.port, timeout=10)) as connection:
        connection.connect()
        kept = connection.sock
        for path in ("/healthz", "/nothing", "/metrics", "/status"):
            connection.request("GET", path)
            connection.getresponse().read()
            assert connection.sock is kept


def test_an_error_inside_is_an_answer(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(vitals: Vitals) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(module, "status", broken)
    with caplog.at_level(logging.ERROR):
        answer = site.ask("/status")
    assert (answer.status, answer.text) == (500, "internal error, see the log\n")
    assert "/status could not be answered" in caplog.text
    assert site.ask("/healthz").status == 200


def test_a_port_in_use_is_said(site: Site) -> None:
    other = Exporter(Vitals(60), "127.0.0.1", site.exporter.port)
    with pytest.raises(ExporterError, match=r"in use.*--exporter\.port 0.*--exporter\.enabled false"):
        other.start()
    other.close()
    assert site.ask("/healthz").status == 200


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "a" * 300, "x..y"])
def test_a_host_that_is_not_ours_is_said(host: str) -> None:
    with pytest.raises(ExporterError, match=r"can't serve metrics on .*--exporter\.host"):
        Exporter(Vitals(60), host, 0).start()


def test_the_port_is_free_again_and_kept_connections_end() -> None:
    with serving(Vitals(60)) as site:
        port = site.exporter.port
        kept = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        kept.request("GET", "/healthz")
        assert kept.getresponse().read() == b"ok\n"
    site.exporter.close()  # again: nothing
    with closing(kept), pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        assert kept.sock is not None
        kept.auto_open = 0
        kept.request("GET", "/healthz")
        kept.getresponse()
    again = Exporter(Vitals(60), "127.0.0.1", port)
    with closing(again):
        assert again.start() == f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_on_all_interfaces_it_gives_a_url_that_people_can_use(host: str) -> None:
    exporter = Exporter(Vitals(60), host, 0)
    with closing(exporter):
        try:
            url = exporter.start()
        except ExporterError:
            pytest.skip("no IPv6 here")
        assert url == f"http://{socket.gethostname()}:{exporter.port}"
        assert exporter.everywhere
    assert not Exporter(Vitals(60), "127.0.0.1", 0).everywhere


def test_ipv6(request: pytest.FixtureRequest) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    exporter = Exporter(Vitals(60), "::1", 0)
    with closing(exporter):
        assert exporter.start() == f"http://[::1]:{exporter.port}"
        with closing(http.client.HTTPConnection("::1", exporter.port, timeout=10)) as connection:
            connection.request("GET", "/healthz")
            assert connection.getresponse().status == 200
