"""Settings of the suite: property tests are seeded in CI and never fail for being slow."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile(
    "house", deadline=None, print_blob=True, derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("house")
