"""What kills must have hit, whichever harness they are of."""

from __future__ import annotations

from collections.abc import Mapping

FEWEST_TO_COVER = 10
"""Kills from which on every kind of moment must have been hit; a few may all fall into one."""
MOST_AGAIN = 3
"""Times as many kills as were asked for, at most, until it has."""


def lacking(kills: int, asked: int, hit: Mapping[str, bool]) -> str:
    """What the next kill is for; "" when there were enough. hit: by aim, whether one has hit such a moment.

    A write is over in milliseconds, so that whether a kill comes in time is chance; few kills go on until
    one has, for as many again and again as were asked for. After that the check fails.
    """
    if kills < asked:
        return "progress"
    if not FEWEST_TO_COVER <= kills < MOST_AGAIN * asked:
        return ""
    return next((aim for aim, done in hit.items() if not done), "")
