"""Integers of hundreds of digits in JSON: as an id, a label, a task, a time, a feature and a mere field."""

from __future__ import annotations

import pytest

from streamlearn.events import Rejection
from tests.decoding import decode, event, reason

LENGTHS = (20, 257, 300, 309, 310, 400, 4300, 4301, 10_000)
"""Digits: beyond 64 bits, beyond float64 (1.8e308), beyond what Python makes an integer of (4300)."""


def record(**numbers: str) -> bytes:
    fields = {"x": "[1, 2]", "y": '"a"', "id": '"b"'} | numbers
    return ("{" + ", ".join(f'"{name}": {text}' for name, text in fields.items()) + "}").encode()


@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("length", LENGTHS)
def test_a_long_integer_is_an_id_a_label_and_a_task(length: int, sign: str) -> None:
    digits = sign + "7" * length
    limits = {"max_id_length": length + 1, "max_label_length": length + 1}
    found = event(decode(record(id=digits, y=digits, task=digits), **limits))
    assert found.id == found.y == found.task == digits
    assert found.x.tolist() == [1, 2]


@pytest.mark.parametrize("length", LENGTHS)
def test_one_beyond_the_limit_has_the_reason_of_its_place(length: int) -> None:
    digits, limits = "7" * length, {"max_id_length": length - 1, "max_label_length": length - 1}
    assert reason(decode(record(y=digits), **limits)) == "label_too_long"
    refused = decode(record(id=digits), **limits)
    assert reason(refused) == "bad_id"
    assert isinstance(refused, Rejection) and f"the id has {length} characters" in refused.detail
    assert event(decode(record(task=digits), **limits)).task is None


@pytest.mark.parametrize("length", [310, 400, 5000])
@pytest.mark.parametrize(
    ("numbers", "why"),
    [
        ({"x": "[1, {}]"}, "not_finite"),
        ({"x": "[[1, 2], [3, -{}]]"}, "not_finite"),
        ({"x": '{{"a": {}, "b": "c"}}'}, "not_finite"),
        ({"x": "[{}]", "y": "{}"}, "label_too_long or not_finite"),
        ({"ts": "{}"}, "bad_time"),
        ({"y": "{}", "z": "NaN"}, "not_finite"),
        ({"y": "{}", "z": "1e400"}, "not_finite"),
        ({"y": "{}", "z": '"\\ud800"'}, "undecodable"),
        ({"y": "{}", "\\ud800": "1"}, "undecodable"),
        ({"y": "{}", "z": "[1,]"}, "undecodable"),
        ({"y": "{}", "z": "1}}"}, "undecodable"),
        ({"y": "{}", "z": "[" * 9 + "]" * 9}, "too_deep"),
        ({"y": "{}", "z": "[" * 300 + "]" * 300}, "too_deep"),
        ({"y": "{}", "z": '{{"a": 1, "a": {}}}'}, "duplicate_key"),
        ({"y": "{}.5"}, "not_finite"),
        ({"y": "0{}"}, "undecodable"),
    ],
)
def test_what_else_is_wrong_beside_one(numbers: dict[str, str], why: str, length: int) -> None:
    digits = {name: text.format("7" * length, "7" * length) for name, text in numbers.items()}
    assert reason(decode(record(**digits))) in why.split(" or ")


def test_what_stands_beside_one_is_what_it_is_without() -> None:
    numbers = {"x": f"[{2**64 - 1}, {-(2**63)}, {10**25}, -0, 1.5]", "id": str(2**64 - 1), "y": str(-(2**63))}
    plain, beside = event(decode(record(**numbers))), event(decode(record(**numbers, z="7" * 400)))
    assert plain.x.tolist() == beside.x.tolist() and plain.x.dtype == beside.x.dtype
    assert (plain.id, plain.y) == (beside.id, beside.y) == (str(2**64 - 1), str(-(2**63)))
    assert event(decode(record(id="-0", y="7" * 30))).id == "0"


def test_several_named_features_are_refused_for_one() -> None:
    for named in ("auto", "vector", "hashed"):
        value = record(a="7" * 400, b="1")
        assert reason(decode(value, features=["a", "b"], named=named)) == "not_finite"
        assert event(decode(value, features=["b"], named=named)).id == "b"
