"""What a release of a framework keeps in memory, from a table with a source for each row."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from weftline.plan.step.frameworks import Framework

__all__ = ["Release", "released", "releases"]

_FILE = Path(__file__).parents[1] / "data" / "memory_by_release.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One row of the table."""

    match: str
    """How the framework's name begins, its version included."""
    models: tuple[str, ...]
    """How names of the models it is said of begin; empty for all."""
    keeps: Mapping[str, float]
    """Fields of :class:`Framework` and their values."""
    source: str
    date: str

    def covers(self, framework: str, model: str) -> bool:
        """Whether the row is about this framework training this model."""
        named = not self.models or any(
            model.lower().replace("_", "-").startswith(m.lower()) for m in self.models
        )
        return framework.startswith(self.match) and named


@functools.cache
def releases() -> tuple[Release, ...]:
    """All rows, in the order in which they are laid over each other."""
    rows = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return tuple(
        Release(
            match=row["match"], models=tuple(row.get("models", ())), keeps=row["keeps"],
            source=row["source"], date=str(row["date"]),
        )
        for row in rows
    )  # fmt: skip


def released(frame: Framework, framework: str, model: str = "") -> Framework:
    """``frame`` as the release called ``framework`` runs it; ``model`` as a row names it."""
    keeps: dict[str, float] = {}
    for row in releases():
        if row.covers(framework, model):
            keeps |= row.keeps
    return replace(frame, **keeps) if keeps else frame  # type: ignore[arg-type]
