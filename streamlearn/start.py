"""`streamlearn run` before torch is loaded: what takes as long, in another process, is begun first."""

from __future__ import annotations

import os
from collections.abc import Sequence

from streamlearn.flags import load_settings
from streamlearn.wiring import prepare


def run(words: Sequence[str]) -> int:
    """The worker. Returns the exit status."""
    settings = load_settings(words, os.environ)
    end = prepare(settings)
    try:
        from streamlearn.run import run  # (loads torch, which takes seconds)

        return run(settings)
    finally:
        end()
