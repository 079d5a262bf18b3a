"""Commands run, with their output kept; and waiting for a condition."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
LINES = 30


class Failed(Exception):
    """A command that failed or took too long, a condition that didn't come true: what, and what it said."""


class NoEngine(Exception):
    """This machine can't run it, and what is missing. Nothing is wrong with what was to be checked."""


def call(*words: str, seconds: float = 60.0, env: Mapping[str, str] | None = None) -> str:
    """Standard output of a command that must succeed within `seconds`, run in the checkout. Raises Failed."""
    done = attempt(*words, seconds=seconds, env=env)
    if done.returncode:
        said = "\n".join(f"{done.stdout}\n{done.stderr}".strip().splitlines()[-LINES:])
        raise Failed(f"`{' '.join(words)[:300]}` ended with status {done.returncode}:\n{said}")
    return done.stdout


def attempt(
    *words: str, seconds: float = 60.0, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A command that may fail. Raises Failed if there is no such program or it takes too long."""
    try:
        return subprocess.run(
            words,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"`{' '.join(words)[:300]}` took more than {seconds:g} s") from None
    except FileNotFoundError:
        raise Failed(f"there is no program {words[0]}") from None


def until(what: str, seconds: float, look: Callable[[], T | None], pause: float = 0.3) -> T:
    """What `look` returns once that isn't None or False.

    Raises Failed, with its last error, after `seconds`.
    """
    deadline, problem = time.monotonic() + seconds, ""
    while True:
        try:
            found = look()
            if found is not None and found is not False:
                return found
        except (Failed, OSError, ValueError, LookupError) as error:
            problem = f": {error}"
        if time.monotonic() > deadline:
            raise Failed(f"not within {seconds:g} s: {what}{problem}")
        time.sleep(pause)
