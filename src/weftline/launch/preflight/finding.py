"""One thing that is not as it should be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Report = Mapping[str, Any]
"""What one rank found out (``measure.Report``), as JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What it is, whom it concerns, and how much slower it makes them."""

    kind: str
    """slow-link, slow-nic, slow-host, slow-rank, lost, asymmetric, capped, order, missing, clock,
    disk, store, cores, level, topology."""
    what: str
    ranks: tuple[int, ...] = ()
    ratio: float = 1.0
    """How many times slower than it should be."""
