"""Predictions and dead letters as JSON lines, each output in exactly one place exactly once."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import select
import stat
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from connectors.above import CHUNK, Above, Found, Key, Runs, lines, shorter, start_of
from connectors.writers import changed, is_file, leads_to, plain, refuse_taken, the_log_s
from streamlearn.codec import encode_dead_letter, encode_prediction
from streamlearn.events import (
    Output,
    Position,
    Prediction,
    Rejection,
    Stalled,
    Unreachable,
    UsageError,
)

log = logging.getLogger(__name__)

ONE_FILE = "sink.predictions and sink.dead_letters are one file: name two"
ATOM = select.PIPE_BUF
"""A pipe that is ready to be written takes so many bytes without blocking."""
PATIENCE = 0.2
"""Seconds that one flush waits, in all, for the reader of a stream."""


class FileSink:
    """Appends predictions to one file and dead letters to another, or one of them to standard output.

    A file can be resumed exactly: what lies above its mark is read, and of a record that either file holds
    an output of none is written again, also where it would be another one now; the marks move past them as
    the records come again. A torn last line is cut, and so is, with a warning, what a power loss leaves (NUL
    bytes, and everything behind them): it is all made again. Anything else above the mark that is no output
    is somebody's, and refused.
    Standard output (and anything else that is no regular file) can't be read back: it has no mark, and what
    was written after the last checkpoint may come again. A file in its place at the next start is
    appended to, as at a first start.

    A file has one writer: it is locked (flock) while the sink is open, and its length must be what was
    written. Another worker that names it, or whoever else changes it, would be overwritten.

    `write` only takes outputs into memory and never fails. `flush` raises OSError where the system does
    (a full disk): what wasn't written stays here, and the next `flush` goes on behind the last byte that
    was. It raises Stalled, which is an OSError, once it has waited 0.2 s in all for the reader of a pipe or
    terminal, Unreachable once that reader has gone, and StateMismatch if a file has another length than was
    written. `close` drops what wasn't flushed.

    Options: `predictions` (default "-": standard output), `dead_letters` (default dead_letters.jsonl).
    Raises UsageError for names that can't be resumed or are the same.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        predictions = str(options.get("predictions") or "-")
        dead_letters = str(options.get("dead_letters") or "dead_letters.jsonl")
        for path in (predictions, dead_letters):
            if path.lower().endswith((".gz", ".gzip")):
                raise UsageError(f"{path}: a compressed output can't be resumed exactly; name a plain file")
        same = os.path.realpath(predictions) == os.path.realpath(dead_letters)
        if predictions == dead_letters == "-" or (same and os.path.realpath(predictions) != os.devnull):
            raise UsageError(f"sink.predictions and sink.dead_letters are both {predictions}: name two files")
        self._paths = {"predictions": predictions, "dead_letters": dead_letters}
        self._files: dict[str, _Lines] = {}
        self._epoch = 0
        self._again = False
        """Whether outputs were found whose records have not come again."""

    def open(self, marks: Mapping[str, int] | None, epoch: int) -> None:
        """Resume behind `marks`, or start (None): then behind what the files hold.

        Raises Unreachable if a file can't be opened (folders are not made), StateMismatch if a file
        can't be what this state has written, or somebody else is writing it. Then nothing is cut.
        """
        self.close()
        self._epoch = epoch
        try:
            for name, path in self._paths.items():
                self._files[name] = _Lines(path)
            predictions, dead_letters = self._files["predictions"], self._files["dead_letters"]
            if predictions.same_file(dead_letters):
                raise UsageError(ONE_FILE)
            for file in self._files.values():
                file.lock()
            for name, file in self._files.items():
                file.find(None if marks is None else marks.get(name))
            for file in self._files.values():
                file.cut()
            self._again = any(file.ahead is not None for file in self._files.values())
        except BaseException:
            self.close()
            raise

    def look(self, marks: Mapping[str, int] | None) -> list[str]:
        """What `open` would do to what stands in the files now, a sentence each. Changes nothing.

        Raises StateMismatch and UsageError as `open` would, Unreachable if a file can't be read.
        """
        notes = []
        paths = {name: path for name, path in self._paths.items() if path != "-" and plain(path)}
        if len(paths) > 1:
            same = all(map(os.path.exists, paths.values())) and os.path.samefile(*paths.values())
        else:
            same = "predictions" not in paths and any(leads_to(path, 1) for path in paths.values())
        if same:
            raise UsageError(ONE_FILE)
        for name, path in paths.items():
            if leads_to(path, 2):
                raise the_log_s(path)
            mark = None if marks is None else marks.get(name)
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                if mark:
                    raise shorter(path, 0, mark) from None
                continue
            except OSError as error:
                raise Unreachable(f"{path} can't be read: {error.strerror}") from None
            try:
                refuse_taken(fd, path, fcntl.LOCK_SH)
                above = Above(fd, path, mark)
            finally:
                os.close(fd)
            if above.damage is not None:
                size = above.length - above.end
                notes.append(f"{above.damage}: {size} bytes would be cut from there on, and made again")
        return notes

    def answered(self, marks: Mapping[str, int]) -> bool:
        """See `Sink`: whether one of the files holds outputs above its mark. Raises StateMismatch."""
        for name, path in self._paths.items():
            if name not in marks or path == "-" or not plain(path):
                continue
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:  # whatever it is, `open` says it
                continue
            try:
                start = start_of(fd, path, marks[name])
                if next(lines(fd, start, os.fstat(fd).st_size), None) is not None:
                    return True
            finally:
                os.close(fd)
        return False

    def write(self, outputs: Sequence[Output]) -> None:
        predictions, dead_letters = self._files["predictions"], self._files["dead_letters"]
        for output in self._lacking(outputs) if self._again else outputs:
            if isinstance(output, Prediction):
                predictions.add(encode_prediction(output, self._epoch))
            elif isinstance(output, Rejection):
                dead_letters.add(encode_dead_letter(output))

    def _lacking(self, outputs: Sequence[Output]) -> list[Output]:
        """Those of whose records neither file holds an output; the marks may move past all of them."""
        files = self._files.values()
        lacking = [each for each in outputs if not any(file.holds(each.position) for file in files)]
        reached = {each.position[:2]: each.position.offset for each in outputs}
        for file in files:
            file.passed(reached)
        self._again = any(file.ahead is not None for file in files)
        return lacking

    def repeats(self, offsets: Mapping[int, int]) -> bool:
        """See `Sink`: whether a file holds outputs of records that are not yet read again."""
        return any(file.holds_after(offsets) for file in self._files.values())

    @property
    def waiting(self) -> int:
        """Outputs that wait in memory to be written. From any thread."""
        return sum(file.waiting for file in list(self._files.values()))

    def flush(self) -> dict[str, int]:
        marks, stalled = {}, None
        for name, file in self._files.items():
            try:
                mark = file.flush()
                if mark is not None:
                    marks[name] = mark
            except Stalled as error:  # the other output needn't wait for this one's reader
                stalled = error
        if stalled is not None:
            raise stalled
        return marks

    def sync(self) -> None:
        """Make what was flushed durable. After a failure every call fails until the sink is opened anew:
        the system may have dropped what it couldn't write, and would call the next attempt a success."""
        for file in list(self._files.values()):
            file.sync()

    def close(self) -> None:
        """May be called again, and `open` after it; standard output stays open."""
        files, self._files = self._files, {}
        for file in files.values():
            file.close()


