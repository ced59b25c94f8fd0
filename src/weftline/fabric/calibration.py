"""Times of collectives on real machines: physics first, fourteen constants fitted on measured rows.

A collective takes what calling it costs on the host, plus the quickest of the ways the library can
go. Each way is latency and bytes: the latency is counted in hops as NCCL's tuner counts them, and
grows with the size as a pipeline of chunks fills (``ramp``); the bytes go at the rate of the slower
of links and network, times the share of it that is really reached. In-switch reduction (NVLS) moves
M (1 + 1/N) out of a chip where a ring moves 2 M (N-1)/N, which is why it beats the ring's bound.

The constants stand in ``data/collective_calibration.json`` with the rows they were fitted on and
their error on machines left out whole; ``fit`` writes that file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from weftline.errors import InputError
from weftline.fabric.machines import Machine, machine_facts

MIB = 2.0**20
Harness = Literal["device", "host"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """What is fitted. Shares are of the rate the makers or the library state."""

    host_s: float = 22e-6
    """Added by timing PyTorch calls from the host."""
    one_node_latency: float = 1.0
    """Times the latency NCCL's tuner counts inside a node."""
    many_nodes_latency: float = 1.0
    ramp: float = 2.0
    """Latency of large messages in units of that of small ones, at 1 MiB."""
    ramp_power: float = 0.15
    """It grows with size to this power."""
    ring_share: float = 0.9
    nvls_share: float = 0.8
    nic_share: float = 0.85
    mesh_share: float = 0.8
    torus_share: float = 0.8
    neuron_share: float = 0.8
    copy_share: float = 0.85
    """One-way copy between two chips, of the wire."""
    serial: float = 0.1
    """Of the quicker of two stages of a tree (inside a node, between nodes) what does not overlap
    with the slower."""
    neuron_call_s: float = 30e-6
    """Floor of one call through the Neuron runtime; its versions differ by a factor of 50."""

    def to_dict(self) -> dict[str, float]:
        """Name -> value."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectivePrediction:
    """Seconds with a band of 90 %, and how the library is taken to have gone."""

    time_s: float
    low_s: float
    high_s: float
    algorithm: str
    bus_bytes_per_s: float


COLLECTIVE_NAMES: Mapping[str, str] = {
    "all_reduce": "all-reduce", "allreduce": "all-reduce",
    "all_gather": "all-gather", "allgather": "all-gather",
    "reduce_scatter": "reduce-scatter", "reducescatter": "reduce-scatter",
    "all_to_all": "all-to-all", "alltoall": "all-to-all", "a2a": "all-to-all",
    "broadcast": "broadcast", "reduce": "broadcast",
    "send": "send", "sendrecv": "send", "p2p": "send", "permute": "send",
}  # fmt: skip


def collective_name(text: str) -> str:
    """One name for ``all_reduce``, ``allreduce_perf``, ``AllReduce``; raises InputError."""
    low = text.strip().lower().replace("-", "_").replace(" ", "_").removesuffix("_perf")
    known = COLLECTIVE_NAMES.get(low) or COLLECTIVE_NAMES.get(low.replace("_", ""))
    if known is None:
        raise InputError(
            f"unknown collective `{text}`", hint=f"known: {', '.join(sorted(COLLECTIVE_NAMES))}"
        )
    return known


def bus_factor(collective: str, ranks: int) -> float:
    """Bus bandwidth / algorithm bandwidth, as nccl-tests' PERFORMANCE.md defines it."""
    if collective == "all-reduce":
        return 2 * (ranks - 1) / ranks
    return (
        (ranks - 1) / ranks if collective in ("all-gather", "reduce-scatter", "all-to-all") else 1
    )


