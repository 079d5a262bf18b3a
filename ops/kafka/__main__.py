"""The command line: see --help."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ops.kafka import tools
from ops.kafka.broker import Broker, prepared
from ops.kafka.jars import TOOLS, BrokerError, fetch

PORT = 9092
COMMANDS = {
    "start": "start it (made at the first time) and return once it serves; it goes on after this command",
    "stop": "stop it orderly",
    "kill": "end it at once (SIGKILL); its data stays",
    "freeze": "suspend it (SIGSTOP)",
    "thaw": "let it go on (SIGCONT)",
    "status": "say whether it serves; exit status 3 if not",
    "wipe": "kill it and remove its folder",
}


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m ops.kafka", description="A real Apache Kafka on 127.0.0.1.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--folder", type=Path, required=True, help="where all of the broker lies")
        if name == "start":
            command.add_argument("--port", type=int, default=PORT, help="default: %(default)s; 0: any free")
            command.add_argument("--secure", action="store_true", help="also listen with TLS and a password")
            command.add_argument(
                "--set", action="append", default=[], metavar="NAME=VALUE", help="of server.properties"
            )
    commands.add_parser(
        "fetch", help="fetch the jars of Kafka and of its tools, if that wasn't done, and make ready"
    )
    tool = commands.add_parser("tool", help=f"Kafka's own tools: {', '.join(tools.TOOLS)}")
    tool.add_argument("name")
    tool.add_argument("words", nargs=argparse.REMAINDER)
    return top


def _settings(words: Sequence[str]) -> dict[str, str]:
    found = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not name or not sign:
            raise BrokerError(f"--set {word}: NAME=VALUE is wanted")
        found[name] = value
    return found


def _status(broker: Broker) -> int:
    if broker.frozen:
        print(f"frozen (pid {broker.pid})")
    elif broker.serves():
        print(f"serves at {broker.address} (pid {broker.pid})")
        if broker.secure:
            print(f"and at {broker.secure_address}: SASL_SSL, SCRAM-SHA-512, user {broker.username}")
            print(f"  password in {broker.password_file}, authority in {broker.ca_file}")
        return 0
    elif broker.pid is not None:
        print(f"runs (pid {broker.pid}) and doesn't answer: see {broker.log}")
    else:
        print("stopped" if broker.made else "not made yet")
    return 3


def run(options: argparse.Namespace) -> int:
    """The exit status. Raises BrokerError."""
    if options.command == "tool":
        tools.run(options.name, options.words)
    if options.command == "fetch":
        prepared()
        fetch(TOOLS)
        return 0
    if options.command == "start":
        broker = Broker(options.folder, options.port, options.secure, _settings(options.set))
        broker.start(tether=False)
        return _status(broker)
    broker = Broker(options.folder)
    if options.command == "status":
        return _status(broker)
    getattr(broker, options.command)()
    return 0


def main(words: Sequence[str] | None = None) -> int:
    try:
        return run(parser().parse_args(words))
    except BrokerError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
