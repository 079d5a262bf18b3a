"""What `streamlearn topics` and `streamlearn publish` share: their words, and errors to exit statuses."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from streamlearn.events import ConnectorError, Fenced, StateMismatch, UsageError
from streamlearn.settings import Settings, SettingsError

UNEXPECTED, USAGE, REFUSED, UNREACHABLE, NOT_WRITABLE, FENCED = 1, 2, 3, 4, 6, 7


class Words(NamedTuple):
    """What was typed: plain words, the command's own switches, and settings with their values."""

    plain: list[str]
    own: dict[str, str]
    settings: list[str]


def split(words: Sequence[str], switches: Collection[str], values: Collection[str]) -> Words:
    """Take the command's own words out. `switches` stand alone, `values` want one; both without dashes.
    Behind `--` all words are plain, whatever they begin with.

    Raises SettingsError.
    """
    found, rest = Words([], {}, []), list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            found.plain.extend(rest)
            break
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            found.plain.append(word)
        elif name in switches:
            if equals:
                raise SettingsError(f"--{name} takes no value")
            found.own[name] = ""
        elif name in values:
            if not equals:
                if not rest or rest[0].startswith("--"):
                    raise SettingsError(f"flag --{name} needs a value (one that begins with --: --{name}=…)")
                value = rest.pop(0)
            found.own[name] = value
        else:
            found.settings.append(word)
            if not equals and rest and not rest[0].startswith("--"):
                found.settings.append(rest.pop(0))
    return found


def number(own: dict[str, str], name: str, least: int) -> int | None:
    """The integer that a flag gives; None without it. Raises SettingsError."""
    if name not in own:
        return None
    text = own[name]
    if not (text.isascii() and text.isdigit() and int(text) >= least):
        raise SettingsError(f"--{name} is {text!r}: it must be a whole number of at least {least}")
    return int(text)


def client_options(settings: Settings, servers: str | None = None) -> dict[str, Any]:
    """How brokers are reached, for the functions of `connectors.kafka`; `servers`: others than the source's.

    Raises SettingsError where none are named.
    """
    source = settings.source
    found = servers or source.bootstrap_servers
    if found is None:
        raise SettingsError("no broker: give --source.bootstrap_servers HOST:PORT (and --source.topic NAME)")
    return {
        "bootstrap_servers": found,
        "security": source.security.model_dump(),
        "deadline": source.deadline,
        "patience": source.patience,
    }


def guarded(name: str, work: Callable[[], int]) -> int:
    """Do `work` of command `name`; every error that has a status becomes one clear line and that status.

    As `streamlearn.run.guarded`, for commands that load no torch.
    """
    log = logging.getLogger(f"streamlearn.{name}")
    try:
        return work()
    except (SettingsError, UsageError) as error:
        status, text = USAGE, str(error)
    except StateMismatch as error:
        status, text = REFUSED, str(error)
    except Fenced as error:
        status, text = FENCED, str(error)
    except ConnectorError as error:
        status, text = UNREACHABLE, str(error)
    except BrokenPipeError:
        raise  # whoever read our standard output is gone: `main` knows what to do
    except OSError as error:
        status, text = NOT_WRITABLE, f"{error.filename or 'writing'}: {error.strerror or error}"
    except Exception:
        log.exception("unexpected error (please report it)")
        return UNEXPECTED
    log.error("%s", text)
    return status


def state_folder(*names: str) -> str:
    """Where programs keep their state by the XDG rules: ~/.local/state/streamlearn/NAMES."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(base, "streamlearn", *names)
