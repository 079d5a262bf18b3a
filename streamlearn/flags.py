"""Fills the settings from a file, the environment and flags, later over earlier.

Each layer gives (key, value, where it was said). All of them are collected, checked against the declared
settings, merged and validated once, so that one start reports every mistake at once.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path as FilePath
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from streamlearn.section import wrong
from streamlearn.settings import HIDDEN, Leaf, Path, Settings, SettingsError, leaves

PREFIX = "STREAMLEARN_"
NOT_SETTINGS = (
    "STREAMLEARN_CONFIG",  # names the file
    "STREAMLEARN_TEST_*",  # for tests
    "STREAMLEARN_VENV",  # for ops/setup.sh
    "STREAMLEARN_TORCH_INDEX",
    "STREAMLEARN_SERVICE_*",  # Kubernetes sets these in every pod beside a service called streamlearn
    "STREAMLEARN_PORT",
    "STREAMLEARN_PORT_*",
)
"""Environment variables of ours that are no settings (patterns)."""

MISSING: Any = object()


@dataclass(frozen=True)
class Said:
    """One value as a layer gave it: `text` values are strings to be parsed by the setting's type."""

    path: Path
    value: Any
    where: str
    text: bool = True
    hidden: bool = False

    @property
    def key(self) -> str:
        return ".".join(self.path)


class Layers(NamedTuple):
    """What was said, earlier layers first, the file's name, and what could not be read."""

    said: list[Said]
    config: str | None
    problems: list[str]


def load_settings(
    flags: Sequence[str], env: Mapping[str, str], base: Mapping[str, Any] | None = None
) -> Settings:
    """Settings from `base` (nested defaults of a command) < file < environment < flags.

    The file is named by `--config FILE` or STREAMLEARN_CONFIG. Raises SettingsError with every problem.
    """
    layers = read_layers(flags, env, base)
    return settle(layers.said, layers.problems)


def read_layers(
    flags: Sequence[str], env: Mapping[str, str], base: Mapping[str, Any] | None = None
) -> Layers:
    """All layers as they were said, unchecked: for a command whose file holds more than the settings."""
    problems: list[str] = []
    from_flags, config = _flags(flags, problems)
    said = list(said_in(base or {}, "default of the command"))
    if config is None and env.get("STREAMLEARN_CONFIG"):
        config = env["STREAMLEARN_CONFIG"]
        said += _file(config, f"file {config} named by STREAMLEARN_CONFIG", problems)
    elif config is not None:
        said += _file(config, f"file {config}", problems)
    said += _environment(env, problems)
    said += from_flags
    return Layers(said, config, problems)


def log_format(flags: Sequence[str], env: Mapping[str, str]) -> Any:
    """What was said of log.format, as far as it can be read: for errors of settings that can't be used."""
    said = read_layers(flags, env).said
    return next((item.value for item in reversed(said) if item.path == ("log", "format")), "human")


def settle(said: Iterable[Said], problems: Sequence[str] = ()) -> Settings:
    """What was said, later over earlier, checked and validated. Raises SettingsError with every problem."""
    problems = list(problems)
    merged: dict[str, Any] = {}
    origins: dict[Path, Said] = {}
    for item in said:
        try:
            value = _checked(item)
        except SettingsError as error:
            problems += error.problems
        else:
            _put(merged, origins, item, value)
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        problems += _explain(error, origins)
    else:
        problems += _unknown_tables(settings, origins)
    if problems:
        raise SettingsError(*dict.fromkeys(problems))
    return settings


# ---- the three layers


def _flags(flags: Sequence[str], problems: list[str]) -> tuple[list[Said], str | None]:
    said: list[Said] = []
    config: str | None = None
    rest = list(flags)
    while rest:
        flag = rest.pop(0)
        name, equals, value = flag.partition("=")
        if not name.startswith("--") or name == "--":
            problems.append(f"unexpected argument {flag!r}: settings are given as --section.name value")
            continue
        if not equals:
            if not rest or rest[0].startswith("--"):
                item = Said(_path_of_flag(name), "", f"flag {name}")
                problems.append(_unknown(item) if _place(item.path) is None else f"flag {name} needs a value")
                continue
            value = rest.pop(0)
        if name == "--config":
            config = value
        else:
            said.append(Said(_path_of_flag(name), value, f"flag {name}"))
    return said, config


def _path_of_flag(name: str) -> Path:
    return tuple(name.removeprefix("--").replace("-", "_").split("."))


