"""How a command line is asked in a test: its exit code, standard output and standard error."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Say"]

Say = Callable[..., tuple[int, str, str]]
