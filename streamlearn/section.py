"""A table of settings as data: what every value in one must keep to, whichever table it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic_core import PydanticKnownError

LARGEST = 2**53
"""The largest integer of a setting that names no bound of its own: up to here floats count exactly.

What is computed from a larger one would overflow somewhere, far from the setting that is to blame.
"""
LONGEST = 1e9
"""The longest time that a setting may name, seconds (30 years): clocks of threads overflow at 300 years."""


class Section(BaseModel):
    """A table of settings: unknown names are refused, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_other_kind(cls, value: Any, info: ValidationInfo) -> Any:
        """In a file true is no integer and 1 no truth value; text of a flag is read by the setting's type."""
        kinds = _kinds(cls.model_fields[info.field_name or ""].annotation)
        elements = kinds.get(list, {})
        if isinstance(value, list) and any(_misread(each, elements) for each in value):
            raise ValueError(f"{value} holds true or false in place of a number")
        if _misread(value, kinds):
            raise PydanticKnownError(
                "int_type" if int in kinds else "float_type" if float in kinds else "bool_type"
            )
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _countable(cls, value: Any, info: ValidationInfo) -> Any:
        metadata = cls.model_fields[info.field_name or ""].metadata
        if any(getattr(mark, "le", None) is not None for mark in metadata):
            return value
        # Free tables are left alone: a connector may take an account's number of twenty digits.
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and number > LARGEST:
                raise PydanticKnownError("less_than_equal", {"le": LARGEST})
            if isinstance(number, int) and number < -LARGEST:
                raise PydanticKnownError("greater_than_equal", {"ge": -LARGEST})
        return value


_Kinds = dict[Any, Any]
"""The plain types that an annotation takes; of a list those of its elements, of others nothing."""


def _kinds(annotation: Any) -> _Kinds:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return {kind: inner for option in args for kind, inner in _kinds(option).items()}
    if origin is Literal:
        return {type(choice): {} for choice in args}
    if origin is list:
        return {list: _kinds(args[0])}
    return {origin or annotation: {}}


def _misread(value: Any, kinds: _Kinds) -> bool:
    """Would pydantic take a truth value for a number, or a number for a truth value?"""
    if isinstance(value, bool):
        return bool not in kinds and not kinds.keys().isdisjoint((int, float))
    return isinstance(value, int | float) and bool in kinds and kinds.keys().isdisjoint((int, float))


def filled(instead: str) -> AfterValidator:
    """Refuses an empty text, an empty list, and one with an empty text in it; `instead` says what to give."""

    def check(value: Any) -> Any:
        if value in ("", []) or (isinstance(value, list) and "" in value):
            raise ValueError(f"{'is' if value in ('', []) else 'holds a name that is'} empty: {instead}")
        return value

    return AfterValidator(check)


_MESSAGES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "int": lambda context: "is not a valid integer",
    "float": lambda context: "is not a valid number",
    "bool": lambda context: "is neither true nor false",
    "string": lambda context: "is not text",
    "list": lambda context: "is not a list",
    "dict": lambda context: "is not a table",
    "finite": lambda context: "is not a finite number",
    "literal": lambda context: f"is not one of {context.get('expected', '')}",
    "greater_than_equal": lambda context: f"must be at least {context.get('ge')}",
    "greater_than": lambda context: f"must be more than {context.get('gt')}",
    "less_than_equal": lambda context: f"must be at most {context.get('le')}",
    "less_than": lambda context: f"must be less than {context.get('lt')}",
}


def wrong(detail: Mapping[str, Any], shown: str) -> str:
    """What is wrong with a value, of a detail of pydantic's ValidationError; `shown`: the value as text."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "value_error":
        return str(context.get("error"))
    message = _MESSAGES.get(kind) or _MESSAGES.get(kind.partition("_")[0])
    return f"{shown} {message(context)}" if message else f"{shown}: {detail['msg']}"
