"""Finding the end of a msgpack object of any size and depth, without building or holding it."""

from __future__ import annotations

import re

SINGLE = re.compile(rb"[\x00-\x80\x90\xa0\xc0\xc2\xc3\xe0-\xff]+")
"""Values of one byte: the commonest ones by far, taken in runs."""
NESTED = re.compile(rb"\x91+")
"""Lists of one item, each an item itself: however many leave as many items to come."""
NEVER_USED = 0xC1

# By the first byte, for values that it tells all of: their bytes without their items, and their items.
_FIXED = {0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9} | {
    **{0xD4: 3, 0xD5: 4, 0xD6: 6, 0xD7: 10, 0xD8: 18},  # fixext
    **{0xA0 + size: 1 + size for size in range(32)},  # fixstr
    **dict.fromkeys([*range(0xA0), 0xC0, 0xC2, 0xC3, *range(0xE0, 0x100)], 1),
}
_BYTES = [_FIXED.get(first, 0) for first in range(256)]
_ITEMS = [2 * (i & 15) if 0x80 <= i <= 0x8F else i & 15 if 0x90 <= i <= 0x9F else 0 for i in range(256)]
# For the others: how many bytes of length follow, items or bytes to each of it, and bytes besides.
_COUNTED = {
    **{0xC4: (1, 0, 1, 0), 0xC5: (2, 0, 1, 0), 0xC6: (4, 0, 1, 0)},  # bin
    **{0xC7: (1, 0, 1, 1), 0xC8: (2, 0, 1, 1), 0xC9: (4, 0, 1, 1)},  # ext: a byte of type
    **{0xD9: (1, 0, 1, 0), 0xDA: (2, 0, 1, 0), 0xDB: (4, 0, 1, 0)},  # str
    **{0xDC: (2, 1, 0, 0), 0xDD: (4, 1, 0, 0), 0xDE: (2, 2, 0, 0), 0xDF: (4, 2, 0, 0)},  # array, map
}


class Skipper:
    """Skips one object whose bytes come in pieces; what it keeps is two counts, whatever the nesting."""

    def __init__(self) -> None:
        self._items = 1
        self._bytes = 0
        self._head = b""
        self.corrupt = False
        """Whether a byte came that msgpack never uses."""

    @property
    def done(self) -> bool:
        return not self._items and not self._bytes

    def feed(self, data: bytes) -> int:
        """How many of these bytes belong to the object; if `corrupt`, how many came before the bad one."""
        size, items = len(data), self._items
        at, self._bytes = self._bytes, 0
        while items and at < size:
            first = self._head[0] if self._head else data[at]
            length = _BYTES[first]
            if length == 1 and (run := SINGLE.match(data, at, min(size, at + items))):
                items -= run.end() - at
                at = run.end()
            elif run := NESTED.match(data, at) if first == 0x91 else None:
                at = run.end()
            elif length:
                items += _ITEMS[first] - 1
                at += length
            elif first == NEVER_USED:
                self.corrupt = True
                break
            else:
                width, each_items, each_bytes, more = _COUNTED[first]
                piece = data[at : at + 1 + width - len(self._head)]
                self._head += piece
                at += len(piece)
                if len(self._head) == 1 + width:
                    count = int.from_bytes(self._head[1:], "big")
                    items += each_items * count - 1
                    at += each_bytes * count + more
                    self._head = b""
        self._items = items
        if at > size:
            self._bytes = at - size
        return min(at, size)
