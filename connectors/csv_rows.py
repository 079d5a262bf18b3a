"""Cutting bytes into CSV rows."""

from __future__ import annotations

import re
from typing import Any

from connectors.formats import END_IT, LIMIT, Left, Lines, Queue
from streamlearn.events import Row, UsageError

QUOTED = re.compile(r'(?:^|(?<=,))"(?:[^"]|"")*(?:"|$)')
NO_UTF8 = "the row is not UTF-8"
TOO_LONG = f"the row has more than {LIMIT >> 20} MiB; a quote in it may never be closed"


class Rows(Queue):
    """A record is a CSV row (commas, double quotes, newlines within quotes), with its fields by column name.

    Fields follow `csv.DictReader`: what goes beyond the header is a list under None, what is missing is
    None, blank rows are no records. `value` holds the row's bytes. A row that isn't UTF-8, or longer
    than LIMIT (a quote that is never closed), has one field under None, a sentence that says so. The
    header is the first row. A row with as many cells as columns is a `Row`, which knows the first such one.

    In a content that may grow, a last row without newline is no record: nothing tells whether its last cell
    is whole.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self._fields = []
        self._lines = Lines(keep_return=True, whole=lambda line: False)
        self._header: list[str] | None = None
        self._first: Row | None = None
        self._open: list[bytes] = []
        self._open_bytes = self._open_start = self._open_end = 0

    @property
    def wants_start(self) -> bool:  # type: ignore[override]
        return self._first is None

    def jump(self, cursor: int, last: bytes, corrupt_from: int | None) -> None:
        if self._first is None:
            self.finish()  # the first row may be the last before the cursor, without its newline then
        self._clear(cursor)
        self._lines.jump(cursor, last, None)
        self._open, self._open_bytes = [], 0

    def feed(self, data: bytes) -> None:
        self._lines.feed(data)
        self._rows()

    def finish(self, may_grow: bool = False) -> Left | None:
        left = self._lines.finish(may_grow)
        self._rows()
        if may_grow and self._open:
            size = self._open_end - self._open_start + (left.size if left else 0)
            return Left(self._open_start, size, "row", "is in a quote that isn't closed")
        if left is not None:
            if self._header is None:
                # However it goes on, this will be no header: better refused now than waited for.
                refuse_returns(self._name, self._lines.held.removesuffix(b"\r").decode(errors="replace"))
            return Left(left.start, left.size, "row", "has no line end", END_IT)
        if self._open:
            self._row(b"\n".join(self._open), self._open_end)
            self._open = []
        return None

    def _rows(self) -> None:
        lines, ends, _ = self._lines.take(self._lines.ready)
        for line, end in zip(lines, ends, strict=True):
            if b'"' not in line and not self._open:
                self._row(line, end, len(line) < LIMIT)
                continue
            if not self._open:
                self._open_start = end - len(line) - 1
            open_at_end = ends_in_quotes(line, bool(self._open))
            self._open.append(line)
            self._open_bytes += len(line)
            self._open_end = end
            small = self._open_bytes < LIMIT
            if not open_at_end or not small:
                self._row(b"\n".join(self._open), end, small)
                self._open, self._open_bytes = [], 0

    def _row(self, raw: bytes, end: int, good: bool = True) -> None:
        if raw.endswith(b"\r"):
            raw = raw[:-1]
        if not raw:
            return
        try:
            text = raw.decode() if good else None
        except UnicodeDecodeError:
            text = None
        cells = None if text is None else text.split(",") if '"' not in text else cells_of(text)
        header = self._header
        if header is None:
            refuse_returns(self._name, text or "")
            self._header = self._checked(cells)
            return
        fields: dict[Any, Any]
        if cells is None:
            fields = {None: NO_UTF8 if good else TOO_LONG}
        else:
            fields = row = Row(zip(header, cells))  # noqa: B905 (an argument here costs a tenth of the speed)
            if len(cells) > len(header):
                fields = {**row, None: cells[len(header) :]}
            elif len(cells) < len(header):
                fields = row | dict.fromkeys(header[len(cells) :])
            else:
                if self._first is None:
                    self._first = row
                row.first = self._first
        self._values.append(raw)
        self._ends.append(end)
        if self._fields is not None:
            self._fields.append(fields)

    def _checked(self, header: list[str] | None) -> list[str]:
        if header is None:
            raise UsageError(f"{self._name}: the first row must be a header, column names in UTF-8")
        for number, column in enumerate(header, 1):
            if not column.strip():
                raise UsageError(f"{self._name}: column {number} of the CSV header has no name")
            if header.index(column) + 1 < number:
                raise UsageError(f"{self._name}: the CSV header has two columns named {column!r}")
        return header


def refuse_returns(name: str, header: str) -> None:
    """Raises UsageError for a header that other rows are part of, for carriage returns alone end them."""
    if "\r" in QUOTED.sub("", header):
        raise UsageError(
            f"{name}: the CSV header holds a carriage return outside of quotes: rows must end with a newline "
            "(`tr '\\r' '\\n'` makes one of every carriage return)"
        )


def ends_in_quotes(line: bytes, quoted: bool) -> bool:
    """Whether a quoted field is still open at the line's end, given whether one was at its start.

    As in the csv module, a quote opens a field only as its first character, and is any character elsewhere.
    """
    at = 0
    while True:
        if quoted:
            at = line.find(b'"', at)
            if at < 0:
                return True
            if line[at + 1 : at + 2] == b'"':
                at += 2
                continue
            quoted = False
        elif line[at : at + 1] == b'"':
            quoted = True
            at += 1
            continue
        at = line.find(b",", at) + 1
        if not at:
            return False


def cells_of(row: str) -> list[str]:
    """The cells of one CSV row, as the csv module reads them."""
    cells, at = [], 0
    while True:
        cell = ""
        if row[at : at + 1] == '"':
            start = at = at + 1
            while True:
                at = row.find('"', at)
                if at < 0:
                    cells.append(row[start:].replace('""', '"'))
                    return cells
                if row[at + 1 : at + 2] != '"':
                    break
                at += 2
            cell = row[start:at].replace('""', '"')
            at += 1
        comma = row.find(",", at)
        if comma < 0:
            cells.append(cell + row[at:])
            return cells
        cells.append(cell + row[at:comma])
        at = comma + 1
