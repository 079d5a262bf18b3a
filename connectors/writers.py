"""Who else writes an output file: other workers, the log, standard output."""

from __future__ import annotations

import fcntl
import logging
import os
import stat

from connectors.above import AGAIN
from streamlearn.events import StateMismatch, UsageError

log = logging.getLogger(__name__)


def refuse_taken(fd: int, name: str, how: int) -> None:
    """Lock a file, until `fd` is closed. Raises StateMismatch if somebody else has."""
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StateMismatch(
            f"{name} is being written by another worker, and one would overwrite the other: end that one, or "
            "name another file (sink.predictions, sink.dead_letters)"
        ) from None
    except OSError as error:  # a network's file system may have no locks
        log.warning("%s can't be locked (%s): take care that no other worker writes it", name, error.strerror)


def the_log_s(path: str) -> UsageError:
    """Of an output that is the file which standard error goes to: the log would come between its lines."""
    return UsageError(
        f"{path} is the file that standard error, with the log, is written to: name another file"
    )


def is_file(fd: int) -> bool:
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode)
    except OSError:  # closed
        return False


def leads_to(path: str, fd: int) -> bool:
    """Is it the very file that a standard stream goes to?"""
    try:
        return is_file(fd) and os.path.samestat(os.stat(path), os.fstat(fd))
    except OSError:
        return False


def changed(name: str, length: int, written: int) -> StateMismatch:
    what, remedy = "cut it", AGAIN
    if length > written:
        what = "appended to it"
        remedy = f"move what stands from byte {written} on elsewhere, a new start would refuse it"
    return StateMismatch(
        f"{name} has {length} bytes, but this worker has written up to byte {written}: somebody else has "
        f"{what}, and nothing more is written there; {remedy}"
    )


def plain(path: str) -> bool:
    """A regular file, or none that is there yet."""
    return os.path.isfile(path) or not os.path.exists(path)