def _environment(env: Mapping[str, str], problems: list[str]) -> Iterable[Said]:
    """Variables in order of their names. An empty one is as good as unset (compose files write them)."""
    for name in sorted(env):
        if not name.startswith(PREFIX) or not env[name] or any(fnmatchcase(name, p) for p in NOT_SETTINGS):
            continue
        path = tuple(name.removeprefix(PREFIX).lower().split("__"))
        item = Said(path, env[name], f"variable {name}")
        stem = path[-1].removesuffix("_file")
        if stem == path[-1] or not stem or path in LEAVES:
            yield item
            continue
        # …_FILE: the value, perhaps a secret, is in that file; it is never shown.
        plain = name.removesuffix("_FILE")
        target = (*path[:-1], stem)
        if env.get(plain):
            problems.append(f"{'.'.join(target)}: variables {plain} and {name} are both set: keep one")
        elif _place(target) is None:
            yield item
        else:
            try:
                text = FilePath(env[name]).read_text("utf-8")
            except (OSError, ValueError) as error:
                problems.append(
                    f"{'.'.join(target)} (variable {name}): can't read {env[name]}: {_reason(error)}"
                )
            else:
                text = text.removesuffix("\n").removesuffix("\r")
                yield Said(target, text, f"variable {name}", hidden=True)


def _file(name: str, where: str, problems: list[str]) -> list[Said]:
    try:
        table = tomllib.loads(FilePath(name).read_text("utf-8-sig"))  # editors on Windows write a mark first
    except tomllib.TOMLDecodeError as error:
        problems.append(f"{where}: not valid TOML: {error}")
    except (OSError, ValueError) as error:
        problems.append(f"{where}: can't be read: {_reason(error)}")
    else:
        return list(said_in(table, where))
    return []


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8 text"
    return (isinstance(error, OSError) and error.strerror) or str(error)


def said_in(table: Mapping[str, Any], where: str, above: Path = ()) -> Iterable[Said]:
    """The values of nested tables; a setting that is a table itself is one value."""
    for name, value in table.items():
        path = (*above, name)
        if isinstance(value, Mapping) and path not in LEAVES:
            known = path in SECTIONS or _place(path) is not None
            if path[0] == "method" and len(path) > 1:
                # An empty table says nothing, but its name may be mistyped, or be that of a parameter.
                known = len(path) == 2 and path[1] in _tables_of_methods()
            if not value and not known:
                yield Said(path, value, where, text=False)
            yield from said_in(value, where, path)
        else:
            yield Said(path, value, where, text=False)


# ---- what there is

LEAVES: dict[Path, Leaf] = {leaf.path: leaf for leaf in leaves()}
SECTIONS = {path[:depth] for path in LEAVES for depth in range(1, len(path))}


def _place(path: Path) -> FieldInfo | Literal["free"] | None:
    """The field of a setting, "free" for a place in a free table, None for what there isn't."""
    if path in LEAVES:
        return LEAVES[path].field
    if any(not part for part in path):
        return None
    if path[0] == "method" and len(path) > 2 and path[:2] not in LEAVES:
        return "free"
    tables = (LEAVES.get(path[:depth]) for depth in range(1, len(path)))
    return "free" if any(leaf and dict in _kinds(leaf.field) for leaf in tables) else None


def _kinds(field: FieldInfo) -> set[Any]:
    """The types that a field takes, without their arguments: {str, list} of `str | list[str]`."""
    annotation: Any = field.annotation
    options = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return {get_origin(option) or option for option in options}


def _unknown(item: Said) -> str:
    if (quoted := _quoted(item)) is not None:
        return quoted
    known = [".".join(path) for path in LEAVES]
    if item.path in SECTIONS:
        names = ", ".join(key for key in known if key.startswith(f"{item.key}."))
        return f"{item.key} ({item.where}) is a section, not a setting; it holds {names}"
    if item.path[0] == "method" and len(item.path) == 2 and item.path not in LEAVES:
        tables = _tables_of_methods()
        if item.path[1] in tables:
            return f"{item.key} ({item.where}) is a table of parameters: give {item.key}.NAME a value"
        known += [f"method.{table}" for table in tables]
    near = get_close_matches(item.key, known, n=1, cutoff=0.6)
    # A right name in the wrong section, or without one.
    near = near or [key for key in known if key.rpartition(".")[2] == item.path[-1]][:1]
    advice = f"did you mean {near[0]}?" if near else "`streamlearn --help` lists all settings"
    if near and item.where.startswith("variable "):
        advice = f"did you mean {near[0]} ({PREFIX}{near[0].upper().replace('.', '__')})?"
    return f"unknown setting {item.key} ({item.where}): {advice}"


