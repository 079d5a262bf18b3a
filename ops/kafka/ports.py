"""Free ports of the loopback address."""

from __future__ import annotations

import random
import socket
from pathlib import Path

from ops.kafka.jars import BrokerError

TRIES = 200


def outgoing_ports() -> tuple[int, int]:
    """The first and the last port that the kernel gives to outgoing connections."""
    low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()
    return int(low), int(high)


def is_free(port: int) -> bool:
    with socket.socket() as attempt:
        # As Java does: what is left of closed connections is no matter.
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on and that no outgoing connection is given.

    A port of the kernel's choice (bind to port 0) is of those that outgoing connections get: while a broker
    is down its port could be taken, even by a client that tries to reach it and then is connected to itself.

    Raises BrokerError if there are too few.
    """
    low, high = outgoing_ports()
    choices = [port for port in range(10_000, 65_536) if not low <= port <= high]
    # Not the state of `random`: tests seed that, and two test runs would try the same ports.
    tried = random.SystemRandom().sample(choices, min(TRIES, len(choices)))
    found = [port for port in tried if is_free(port)][:count]
    if len(found) < count:
        raise BrokerError(f"no {count} free ports outside of {low}-{high}: say which port to take")
    return found
