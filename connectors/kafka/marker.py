"""A small file beside the progress that Kafka holds: which publication this is, and that there was one.

What counts is committed with the messages. This file gives a publication its name where the user wants one of
its own, tells people how far it came, and shows that Kafka has forgotten it.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from streamlearn.events import UsageError


@dataclass(frozen=True)
class Marking:
    """What the file says. name: of the publication. sent: events, at least. at: when that was (ISO 8601)."""

    name: str
    topic: str
    topic_id: str
    input: str
    sent: int
    at: str


class Marker:
    """The file. `path` None: there is none. `must` false: it is a convenience, where it can be written."""

    def __init__(self, path: str | None, must: bool = True) -> None:
        self.path = path
        self._must = must

    def read(self) -> Marking | None:
        """None if it isn't there. Raises UsageError if it is another kind of file, OSError."""
        if self.path is None:
            return None
        try:
            content = json.loads(Path(self.path).read_text("utf-8"))
            found = Marking(**content)
            if not (isinstance(found.name, str) and isinstance(found.sent, int)):
                raise TypeError
            return found
        except FileNotFoundError:
            return None
        except OSError:
            if self._must:
                raise
            return None
        except (ValueError, TypeError):
            raise UsageError(
                f"{self.path} is not the progress of a publication: name another --progress FILE"
            ) from None

    def write(self, marking: Marking) -> None:
        """Whole or not at all, and durable. Raises OSError if it must be."""
        if self.path is None:
            return
        path = Path(self.path)
        aside = path.with_name(f"{path.name}.{os.getpid()}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(aside, "w", encoding="utf-8") as file:
                json.dump(asdict(marking), file, indent=1)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
        except OSError:
            with suppress(OSError):
                aside.unlink()
            if self._must:
                raise
