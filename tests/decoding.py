"""Decoding one record at a time, for tests of the codec."""

from __future__ import annotations

import io
from typing import Any

import orjson
from PIL import Image

from streamlearn.codec import REASONS, Codec, encode_dead_letter
from streamlearn.config import CodecSettings
from streamlearn.events import Event, Item, Position, Record, Rejection

HERE = Position("topic", 3, 14)


def codec(**settings: Any) -> Codec:
    return Codec(CodecSettings(**settings))


def decode(value: object, **settings: Any) -> Item:
    """Decode bytes as they are, anything else as JSON."""
    content = value if isinstance(value, bytes) else orjson.dumps(value)
    (result,) = codec(**settings).decode([Record(content, HERE)])
    return result


def decode_row(fields: Any, value: bytes = b"", **settings: Any) -> Item:
    (result,) = codec(**settings).decode([Record(value, HERE, fields=fields)])
    return result


def event(result: Item) -> Event:
    assert isinstance(result, Event), result
    return result


def reason(result: Item) -> str:
    assert isinstance(result, Rejection), result
    assert result.reason in REASONS
    assert result.detail
    assert len(result.detail) <= 200
    result.detail.encode()
    assert orjson.loads(encode_dead_letter(result))["reason"] == result.reason
    return result.reason


def png(width: int = 4, height: int = 3, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height)).save(file, "PNG")
    return file.getvalue()
