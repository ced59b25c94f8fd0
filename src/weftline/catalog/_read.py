"""Read the shipped data files. JSON and CSV: reading them all takes a few milliseconds."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from weftline.catalog.accelerators import Accelerator
from weftline.catalog.facts import Fact, Source

DATA_DIR: Final = Path(__file__).parent / "data"
DATA_DIR_VARIABLE: Final = "WEFTLINE_DATA_DIR"
ACCELERATOR_FILES: Final = ("nvidia", "cards", "amd", "google", "aws", "other", "edge")


def data_text(name: str) -> str:
    """The text of one shipped data file, ``accelerators/aws.json`` for example."""
    return (DATA_DIR / name).read_text(encoding="utf-8")


def data_json(name: str) -> Any:
    """One shipped JSON file."""
    return json.loads(data_text(name))


def data_rows(name: str) -> Iterator[dict[str, str]]:
    """The rows of one shipped CSV file."""
    return csv.DictReader(io.StringIO(data_text(name)))


def user_data_dir() -> Path:
    """Where ``catalog refresh`` writes: $WEFTLINE_DATA_DIR, else the XDG data directory."""
    given = os.environ.get(DATA_DIR_VARIABLE)
    if given:
        return Path(given)
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "weftline"


@cache
def sources() -> Mapping[str, Source]:
    """All sources by id."""
    return MappingProxyType({k: Source(id=k, **v) for k, v in data_json("sources.json").items()})


def accelerator_from(record: Mapping[str, Any]) -> Accelerator:
    """Build one accelerator from its record in a data file (already checked)."""
    head = {k: v for k, v in record.items() if k not in ("facts", "topology_shape")}
    return Accelerator(
        **head,
        topology_shape=tuple(record.get("topology_shape", ())),
        all_facts=tuple(Fact(**f) for f in record["facts"]),
    )


@cache
def shipped_accelerators() -> Mapping[str, Accelerator]:
    """The accelerators weftline ships, by id, in the order of the data files."""
    return MappingProxyType(
        {
            record["id"]: accelerator_from(record)
            for name in ACCELERATOR_FILES
            for record in data_json(f"accelerators/{name}.json")["accelerators"]
        }
    )


_laid: ContextVar[tuple[Mapping[str, Accelerator], Mapping[str, str]]] = ContextVar(
    "own chips", default=({}, {})
)


@contextmanager
def laid_over(chips: Mapping[str, Accelerator], instead: Mapping[str, str]) -> Iterator[None]:
    """Add ``chips`` to the shipped ones while inside; ``instead`` names those that step aside."""
    token = _laid.set((chips, instead))
    try:
        yield
    finally:
        _laid.reset(token)


def instead_of() -> Mapping[str, str]:
    """Shipped chips that a changed one stands in for, by id -> the changed one's."""
    return _laid.get()[1]


def accelerators() -> Mapping[str, Accelerator]:
    """All accelerators by id: the shipped ones, with the user's own laid over them."""
    chips, instead = _laid.get()
    if not chips:
        return shipped_accelerators()
    kept = {k: v for k, v in shipped_accelerators().items() if k not in instead}
    return MappingProxyType({**kept, **chips})
