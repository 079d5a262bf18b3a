"""The HTTP port: /metrics for Prometheus, /healthz and /readyz for supervisors, / and /status for people.

It answers from threads of its own, so that a worker that hangs is seen. Every answer takes
`vitals.look()` once and is made of that one moment.
"""

from __future__ import annotations

import gzip
import logging
import socket
import threading
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

import orjson
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder, gzip_accepted

from streamlearn import __version__
from streamlearn.exposition import WorkerCollector, status
from streamlearn.families import printable
from streamlearn.observe import Vitals
from streamlearn.page.front import front

log = logging.getLogger(__name__)

PATHS = {
    "/": "what a person wants to know first, as a page for browsers",
    "/metrics": "figures for Prometheus, in its text format or as OpenMetrics",
    "/healthz": "200 while the worker does its work, else 503 and what is wrong",
    "/readyz": "200 while the state is loaded and the source read (or standing by), else 503 and why not",
    "/status": "all figures as JSON",
}
TEXT = "text/plain; charset=utf-8"
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""Nothing is fetched for the page and nothing in it may run, whatever a label says."""
ICON = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">'
    b'<circle cx="8" cy="8" r="7" fill="#0067a8"/></svg>'
)
"""Browsers ask for one and complain without."""
WAYS = "there is\n" + "\n".join(f"{path:8} {text}" for path, text in PATHS.items())
IDLE_SECONDS = 75.0
"""A connection without a request for so long is closed; longer than the usual scrape intervals."""


class ExporterError(Exception):
    """The port can't be served; the message says why and what to do."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = f"streamlearn/{__version__}", ""
    error_message_format = "%(code)d %(message)s\n"
    error_content_type = TEXT
    timeout = IDLE_SECONDS
    wbufsize = -1  # head and body leave together
    disable_nagle_algorithm = True

    def __init__(self, vitals: Vitals, registry: CollectorRegistry, *request: Any) -> None:
        self.vitals, self.registry = vitals, registry
        super().__init__(*request)

    def do_GET(self) -> None:
        if self.headers.get("Content-Length", "0").strip() != "0" or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # nobody reads that body: what follows it would not be a request
        path = self.path.partition("?")[0].partition("#")[0].rstrip("/")
        answers = {
            "": self._front,
            "/favicon.ico": lambda: self._send(200, "image/svg+xml", ICON),
            "/metrics": self._metrics,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/status": self._status,
        }
        answer = answers.get(path)
        if answer is None:
            self._text(404, f"not found; {WAYS}")
            return
        try:
            answer()
        except Exception:
            log.exception("%s could not be answered", path)
            self._text(500, "internal error, see the log")

    def do_HEAD(self) -> None:
        self.do_GET()

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):
            return self._refuse
        raise AttributeError(name)

    def _refuse(self) -> None:
        self.close_connection = True
        self._text(405, "only GET and HEAD", {"Allow": "GET, HEAD"})

    def _metrics(self) -> None:
        accept = ", ".join(self.headers.get_all("Accept") or ())
        try:
            encode, kind = choose_encoder(" ".join(accept.split()))
        except (ValueError, TypeError):  # prometheus_client's, for a version that is none
            encode, kind = choose_encoder("")
        body, more = encode(self.registry), {"Vary": "Accept, Accept-Encoding"}
        if gzip_accepted(self.headers.get("Accept-Encoding", "")):
            body = gzip.compress(body, 5)
            more["Content-Encoding"] = "gzip"
        self._send(200, kind, body, more)

    def _front(self) -> None:
        if "text/html" not in ", ".join(self.headers.get_all("Accept") or ()):
            self._text(200, WAYS, {"Vary": "Accept"})
            return
        body = front(status(self.vitals), PATHS).encode()
        headers = {"Vary": "Accept", "Content-Security-Policy": POLICY}
        self._send(200, "text/html; charset=utf-8", body, headers)

    def _healthz(self) -> None:
        sickness = self.vitals.sickness()
        self._text(200 if sickness is None else 503, sickness or "ok")

    def _readyz(self) -> None:
        unready = self.vitals.unready()
        self._text(200 if unready is None else 503, unready or "ok")

    def _status(self) -> None:
        # orjson writes null for what is not finite
        options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
        self._send(200, "application/json", orjson.dumps(status(self.vitals), option=options))

    def _text(self, code: int, text: str, headers: dict[str, str] | None = None) -> None:
        self._send(code, TEXT, f"{printable(text)}\n".encode(), headers)

    def _send(self, code: int, kind: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        own = {"Content-Type": kind, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        for name, value in {**own, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, family: socket.AddressFamily, address: Any, handler: Any) -> None:
        self.address_family = family
        self._lock = threading.Lock()
        self._open: set[socket.socket] | None = set()
        super().__init__(address, handler)

    def server_bind(self) -> None:
        # not HTTPServer's: that asks the name service for our own name, which can take seconds
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            if self._open is not None:
                self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            if self._open is not None:
                self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """End the connections that clients keep: their threads would go on answering."""
        with self._lock:
            connections, self._open = self._open or set(), None
            for connection in connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:  # the client was quicker
                    continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("connection of %s broke", client_address, exc_info=True)


class Exporter:
    """Serves one `Vitals` on host:port; port 0 takes any free one. The worker never waits for it."""

    def __init__(self, vitals: Vitals, host: str, port: int) -> None:
        self.vitals, self.host = vitals, host
        self.everywhere = False
        """Does it listen on all interfaces, once started?"""
        self._port = port
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port: once started the real one."""
        return self._port

    def start(self) -> str:
        """Listen and answer; returns a URL for people. Raises ExporterError if host and port can't be had."""
        registry = CollectorRegistry()
        registry.register(WorkerCollector(self.vitals))
        ProcessCollector(registry=registry)
        server = self._server = self._listen(partial(_Handler, self.vitals, registry))
        self._port = server.server_address[1]
        self._thread = threading.Thread(
            target=server.serve_forever, args=(0.1,), name="exporter", daemon=True
        )
        self._thread.start()
        self.everywhere = server.server_address[0] in ("0.0.0.0", "::")
        # All interfaces have no address of their own that a browser could be given.
        host = socket.gethostname() if self.everywhere else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}"

    def probe(self) -> None:
        """Nothing, if host and port can be had now. Raises ExporterError as `start` would."""
        self._listen(_Handler).server_close()

    def _listen(self, handler: Any) -> _Server:
        problem: OSError | None = None
        try:
            found = socket.getaddrinfo(
                self.host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            # "localhost" is often both: IPv4 first, which is where people and probes look
            for family, *_, address in sorted(found, key=lambda one: one[0] != socket.AF_INET):
                try:
                    return _Server(family, address, handler)
                except OSError as error:
                    problem = problem or error
        except (OSError, UnicodeError) as error:  # UnicodeError: no host has that name
            problem = error if isinstance(error, OSError) else OSError(str(error))
        raise ExporterError(
            f"can't serve metrics on {self.host!r} port {self._port}: {problem}. "
            "Take another port (--exporter.port 0: any free one), an address of this machine "
            "(--exporter.host), or do without (--exporter.enabled false)."
        ) from problem

    def close(self) -> None:
        """Stop answering and free the port. Does nothing if it was not started."""
        server, self._server = self._server, None
        thread, self._thread = self._thread, None
        if server is None or thread is None:
            return
        server.shutdown()
        thread.join()
        server.hang_up()
        server.server_close()
