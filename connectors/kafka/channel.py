"""Messages between two processes of one worker: values of msgpack over a socket, each behind its length."""

from __future__ import annotations

import select
import signal
import socket
import struct
from typing import Any

import msgpack

_LENGTH = struct.Struct("<Q")
SMALL = 1 << 16
"""Bytes up to which a message goes out in one piece with its length: copying them costs less than a call."""
BUFFER = 1 << 20
"""Bytes that may be under way, where the system allows it (net.core.wmem_max): whoever sends so much needn't
wait for who receives."""

SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
"""What a terminal or a supervisor may send to all processes of a worker: that one says when to stop."""


class Gone(Exception):
    """The other process has ended, or closed its end."""


class Channel:
    """One end. One thread at a time sends, one receives.

    Strings may hold lone surrogates; lists come as lists, tuples too; keys of mappings may be integers.
    """

    def __init__(self, end: socket.socket, patience: float | None = None) -> None:
        """patience: seconds without a byte amid a message, after which the other process counts as gone."""
        self._end = end
        end.settimeout(patience)
        self._news = select.poll()
        self._news.register(end, select.POLLIN)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            end.setsockopt(socket.SOL_SOCKET, option, BUFFER)

    def send(self, value: Any) -> None:
        """Raises Gone."""
        body = msgpack.packb(value, unicode_errors="surrogatepass")
        length = _LENGTH.pack(len(body))
        try:
            if len(body) <= SMALL:
                self._end.sendall(length + body)
            else:
                self._end.sendall(length)
                self._end.sendall(body)
        except OSError as error:
            raise Gone(str(error)) from error

    @property
    def waits(self) -> bool:
        """Has a message come, or the end?"""
        return bool(self._news.poll(0))

    def receive(self, timeout: float | None = None) -> Any:
        """The next message. Raises TimeoutError if none begins within `timeout` seconds, Gone."""
        if timeout is not None and not self._news.poll(timeout * 1000):
            raise TimeoutError
        try:
            if timeout is None:
                self._news.poll()
            (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
            body = self._exactly(length)
        except (OSError, ValueError) as error:
            raise Gone(str(error)) from error
        return msgpack.unpackb(body, unicode_errors="surrogatepass", strict_map_key=False)

    def _exactly(self, size: int) -> bytearray:
        body = bytearray(size)
        rest = memoryview(body)
        while rest:
            count = self._end.recv_into(rest)
            if not count:
                raise Gone("the other end is closed")
            rest = rest[count:]
        return body

    def close(self) -> None:
        """Whoever receives at the other end is told."""
        self._end.close()


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
