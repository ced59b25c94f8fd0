"""What the operators need to know of a chip: peaks, bandwidth, links, and whose tables it shares.

Peaks and bandwidths come from the catalogue. ``data/operators_chips.json`` adds which measured
tables stand in for a chip; a chip with none is priced by the systolic-array prior.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Final

from weftline.catalog import Accelerator, accelerator, shipped_accelerators
from weftline.catalog.machines import machines
from weftline.errors import InputError
from weftline.operators.dtypes import canonical, number_format
from weftline.operators.sparse import SparseUnit, units_of
from weftline.spec import HostPath


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """One chip as the operators see it. Everything SI; replace fields to explore another chip."""

    name: str
    vendor: str
    peaks: Mapping[str, float]
    """Dense FLOP/s by catalogue dtype: bf16, fp8, fp4, int8..."""
    bandwidth_bytes_per_s: float
    memory_bytes: float = 0.0
    link_bytes_per_s: float = 0.0
    """Scale-up, one direction."""
    link_domain: int = 1
    """Chips in the scale-up domain."""
    out_bytes_per_s: float = 0.0
    """Network beyond it, one direction, one chip's share."""
    chips_per_host: int = 8
    host: HostPath = "auto"
    """How its hosts drive their NICs."""
    like: str | None = None
    """Catalogue id of the chip whose measured tables it shares; None: the systolic prior."""
    reached_matrix: float = 1.0
    """Share of the peak that this chip's products reach, over what those of ``like`` do."""
    reached_memory: float = 1.0
    """The same of the memory bandwidth."""
    prior: Mapping[str, float] = field(default_factory=dict)
    """Scalars of the systolic prior (see :mod:`weftline.operators.systolic`)."""
    sparse: tuple[SparseUnit, ...] = ()
    """Units that skip zeros (see :mod:`weftline.operators.sparse`)."""

    def peak_flops(self, quantisation: str) -> float:
        """The peak (FLOP/s) that a number format runs at on this chip.

        Formats the chip has no peak for run at the next wider one. Raises UnknownNameError for a
        format nobody knows.
        """
        for name in number_format(quantisation).peaks:
            if name in self.peaks:
                return self.peaks[name]
        widest = max(self.peaks.values(), default=0.0)
        if widest <= 0:
            raise InputError(f"no matrix peak of `{self.name}` is published")
        return min(self.peaks.values())

    def native(self, quantisation: str) -> bool:
        """Whether the chip multiplies in that format itself, not in a wider one."""
        return number_format(canonical(quantisation)).peaks[0] in self.peaks


@cache
def _bundled() -> dict[str, Any]:
    file = resources.files("weftline.operators") / "data" / "operators_chips.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


SOCKET_BYTES: Final = 768e9
"""Memory of a CPU's socket where its record has none: assumed, 12 channels of one 64 GB module."""


def chip_of(name: str) -> Chip:
    """The chip of that catalogue name.

    Raises UnknownNameError for any other, InputError where no peak or bandwidth is published.
    """
    # Kept by id, not by name: while a user changes a chip its name means another one.
    return _chip_of(accelerator(name).id)


@cache
def _chip_of(accelerator_id: str) -> Chip:
    return _known(accelerator(accelerator_id))


@cache
def kin_of(name: str) -> Chip:
    """The shipped chip of that name, whatever a user changes of it now, or a machine of the user's:
    whose tables these are."""
    return _known(shipped_accelerators().get(name) or accelerator(name))


def _known(acc: Accelerator) -> Chip:
    known = _bundled()["chips"]
    entry = known.get(acc.id) or known.get(acc.like, {})
    # A machine that the user has measured has tables of its own.
    if not entry and acc.id in machines():
        entry = {"like": acc.id}
    return _catalogued(acc, entry)


def _catalogued(acc: Accelerator, entry: Mapping[str, Any]) -> Chip:
    peaks = {d: float(p) for d in acc.dtypes if (p := acc.peak_flops(d))}
    peaks |= {k: float(v) for k, v in entry.get("peaks", {}).items() if k not in peaks}
    bandwidth = acc.memory_bandwidth_bytes_per_s
    if not peaks or not bandwidth:
        raise InputError(
            f"`{acc.id}` cannot be priced: its matrix peak or memory bandwidth is not published",
            hint=f"`weftline catalog show {acc.id}` lists what is known",
        )
    return Chip(
        name=acc.id,
        vendor=acc.stack,
        peaks=peaks,
        bandwidth_bytes_per_s=bandwidth,
        memory_bytes=acc.usable_memory_bytes or (SOCKET_BYTES if acc.use == "cpu" else 0.0),
        link_bytes_per_s=acc.scale_up_bytes_per_s or 0.0,
        link_domain=acc.scale_up_domain or 1,
        out_bytes_per_s=acc.scale_out_bytes_per_s or 0.0,
        chips_per_host=acc.chips_per_host or (1 if acc.use == "cpu" else 8),
        host=acc.host,
        like=entry.get("like"),
        reached_matrix=float(entry.get("reached", {}).get("matrix", 1.0)),
        reached_memory=float(entry.get("reached", {}).get("memory", 1.0)),
        prior=entry.get("prior", {}),
        sparse=units_of(entry.get("sparse", ())),
    )
