"""Settings of the test run: hypothesis draws the same examples everywhere, so that a failure is a failure."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("search", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("STREAMLEARN_TEST_PROFILE", "ci"))
