"""A placement behind switches, answered whole: the map, what is shared, spares, and the habits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from weftline.catalog import accelerator, accelerators
from weftline.fabric.graph import Topology
from weftline.fabric.placement.model import AxisTraffic
from weftline.fabric.placement.packing import pack
from weftline.fabric.placement.tiers import Tiers, tiers_of
from weftline.spec.rank_map import runs_of


def packed_answer(
    axes: Mapping[str, int], topology: Topology, traffic: Sequence[AxisTraffic], *,
    chips_per_host: int | None = None, usable_hosts: int | None = None,
    segment_hosts: int | None = None, together: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """The dictionary of ``weftline simulate placement --json``; raises InputError as ``pack``."""
    tiers = tiers_of(topology, chips_per_host or _host_of(topology))
    tiers = replace(tiers, usable_hosts=usable_hosts)
    found = pack(axes, tiers, traffic, segment_hosts=segment_hosts, together=together)
    order = found.habits.get("rank order")
    return {
        "network": topology.name, "axes": dict(found.axes), "order": list(found.order),
        "tiers": [{"name": t.name, "chips": t.size, "bytes_per_s": t.bytes_per_s,
                   "latency_s": t.latency_s} for t in tiers.tiers],
        "chips_per_host": tiers.chips_per_host, "cost_s": found.cost_s,
        "cost_by_axis_s": dict(found.cost_by_axis_s), "shares": dict(found.shares),
        "habits_s": dict(found.habits),
        "gain": None if not order or not found.cost_s else order / found.cost_s,
        "block_ranks": found.block, "units": _units(tiers, found.rank_to_chip.tolist()),
        "spare_hosts": _spare_hosts(topology, tiers, found.spares),
        "rank_to_chip_runs": [list(run) for run in runs_of(found.rank_to_chip.tolist())],
        "looked_at": found.looked_at,
        "basis": {"time": "closed forms tier by tier, the slowest group, nothing overlapped"},
    }  # fmt: skip


def _host_of(topology: Topology) -> int | None:
    """Chips of a host of the accelerator a named fabric is called after."""
    head = topology.name.replace("/", "-").split("-")[0].split(":")[0]
    known = next((a for a in accelerators() if a == head or a.startswith(f"{head}-")), None)
    return None if known is None else accelerator(known).chips_per_host


def _units(tiers: Tiers, chips: Sequence[int]) -> dict[str, int]:
    """Scale-up unit -> the job's hosts in it."""
    size, host = tiers.unit.size, tiers.chips_per_host
    hosts: dict[int, set[int]] = {}
    for chip in chips:
        hosts.setdefault(chip // size, set()).add(chip // host)
    return {f"{tiers.unit.name} {unit}": len(found) for unit, found in sorted(hosts.items())}


def _spare_hosts(topology: Topology, tiers: Tiers, spares: Sequence[int]) -> list[str]:
    """Hosts of used units without a rank, by their own name where the network has names."""
    host = tiers.chips_per_host
    count: dict[int, int] = {}
    for chip in spares:
        count[chip // host] = count.get(chip // host, 0) + 1
    whole = [h for h, n in sorted(count.items()) if n == host]
    if topology.labels:
        return [topology.labels[h * host].rsplit("/", 1)[0] for h in whole]
    per = max(1, tiers.unit.size // host)
    return [f"{tiers.unit.name} {h // per} host {h % per}" for h in whole]
