"""What our own connectors take in `source.options`: data for the check of what is given, and for --help.

A connector of a user's own takes whatever it likes; of ours an option that isn't here is read by nobody.
This module loads quickly: it imports neither torch nor numpy.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import Field, ValidationError

from streamlearn.section import Section, wrong

ORDER = (
    "order of a data set's examples. as_is: the data set's own. independent: all shuffled. "
    "class_incremental: one group of classes after another, the examples of a group shuffled. blurry: the "
    "same, but a share of each group (source.options.blur) comes in the time of other groups. recurring: "
    "each group is cut into parts (source.options.repeats); the first part of every group, then every second "
    "one, and so on. as_is and independent know no groups; unset: as_is for electricity, class_incremental "
    "for the others"
)
"""What `source.order` means."""


class FileOptions(Section):
    """files"""

    fd: int = Field(0, ge=0, le=2**31 - 1, description="the descriptor that source.path = - reads")
    max_npz_bytes: int = Field(8 << 30, ge=1, description="what an NPZ file may hold, uncompressed")


class DatasetOptions(Section):
    """data sets"""

    classes: int | None = Field(
        None, ge=1, description="only the first so many classes of the order of classes; unset: all"
    )
    shuffle_classes: bool = Field(
        True, description="classes come in an order drawn from seed; false: in the data set's own"
    )
    per_class: int | None = Field(
        None, ge=1, description="events of a class at most, its first; unset: all there are"
    )
    limit: int | None = Field(None, ge=1, description="events of the stream at most; unset: all there are")
    blur: float = Field(
        0.1,
        ge=0,
        le=1,
        description="with source.order = blurry, share of a group's events that come in the time of others",
    )
    repeats: int = Field(
        3, ge=1, le=100_000, description="with source.order = recurring, parts into which each group is cut"
    )
    validation: int | None = Field(
        None,
        ge=1,
        description="so many last training examples of each class are set aside: source.split = train is "
        "without them, source.split = validation is they; unset: none",
    )


class KafkaOptions(Section):
    """Kafka"""

    instance: str | None = Field(
        None,
        description="name of this member of the group, by which it is known again after a restart; unset: "
        "made from the state folder",
    )


class MemoryOptions(Section):
    """records in memory"""

    records: list[Any] = Field(default_factory=list, description="what is delivered")


OPTIONS: dict[str, type[Section]] = {
    "connectors.files:FileSource": FileOptions,
    "connectors.datasets:DatasetSource": DatasetOptions,
    "connectors.kafka:KafkaSource": KafkaOptions,
    "connectors.memory:MemorySource": MemoryOptions,
}
"""By the source's import string."""


def settled(
    connector: str, given: Mapping[str, Any], elsewhere: Collection[str], problems: list[str]
) -> dict[str, Any]:
    """The options that a connector of ours gets, checked, what is null left out; of others all as they are.

    elsewhere: keys of the settings that the connector gets beside them. An option of such a name would
    overrule the setting, so there is only the setting.
    """
    kind = OPTIONS.get(connector)
    if kind is None:
        return dict(given)
    said = {name: value for name, value in given.items() if value is not None}
    known = list(kind.model_fields)
    for name in [name for name in given if name not in kind.model_fields]:
        problems.append(_unknown(name, known, elsewhere, (kind.__doc__ or "").strip()))
        said.pop(name, None)
    try:
        checked = kind.model_validate(said)
    except ValidationError as error:
        problems += _wrong(error)
        return {}
    return {name: getattr(checked, name) for name in said}


def _unknown(name: str, known: Collection[str], elsewhere: Collection[str], of: str) -> str:
    place = f"source.options.{name}"
    if own := [key for key in elsewhere if key.rpartition(".")[2] == name]:
        return f"{place}: that is a setting of its own: give {own[0]} instead"
    settings = {key.rpartition(".")[2]: key for key in elsewhere}
    near = get_close_matches(name, [*known, *settings], n=1)
    if near:
        found = f"source.options.{near[0]}" if near[0] in known else settings[near[0]]
        return f"unknown option {place}: did you mean {found}?"
    return f"unknown option {place}: {of} have {', '.join(known)}"


def _wrong(error: ValidationError) -> Iterator[str]:
    for detail in error.errors(include_url=False):
        place = ".".join(str(part) for part in detail["loc"])
        yield f"source.options.{place}: {wrong(detail, repr(detail['input']))}"
