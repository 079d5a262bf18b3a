"""What passes between a worker and its Kafka process: records and outputs, the same on the other side."""

from __future__ import annotations

import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.kafka.channel import Channel, Gone, pair
from connectors.kafka.columns import (
    columns_of_outputs,
    columns_of_records,
    outputs_of_columns,
    records_of_columns,
)
from streamlearn.events import Output, Position, Prediction, Record, Rejection, Tombstone

POSITIONS = st.builds(Position, st.sampled_from(["t", "u"]), st.integers(0, 2), st.integers(0, 2**62))
TEXTS = st.text(st.characters(), max_size=8)
"""Lone surrogates among them."""
HEADERS = st.lists(st.tuples(TEXTS, st.none() | st.binary(max_size=4)), max_size=2).map(tuple)
KEYS = st.none() | st.binary(max_size=4)


@st.composite
def records(draw: st.DrawFn) -> Record:
    value, at = draw(st.binary(max_size=20)), draw(POSITIONS)
    cursor, tombstone = draw(st.just(at.offset + 1) | st.integers(0, 2**62)), draw(st.booleans())
    return Record(value, at, cursor, draw(KEYS), draw(HEADERS), None, tombstone)


@st.composite
def predictions(draw: st.DrawFn) -> Prediction:
    at = draw(POSITIONS)
    record = draw(st.none() | st.builds(Record, st.just(b"x"), st.just(at), st.just(3), KEYS, HEADERS))
    scores = draw(st.dictionaries(TEXTS, st.floats(allow_nan=False), max_size=3))
    known, step = draw(st.integers(0, 9)), draw(st.integers(0, 2**62))
    return Prediction(draw(TEXTS), draw(st.none() | TEXTS), scores, known, step, at, draw(TEXTS), record)


OUTPUTS = st.one_of(
    predictions(), st.builds(Rejection, TEXTS, TEXTS, records()), st.builds(Tombstone, TEXTS, records())
)


def over(value: object) -> object:
    """As it comes out at the other end."""
    ours, theirs = map(Channel, pair())
    ours.send(value)
    found = theirs.receive(10.0)
    ours.close()
    theirs.close()
    return found


def published(output: Output) -> Output:
    """What the sink may look at of an output."""
    if not isinstance(output, Prediction):
        return output
    key, headers = (output.record.key, output.record.headers) if output.record is not None else (None, ())
    record = Record(b"", output.position, 0, key, headers)
    of = output.id, output.label, output.scores, output.known_classes, output.model_step, output.position
    return Prediction(*of, None, record)


@given(st.lists(records(), max_size=12))
def test_records_come_over_as_they_were(given: list[Record]) -> None:
    assert records_of_columns(over(columns_of_records(given))) == given  # type: ignore[arg-type]


@given(st.lists(OUTPUTS, max_size=12))
def test_outputs_come_over_as_they_are_published(given: list[Output]) -> None:
    found = outputs_of_columns(over(columns_of_outputs(given)))  # type: ignore[arg-type]
    assert found == [published(output) for output in given]
    assert [type(output.position) for output in found] == [Position] * len(given)


def test_the_order_of_scores_stays() -> None:
    scores = {f"class {i}": 1 / (i + 1) for i in (3, 0, 2, 1)}
    prediction = Prediction("a", "class 3", scores, 4, 1, Position("t", 0, 0))
    (found,) = outputs_of_columns(over(columns_of_outputs([prediction])))  # type: ignore[arg-type]
    assert isinstance(found, Prediction)
    assert list(found.scores.items()) == list(scores.items())


def test_a_message_larger_than_all_buffers() -> None:
    ours, theirs = map(Channel, pair())
    body = [b"x" * 5_000_000, "y"]
    sender = threading.Thread(target=ours.send, args=(body,))
    sender.start()
    assert theirs.receive(10.0) == body
    sender.join(10.0)
    with pytest.raises(TimeoutError):
        theirs.receive(0.0)
    ours.close()
    with pytest.raises(Gone):
        theirs.receive()
    with pytest.raises(Gone):
        theirs.send(1)
    theirs.close()


def test_an_end_within_a_message() -> None:
    ours, theirs = pair()
    channel = Channel(theirs)
    ours.sendall(b"\x05\0\0\0\0\0\0\0ab")
    ours.shutdown(socket.SHUT_RDWR)
    with pytest.raises(Gone):
        channel.receive()
    ours.close()
    channel.close()
