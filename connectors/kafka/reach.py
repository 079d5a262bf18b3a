"""Is there a broker that takes us? If not, why: said in a sentence, at once where waiting can't help."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiokafka.errors as errors
from aiokafka.conn import AIOKafkaConnection
from aiokafka.protocol.metadata import MetadataRequest

from connectors.kafka.client import PREFIX, aiokafka_options
from streamlearn.events import Stopped, Unreachable

ANSWER = 10.0
"""Seconds in which a broker that runs answers."""
GOODBYE = 1.0
"""Seconds in which a connection is closed."""
PAUSE = 0.5
"""Seconds between two rounds of trying."""
AT_MOST = 5
"""Brokers that are tried for one that is reachable under the address that it gives."""


class Refused(Unreachable):
    """A broker is there and doesn't take us: trying again changes nothing."""


def reach(options: Mapping[str, Any], deadline: float, stopped: Callable[[], bool] = lambda: False) -> None:
    """Wait until a broker takes us, `deadline` seconds at most. options: as of `aiokafka_options`.

    Raises Refused (at once), Unreachable (after the deadline), UsageError (settings that can't be used),
    Stopped (when `stopped` has become true).
    """
    asyncio.run(reach_soon(options, deadline, stopped))


async def reach_soon(
    options: Mapping[str, Any], deadline: float, stopped: Callable[[], bool] = lambda: False
) -> None:
    """As `reach`, within a running loop."""
    given = aiokafka_options(options)
    security: Mapping[str, Any] = options.get("security") or {}
    servers: list[str] = given.pop("bootstrap_servers")
    until = time.monotonic() + deadline
    while True:
        failures = {}
        for server in servers:
            patience = max(0.1, min(ANSWER, until - time.monotonic()))
            try:
                async with asyncio.timeout(patience):
                    await _try(server, given)
                return
            except Exception as error:
                refusal = _refusal(error, security)
                if refusal:
                    raise Refused(f"{server} {refusal}") from None
                failures[server] = _reason(error, str(given["security_protocol"]))
        if stopped():
            raise Stopped("stopped while it waited for a broker")
        if time.monotonic() + PAUSE >= until:
            break
        await asyncio.sleep(PAUSE)
    reasons = "; ".join(f"{server}: {reason}" for server, reason in failures.items())
    raise Unreachable(
        f"no Kafka broker answers within {deadline:g} seconds ({reasons}): does it run, and is "
        "source.bootstrap_servers right?"
    )


class _Elsewhere(Exception):
    """The broker gives addresses that can't be reached from here."""


async def _try(server: str, given: Mapping[str, Any]) -> None:
    async with _connected(server, given) as connection:
        # The first request that a broker answers only to those it takes.
        found = await connection.send(MetadataRequest([]))
    addresses = [
        f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for _, host, port, *_ in found.brokers
    ]
    if server in addresses:
        return
    reason = "it names none"
    for address in addresses[:AT_MOST]:
        try:
            async with _connected(address, given):
                return
        except (OSError, TimeoutError) as error:
            reason = f"{address}: {_reason(error, str(given['security_protocol']))}"
    raise _Elsewhere(
        f"it answers, but gives addresses of brokers that can't be reached from here ({reason}): "
        "its advertised.listeners must hold them as we see them"
    )


@asynccontextmanager
async def _connected(server: str, given: Mapping[str, Any]) -> AsyncIterator[Any]:
    host, _, port = server.rpartition(":")
    timeout = int(ANSWER * 1000)
    connection = AIOKafkaConnection(host.strip("[]"), int(port), request_timeout_ms=timeout, **given)
    try:
        await connection.connect()
        yield connection
    except OSError:
        connection.close()
        raise
    except BaseException:
        await _closed(connection)
        raise
    await _closed(connection)


async def _closed(connection: Any) -> None:
    """Its socket closes a moment after it: with TLS they say goodbye."""
    with suppress(TimeoutError):
        async with asyncio.timeout(GOODBYE):
            await connection.close()


def _refusal(error: Exception, security: Mapping[str, Any]) -> str | None:
    """What a broker that is there doesn't take; None if it may be otherwise in a moment."""
    user, mechanism = security.get("username"), security.get("mechanism")
    match error:
        case errors.SaslAuthenticationFailed():
            return (
                f"doesn't take the user {user!r} with this password ({mechanism}): see {PREFIX}.username "
                "and password"
            )
        case errors.UnsupportedSaslMechanismError():
            return f"doesn't know {PREFIX}.mechanism {mechanism}: another one is set up there"
        case errors.IllegalSaslStateError():
            return f"wants no password on this port: see {PREFIX}.protocol, or it is another port"
        case ssl.SSLCertVerificationError():
            return (
                f"shows a certificate that isn't trusted ({error.verify_message}): see {PREFIX}.ca_file, and "
                "check_hostname"
            )
        case ssl.SSLError() if "ALERT" in (error.reason or ""):
            said = (error.reason or "").partition("ALERT_")[2].replace("_", " ").lower()
            return f"doesn't take our certificate ({said}): see {PREFIX}.certificate_file"
    return None


def _reason(error: Exception, protocol: str) -> str:
    match error:
        case _Elsewhere():
            return str(error)
        case socket.gaierror():
            return "the host is not known"
        case ssl.SSLError():
            return f"no TLS there ({error.reason})"
        case TimeoutError():
            return "no answer"
        case ConnectionResetError() | errors.KafkaConnectionError():
            return f"it hangs up: is {PREFIX}.protocol ({protocol}) what it speaks on this port?"
        case OSError():
            return _of_system(error)
    return f"{type(error).__name__}: {error}"


def _of_system(error: OSError) -> str:
    # asyncio says it in words of its own ("Connect call failed").
    if error.errno is not None and error.errno in errno.errorcode:
        return os.strerror(error.errno).lower()
    return str(error)
