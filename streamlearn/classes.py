"""The class index: labels are numbered by first appearance and never renumbered."""

from __future__ import annotations

from collections.abc import Iterable


class ClassIndex:
    """Maps labels to 0, 1, 2, … in the order in which they are first seen, up to `limit` labels."""

    def __init__(self, limit: int, labels: Iterable[str] = ()) -> None:
        self.limit = limit
        self.labels: list[str] = list(labels)
        self._index = {label: number for number, label in enumerate(self.labels)}
        if len(self._index) != len(self.labels):
            raise ValueError("a label stands twice in the class index")

    def __len__(self) -> int:
        return len(self.labels)

    def number(self, label: str) -> int | None:
        """The label's number, a new one at first sight; None if it would pass the limit."""
        number = self._index.get(label)
        if number is None:
            if len(self.labels) >= self.limit:
                return None
            number = self._index[label] = len(self.labels)
            self.labels.append(label)
        return number
