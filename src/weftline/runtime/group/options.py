"""What a run asks of its process groups, said once before they are made.

A DeviceMesh makes groups of its own, without a way to hand options to a backend: so they stand
here, for all groups of a process.
"""

from __future__ import annotations

from dataclasses import dataclass

from weftline.fabric import Topology

__all__ = ["GroupOptions", "asked", "configure"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupOptions:
    """How collectives are executed."""

    algorithm: str | None = None
    """A schedule of the fabric room by name, or ``auto`` for the fastest on the network; None sums
    and gathers directly, each rank from every other."""
    network: Topology | None = None
    """Its links are imposed on every message; chip i is rank i."""


_asked = [GroupOptions()]


def configure(options: GroupOptions) -> None:
    """Hold for groups that are made from now on."""
    _asked[0] = options


def asked() -> GroupOptions:
    """What holds now."""
    return _asked[0]
