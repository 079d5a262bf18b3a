"""Incremental decompression of gzip, in bounded memory and exact up to the byte of a fault."""

from __future__ import annotations

import zlib
from copy import copy
from typing import Any

OUTPUT = 1024 * 1024
"""Decompression makes at most so many bytes at a time, whatever the ratio."""


class Gunzip:
    """Incremental gzip, members one after another, zero padding between and behind them allowed.

    `fault` says where and how the data proved corrupt; everything that came before has been returned then.
    A member's checksum comes after its content: what was returned of a damaged one may be wrong.
    """

    def __init__(self) -> None:
        self._member = zlib.decompressobj(31)
        self._between = True
        self._members = 0
        self._input = b""
        self._full = False
        self._at = 0
        """How many bytes were taken in, those of `_input` not counted."""
        self._made = 0
        self._begins_at = 0
        """Where the member under way begins, in bytes as they were given."""
        self.member = 0
        """Where its content begins, in bytes as they were returned: below that all was found whole."""
        self.fault: str | None = None

    @property
    def pending(self) -> bool:
        """Whether another `feed(b"")` may return bytes."""
        return self.fault is None and (bool(self._input) or self._full)

    @property
    def complete(self) -> bool:
        """Whether the data may end here: at least one member, and none half read."""
        return self._between and self._members > 0 and self.fault is None

    def copy(self) -> Gunzip:
        """Another one that goes on from here by itself."""
        other = copy(self)
        other._member = self._member.copy()
        return other

    def feed(self, data: bytes) -> bytes:
        """Take compressed bytes, return at most OUTPUT uncompressed ones."""
        data = self._input + data
        if self._between:
            content = data.lstrip(b"\0") if self._members else data
            self._at += len(data) - len(content)
            self._input = data = content
            if not data:
                return b""
            self._member = zlib.decompressobj(31)
            self._between = False
            self._begins_at, self.member = self._at, self._made
        saved = self._member.copy()
        try:
            out = self._member.decompress(data, OUTPUT)
        except zlib.error as error:
            # The call that fails also loses what it had made: read that up to the very byte of the fault.
            out, taken = self._salvage(saved, data)
            self.fault = (
                f"member {self._members + 1}, which begins at compressed byte {self._begins_at}, is damaged "
                f"at compressed byte {self._at + taken}: {str(error).rpartition(': ')[2]}"
            )
            self._made += len(out)
            return out
        self._made += len(out)
        self._full = len(out) == OUTPUT and not self._member.eof
        self._input = self._member.unconsumed_tail
        if self._member.eof:
            self._input = self._member.unused_data
            self._between = True
            self._members += 1
        self._at += len(data) - len(self._input)
        return out

    @staticmethod
    def _salvage(member: Any, data: bytes) -> tuple[bytes, int]:
        out = bytearray()
        taken = 0
        try:
            for taken in range(len(data)):
                out += member.decompress(data[taken : taken + 1])
        except zlib.error:
            pass
        return bytes(out), taken
