"""What the secure listener needs: an authority, a server certificate signed by it, a user's password."""

from __future__ import annotations

import secrets
import subprocess
from pathlib import Path

from ops.kafka.jars import BrokerError, program

EXTENSIONS = {
    "authority": ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"],
    "server": ["basicConstraints=critical,CA:FALSE", "subjectAltName=IP:127.0.0.1,DNS:localhost"],
}


def _certificate(folder: Path, name: str, subject: str, *more: str) -> None:
    """NAME.key and NAME.crt in `folder`."""
    command = [program("openssl", "openssl"), "req", "-x509", "-newkey", "ec"]
    command += ["-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "3650", "-subj", f"/CN={subject}"]
    command += ["-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.crt", *more]
    for extension in EXTENSIONS[name]:
        command += ["-addext", extension]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BrokerError(f"openssl (3 or newer) made no certificate: {done.stderr.strip()}")


def make(folder: Path) -> None:
    """authority.crt (for clients), server.pem (for the broker) and password, in a new `folder`.

    Raises BrokerError without openssl 3.
    """
    folder.mkdir(mode=0o700)
    _certificate(folder, "authority", "streamlearn test authority")
    signer = ("-CA", f"{folder}/authority.crt", "-CAkey", f"{folder}/authority.key")
    _certificate(folder, "server", "127.0.0.1", *signer)
    # As Kafka wants it: the key, then the chain.
    chain = [(folder / name).read_text("utf-8") for name in ("server.key", "server.crt", "authority.crt")]
    (folder / "server.pem").write_text("".join(chain), "utf-8")
    for name in ("authority.key", "server.key", "server.crt"):
        (folder / name).unlink()
    (folder / "password").touch(mode=0o600)
    (folder / "password").write_text(secrets.token_urlsafe(24), "utf-8")
