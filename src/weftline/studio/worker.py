"""A process that computes for the studio: one JSON line in, lines of progress and an answer out.

It can be killed at any moment: it holds nothing that another needs. Memory is limited, every task
has a new empty folder under that which the pool made, and what libraries print goes to stderr.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from weftline.errors import InputErrors, NoFeasiblePlanError, WeftlineError

__all__ = ["main"]

SAID_EVERY_S: Final = 0.1
"""Progress is told no oftener."""


def main() -> int:
    """Work off tasks until stdin ends."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    limit = int(os.environ.get("WEFTLINE_STUDIO_MEMORY", "0"))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if limit:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    def tell(line: dict[str, Any]) -> None:
        out.write(json.dumps(line) + "\n")

    _die_with_parent()
    _warm()
    tell({"ready": True})
    folder = Path.cwd()
    for number, line in enumerate(sys.stdin):
        scratch = folder / str(number)
        scratch.mkdir()
        os.chdir(scratch)
        tell(_done(json.loads(line), tell))
        os.chdir(folder)
        shutil.rmtree(scratch, ignore_errors=True)
    return 0


def _die_with_parent() -> None:
    """Ask Linux for the end of this process when the studio ends, however that comes."""
    import ctypes

    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        return  # without it, stdin ends after the task at hand


def _warm() -> None:
    """Import what answers need, so that the first question does not wait for it."""
    import weftline.plan.search.train
    import weftline.report.page
    import weftline.serve.search.plan
    import weftline.studio.work  # noqa: F401


def _done(task: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    from weftline.studio.work import TASKS

    last = 0.0

    def say(text: str, share: float | None) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= SAID_EVERY_S:
            last = now
            tell({"says": text[:200], "share": share})

    try:
        return {"done": TASKS[task["task"]](task["asked"], say)}
    except WeftlineError as error:
        return {"failed": failure(error)}
    except MemoryError:
        return _stopped(1, "this question takes more memory than a worker of the studio may have",
                        "`weftline studio --memory`, or ask on the command line")  # fmt: skip
    except RecursionError:
        return _stopped(2, "nested too deep", "")
    except Exception as error:  # a bug: the studio goes on, its log has the place
        import traceback

        traceback.print_exc()
        return _stopped(1, f"weftline contradicts itself ({type(error).__name__}): a bug to report",
                        "the terminal of the studio says where")  # fmt: skip


def _stopped(code: int, what: str, hint: str) -> dict[str, Any]:
    errors = [{"what": what, "where": "", "hint": hint}]
    return {"failed": {"code": code, "errors": errors}}


def failure(error: WeftlineError) -> dict[str, Any]:
    """An error as plain fields: each mistake with its place and hint."""
    errors = error.errors if isinstance(error, InputErrors) else (error,)
    said = [{"what": e.what, "where": e.where or "", "hint": e.hint or ""} for e in errors]
    found: dict[str, Any] = {"code": error.exit_code, "errors": said}
    if isinstance(error, NoFeasiblePlanError) and error.nearest:
        found["nearest"] = error.nearest
    return found


if __name__ == "__main__":
    sys.exit(main())
