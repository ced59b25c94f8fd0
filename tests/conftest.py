"""Settings of the suite: property tests are seeded in CI and never fail for being slow.

One thread for linear algebra: the suite already runs on every core, and threads of two workers that
wait for each other cost it twice the time. Ages of prices are counted to one day, whenever the
suite runs. Processes that tests start can be interrupted, also
where the suite itself was started in the background with interrupts ignored.
"""

from __future__ import annotations

import os
import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ["WEFTLINE_TODAY"] = "2026-11-30"

from hypothesis import settings  # noqa: E402

settings.register_profile(
    "house", deadline=None, print_blob=True, derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("house")
