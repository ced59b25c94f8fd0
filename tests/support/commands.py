"""How a command line is asked in a test: its exit code, standard output and standard error."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable

from weftline.cli.main import run

__all__ = ["Say", "weftline"]

Say = Callable[..., tuple[int, str, str]]


def weftline(*words: object, code: int = 0) -> str:
    """Run a command in this process, which must end so; what it printed, on both streams."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        found = run(list(map(str, words)))
    assert found == code, out.getvalue()
    return out.getvalue()
