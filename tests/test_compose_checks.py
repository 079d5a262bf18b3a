"""The checks of confinement notice a container that may do more than it should."""

from __future__ import annotations

from typing import Any

import pytest

from ops.compose.checks import READ_ONLY, Checks
from ops.compose.stack import Stack


class Pretended(Stack):
    """Containers as they should be, but for one thing that differs."""

    def __init__(self, service: str = "", **differs: Any) -> None:
        self.ports = {"KAFKA_PORT": 1}
        self.service, self.differs = service, differs

    def inspect(self, service: str) -> dict[str, Any]:
        host = {
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges:true"],
            "Memory": 1 << 30,
            "NanoCpus": 10**9,
            "PidsLimit": 256,
            "ReadonlyRootfs": service in READ_ONLY,
        }
        about = {"User": "10001:10001", "Address": "127.0.0.1"}
        if service == self.service:
            host |= {name: value for name, value in self.differs.items() if name in host}
            about |= {name: value for name, value in self.differs.items() if name in about}
        ports = {} if service == "publisher" else {"1/tcp": [{"HostIp": about["Address"], "HostPort": "1"}]}
        return {
            "HostConfig": host,
            "Config": {"User": about["User"]},
            "NetworkSettings": {"Ports": {**ports, "2/tcp": None}},
        }

    def inside(self, service: str, *words: str, seconds: float = 90.0) -> str:
        mine = self.differs if service == self.service else {}
        if words[0] == "python":
            return str(mine.get("tried", "10001,EROFS,EROFS,EROFS,EROFS,EROFS,\n"))
        if words[1].endswith("cmdline"):
            return str(mine.get("command", "/opt/venv/bin/python\0/opt/venv/bin/streamlearn\0run\0"))
        effective = mine.get("capabilities", "0000000000000000")
        return f"Name:\tpython\nCapEff:\t{effective}\nCapBnd:\t0000000000000000\nNoNewPrivs:\t1\n"


def broken(stack: Stack) -> list[str]:
    return [check.name for check in Checks(stack).confined() if not check.kept]


def test_as_they_should_be() -> None:
    assert broken(Pretended()) == []


@pytest.mark.parametrize(
    ("differs", "name"),
    [
        ({"User": ""}, "worker: confined"),
        ({"User": "root"}, "worker: confined"),
        ({"CapDrop": None}, "worker: confined"),
        ({"SecurityOpt": None}, "worker: confined"),
        ({"Memory": 0}, "worker: confined"),
        ({"PidsLimit": None}, "worker: confined"),
        ({"ReadonlyRootfs": False}, "worker: confined"),
        ({"Address": "0.0.0.0"}, "published ports: on loopback"),
        ({"tried": "0,EROFS,EROFS,EROFS,EROFS,EROFS,"}, "worker: writes nowhere but in its volume and /tmp"),
        ({"tried": "10001,EROFS,,EROFS,EROFS,EROFS,"}, "worker: writes nowhere but in its volume and /tmp"),
        ({"capabilities": "00000000a80425fb"}, "worker: process 1, nothing it may gain"),
        ({"command": "/bin/sh\0-c\0streamlearn run\0"}, "worker: process 1, nothing it may gain"),
    ],
)
def test_what_differs_is_said(differs: dict[str, Any], name: str) -> None:
    assert broken(Pretended("worker", **differs)) == [name]
