"""Incremental decompression of gzip, in bounded memory and exact up to the byte of a fault."""

from __future__ import annotations

import zlib
from typing import Any

OUTPUT = 1024 * 1024
"""Decompression makes at most so many bytes at a time, whatever the ratio."""


class Gunzip:
    """Incremental gzip, members one after another, zero padding between and behind them allowed.

    `broken` is true once the data proved corrupt; everything that came before the fault has been returned.
    """

    def __init__(self) -> None:
        self._member = zlib.decompressobj(31)
        self._between = True
        self._members = 0
        self._input = b""
        self._full = False
        self.broken = False

    @property
    def pending(self) -> bool:
        """Whether another `feed(b"")` may return bytes."""
        return not self.broken and (bool(self._input) or self._full)

    @property
    def complete(self) -> bool:
        """Whether the data may end here: at least one member, and none half read."""
        return self._between and self._members > 0 and not self.broken

    def feed(self, data: bytes) -> bytes:
        """Take compressed bytes, return at most OUTPUT uncompressed ones."""
        data = self._input + data
        if self._between:
            data = data.lstrip(b"\0") if self._members else data
            self._input = data
            if not data:
                return b""
            self._member = zlib.decompressobj(31)
            self._between = False
        saved = self._member.copy()
        try:
            out = self._member.decompress(data, OUTPUT)
        except zlib.error:
            # The call that fails also loses what it had made: read that up to the very byte of the fault.
            self.broken = True
            return self._salvage(saved, data)
        self._full = len(out) == OUTPUT and not self._member.eof
        self._input = self._member.unconsumed_tail
        if self._member.eof:
            self._input = self._member.unused_data
            self._between = True
            self._members += 1
        return out

    @staticmethod
    def _salvage(member: Any, data: bytes) -> bytes:
        out = bytearray()
        try:
            for i in range(len(data)):
                out += member.decompress(data[i : i + 1])
        except zlib.error:
            pass
        return bytes(out)