def collective_time_s(
    constants: Constants,
    machine: Machine,
    collective: str,
    size_bytes: float,
    *,
    algorithm: str = "auto",
    harness: Harness = "device",
) -> tuple[float, str]:
    """Seconds and the way taken. ``algorithm``: auto, or a text that holds ring, tree or nvls.

    ``size_bytes`` is nccl-tests' size (output of an all-gather, input of everything else).
    """
    if machine.kind in ("nvlink", "pcie"):
        ways = _gpu_ways(constants, machine, collective, size_bytes, algorithm.lower())
    else:
        ways = _direct_ways(constants, machine, collective, size_bytes)
    seconds, name = min(ways)
    return seconds + (constants.host_s if harness == "host" else 0.0), name


def _gpu_ways(
    c: Constants, m: Machine, collective: str, size: float, asked: str
) -> list[tuple[float, str]]:
    passes = 2 if collective == "all-reduce" else 1
    base_s = _base_s(c, m, passes)
    ramp_s = base_s * c.ramp * max(size / MIB, 1e-6) ** c.ramp_power
    low = machine_facts()["low_latency_share"]
    rates = _rates(c, m, collective, asked)
    small = low["one_node"] * rates["ring"] if m.network is None else low["tree"] * rates["tree"]
    ways = [(base_s + size / small, "low latency")] if small > 0 else []
    for name in _allowed(m, rates, asked):
        # A ring over many nodes cannot end before its steps have gone around once.
        floor = _ring_s(c, m, passes) if name == "ring" else 0.0
        ways.append((max(ramp_s, floor) + size / rates[name], name))
    return ways


def _base_s(c: Constants, m: Machine, passes: int) -> float:
    """Latency of a small message: a ring inside a node, a tree over nodes (NCCL's tuner)."""
    hops = machine_facts()["hops_s"]
    if m.network is None:
        return float((hops["ring_base"] + passes * (m.ranks - 1) * m.hop_s) * c.one_node_latency)
    inside = (m.per_node - 1) * m.hop_s * hops["across_nodes"]
    across = math.log2(m.nodes) * m.network.hop_s
    return float((hops["tree_base"] + passes * (inside + across)) * c.many_nodes_latency)


def _ring_s(c: Constants, m: Machine, passes: int) -> float:
    """The steps of a ring over nodes, each way around once; nothing inside one node."""
    if m.network is None:
        return 0.0
    inside = (m.ranks - m.nodes) * m.hop_s
    return c.many_nodes_latency * passes * (inside + (m.nodes - 1) * m.network.hop_s)


def _rates(c: Constants, m: Machine, collective: str, asked: str) -> dict[str, float]:
    """Algorithm bandwidth of each way, bytes/s; a way that does not exist has none."""
    n, per = m.ranks, m.per_node
    inside = m.ring_bytes_per_s * c.ring_share
    nic = math.inf if m.network is None else m.network.node_bytes_per_s * c.nic_share
    ring = min(inside, nic)
    if collective == "all-to-all":
        leaving = per * (n - per) / n / nic if m.network else 0.0
        return {"ring": 1 / max((per - 1) / n / inside, leaving), "tree": ring}
    if collective == "send":
        copy = m.wire_bytes_per_s * c.copy_share if "copy" in asked or not m.network else inside
        return {"ring": min(copy, nic), "tree": min(copy, nic)}
    if collective != "all-reduce":
        scale = n / (n - 1) if collective != "broadcast" else 1.0
        return {"ring": ring * scale, "tree": ring * scale}
    rates = {"ring": ring * n / (2 * (n - 1))}
    # Of a double binary tree an inner node sends up once and down twice half of the buffer, a leaf
    # up once: two buffers in all; two nodes only exchange halves.
    tree_nic = nic if m.nodes <= 2 else nic / 2
    rates["tree"] = _staged(c, tree_nic, inside * per / (2 * max(per - 1, 1)))
    if m.nvls > 0 and per > 1:
        switch = m.wire_bytes_per_s * m.nvls * c.nvls_share / (1 + 1 / per)
        rates["nvls" if m.network is None else "nvls tree"] = _staged(c, switch, tree_nic)
    return rates


