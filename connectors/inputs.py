"""The uncompressed bytes of a file or a stream, front to back, and what is needed to recognise them again."""

from __future__ import annotations

import logging
import os
import select
import stat
import time
from collections.abc import Callable
from typing import Any

from connectors.gzip_stream import Gunzip
from streamlearn.events import StateMismatch, Stopped, Unreachable

log = logging.getLogger(__name__)

SAME = "give the same input, which may have grown, or start with another --checkpoint.folder"
"""What to do where the input isn't the one that a state has learned from."""

UNLEARNED = (
    "give the same input, which may have grown, or remove the predictions and dead letters that were "
    "written, or start with another --checkpoint.folder and other output files"
)
"""The same where nothing was learned from it yet, but something was answered."""

BLOCK = 256 * 1024
"""Bytes asked of the operating system at a time."""
HEAD = 64 * 1024
"""A fingerprint covers at most so many bytes from the start of the content."""
TAIL = 4 * 1024
"""A fingerprint covers at most so many bytes before the cursor."""
KEEP = 32 * 1024 * 1024
"""What can't be read again keeps at most so many of its last bytes for the next fingerprint's tail."""
LONG = 64 * 1024 * 1024
"""To verify so many compressed bytes takes seconds, and is said."""
GLANCE = 0.2
"""Seconds between two looks at whether a long wait is to end."""


class Trail:
    """The head of a stream and its last bytes, so that a recent cursor's fingerprint needs no rereading."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._bytes = bytearray()
        self._start = 0

    def add(self, data: bytes) -> None:
        if len(self._head) < HEAD:
            self._head += data[: HEAD - len(self._head)]
        self._bytes += data
        self._drop(len(self._bytes) - KEEP)

    def release(self, cursor: int) -> None:
        """No cursor below this one will be asked for any more."""
        self._drop(cursor - TAIL - self._start)

    def head(self, cursor: int) -> bytes:
        return bytes(self._head[:cursor])

    def tail(self, cursor: int) -> bytes | None:
        """The last min(TAIL, cursor) bytes before `cursor`, or None if they aren't kept any more."""
        first = max(0, cursor - TAIL)
        if first < self._start:
            return None
        return bytes(self._bytes[first - self._start : cursor - self._start])

    def _drop(self, count: int) -> None:
        if count > 0:
            del self._bytes[:count]
            self._start += count


