"""`streamlearn tell`: a command to a running worker, and its answer."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from streamlearn.broker_commands import UNREACHABLE, USAGE, guarded, split
from streamlearn.clashes import refuse_clashes
from streamlearn.cli import STOP
from streamlearn.commands import KINDS, encode_command
from streamlearn.flags import load_settings
from streamlearn.logs import complain, setup
from streamlearn.settings import KAFKA_SOURCE, SettingsError, commands_topic, load_object, outputs

WAIT_SECONDS = 60.0

Tell = Callable[[Mapping[str, Any], Callable[[str], bytes], float, Callable[[], bool]], dict[str, Any] | None]


def tell(words: Sequence[str]) -> int:
    """Send one command and print its answer. Returns the exit status."""
    given = split(words, {"json"}, {"timeout", "id"})
    timeout, asked = _seconds(given.own), [*given.plain, *([given.own["id"]] if "id" in given.own else [])]
    kind = asked[0] if asked else None
    if kind not in KINDS:
        raise SettingsError(
            f"streamlearn tell {'wants a command' if kind is None else f'knows no {kind!r}'}: "
            f"{', '.join(KINDS[:-1])} or forget ID"
        )
    if len(asked) != 1 + (kind == "forget"):
        raise SettingsError(
            "streamlearn tell forget wants the ID of an event, and nothing else"
            if kind == "forget"
            else f"{kind} takes no argument"
        )
    of = asked[1] if kind == "forget" else None
    settings = load_settings(given.settings, os.environ)
    setup(settings.log.level, settings.log.format)
    if settings.source.bootstrap_servers is None:
        raise SettingsError("tell needs the broker: give --source.bootstrap_servers HOST:PORT")
    refuse_clashes(settings)
    options = settings.source.model_dump()
    options |= {"commands": commands_topic(settings), "answers": outputs(settings).answers}
    send: Tell = load_object(f"{KAFKA_SOURCE.partition(':')[0]}.tell:tell")

    def work() -> int:
        answer = send(
            options,
            lambda request: encode_command(kind, request, of),
            timeout,
            lambda: STOP.asked is not None,
        )
        return _said(answer, kind, settings.source.group_id, timeout, "json" in given.own)

    return guarded("tell", work)


def _seconds(own: Mapping[str, str]) -> float:
    """How long to wait for the answer. Raises SettingsError."""
    text = own.get("timeout", str(WAIT_SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise SettingsError(f"--timeout {text!r} is not a number of seconds")
    return seconds


def _said(answer: Mapping[str, Any] | None, kind: str, group: str, timeout: float, as_json: bool) -> int:
    if answer is None:
        complain(
            f"no answer within {timeout:g} s: is a worker of group {group} running? The command stands in "
            "the topic, and is carried out by the next one of the group, unless that is its first start, "
            "which skips what was asked for before there was a worker",
            before="",
        )
        return UNREACHABLE
    if as_json:
        print(json.dumps(answer))
    elif not answer["done"]:
        complain(f"not done: {answer['problem']}", before="")
    else:
        more = {k: v for k, v in answer.items() if k not in ("request", "command", "done")}
        print(f"{kind}: done")
        for name, value in more.items():
            print(f"  {name:<12} {value}")
    return 0 if answer["done"] else USAGE
