"""What is fitted, and the file it is kept in.

Every constant starts at what a maker or a library states (1 for a factor on such a figure) and is
pulled back to it by ``PULL``: few rows move it little.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from typing import Any, Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """Factors, shares and times that measured rows decide."""

    host_s: float = 20e-6
    """Added by timing a framework's calls one by one from the host."""
    startup: float = 1.0
    """Times the latency NCCL's tuner counts inside a domain."""
    startup_out: float = 1.0
    """Times it where domains are several."""
    rdma_hop: float = 1.0
    """Times NCCL's latency of a hop over InfiniBand and RoCE."""
    crowd: float = 0.3
    """Latency between domains grows with log2(domains) to this power beyond the tree's depth."""
    fill: float = 2.0
    """A full pipeline of chunks costs so many times the latency of Simple."""
    fill_bytes: float = 20e6
    """Size at which half of it is paid."""
    nvls_fill_s: float = 7.5e-6
    """The same of in-switch reduction, for each rank of the domain: one head after the other."""
    nvls_fill_bytes: float = 10e6
    fill_power: float = 0.7
    """How sharply a pipeline goes from empty to full as sizes grow."""
    ll_efa_bytes_per_s: float = 0.9e9
    ll_rdma_bytes_per_s: float = 3.0e9
    """What a low-latency message between domains gains in time as it grows: its flags are written
    by a proxy on the host, over EFA and over InfiniBand or RoCE."""
    ring_share: float = 0.96
    """Of NCCL's rate of a ring inside a domain."""
    nvls_share: float = 1.0
    """Of NCCL's rate of in-switch reduction."""
    nic_ring: float = 0.93
    """Of the NICs, by rings."""
    nic_tree: float = 0.93
    nic_tree_efa: float = 0.85
    """Of the NICs, by trees: each domain sends, receives and reduces at once; over EFA less."""
    mesh_share: float = 0.75
    pcie_share: float = 0.28
    """Of a card's PCIe link between cards that meet over a root complex: 16 of 64 GB/s with 4 cards
    (gardenlinux/gardenlinux#4556), 22 with 8 RTX PRO 6000 of two sockets and 41 behind switches
    (voipmonitor/rtx6kpro, hardware/pcie-bandwidth.md), 28 with 8 RTX 5090 (NVIDIA/nccl#1639); read
    2026-11-30. Root complexes are what most hosts have: the low end counts."""
    line_share: float = 0.85
    """Of a torus axis that does not close and is longer than two."""
    neuron_share: float = 0.9
    copy_share: float = 0.85
    """One-way copy between two chips, of the wire."""
    exchange_share: float = 0.9
    """Of a ring's rate, by an all-to-all's many messages."""
    serial: float = 0.1
    """Of the quicker of two stages (inside a domain, between domains) what does not overlap with
    the slower."""
    neuron_call_s: float = 7e-6
    neuron_old_call_s: float = 80e-6
    """One call through the Neuron runtime; through its older versions."""

    def to_dict(self) -> dict[str, float]:
        """Name -> value."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


PULL: Final[Mapping[str, float]] = {
    "host_s": 0.3, "startup": 1.0, "startup_out": 1.0, "rdma_hop": 1.0, "crowd": 1.0, "fill": 0.3,
    "fill_bytes": 0.3, "fill_power": 1.0, "nvls_fill_s": 0.5, "nvls_fill_bytes": 0.5,
    "ll_efa_bytes_per_s": 0.5, "ll_rdma_bytes_per_s": 0.5, "serial": 2.0, "exchange_share": 6.0,
    "ring_share": 8.0, "nvls_share": 8.0, "nic_ring": 8.0, "nic_tree": 6.0, "nic_tree_efa": 6.0,
}  # fmt: skip
"""Inverse spread of the log of a constant around its starting value."""
SHARE_PULL: Final = 4.0
"""Inverse spread of the log of a constant that stands nowhere above."""


@cache
def shipped_record() -> Mapping[str, Any]:
    """The shipped file, as ``fit`` wrote it."""
    text = files("weftline.fabric").joinpath("data/collective_calibration.json").read_text("utf-8")
    record: Mapping[str, Any] = json.loads(text)
    return record