class Input:
    """Reads a path, or the descriptor `fd` where the path is "-"; gzip is recognised by its first bytes.

    A regular file that isn't compressed is `seekable`: read by position, and read again for fingerprints.
    Anything else (gzip, pipes, FIFOs, terminals) is read once: fingerprints are exact for the last KEEP
    bytes, and without their tail for cursors further back. The end of a regular file is where it is now:
    a file is not followed. What `verify` has not seen of one, because it was appended since, is not read.

    Raises Unreachable, with the name and the reason, if the path can't be opened or read.
    """

    def __init__(self, path: str, fd: int = 0) -> None:
        self.name = "standard input" if path == "-" else path
        self._own = path != "-"
        try:
            # Without O_NONBLOCK opening a FIFO would hang until somebody writes to it.
            self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC) if self._own else fd
            mode = os.fstat(self._fd).st_mode
        except (OSError, ValueError) as error:
            raise Unreachable(f"{self.name} can't be opened: {reason(error)}") from None
        if stat.S_ISDIR(mode):
            self.close()
            raise Unreachable(f"{self.name} is a folder: source.path names one file")
        self.regular = stat.S_ISREG(mode) and self._own
        self._gunzip: Gunzip | None = None
        self._undecided = b""
        self._decided = False
        self._eof = False
        self.broken: str | None = None
        """What is wrong with the content, once reading has come to it."""
        if path.lower().endswith((".gz", ".gzip")):
            self._decide(b"\x1f\x8b")
        elif self.regular:
            self._decide(self._pread(2, 0))
        self.seekable = self.regular and self._gunzip is None
        self._trail = None if self.seekable else Trail()
        self._surplus = b""
        self._start = b""
        """The first HEAD bytes of a gzip file's content, from `verify`."""
        self._verified: int | None = None
        """So many compressed bytes may still be read; None: all that there are."""

    @property
    def ended(self) -> bool:
        """Whether `read` has given all there is."""
        return self._eof and not self._surplus

    @property
    def member(self) -> int | None:
        """The byte of the content from which on no checksum has vouched for it yet; None: it isn't gzip."""
        return None if self._gunzip is None else self._gunzip.member

    @property
    def damaged(self) -> bool:
        """Whether what was read of the content from `member` on may be wrong."""
        return self._gunzip is not None and self._gunzip.fault is not None

    def wait(self, timeout: float) -> bool:
        """Whether `read` has something to do, at the latest after `timeout` seconds."""
        if self.regular or self._surplus or (self._gunzip is not None and self._gunzip.pending):
            return True
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        return bool(poller.poll(max(0.0, timeout) * 1000))

    def wait_long(self, patience: float, stopped: Callable[[], bool]) -> bool:
        """`wait`, and between two reads of many. Raises Stopped soon after `stopped` has become true."""
        deadline = time.monotonic() + patience
        while True:
            if stopped():
                raise Stopped(f"stopped while {self.name} was read again")
            left = remaining(deadline)
            if self.wait(min(GLANCE, left)):
                return True
            if not left:
                return False

    def read(self) -> bytes:
        """The next bytes; none if decompression needs more, at `ended`, or if the content is `broken`."""
        if self._surplus:
            data, self._surplus = self._surplus, b""
            return data
        if self._eof or self.broken:
            return b""
        data = self._read()
        if self._trail is not None:
            self._trail.add(data)
        return data

    def skip(
        self, cursor: int, timeout: float, tee: Callable[[bytes], bool], stopped: Callable[[], bool]
    ) -> None:
        """Go to `cursor`, showing the content from its start to `tee` until that returns False.

        Seeks where it can, otherwise reads and discards, waiting at most `timeout` seconds for each read.
        Raises StateMismatch if the content is shorter than that, Unreachable if it is broken or keeps still,
        Stopped soon after `stopped` has become true.
        """
        wanted = tee(b"")
        if self.seekable and os.fstat(self._fd).st_size < cursor:
            raise self._shorter(os.fstat(self._fd).st_size, cursor)
        position = 0
        while position < cursor and (wanted or not self.seekable):
            if not self.wait_long(timeout, stopped):
                raise Unreachable(
                    f"{self.name} gave nothing for {timeout:g} s while it was read again to byte {cursor}, "
                    "where the state goes on: give the same input from its start"
                )
            data = self.read()
            used = data[: cursor - position]
            self._surplus = data[len(used) :]
            position += len(used)
            if wanted:
                wanted = tee(used)
            if self.broken and position < cursor:
                raise Unreachable(
                    f"{self.name} {self.broken}, before byte {cursor} of the content, where the state goes "
                    "on: nothing new was learned from it; give an intact copy"
                )
            if self.ended and position < cursor:
                raise self._shorter(position, cursor)
            if self._trail is not None:
                self._trail.release(position)
        if self.seekable:
            os.lseek(self._fd, cursor, os.SEEK_SET)
            self._eof, self._surplus = False, b""

    def verify(self, stopped: Callable[[], bool]) -> None:
        """Compare the checksums of a gzip file, from where reading is to its end, before it is read on.

        A member's checksum stands behind it: who only reads on learns of damage when it has learned the
        damage. A last member without its end is none yet, and left to `read`; a stream can't be read twice.
        It goes as `read` does (measured: 200 MB of JSON a second) and in as little memory.

        Raises Unreachable for what is damaged, Stopped soon after `stopped` has become true.
        """
        if self._gunzip is None or not self.regular:
            return
        ahead, first = self._gunzip.copy(), os.lseek(self._fd, 0, os.SEEK_CUR)
        size = os.fstat(self._fd).st_size - first
        if size > LONG:
            log.info("%s: checksums of %d MB are compared before it is learned from", self.name, size >> 20)
        at = first
        while ahead.fault is None:
            if stopped():
                raise Stopped(f"stopped while the checksums of {self.name} were compared")
            raw = b"" if ahead.pending else self._pread(BLOCK, at)
            if not raw and not ahead.pending:
                self._verified = at - first
                return
            data = ahead.feed(raw)
            if not first and len(self._start) < HEAD:
                self._start += data[: HEAD - len(self._start)]
            at += len(raw)
        raise Unreachable(
            f"{self.name} holds corrupt gzip data ({ahead.fault}): that was found before any of "
            "its records was read, so nothing new was learned from it; give an intact copy (`gzip -t` tests)"
        )

    def start(self, count: int = HEAD) -> bytes:
        """The first bytes of what is there now, at most HEAD, read or not; none of what can't be read twice.

        Of a gzip file only after `verify` from its start.
        """
        return self._pread(min(HEAD, count), 0) if self.seekable else self._start[:count]

    def prefix(self, cursor: int) -> tuple[bytes, bytes | None]:
        """The first min(HEAD, cursor) bytes, and the last min(TAIL, cursor) before the cursor if known."""
        if self._trail is not None:
            return self._trail.head(cursor), self._trail.tail(cursor)
        first = max(0, cursor - TAIL)
        return self._pread(min(HEAD, cursor), 0), self._pread(cursor - first, first)

    def release(self, cursor: int) -> None:
        """Fingerprints of cursors below this one won't be asked for any more."""
        if self._trail is not None:
            self._trail.release(cursor)

    def whole(self) -> Any:
        """A binary file object over a seekable input, for readers that want one; the caller closes it."""
        return os.fdopen(os.dup(self._fd), "rb")

    def close(self) -> None:
        if self._own and self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _read(self) -> bytes:
        gunzip = self._gunzip
        if gunzip is not None and gunzip.pending:
            data = gunzip.feed(b"")
        else:
            try:
                raw = os.read(self._fd, BLOCK if self._verified is None else min(BLOCK, self._verified))
            except BlockingIOError:
                return b""
            except OSError as error:
                raise Unreachable(f"{self.name} can't be read: {reason(error)}") from None
            self._eof = not raw
            if self._verified is not None:
                self._verified -= len(raw)
            if not self._decided:
                raw = self._undecided = self._undecided + raw
                if raw == b"\x1f" and not self._eof:
                    return b""
                self._decide(raw)
                gunzip = self._gunzip
            data = raw if gunzip is None else gunzip.feed(raw)
        if gunzip is not None and gunzip.fault is not None:
            self.broken = f"holds corrupt gzip data ({gunzip.fault})"
        elif gunzip is not None and self._eof and not gunzip.complete:
            self.broken = "is a gzip file that was cut"
        return data

    def _decide(self, start: bytes) -> None:
        self._decided = True
        if start.startswith(b"\x1f\x8b"):
            self._gunzip = Gunzip()

    def _pread(self, count: int, offset: int) -> bytes:
        parts = []
        while count > 0:
            try:
                data = os.pread(self._fd, count, offset)
            except OSError as error:
                raise Unreachable(f"{self.name} can't be read: {reason(error)}") from None
            if not data:
                break
            parts.append(data)
            count, offset = count - len(data), offset + len(data)
        return b"".join(parts)

    def _shorter(self, length: int, cursor: int) -> StateMismatch:
        return StateMismatch(
            f"{self.name} has {length} bytes of content, the state has learned up to byte {cursor}: {SAME}"
        )


def reason(error: Exception) -> str:
    """An error in the words of the operating system, without its number."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def remaining(deadline: float) -> float:
    """Seconds until `deadline` (of time.monotonic), not below zero."""
    return max(0.0, deadline - time.monotonic())
