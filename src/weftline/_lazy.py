"""Rooms whose names are imported when they are first asked for.

A room's ``__init__`` lists what it offers as imports under ``if TYPE_CHECKING``, where type
checkers, editors and the import contracts read them, and ends with ``__getattr__ =
lazily(__name__)``, which reads the same lines when a name is wanted. So a command that needs one
function of a room does not pay for all of it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["lazily"]


def lazily(room: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package whose ``__init__`` imports under ``if TYPE_CHECKING``."""
    places: dict[str, str] = {}

    def find(name: str) -> Any:
        if not places:
            places.update(_places(room))
        if name not in places:
            raise AttributeError(f"module `{room}` has no attribute `{name}`", name=name)
        value = getattr(importlib.import_module(places[name]), name)
        setattr(sys.modules[room], name, value)
        return value

    return find


def _places(room: str) -> dict[str, str]:
    """Name -> module, from the room's own source."""
    import ast

    spec = sys.modules[room].__spec__
    loader: Any = None if spec is None else spec.loader
    source = loader.get_source(room)
    return {
        alias.name: node.module
        for block in ast.parse(source).body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module is not None
        for alias in node.names
    }
