"""From bytes to one object: JSON or msgpack, told apart by the first byte, with every ambiguity refused."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import msgpack
import orjson

from streamlearn.reasons import Refusal, abbreviate

MSGPACK_MAP = frozenset((*range(0x80, 0x90), 0xDE, 0xDF))
"""First bytes of a map in msgpack."""
_OF_TEXT = frozenset((*b"\t\n\r", *range(0x20, 0x80)))
"""First bytes of text: alone they are a msgpack integer too, but text is what people have."""
FEW = 4
"""So many values are looked at one by one sooner than all at once."""
_WATCHED = frozenset((dict, list, msgpack.Timestamp))
NO_TIMESTAMP = "a msgpack timestamp is not known, give seconds as a number"


def parse(value: bytes, max_depth: int) -> dict[str, Any]:
    """The object that `value` holds. No key occurs twice, and nesting is at most `max_depth` levels.

    Raises:
        Refusal: empty, undecodable, not_an_object, duplicate_key, not_finite, too_deep, msgpack_extension.
    """
    if not value:
        raise Refusal("empty", "the value has no bytes")
    if value[0] in MSGPACK_MAP:
        return _parse_msgpack(value, max_depth)
    if value[0] <= 0x20 and not value.strip(b" \t\r\n"):
        raise Refusal("empty", "the value is only white space")
    return _parse_json(value, max_depth)


def exactly(value: bytes, parsed: Mapping[str, Any], found: Iterable[Any]) -> Mapping[str, Any]:
    """`parsed`, which `parse` made of `value`; read once more if one of `found` in it is a large float.

    It may be an integer beyond 64 bits, which `parse` makes a float. Here every integer is a string of its
    digits: an id, a label and a task become one anyway, and Python makes no integer of more than 4300.
    """
    if value[0] in MSGPACK_MAP or not any(type(each) is float and abs(each) >= 2.0**63 for each in found):
        return parsed
    again: Mapping[str, Any] = json.loads(value, parse_int=lambda digits: "0" if digits == "-0" else digits)
    return again


def _parse_json(value: bytes, max_depth: int) -> dict[str, Any]:
    try:
        parsed = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        if value[0] not in _OF_TEXT:
            _refuse_other_msgpack(value)
        parsed = _parse_slowly(value, error, max_depth)
    # No nesting is deeper than there are brackets: two scans in C spare the walk of most records.
    if value.count(b"[") + value.count(b"{") > max_depth:
        _check(parsed, max_depth)
    if type(parsed) is not dict:
        raise Refusal("not_an_object", f"the value is {abbreviate(parsed)}, an object was expected")
    if not proves_unique_keys(value, parsed):
        # Only a check: what is decoded must not depend on which of the two parsers looked.
        json.loads(value, object_pairs_hook=_unique, parse_int=float)
    return parsed


def proves_unique_keys(value: bytes, parsed: dict[str, Any]) -> bool:
    """True only if no object in the JSON text `value` names a key twice; False proves nothing.

    Every pair of the text has a colon of its own, also one that the parser dropped for a later pair of
    the same key. So if the pairs that are left, and the colons inside of their strings, account for all
    colons of the text, no pair was dropped. Lists are not looked into: what they hide only makes the
    proof fail. A colon in a string may be written \\u003a, which the text's count misses: no proof then.
    """
    pairs = inside = 0
    stack = [parsed]
    while stack:
        mapping = stack.pop()
        pairs += len(mapping)
        for key, item in mapping.items():
            inside += key.count(":")
            if type(item) is str:
                inside += item.count(":")
            elif type(item) is dict:
                stack.append(item)
    if inside and b"\\u003" in value:
        return False
    return value.count(b":") == pairs + inside


def _parse_slowly(value: bytes, error: orjson.JSONDecodeError, max_depth: int) -> Any:
    """What `value` holds if orjson refused it for integers beyond float64 alone, which become infinities.

    A number of the features is refused for that later, an id or a label is read again by `exactly`. All else
    raises the reason why orjson refused it: the standard library parses what orjson does not.
    """
    endless = False

    def integer(digits: str) -> float:
        """As orjson has it."""
        nonlocal endless
        number = float(digits)
        endless = endless or math.isinf(number)
        if math.isinf(number):
            return number
        whole = int(digits)
        return whole if -(2**63) <= whole < 2**64 else number

    try:
        parsed = json.loads(
            value.decode(), parse_constant=_refuse_number, parse_float=_finite, parse_int=integer
        )
        if endless:
            _check(parsed, max_depth)
            orjson.dumps(parsed)  # a lone surrogate, which the standard library lets pass, raises here
            return parsed
    except RecursionError:
        raise Refusal("too_deep", "objects and lists are nested a thousand levels deep or more") from None
    except (ValueError, TypeError):  # the text is malformed for both, or not UTF-8
        pass
    if "depth limit" in str(error):
        raise Refusal("too_deep", "objects and lists are nested a thousand levels deep or more")
    raise Refusal("undecodable", _neither(value, str(error)))


def _neither(value: bytes, no_json: str) -> str:
    """Why `value`, which starts no map, is neither JSON nor msgpack, whichever it was meant to be."""
    if value[0] not in _OF_TEXT:
        return f"neither whole msgpack (a map was expected) nor JSON ({no_json})"
    if len(value) == 1:  # what text in a stream of msgpack falls apart into
        return f"not JSON: {no_json}; in msgpack it is the number {value[0]}, a map was expected"
    return f"not JSON: {no_json}"


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        _refuse_number(text)
    return number


def _refuse_number(text: str) -> NoReturn:
    raise Refusal("not_finite", f"the JSON holds the number {text[:40]}, finite numbers were expected")


def _parse_msgpack(value: bytes, max_depth: int) -> dict[str, Any]:
    try:
        parsed = msgpack.unpackb(
            value, raw=False, strict_map_key=True, object_pairs_hook=_unique, ext_hook=_refuse_extension
        )
    except Refusal:
        raise
    except msgpack.StackError:
        raise Refusal("too_deep", "maps and arrays are nested hundreds of levels deep or more") from None
    except Exception as error:
        # Beside ValueError and its like: a broken timestamp, a length that no memory holds.
        raise Refusal("undecodable", f"not msgpack: {type(error).__name__} {error}") from error
    _check(parsed, max_depth)
    if type(parsed) is not dict:  # not reachable from a first byte that announces a map
        raise Refusal("not_an_object", f"the value is {abbreviate(parsed)}, a map was expected")
    return parsed


def _refuse_other_msgpack(value: bytes) -> None:
    """Raise Refusal if `value` is one whole msgpack object, which is no map, or one with an extension."""
    try:
        parsed = msgpack.unpackb(value, ext_hook=_refuse_extension)
    except Refusal:
        raise
    except Exception:  # whatever msgpack raises for bytes that it doesn't understand
        return
    if type(parsed) is msgpack.Timestamp:
        raise Refusal("msgpack_extension", NO_TIMESTAMP)
    raise Refusal("not_an_object", f"the value is {abbreviate(parsed)} in msgpack, a map was expected")


def _refuse_extension(code: int, data: bytes) -> NoReturn:
    raise Refusal("msgpack_extension", f"extension type {code} of {len(data)} bytes is not known")


def _unique(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        seen: set[Any] = set()
        for key, _ in pairs:
            if key in seen:
                raise Refusal("duplicate_key", f"the key {abbreviate(key)} occurs twice in one object")
            seen.add(key)
    for key in mapping:
        if type(key) is not str:
            raise Refusal("undecodable", f"the map key {abbreviate(key)} is not a string")
    return mapping


def _check(value: Any, room: int) -> None:
    """Refuse nesting of more than `room` levels, and timestamps (which msgpack's ext_hook never sees)."""
    if room == 0:
        raise Refusal("too_deep", "objects and lists are nested deeper than codec.max_depth")
    items: Iterable[Any]
    if type(value) is dict:
        items = value.values()
    elif type(value) is list:
        items = value
    else:
        return
    if len(value) > FEW and _WATCHED.isdisjoint(map(type, items)):
        return
    for item in items:
        kind = type(item)
        if kind is dict or kind is list:  # a call for each leaf would cost more than all else here
            _check(item, room - 1)
        elif kind is msgpack.Timestamp:
            raise Refusal("msgpack_extension", NO_TIMESTAMP)
