"""A table of settings as data: what every value in one must keep to, whichever table it is."""

from __future__ import annotations

from typing import Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic_core import PydanticKnownError

LARGEST = 2**53
"""The largest integer of a setting that names no bound of its own: up to here floats count exactly.

What is computed from a larger one would overflow somewhere, far from the setting that is to blame.
"""


class Section(BaseModel):
    """A table of settings: unknown names are refused, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

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


def filled(instead: str) -> AfterValidator:
    """Refuses an empty text, an empty list, and one with an empty text in it; `instead` says what to give."""

    def check(value: Any) -> Any:
        if value in ("", []) or (isinstance(value, list) and "" in value):
            raise ValueError(f"{'is' if value in ('', []) else 'holds a name that is'} empty: {instead}")
        return value

    return AfterValidator(check)