class _Lines:
    """One output: a descriptor, the lines that wait for it, and what was found above the mark."""

    def __init__(self, path: str) -> None:
        self.name = "standard output" if path == "-" else path
        self._path = path
        self._waiting = bytearray()
        self._above: Above | None = None
        self._seen: dict[Key, Runs] = {}
        # The lines found above the mark are read a second time as their records come again.
        self._found: Iterator[Found] = iter(())
        self.ahead: Found | None = None
        """The first of them whose record has not."""
        self._passed: dict[Key, int] = {}
        self._lock = threading.Lock()
        self._folder_synced = False
        self._sync_error: OSError | None = None
        self._length = 0
        try:
            self._fd = 1 if path == "-" else self._open(path)
            self.regular = path != "-" and stat.S_ISREG(os.fstat(self._fd).st_mode)
        except OSError as error:
            folder = os.path.dirname(path) or "."
            if not os.path.isdir(folder):
                raise Unreachable(f"{path} can't be written: there is no folder {folder}; make it") from None
            raise Unreachable(f"{path} can't be written: {error.strerror}") from None
        if self.regular and leads_to(path, 2):
            os.close(self._fd)
            raise the_log_s(path)
        self._terminal = -1 if self.regular else _own_terminal(self._fd)

    @staticmethod
    def _open(path: str) -> int:
        try:
            special = not stat.S_ISREG(os.stat(path).st_mode)
        except FileNotFoundError:
            special = False
        flags = os.O_WRONLY if special else os.O_RDWR | os.O_CREAT
        return os.open(path, flags | os.O_CLOEXEC, 0o644)

    def same_file(self, other: _Lines) -> bool:
        """Do both go into one regular file? Of a pipe, or the null device, that is nobody's loss."""
        return is_file(self._fd) and os.path.sameopenfile(self._fd, other._fd)

    def lock(self) -> None:
        """For as long as it is open. Raises StateMismatch."""
        if self.regular:
            refuse_taken(self._fd, self.name, fcntl.LOCK_EX)

    def find(self, mark: int | None) -> None:
        """What stands above the mark. Changes nothing. Raises StateMismatch."""
        if self.regular:
            self._above = Above(self._fd, self.name, mark)

    def cut(self) -> None:
        """Cut what is behind the last good line, and go on there; a torn line is nothing to speak of."""
        above, self._above = self._above, None
        if above is None:
            return
        if above.damage is not None:
            size = above.length - above.end
            log.warning("%s: %d bytes were cut from there on, and are made again", above.damage, size)
        if above.length > above.end:
            os.ftruncate(self._fd, above.end)
        self._length, self._seen = os.lseek(self._fd, above.end, os.SEEK_SET), above.seen
        self._found = lines(self._fd, above.start, above.end)
        self.ahead = next(self._found, None)

    def holds(self, position: Position) -> bool:
        runs = self._seen.get(position[:2])
        return runs is not None and position.offset in runs

    def holds_after(self, offsets: Mapping[int, int]) -> bool:
        return any(runs.last >= offsets.get(partition, 0) for (_, partition), runs in self._seen.items())

    def passed(self, reached: Mapping[Key, int]) -> None:
        """The records up to these have come: the mark may move past the lines of their outputs."""
        self._passed |= reached
        while self.ahead is not None and self.ahead.offset <= self._passed.get(self.ahead.key, -1):
            self.ahead = next(self._found, None)

    @property
    def waiting(self) -> int:
        return self._waiting.count(b"\n")

    def add(self, line: bytes) -> None:
        self._waiting += line
        self._waiting += b"\n"

    def flush(self) -> int | None:
        """Raises what `FileSink.flush` does. Returns the mark; None where there can be none."""
        # Standard output may be a file, or the null device.
        found = os.fstat(self._fd)
        if self.regular and found.st_size != self._length:
            raise changed(self.name, found.st_size, self._length)
        is_stream = not stat.S_ISREG(found.st_mode)
        waits = _Waits(self._fd if self._terminal < 0 else self._terminal) if is_stream else None
        while self._waiting:
            try:
                if waits is None:
                    written = os.write(self._fd, self._waiting[:CHUNK])
                elif waits.until_ready():
                    written = os.write(waits.fd, self._waiting[:ATOM])
                else:
                    raise Stalled(errno.EAGAIN, "its reader takes no more at the moment", self.name)
            except BlockingIOError:  # a terminal may have less room than it says
                if waits is None or not waits.pause():
                    raise Stalled(errno.EAGAIN, "it takes no more at the moment", self.name) from None
                continue
            except BrokenPipeError:
                raise Unreachable(f"the reader of {self.name} is gone") from None
            except Stalled:
                raise
            except OSError as error:
                raise OSError(error.errno or errno.EIO, error.strerror, self.name) from error
            del self._waiting[:written]
            self._length += written
        if not self.regular:
            return None
        # A checkpoint taken while records are read again has a C below the last line here: whoever starts
        # from it must find the lines from C on.
        return self._length if self.ahead is None else self.ahead.start

    def sync(self) -> None:
        with self._lock:
            if not self.regular or self._fd < 0:
                return
            if self._sync_error is not None:
                raise self._sync_error
            try:
                os.fsync(self._fd)
                if not self._folder_synced:
                    folder = os.open(os.path.dirname(self._path) or ".", os.O_RDONLY | os.O_DIRECTORY)
                    try:
                        os.fsync(folder)
                    finally:
                        os.close(folder)
                    self._folder_synced = True
            except OSError as error:
                self._sync_error = OSError(error.errno or errno.EIO, error.strerror, self.name)
                raise self._sync_error from error

    def close(self) -> None:
        # `sync` runs in another thread, and must not find its descriptor closed, or another file's.
        with self._lock:
            if self._path != "-" and self._fd >= 0:
                os.close(self._fd)
            if self._terminal >= 0:
                os.close(self._terminal)
            self._fd = self._terminal = -1


class _Waits:
    """Waits for room in a stream, PATIENCE seconds in all."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._left = PATIENCE
        self._poller = select.poll()
        self._poller.register(fd, select.POLLOUT)

    def until_ready(self) -> bool:
        if self._poller.poll(0):
            return True
        started = time.monotonic()
        ready = bool(self._poller.poll(max(0.0, self._left) * 1000))
        self._left -= time.monotonic() - started
        return ready

    def pause(self) -> bool:
        """Wait a little where there is no room in what is ready; False if the time is up."""
        time.sleep(PATIENCE / 10)
        self._left -= PATIENCE / 10
        return self._left > 0


def _own_terminal(fd: int) -> int:
    """A descriptor of our own for the terminal that is `fd`, or -1.

    One that is ready may take a single byte. So it must not block, which can't be asked of a descriptor
    that the shell and others share.
    """
    try:
        return os.open(os.ttyname(fd), os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return -1
