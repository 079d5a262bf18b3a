"""Encoded images (PNG, JPEG, WebP) as uint8 arrays, whatever is in the bytes."""

from __future__ import annotations

import warnings
from io import BytesIO

import numpy as np
from PIL import (  # noqa: F401  (Pillow finds a format by the plugins that were imported)
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from streamlearn.events import Array
from streamlearn.reasons import Refusal

_GREY = frozenset(("1", "L", "LA", "La", "F"))


def image_format(data: bytes) -> str | None:
    """PNG, JPEG or WEBP by the first bytes, None for anything else."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return None


def decode_image(data: bytes, kind: str, max_pixels: int, max_values: int) -> Array:
    """The pixels of an image of format `kind`: uint8 [1,H,W] for grey ones, [3,H,W] for all others.

    Transparency is dropped, 16-bit grey keeps its high byte, of an animation the first frame is taken.

    Raises:
        Refusal: image_too_large, too_large, truncated_image, bad_image.
    """
    # Pillow warns of odd metadata and palettes in many places. catch_warnings is not thread-safe: another
    # thread that changes the filters meanwhile may lose its change, so decode in one thread.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return _decode(data, kind, max_pixels, max_values)
        except Refusal:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise Refusal("image_too_large", f"the {kind} image is a decompression bomb") from None
        except UnidentifiedImageError:  # its text holds an address
            error = "the header is not readable"
        except Exception as problem:
            error = f"{type(problem).__name__} {problem}"
    if _is_cut(data, kind) or "truncated" in error.lower():
        raise Refusal("truncated_image", f"the {kind} image of {len(data)} bytes ends early: {error}")
    raise Refusal("bad_image", f"the {kind} image is not readable: {error}")


def _decode(data: bytes, kind: str, max_pixels: int, max_values: int) -> Array:
    if kind == "WEBP":
        # Pillow's WebP plugin allocates the canvas when it opens the file: look at the size before that.
        _refuse_large(*_webp_size(data), max_pixels)
    with Image.open(BytesIO(data), formats=(kind,)) as image:
        _refuse_large(*image.size, max_pixels)
        grey = image.mode in _GREY or image.mode.startswith("I")
        values = image.width * image.height * (1 if grey else 3)
        if values > max_values:
            raise Refusal("too_large", f"the image is {values} numbers, codec.max_values is {max_values}")
        image.load()
        if kind == "PNG" and b"IEND" not in data:  # Pillow is content when the pixels happen to be whole
            raise Refusal("truncated_image", f"the PNG image of {len(data)} bytes has no end")
        if image.mode.startswith("I"):  # Pillow's own conversion would clip at 255
            wide = np.asarray(image).astype(np.int64).clip(0, 0xFFFF)
            return (wide >> 8).astype(np.uint8)[np.newaxis]
        if grey:
            return np.array(image.convert("L"), np.uint8)[np.newaxis]
        return np.ascontiguousarray(np.asarray(image.convert("RGB"), np.uint8).transpose(2, 0, 1))


def _refuse_large(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise Refusal("image_too_large", f"the image is {width} x {height}, codec.max_pixels is {max_pixels}")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height from a WebP header (RFC 9649, sections 2.5 to 2.7), (0, 0) if there is none."""
    chunk, body = data[12:16], data[20:30]
    if len(body) < 10:
        return 0, 0
    if chunk == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk == b"VP8 ":
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    return 0, 0


def _is_cut(data: bytes, kind: str) -> bool:
    """True if the end that every image of this format has is missing."""
    if kind == "PNG":
        return b"IEND" not in data[-64:]
    if kind == "JPEG":
        return b"\xff\xd9" not in data[-64:]
    return int.from_bytes(data[4:8], "little") + 8 > len(data)
