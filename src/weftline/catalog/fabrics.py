"""Fabrics: the real networks, their links and latencies, and what NCCL's tuner assumes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Literal

from weftline.catalog._lookup import find
from weftline.catalog._read import data_json
from weftline.catalog.facts import Fact, FactSheet

FabricKind = Literal["switch", "clos", "torus2d", "torus3d", "fully_connected"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fabric(FactSheet):
    """One network as its sources describe it; bandwidths in SI are one direction."""

    topology: str
    kind: FabricKind
    chips: tuple[str, ...]
    """The accelerators it joins, by catalogue id."""
    shape: tuple[int, ...] = ()
    """Length of each torus dimension; empty where it is not a torus of known shape."""

    @property
    def domain(self) -> int | None:
        """Chips it joins at most; None where it has no such limit."""
        return self.count("domain")

    @property
    def link_bytes_per_s(self) -> float | None:
        """One link, port or NIC, bytes/s, one direction; of unequal links the slowest."""
        found = [
            value
            for field in self.fields()
            if field.split(".")[0] in ("link", "port", "nic")
            if (value := self.si(field)) is not None
        ]
        return min(found) if found else None

    @property
    def chip_egress_bytes_per_s(self) -> float | None:
        """What one chip can send into it, bytes/s, one direction: as stated, else links x link."""
        stated = self.si("chip_egress")
        if stated is not None:
            return stated
        links = self.si("links_per_chip") or self.si("ports_per_chip")
        link = self.link_bytes_per_s
        return None if links is None or link is None else links * link

    @property
    def alpha_s(self) -> float | None:
        """Latency of one step in seconds: as stated, else that of the simple protocol."""
        for field in ("alpha", "alpha.ring_simple", "alpha.net_ring_simple"):
            value = self.si(field)
            if value is not None:
                return value
        return None


@cache
def _file() -> Any:
    return data_json("fabrics.json")


def fabric_from(record: Mapping[str, Any]) -> Fabric:
    """Build one fabric from its record in a data file (already checked)."""
    lists = ("facts", "chips", "shape")
    return Fabric(
        **{k: v for k, v in record.items() if k not in lists},
        chips=tuple(record["chips"]),
        shape=tuple(record.get("shape", ())),
        all_facts=tuple(Fact(**f) for f in record["facts"]),
    )


@cache
def fabrics() -> Mapping[str, Fabric]:
    """All fabrics by id."""
    return MappingProxyType({r["id"]: fabric_from(r) for r in _file()["fabrics"]})


def fabric(name: str) -> Fabric:
    """One fabric by id; raises UnknownNameError with the nearest names."""
    return find("fabric", name, fabrics())


def nccl_constants_us() -> Mapping[str, Any]:
    """NCCL's own tuner constants in microseconds, by algorithm; protocols as in ``order``."""
    return MappingProxyType(_file()["nccl_constants_us"])


def closed_forms() -> Mapping[str, Mapping[str, str]]:
    """Closed forms of collective times: formula and source, by algorithm.

    M bytes a rank, N ranks, b one link one way, B what a chip can send, a latency of a step,
    d dimensions of size k.
    """
    return MappingProxyType(_file()["closed_forms"])
