"""One question in Kafka's protocol: does the broker serve, and is it ours?"""

from __future__ import annotations

import socket
import struct

METADATA = struct.pack(">hhih5sib", 3, 4, 0, 5, b"ready", 0, 0)
"""Metadata request, version 4: correlation id 0, client id "ready", no topics, create none."""


def _string(answer: bytes, at: int) -> tuple[str, int]:
    """A nullable string at offset `at`, and the offset behind it."""
    (size,) = struct.unpack_from(">h", answer, at)
    end = at + 2 + max(size, 0)
    return answer[at + 2 : end].decode(), end


def _exactly(connection: socket.socket, size: int) -> bytes:
    parts = b""
    while len(parts) < size:
        part = connection.recv(size - len(parts))
        if not part:
            raise ConnectionError("closed in the middle of an answer")
        parts += part
    return parts


def serving_cluster(port: int, timeout: float) -> str | None:
    """The id of the cluster that serves at 127.0.0.1:`port`; None while none does.

    A broker that is up but not yet (or no more) part of its cluster names no brokers: it doesn't serve.

    Args:
        timeout: Seconds for each step of the exchange.
    """
    try:
        with socket.create_connection(("127.0.0.1", port), timeout) as connection:
            connection.sendall(struct.pack(">i", len(METADATA)) + METADATA)
            (size,) = struct.unpack(">i", _exactly(connection, 4))
            answer = _exactly(connection, size)
        brokers, at = struct.unpack_from(">i", answer, 8)[0], 12  # behind correlation id and throttle time
        for _ in range(brokers):
            _, at = _string(answer, at + 4)  # host
            _, at = _string(answer, at + 4)  # rack, behind the port
        return _string(answer, at)[0] if brokers else None
    except (OSError, struct.error, UnicodeDecodeError):
        return None