def _quoted(item: Said) -> str | None:
    """What to write for a setting that a file names in quotes, where dots part no tables; None for others."""
    path = tuple(item.key.split("."))
    if path == item.path or _place(path) is None:
        return None
    odd = next(name for name in item.path if "." in name)
    shown = json.dumps(item.value) if isinstance(item.value, (bool, int, float, str)) else "…"
    shown = HIDDEN if _is_hidden(Said(path, None, item.where)) else shown
    return (
        f'unknown setting "{odd}" ({item.where}): in quotes the dots belong to the name; in TOML write the '
        f"line [{'.'.join(path[:-1])}] and below it {path[-1]} = {shown}"
    )


@cache
def _tables_of_methods() -> list[str]:
    """Names of the methods and modifiers. Of their files: to import them is to load torch."""
    here = FilePath(__file__).parent
    return sorted(p.stem for folder in ("methods", "modifiers") for p in (here / folder).glob("[!_]*.py"))


def _unknown_tables(settings: Settings, origins: Mapping[Path, Said]) -> list[str]:
    """Tables of `method` that belong to no method or modifier, chosen or in the package."""
    known = {*_tables_of_methods(), settings.method.name, *settings.method.modifiers}
    problems = []
    for path, item in origins.items():
        if path[0] == "method" and path not in LEAVES and path[1] not in known:
            near = get_close_matches(path[1], sorted(known), n=1)
            advice = f"did you mean method.{near[0]}?" if near else "`streamlearn methods` lists them"
            problems.append(f"unknown method or modifier {path[1]} in {item.key} ({item.where}): {advice}")
    return problems


# ---- values


def _checked(item: Said) -> Any:
    """The value to validate. Raises SettingsError if there is no such setting or its text can't be parsed."""
    place = _place(item.path)
    value = item.value
    table = item.path[0] == "method" and len(item.path) == 2 and place is None
    if table and item.text and isinstance(value, str) and value.lstrip().startswith("{"):
        return _json(item, dict)
    if place is None:
        raise SettingsError(_unknown(item))
    if not item.text:
        return value
    if place == "free":
        return _free(value)
    kinds = _kinds(place)
    if NoneType in kinds and value == "null":
        return None
    if dict in kinds:
        return _json(item, dict)
    if list not in kinds:
        return value
    if value.lstrip().startswith("["):
        return _json(item, list)
    if str in kinds and "," not in value:
        return value
    return [part.strip() for part in value.split(",")] if value.strip() else []


def _json(item: Said, kind: type) -> Any:
    try:
        value = json.loads(item.value)
    except ValueError:
        value = None
    if not isinstance(value, kind):
        shown = HIDDEN if _is_hidden(item) else repr(item.value)
        noun = 'table, like {"name": 1}' if kind is dict else "list, like [1, 2]"
        raise SettingsError(f"{item.key} ({item.where}): {shown} is not a JSON {noun}")
    return value


def _free(text: str) -> Any:
    """In a free table the type isn't known here: JSON if it is (a number, true, a list, ...), else text."""

    def no_constant(name: str) -> Any:
        raise ValueError(name)

    try:
        return json.loads(text, parse_constant=no_constant)
    except ValueError:
        return text


def _put(merged: dict[str, Any], origins: dict[Path, Said], item: Said, value: Any) -> None:
    """Sets item's place in the nested `merged`; a table given as a whole replaces what was said in it."""
    for path in [path for path in origins if path[: len(item.path)] == item.path]:
        del origins[path]
    table = merged
    for name in item.path[:-1]:
        inner = table.get(name)
        # Copied: tables of the caller or of the file stay as they are.
        table[name] = dict(inner) if isinstance(inner, dict) else {}
        table = table[name]
    table[item.path[-1]] = value
    origins[item.path] = item


# ---- what is wrong with a value


def _is_hidden(item: Said | None) -> bool:
    if item is None:
        return False
    return item.hidden or any(
        LEAVES[p].secret for n in range(len(item.path)) if (p := item.path[: n + 1]) in LEAVES
    )


def _explain(error: ValidationError, origins: Mapping[Path, Said]) -> list[str]:
    """One sentence for each wrong setting: its key, where it was said, the value, what is wrong with it."""
    found: dict[str, list[str]] = {}
    for detail in error.errors(include_url=False):
        loc = tuple(str(part) for part in detail["loc"])
        path = next((loc[:n] for n in range(len(loc), 0, -1) if loc[:n] in LEAVES or loc[:n] in origins), loc)
        item = next((origins[path[:n]] for n in range(len(path), 0, -1) if path[:n] in origins), None)
        text = wrong(detail, HIDDEN if _is_hidden(item) else repr(detail["input"]))
        head = ".".join(path) + (f" ({item.where})" if item else "")
        found.setdefault(head, []).append(text)
    return [f"{head}: {' or '.join(dict.fromkeys(texts))}" for head, texts in found.items()]
