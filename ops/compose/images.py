"""The stand-in images. (Ours is built on one of them by the compose file.)"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ops.compose.engine import room
from ops.compose.shell import ROOT, Failed, NoEngine, attempt, call
from ops.kafka.jars import BROKER, BrokerError, fetch

HERE = Path(__file__).parent
BASE = "streamlearn-stand-in/python:3.11"
KAFKA = "streamlearn-stand-in/kafka:4.3.1"
PROMETHEUS = "streamlearn-stand-in/prometheus:2.42"
PYTHON = (3, 11)
"""The base's: Debian bookworm's."""
PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
MIRROR = "http://deb.debian.org/debian"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PASSED_ON = ("PIP_INDEX_URL",)
PATIENCE = 1800.0
LABEL = "streamlearn.stand-in=true"
"""Of the base, and so of all that is made on it: what no name leads to any more can be found and removed."""
CLASSIC = {"DOCKER_BUILDKIT": "0"}
"""The builder that every engine has."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Ours:
    """How the image with our code is made. overrides: compose files. gigabytes: what its making takes."""

    image: str
    base: str
    overrides: tuple[str, ...]
    gigabytes: int


WHOLE = Ours("streamlearn:0.1.0", BASE, ("ops/compose/stand-ins.yml",), 20)
"""With CUDA's libraries, which are there twice: in the stage that made them and in the result."""
MOUNTED = Ours(
    "streamlearn-stand-in/worker:0.1.0",
    "streamlearn-stand-in/python-mounted:3.11",
    (*WHOLE.overrides, "ops/compose/mounted.yml"),
    4,
)
"""Without torch: that of the Python which runs this is mounted into it, with what it needs."""
ALL = (WHOLE.image, MOUNTED.image, MOUNTED.base, PROMETHEUS, KAFKA, BASE)


def there(image: str) -> bool:
    return attempt("docker", "image", "inspect", image).returncode == 0


def size(image: str) -> float:
    """Bytes, of all its layers."""
    return float(call("docker", "image", "inspect", "--format", "{{.Size}}", image))


def layers(image: str) -> list[tuple[float, str]]:
    """Megabytes and the command of every layer that holds something, the newest first."""
    text = call(
        "docker", "history", "--no-trunc", "--human=false", "--format", "{{.Size}} {{.CreatedBy}}", image
    )
    found = [line.split(" ", 1) for line in text.splitlines()]
    return [(int(many) / 1e6, command) for many, command in found if int(many) > 100_000]


def packages() -> Path:
    """The folder that torch was installed into, for this Python. Raises NoEngine if it can't be mounted."""
    if sys.version_info[:2] != PYTHON:
        wanted = ".".join(map(str, PYTHON))
        raise NoEngine(
            f"this Python is {sys.version.split()[0]}: its packages can't be mounted, that wants {wanted}"
        )
    return Path(str(importlib.metadata.distribution("torch").locate_file(""))).resolve()


def make(ours: Ours, say: Say) -> None:
    """The stand-ins; what is there and unchanged is quick. Raises NoEngine."""
    room(1 if there(ours.image) else ours.gigabytes)
    try:
        _make(ours, say)
    except (Failed, BrokerError) as error:
        # None of what they are made of is ours: a registry that isn't reached breaks no promise of ours.
        raise NoEngine(f"the stand-in images can't be made: {error}") from error


def _make(ours: Ours, say: Say) -> None:
    if not there(BASE):
        say(f"{BASE}: Debian's Python, by debootstrap")
        _base()
    _look_for_packages()
    say(f"{KAFKA}: Kafka's jars")
    _kafka()
    say(f"{PROMETHEUS}: Debian's Prometheus")
    _build(PROMETHEUS, HERE / "stand_ins" / "prometheus")
    if ours.base != BASE:
        say(f"{ours.base}: the base, with a torch that is mounted")
        _mounted(ours.base)


def remove() -> None:
    """All of them, and what their making left."""
    for image in filter(there, ALL):
        call("docker", "image", "rm", "--force", image, seconds=300)
    call("docker", "image", "prune", "--force", "--filter", f"label={LABEL}", seconds=300)


def _base() -> None:
    with tempfile.TemporaryDirectory(prefix="streamlearn-base-") as folder:
        root = Path(folder) / "root"
        words = [
            "debootstrap",
            "--variant=minbase",
            f"--include={PACKAGES}",
            "bookworm",
            str(root),
            _mirror(),
        ]
        call(*words, seconds=PATIENCE)
        settings = {name: os.environ[name] for name in PASSED_ON if os.environ.get(name)}
        if CERTIFICATES.exists():
            # A registry that this machine reaches through a proxy of its own has that one's certificate.
            shutil.copy(CERTIFICATES, root / CERTIFICATES.relative_to("/"))
            settings["PIP_CERT"] = str(CERTIFICATES)
        for package in (root / "var/cache/apt/archives").glob("*.deb"):
            package.unlink()
        archive = Path(folder) / "root.tar"
        call("tar", "-C", str(root), "-cf", str(archive), ".", seconds=300)
        changes = [f"LABEL {LABEL}", *(f"ENV {name}={value}" for name, value in settings.items())]
        words = [word for change in changes for word in ("--change", change)]
        call("docker", "import", *words, str(archive), BASE, seconds=300)


def _look_for_packages() -> None:
    """Do containers reach the registry of Python packages, as the making of ours will want? Raises Failed."""
    asks = "python3 -m pip download --no-deps --dest /tmp pip"
    call("docker", "run", "--rm", BASE, *asks.split())


def _mounted(image: str) -> None:
    """What pip takes for torch leads Python to the folder that is mounted."""
    version = importlib.metadata.version("torch").partition("+")[0] + "+mounted"
    about = f"torch-{version}.dist-info"
    files = {
        "torch_mounted.pth": "/mnt/packages\n",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{about}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{about}/RECORD"])
    with tempfile.TemporaryDirectory(prefix="streamlearn-mounted-") as folder:
        context = Path(folder)
        shutil.copy(HERE / "stand_ins" / "mounted" / "Dockerfile", context)
        with zipfile.ZipFile(context / f"torch-{version}-py3-none-any.whl", "w") as wheel:
            for name, text in files.items():
                wheel.writestr(name, text)
        _build(image, context)


def _mirror() -> str:
    """The Debian mirror that apt is set up with."""
    done = attempt("apt-get", "indextargets", "--format", "$(CODENAME) $(LABEL) $(REPO_URI)")
    for line in done.stdout.splitlines():
        codename, label, uri = [*line.split(" ", 2), "", ""][:3]
        if codename == "bookworm" and label == "Debian":
            return uri.rstrip("/")
    return MIRROR


def _kafka() -> None:
    with tempfile.TemporaryDirectory(prefix="streamlearn-kafka-") as folder:
        context = Path(folder)
        shutil.copytree(HERE / "stand_ins" / "kafka", context, dirs_exist_ok=True)
        shutil.copytree(fetch(BROKER), context / "libs")
        shutil.copy(ROOT / "ops" / "kafka" / "log4j2.properties", context)
        _build(KAFKA, context)


def _build(image: str, context: Path) -> None:
    words = ["docker", "build", "--tag", image, "--build-arg", f"BASE={BASE}", str(context)]
    call(*words, seconds=PATIENCE, env=CLASSIC)
