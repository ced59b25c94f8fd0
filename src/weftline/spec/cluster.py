"""The machine a job runs on, as far as time, memory and money depend on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

LevelKind = Literal["switch", "full-mesh", "torus", "clos"]
HostPath = Literal["auto", "bypass", "virtual", "tcp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One level of the network, innermost first.

    ``size`` counts the chips that reach each other at this level; ``bandwidth_bytes_per_s`` is what
    one chip can send in one direction over all its links at this level.
    """

    name: str
    kind: LevelKind
    size: int
    bandwidth_bytes_per_s: float
    latency_s: float
    shape: tuple[int, ...] = ()
    """Torus: sides, in the order of its physical axes."""
    open_sides: bool = False
    """Torus whose axes are lines: a slice too small for its wrap-around links."""
    basis: str = "datasheet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """``chips`` of one accelerator and the network between them."""

    accelerator: str
    chips: int
    chips_per_host: int
    memory_bytes: float
    memory_bandwidth_bytes_per_s: float
    peak_flops: Mapping[str, float]
    """Dense FLOP/s of one chip by precision: ``bf16``, ``fp8``..."""
    levels: tuple[Level, ...]
    tdp_w: float | None = None
    host: HostPath = "auto"
    """How the host drives its NICs; auto: as the network is usually driven."""
    basis: Mapping[str, str] = field(default_factory=dict)
    """What each number rests on: field name -> source."""

    @property
    def hosts(self) -> int:
        """Hosts needed for ``chips``."""
        return -(-self.chips // self.chips_per_host)
