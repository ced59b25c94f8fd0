"""Find things by name: case and punctuation forgiven, nearest names offered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from weftline.catalog._read import accelerators, instead_of
from weftline.catalog.accelerators import ALIASES, Accelerator
from weftline.errors import UnknownNameError

T = TypeVar("T")


def accelerator(name: str) -> Accelerator:
    """One accelerator by id or usual name (``h100``, ``trn2``, ``TPU v5p``).

    Raises UnknownNameError (exit 2) with the nearest names.
    """
    changed = instead_of()
    return _find("accelerator", name, accelerators(),
                 {**{k: changed.get(v, v) for k, v in ALIASES.items()}, **changed})  # fmt: skip


def find(kind: str, name: str, table: Mapping[str, T]) -> T:
    """One entry of ``table`` by name; raises UnknownNameError with the nearest names."""
    return _find(kind, name, table, {})


def _find(kind: str, name: str, table: Mapping[str, T], aliases: Mapping[str, str]) -> T:
    if name in table:
        return table[name]
    wanted = "-".join(name.strip().lower().replace("_", "-").split())
    if wanted not in table:
        wanted = aliases.get(wanted, wanted)
    if wanted not in table:
        wanted = next((k for k in table if k.replace("_", "-") == wanted), wanted)
    if wanted not in table:
        hint = f"`weftline catalog list` names all {len(table)}"
        raise UnknownNameError(kind, name, [*table, *aliases], hint=hint)
    return table[wanted]
