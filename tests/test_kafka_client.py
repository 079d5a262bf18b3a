"""The settings' words about brokers, as the parameters of the client libraries."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from connectors.kafka.client import aiokafka_options, kafka_python_options, servers
from streamlearn.events import UsageError
from streamlearn.settings import SecuritySettings

both = pytest.mark.parametrize("make", [aiokafka_options, kafka_python_options])
Make = Callable[[dict[str, Any]], dict[str, Any]]


def options(**security: Any) -> dict[str, Any]:
    return {"bootstrap_servers": "a:1", "security": SecuritySettings(**security).model_dump()}


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate, its key, and the key encrypted."""
    folder = tmp_path_factory.mktemp("pem")
    openssl = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run([*openssl, "-nodes", *files, "-subj", "/CN=x"], check=True, capture_output=True)
    lock = ["openssl", "ec", "-aes256", "-passout", "pass:secret", "-in", str(folder / "key.pem")]
    subprocess.run([*lock, "-out", str(folder / "locked.pem")], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a:1", ["a:1"]),
        (" a:1 , b ,", ["a:1", "b:9092"]),
        ("[::1]:99,::1,[::2]", ["[::1]:99", "[::1]:9092", "[::2]:9092"]),
    ],
)
def test_servers(text: str, found: list[str]) -> None:
    assert servers(text) == found


@pytest.mark.parametrize("text", ["a:b", "a:0", "a:99999", ":1", "http://a:1", ",", "", None])
def test_what_is_no_server(text: str | None) -> None:
    with pytest.raises(UsageError, match=r"source\.bootstrap_servers"):
        servers(text)


@both
def test_plain(make: Make) -> None:
    assert make(options()) == {"bootstrap_servers": ["a:1"], "security_protocol": "PLAINTEXT"}
    assert make({"bootstrap_servers": "a:1"}) == make(options())


@both
def test_encrypted(make: Make, pem: Path) -> None:
    found = make(options(protocol="SSL", ca_file=str(pem / "cert.pem")))
    context = found["ssl_context"]
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert [dict(one["subject"][0]) for one in context.get_ca_certs()] == [{"commonName": "x"}]
    assert not any(name.startswith("sasl") for name in found)
    loose = make(options(protocol="SSL", check_hostname=False))["ssl_context"]
    assert loose.verify_mode is ssl.CERT_REQUIRED
    assert not loose.check_hostname


@both
def test_with_a_password(make: Make) -> None:
    found = make(options(protocol="SASL_PLAINTEXT", username="u", password="p", mechanism="SCRAM-SHA-256"))
    assert found == {
        "bootstrap_servers": ["a:1"],
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "SCRAM-SHA-256",
        "sasl_plain_username": "u",
        "sasl_plain_password": "p",
    }


def test_a_client_certificate(pem: Path) -> None:
    cert, key, locked = (str(pem / name) for name in ("cert.pem", "key.pem", "locked.pem"))
    together = pem / "both.pem"
    together.write_text(Path(cert).read_text() + Path(key).read_text())
    kafka_python_options(options(protocol="SSL", certificate_file=cert, key_file=key))
    kafka_python_options(options(protocol="SSL", certificate_file=str(together)))
    for given, words in (
        ({"certificate_file": cert, "key_file": locked}, f"security.key_file: {locked} is encrypted"),
        ({"certificate_file": cert}, "security.certificate_file .* can't be used"),
        ({"certificate_file": cert, "key_file": "/no/file"}, "security.key_file: /no/file can't be read"),
        ({"certificate_file": "/no/file"}, "security.certificate_file: /no/file can't be read"),
        ({"key_file": key}, "no source.security.certificate_file"),
        ({"ca_file": "/no/file"}, r"security.ca_file: /no/file can't be read \(No such file"),
        ({"ca_file": key}, "security.ca_file: .* certificates in PEM were expected"),
    ):
        with pytest.raises(UsageError, match=words):
            kafka_python_options(options(protocol="SSL", **given))


@pytest.mark.parametrize(
    ("security", "words"),
    [
        ({"protocol": "SASL_SSL", "username": "u"}, "security.password is missing"),
        ({"protocol": "SASL_SSL", "password": "hush"}, "security.username is missing"),
        ({"username": "u", "password": "hush"}, "protocol is PLAINTEXT.*SASL_PLAINTEXT or SASL_SSL"),
        ({"protocol": "SSL", "username": "u", "password": "hush"}, "protocol is SSL"),
        ({"ca_file": "/some/file"}, "protocol is PLAINTEXT.*to SSL or SASL_SSL"),
    ],
)
def test_what_does_not_fit(security: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        kafka_python_options(options(**security))
    assert "hush" not in str(caught.value)
