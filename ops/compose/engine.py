"""A Docker engine: the one that runs, or one started for the time being."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ops.compose.shell import Failed, NoEngine, attempt, until

PACKAGES = {"dockerd": "docker.io", "docker-compose": "docker-compose", "debootstrap": "debootstrap"}
START_SECONDS, STOP_SECONDS = 60.0, 60.0


def answers() -> bool:
    """Does an engine answer this user?"""
    try:
        return attempt("docker", "version", "--format", "{{.Server.Version}}").returncode == 0
    except Failed:
        return False


def compose_command() -> list[str]:
    """`docker compose` where there is that, else docker-compose. Raises NoEngine."""
    if shutil.which("docker") and attempt("docker", "compose", "version").returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    raise NoEngine("neither `docker compose` nor docker-compose is installed")


def room(needed: int) -> None:
    """Raises NoEngine where the images, of `needed` gigabytes, wouldn't fit."""
    folder = Path("/var/lib/docker")
    free = shutil.disk_usage(folder if folder.exists() else "/var/lib").free / 1e9
    if free < needed:
        raise NoEngine(f"{free:.0f} GB are free at {folder}, the images want {needed} GB")


@contextmanager
def engine() -> Iterator[bool]:
    """One that answers within; whether it was there before. Raises NoEngine, which says what is missing."""
    if os.geteuid() != 0:
        raise NoEngine("making the stand-in images needs root")
    if shutil.which("debootstrap") is None:
        raise NoEngine("no debootstrap. On Debian or Ubuntu: apt-get install debootstrap")
    if answers():
        yield True
        return
    missing = [package for program, package in PACKAGES.items() if shutil.which(program) is None]
    if missing:
        raise NoEngine(f"no Docker engine answers. On Debian or Ubuntu: apt-get install {' '.join(missing)}")
    with tempfile.TemporaryDirectory(prefix="streamlearn-dockerd-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output:
            daemon = subprocess.Popen(
                ["dockerd"], stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        try:
            with suppress(Failed):
                until("dockerd answers", START_SECONDS, lambda: answers() or daemon.poll() is not None)
            if not answers():
                last = "\n".join(log.read_text("utf-8", "replace").splitlines()[-5:])
                raise NoEngine(f"dockerd can't be started here:\n{last}")
            yield False
        finally:
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
