"""Waiting for brokers: how long, and whether what is waited for is still there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from aiokafka.errors import KafkaConnectionError, OffsetOutOfRangeError
from kafka import errors

from connectors.kafka.errors import explain
from connectors.kafka.options import Options
from connectors.kafka.refusals import refuse_anew
from connectors.kafka.topics import Topic, describe_once, refuse_denied
from streamlearn.events import ConnectorError, StateMismatch, Unreachable

RETRY_SECONDS = 0.5
TRY_SECONDS = 5.0
LOOK_AGAIN_SECONDS = 1.0


async def attempt(options: Options, start: Callable[[], Awaitable[Any]]) -> None:
    """Try again while nobody answers, for at most the deadline of a start. Raises Unreachable and others."""
    deadline = time.monotonic() + options.deadline
    while True:
        try:
            await asyncio.wait_for(start(), max(0.1, deadline - time.monotonic()))
            return
        except (KafkaConnectionError, TimeoutError) as error:
            if time.monotonic() + RETRY_SECONDS > deadline:
                raise Unreachable(
                    f"{options.where}: no broker answers within {options.deadline:g} s: is it running, and "
                    "is source.bootstrap_servers right?"
                ) from error
            await asyncio.sleep(RETRY_SECONDS)
        except Exception as error:
            raise explain(error, options.where) from error


async def explained(error: Exception, options: Options) -> ConnectorError:
    """See `explain`; and an offset that isn't there may be one of a topic that was made anew."""
    if isinstance(error, OffsetOutOfRangeError):
        try:
            await refuse_other_ids(options)
        except StateMismatch as anew:
            return anew
    return explain(error, options.where)


async def refuse_gone(options: Options) -> None:
    """Raises Unreachable if a topic that was there is there no more, or is not shown to us any more;
    StateMismatch if it was made anew.

    Nothing while nobody answers. The client waits for one for ever: it might come yet.
    """
    missing = list(options.limits)
    for again in (False, True):
        # A broker that has just started may not know everything yet: it is asked twice.
        await asyncio.sleep(LOOK_AGAIN_SECONDS if again else 0)
        try:
            found = await asyncio.to_thread(describe_once, options.connection, missing, TRY_SECONDS)
        except errors.KafkaError:
            return
        refuse_denied(options, found.denied)
        _compare(options, found.there)
        missing = [name for name in missing if name not in found.there]
        if not missing:
            return
    raise Unreachable(
        f"{options.where}: topic {', '.join(missing)} is gone: was it deleted? The state is kept"
    )


async def refuse_other_ids(options: Options) -> None:
    """Raises StateMismatch if a topic that is read was made anew; nothing while it isn't there.

    To the client it is the same topic: it would go on at the old one's offset, amid other records.
    """
    with suppress(errors.KafkaError):
        asked = asyncio.to_thread(describe_once, options.connection, list(options.ids), TRY_SECONDS)
        _compare(options, (await asked).there)


def _compare(options: Options, there: Mapping[str, Topic]) -> None:
    for name, known in options.ids.items():
        if name in there:
            refuse_anew(name, known, there[name].id, name == options.topic)
