"""From outputs to bytes: predictions and dead letters as JSON. Nothing that is in them makes it raise."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from streamlearn.events import Output, Prediction, Record, Rejection
from streamlearn.reasons import abbreviate


def encode_predictions(predictions: Sequence[Prediction], epoch: int) -> list[bytes]:
    """Of each one JSON object, without a newline, of what is published of it."""
    objects = [
        {
            "id": prediction.id,
            "label": prediction.label,
            "scores": prediction.scores,
            "known_classes": prediction.known_classes,
            "model_step": prediction.model_step,
            "epoch": epoch,
            "source": [*prediction.position],
        }
        for prediction in predictions
    ]
    try:
        return list(map(orjson.dumps, objects))
    except TypeError:  # what only `_encode` makes something of
        return list(map(_encode, objects))


def encode_prediction(prediction: Prediction, epoch: int) -> bytes:
    """The same of one."""
    return encode_predictions([prediction], epoch)[0]


def encode_dead_letter(rejection: Rejection) -> bytes:
    """One JSON object, without a newline: reason, detail, source, the original value and key in base64.

    A record without a key has no "key", a tombstone the "value" null.
    """
    record = rejection.record
    value = original(record)
    letter: dict[str, Any] = {
        "reason": rejection.reason,
        "detail": rejection.detail,
        "source": list(rejection.position),
        "value": base64.b64encode(value).decode() if value is not None else None,
    }
    if record.key is not None:
        letter["key"] = base64.b64encode(record.key).decode()
    return _encode(letter)


def encode_too_large(output: Output, size: int, limit: int) -> bytes:
    """What is published in place of an output of `size` bytes that its topic doesn't take."""
    detail = f"the output has {size} bytes, the topic takes {limit}"
    return _encode({"reason": "output_too_large", "detail": detail, "source": list(output.position)})


def original(record: Record) -> bytes | None:
    """The bytes of a record as it came, None for a tombstone; a row of a table has none, and becomes JSON."""
    if record.tombstone:
        return None
    return record.value if record.value or record.fields is None else dump(record.fields)


def _encode(output: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(output, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:
        # A lone surrogate, from a path that is no UTF-8 or an id of a notebook: json escapes it.
        return json.dumps(output, separators=(",", ":"), default=float).encode()


def dump(fields: Mapping[str, Any]) -> bytes:
    """`fields` as JSON, as true to them as JSON allows (a NaN alone becomes null). Never raises."""
    option = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    try:
        rows = {name: _bits(value) for name, value in fields.items()}
        return orjson.dumps(rows, option=option, default=_jsonable)
    except Exception:  # lone surrogates, integers over 64 bits, cycles
        try:
            return json.dumps(dict(fields), default=_jsonable).encode()
        except Exception:
            return abbreviate(fields).encode("utf-8", "backslashreplace")


def _bits(value: Any) -> Any:
    """`value`; of an array with numbers that JSON doesn't have its raw bytes, in the form that x may have."""
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or np.isfinite(value).all():
        return value
    data = value.astype(value.dtype.newbyteorder("<")).tobytes()
    return {"dtype": value.dtype.name, "shape": list(value.shape), "data": data}


def _jsonable(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return dict(value)
    return abbreviate(value)
