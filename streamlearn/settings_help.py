"""The settings as text for --help: every one with its type, meaning and default."""

from __future__ import annotations

import textwrap
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from streamlearn.options import OPTIONS
from streamlearn.settings import Settings, leaves


def settings_help() -> str:
    """Every setting with its type or choices, what it means, its default, by section; for --help."""
    lines = [
        "Settings: defaults < file (--config FILE, TOML, or STREAMLEARN_CONFIG) < environment < flags.",
        "  --section.name VALUE is [section] name = VALUE in the file and STREAMLEARN_SECTION__NAME=VALUE.",
        "  STREAMLEARN_SECTION__NAME_FILE=PATH reads the value from a file. null unsets an optional setting.",
        "  Dashes in flags are as good as underscores. Lists: comma separated or JSON.",
        "  Tables: JSON, or a value each (--source.options.name VALUE).",
        "  * shapes the state: must stay as it was when the checkpoint was written.",
    ]
    section = ""
    for leaf in sorted(leaves(), key=lambda leaf: len(leaf.path) > 1):
        path = leaf.path
        if len(path) > 1 and path[0] != section:
            section = path[0]
            kind: Any = Settings.model_fields[section].annotation
            about = (kind.__doc__ or "").strip().partition("\n")[0].replace("`", "")
            lines += ["", f"{section}{': ' if about else ''}{about}"]
        elif len(path) == 1 and not section:
            section = " "
            lines += ["", "general"]
        lines.append(f"  --{leaf.key} {_type_name(leaf.field)}{' *' if leaf.shapes_state else ''}")
        text = f"{leaf.field.description or ''}{_default(leaf.field)}"
        lines += textwrap.wrap(text, 100, initial_indent=" " * 8, subsequent_indent=" " * 8)
        if leaf.key == "source.options":
            lines += _options()
        if leaf.key == "method.modifiers":
            lines.append("  --method.NAME.PARAMETER VALUE")
            lines.append("        parameter of a method or modifier (`streamlearn methods` lists them)")
    return "\n".join(lines)


def _options() -> list[str]:
    """What our own sources take in `source.options`."""
    lines = []
    for kind in OPTIONS.values():
        for name, field in kind.model_fields.items():
            text = f"{(kind.__doc__ or '').strip()}: {field.description or ''}{_default(field)}"
            lines.append(f"  --source.options.{name} {_type_name(field)}")
            lines += textwrap.wrap(text, 100, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return lines


_TYPE_NAMES = {int: "INTEGER", float: "NUMBER", str: "TEXT", bool: "true|false", dict: "TABLE"}


def _type_name(field: FieldInfo) -> str:
    def name(annotation: Any) -> str:
        origin, args = get_origin(annotation), get_args(annotation)
        if origin is Literal:
            return "|".join(str(choice) for choice in args)
        if origin in (Union, UnionType):
            return "|".join(name(option) for option in args if option is not NoneType)
        if origin is list:
            return f"{name(args[0])},..."
        return _TYPE_NAMES.get(origin or annotation, "VALUE")

    return name(field.annotation)


def _default(field: FieldInfo) -> str:
    """ " (default: 2000; at least 1)", or nothing where the description says it already."""
    value = field.get_default(call_default_factory=True, validated_data={})
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    parts = []
    if value not in (None, [], {}):
        parts.append(f"default: {str(value).lower() if isinstance(value, bool) else value}")
    elif "unset:" not in (field.description or ""):
        parts.append("default: unset" if value is None else "default: none")
    for mark in field.metadata:
        parts += [
            f"{text} {bound}"
            for name, text in words.items()
            if (bound := getattr(mark, name, None)) is not None
        ]
    return f" ({'; '.join(parts)})" if parts else ""
