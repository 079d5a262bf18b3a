"""How the brokers are reached: the settings' words as the parameters of the two client libraries.

Nothing here connects. Passwords are handed to the clients and shown nowhere.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

from streamlearn.events import UsageError

DEFAULT_PORT = 9092
PREFIX = "source.security"
ENCRYPTED, SASL = ("SSL", "SASL_SSL"), ("SASL_PLAINTEXT", "SASL_SSL")


def aiokafka_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters for AIOKafkaConsumer, AIOKafkaProducer and AIOKafkaAdminClient.

    options: `bootstrap_servers` ("host:port, ...") and `security`, the table of the settings (protocol,
    ca_file, certificate_file, key_file, check_hostname, mechanism, username, password; it may be absent).
    Raises UsageError, with the setting's name, for what can't be used.
    """
    # Both libraries have these under the same names.
    return kafka_python_options(options)


def kafka_python_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters for KafkaProducer, KafkaConsumer and KafkaAdminClient; as `aiokafka_options`."""
    security: Mapping[str, Any] = options.get("security") or {}
    protocol = security.get("protocol") or "PLAINTEXT"
    found: dict[str, Any] = {
        "bootstrap_servers": servers(options.get("bootstrap_servers")),
        "security_protocol": protocol,
    }
    if protocol in ENCRYPTED:
        found["ssl_context"] = ssl_context(security)
    else:
        # Whoever gave these believes that the connection is encrypted.
        _refuse_given(security, ("ca_file", "certificate_file", "key_file"), protocol, " or ".join(ENCRYPTED))
    if protocol in SASL:
        found |= _sasl(security, protocol)
    else:
        _refuse_given(security, ("username", "password"), protocol, " or ".join(SASL))
    return found


def servers(text: str | None) -> list[str]:
    """ "a:9092, b" -> ["a:9092", "b:9092"]. Raises UsageError."""
    found = []
    for word in (text or "").split(","):
        server = word.strip()
        if not server:
            continue
        bare_ipv6 = server.count(":") > 1 and "]" not in server
        host, colon, port = (server, "", "") if bare_ipv6 else server.rpartition(":")
        if not colon or server.endswith("]"):
            host, port = (f"[{server}]" if bare_ipv6 else server), str(DEFAULT_PORT)
        if not host or "/" in host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise UsageError(f"source.bootstrap_servers: {server!r} is not HOST:PORT")
        found.append(f"{host}:{port}")
    if not found:
        raise UsageError("source.bootstrap_servers names no broker: give HOST:PORT")
    return found


def ssl_context(security: Mapping[str, Any]) -> ssl.SSLContext:
    """Verifies the broker's certificate, and shows ours if there is one. Raises UsageError."""
    ca_file = security.get("ca_file")
    certificate, key = security.get("certificate_file"), security.get("key_file")
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError) as error:
        raise _unusable("ca_file", ca_file, error, "certificates") from None
    if security.get("check_hostname") is False:
        context.check_hostname = False
    if key and not certificate:
        raise UsageError(f"{PREFIX}.key_file is given, but no {PREFIX}.certificate_file")
    if certificate:
        for name, file in (("certificate_file", certificate), ("key_file", key)):
            try:
                with open(file or certificate, "rb"):
                    pass
            except OSError as error:
                raise _unusable(name, file, error, "") from None
        try:
            # Without a function for it, OpenSSL would ask the terminal for the password of a key.
            context.load_cert_chain(certificate, key, password=_no_password)
        except _Encrypted:
            raise UsageError(f"{PREFIX}.key_file: {key or certificate} is encrypted: decrypt it") from None
        except (OSError, ValueError) as error:
            names = f"{PREFIX}.certificate_file {certificate}" + (f" and key_file {key}" if key else "")
            raise UsageError(
                f"{names} can't be used ({_reason(error)}): a certificate and its private key, in PEM, "
                "were expected"
            ) from None
    return context


class _Encrypted(Exception):
    pass


def _no_password() -> str:
    raise _Encrypted


def _sasl(security: Mapping[str, Any], protocol: str) -> dict[str, Any]:
    for name, other in (("username", "password"), ("password", "username")):
        if not security.get(name):
            given = f", {PREFIX}.{other} is given" if security.get(other) else ""
            raise UsageError(f"{PREFIX}.{name} is missing: {PREFIX}.protocol is {protocol}{given}")
    return {
        "sasl_mechanism": security.get("mechanism") or "SCRAM-SHA-512",
        "sasl_plain_username": security["username"],
        "sasl_plain_password": security["password"],
    }


def _refuse_given(security: Mapping[str, Any], names: tuple[str, ...], protocol: str, needed: str) -> None:
    for name in names:
        if security.get(name):
            raise UsageError(
                f"{PREFIX}.{name} is given, but {PREFIX}.protocol is {protocol}, which makes no use of it: "
                f"set that to {needed}"
            )


def _unusable(name: str, file: Any, error: Exception, what: str) -> UsageError:
    expected = f": {what} in PEM were expected" if what and isinstance(error, ssl.SSLError) else ""
    return UsageError(f"{PREFIX}.{name}: {file} can't be read ({_reason(error)}){expected}")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "not PEM"
    return (isinstance(error, OSError) and error.strerror) or str(error)