def _staged(c: Constants, one: float, two: float) -> float:
    """Rate of two stages in a pipeline: the slower's time, and of the quicker's what is serial."""
    return 1 / (1 / min(one, two) + c.serial / max(one, two))


def _allowed(m: Machine, rates: Mapping[str, float], asked: str) -> list[str]:
    """The ways a library may take for large messages, or the one that was asked for."""
    least = machine_facts()["nvls_ranks_min"]
    enough = m.ranks >= least["hopper" if m.nvls > 0.8 else "blackwell"]
    ways = [w for w in rates if w != "tree" or m.network is not None]
    has_nvls = [w for w in ways if w.startswith("nvls")]
    plain = asked.split("(", maxsplit=1)[0]
    forced = "auto" not in plain or "=" in plain
    if forced and "nvls" in plain and has_nvls:
        return has_nvls
    if forced and ("ring" in plain or "nvls off" in asked):
        return ["ring"]
    if forced and "tree" in plain and "tree" in ways:
        return ["tree"]
    if m.network is None and not enough:
        return [w for w in ways if w not in has_nvls]
    return ways


def _direct_ways(c: Constants, m: Machine, collective: str, size: float) -> list[tuple[float, str]]:
    """Meshes and tori: each rank's links at once, hops over them, a call."""
    share = {"full-mesh": c.mesh_share, "torus": c.torus_share}.get(m.kind, c.neuron_share)
    passes = 2 if collective == "all-reduce" else 1
    n = m.ranks
    rate = m.wire_bytes_per_s * share
    if m.network is not None:
        rate = min(rate, m.network.node_bytes_per_s / m.per_node * c.nic_share)
    hops = n - 1 if m.kind == "full-mesh" else max(1.0, 2 * math.sqrt(n))
    call = c.neuron_call_s if m.kind == "neuron" else machine_facts()["hops_s"]["ring_base"]
    call += passes * hops * m.hop_s
    if m.network is not None:
        call += passes * math.log2(m.nodes) * m.network.hop_s
    moved = passes * (n - 1) / n if collective not in ("broadcast", "send") else 1.0
    if m.kind == "full-mesh" and collective in ("send", "broadcast"):
        rate = rate / max(m.per_node - 1, 1)
    if m.kind == "torus" and collective == "all-to-all":
        # A quarter of the longest side's ranks cross the middle of a ring (closed form).
        moved = max(moved, n ** (1 / 3) / 4)
    return [(call + moved * size / rate, "links")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The shipped constants and the bands that machines left out gave them."""

    constants: Constants
    band: Mapping[str, float]
    """Size band -> ratio that 90 % of left-out rows stay within, each way."""
    record: Mapping[str, Any]

    def predict(
        self,
        machine: Machine,
        collective: str,
        size_bytes: float,
        *,
        algorithm: str = "auto",
        harness: Harness = "device",
    ) -> CollectivePrediction:
        """Time of one collective with its band of 90 %."""
        time_s, way = collective_time_s(
            self.constants, machine, collective, size_bytes, algorithm=algorithm, harness=harness
        )
        ratio = self.band[size_band(size_bytes, machine)]
        bus = size_bytes / time_s * bus_factor(collective, machine.ranks)
        return CollectivePrediction(
            time_s=time_s, low_s=time_s / ratio, high_s=time_s * ratio, algorithm=way,
            bus_bytes_per_s=bus,
        )  # fmt: skip


def size_band(size_bytes: float, machine: Machine | None = None) -> str:
    """``below 1 MiB`` or ``1 MiB and up``; the Neuron runtime has bands of its own."""
    band = "below 1 MiB" if size_bytes < MIB else "1 MiB and up"
    return f"neuron, {band}" if machine is not None and machine.kind == "neuron" else band


@cache
def calibration() -> Calibration:
    """The shipped calibration."""
    text = files("weftline.fabric").joinpath("data/collective_calibration.json").read_text("utf-8")
    record = json.loads(text)
    return Calibration(
        constants=Constants(**record["constants"]), band=record["band_90"], record=record
    )
