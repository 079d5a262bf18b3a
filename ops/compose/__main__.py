"""The command line: see --help."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence

from ops.compose import images
from ops.compose.checks import Checks
from ops.compose.engine import engine
from ops.compose.images import MOUNTED, WHOLE, Ours
from ops.compose.shell import Failed, NoEngine
from ops.compose.stack import Stack
from ops.harness.compare import Check
from ops.kafka.jars import BrokerError

KEPT, BROKEN, NO_ENGINE = 0, 1, 3
GRAFANA = "not run here, no package registry has it; tests/test_compose.py looks at its files"
RATE = "12"
"""Events a second of the demo's publisher: it is at work for most of the checks."""
SERVICES = ("kafka", "topics", "worker", "publisher", "prometheus", "standby")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m ops.compose", description="docker-compose.yml, brought up with stand-in images."
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    check = commands.add_parser(
        "check",
        help="make the images, bring everything up, break it, check it from outside",
        description="Exit status 0: all kept; 1: not; 3: this machine can't run it, or can't make the "
        "stand-in images within --minutes (and why).",
    )
    check.add_argument(
        "--quick",
        action="store_true",
        help="this Python's torch is mounted into the containers instead of laid into an image; no standby",
    )
    check.add_argument("--keep", action="store_true", help="leave it running at the end")
    check.add_argument("--clean", action="store_true", help="remove the images at the end")
    check.add_argument(
        "--minutes", type=float, default=40, help="give up after so long; default: %(default)g"
    )
    check.add_argument("--project", default="streamlearn-check", help="default: %(default)s")
    commands.add_parser("images", help="make the stand-in images, and ours on them")
    commands.add_parser("clean", help="remove all these images")
    return top


class Ended(BaseException):
    """By --minutes or a signal. Not an Exception: whoever waits and tries again must not take it for one."""


class Clock:
    """Says things with the seconds since the start."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.start:6.1f} s  {text}", flush=True)

    def show(self, check: Check) -> bool:
        self.say(f"{'kept  ' if check.kept else 'BROKEN'}  {check.name}: {check.detail}")
        return check.kept


def make(ours: Ours, stack: Stack, clock: Clock) -> None:
    """All images. Raises Failed, NoEngine."""
    try:
        images.make(ours, clock.say)
    except Ended as error:
        raise NoEngine(f"the stand-in images are not made: {error}") from None
    clock.say(f"{ours.image}: ops/Dockerfile, by the compose file (the first time its packages are fetched)")
    stack.build()
    for image in filter(images.there, images.ALL):
        clock.say(f"  {image}: {images.size(image) / 1e6:.0f} MB")
    for megabytes, command in images.layers(ours.image):
        clock.say(f"    {megabytes:8.1f} MB  {command[:80]}")


def check(options: argparse.Namespace, clock: Clock) -> int:
    """The exit status. Raises NoEngine."""
    ours = MOUNTED if options.quick else WHOLE
    stack = Stack(options.project, ours, {"DEMO_RATE": RATE})
    broken = 0
    try:
        make(ours, stack, clock)
        clock.say(f"grafana: {GRAFANA}")
        started = time.monotonic()
        stack.up()
        stack.healthy("kafka", "worker", "prometheus")
        clock.show(Check("up, from nothing to healthy", True, f"{time.monotonic() - started:.1f} s"))
        checks = Checks(stack)
        for each in checks.quick() if options.quick else checks.all():
            broken += not clock.show(each)
    except (Failed, BrokerError, Ended) as error:
        broken += 1
        clock.say(f"BROKEN  {error}")
    finally:
        if broken:
            tell(stack, clock)
        if not options.keep:
            stack.down(volumes=True, files=stack.standby)
        if options.clean:
            images.remove()
    clock.say(f"{broken} broken" if broken else "all kept")
    return BROKEN if broken else KEPT


def tell(stack: Stack, clock: Clock) -> None:
    """What every container said last."""
    for service in SERVICES:
        try:
            clock.say(f"--- {service}\n{stack.log(service)}")
        except Failed as error:
            clock.say(f"--- {service}: {error}")


def run(options: argparse.Namespace) -> int:
    clock = Clock()
    with engine():
        if options.command == "clean":
            images.remove()
        elif options.command == "images":
            make(WHOLE, Stack("streamlearn-check", WHOLE), clock)
        else:
            return check(options, clock)
    return KEPT


def _end(number: int, frame: object) -> None:
    raise Ended("it took longer than --minutes" if number == signal.SIGALRM else "told to stop")


def main(words: Sequence[str] | None = None) -> int:
    options = parser().parse_args(words)
    signal.signal(signal.SIGALRM, _end)
    signal.signal(signal.SIGTERM, _end)
    signal.alarm(int(60 * getattr(options, "minutes", 60.0)))
    try:
        return run(options)
    except NoEngine as error:
        print(f"not run: {error}", file=sys.stderr)
        return NO_ENGINE
    except (Failed, BrokerError, Ended) as error:
        print(error, file=sys.stderr)
        return BROKEN
    finally:
        signal.alarm(0)


if __name__ == "__main__":
    sys.exit(main())
