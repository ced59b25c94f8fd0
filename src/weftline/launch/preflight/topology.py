"""The network that is there, as its own files say it, beside the one that the plan assumed.

Of each host: how many chips it has, what they send to each other, what its RDMA devices carry. Of
the cluster, where a file of it is given (EC2, GCE and OCI instance topology, node labels of EKS and
GKE, Slurm's topology.conf, topograph, and what else ``weftline import`` reads) or the launcher says
where hosts stand: whether hosts that the plan takes for one scale-up domain are one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from weftline.errors import InputError
from weftline.launch.place import domain_of, slots_of
from weftline.launch.preflight.finding import Finding, Report
from weftline.spec import Plan

SHORT: Final = 0.95
"""Both figures are datasheets of links that are there or not: a twentieth is rounding."""


def places_in(file: Path, names: Sequence[Sequence[str]]) -> dict[int, dict[str, Any]]:
    """Rank -> place of its host by a cluster's own file: switches (outermost first), domain, chips.

    ``names`` are what each rank's host is called. Raises InputError for a file that is none of
    those, or that knows none of the hosts.
    """
    from weftline.fabric.formats.files import import_fabric

    described = import_fabric(file).description
    if described is None:
        raise InputError(
            "this describes one host or a bare network, no cluster's hosts",
            where=str(file),
            hint="give it as NCCL_TOPO_FILE on the hosts",
        )
    known = {host.name: host for host in described.hosts}
    found = {}
    for rank, called in enumerate(names):
        host = next((known[name] for name in called if name in known), None)
        if host is not None:
            found[rank] = {"path": list(reversed(host.path)), "domain": host.domain,
                           "chips": host.chips, "source": described.format}  # fmt: skip
    if not found:
        raise InputError(
            f"none of the job's hosts is in it: {', '.join(names[0])}",
            where=str(file),
            hint=f"it names {', '.join(sorted(known)[:4])}; WEFTLINE_HOST says a host's name",
        )
    return found


def topology_findings(
    reports: Sequence[Report], plan: Plan | None, raw: Mapping[str, Any] | None
) -> list[Finding]:
    """Where what is there differs from what was planned; nothing without a plan."""
    if plan is None or raw is None or len(reports) != plan.layout.chips:
        return []
    first: dict[str, int] = {}
    for rank, report in enumerate(reports):
        first.setdefault(str(report["facts"]["host"]), rank)
    found = []
    for host, rank in first.items():
        found += _of_host(host, rank, reports[rank]["facts"], plan)
    return [*found, *_domains(reports, raw)]


def _of_host(host: str, rank: int, facts: Mapping[str, Any], plan: Plan) -> list[Finding]:
    found: list[Finding] = []
    inside, per_host = facts.get("inside", {}), plan.cluster.chips_per_host
    chips = inside.get("chips") or (facts.get("place") or {}).get("chips")
    source = inside.get("source") or (facts.get("place") or {}).get("source")
    if chips is not None and chips < min(per_host, plan.layout.chips):
        found.append(Finding(kind="topology", ranks=(rank,),
                             what=f"host {host}: {chips} chips by {source}, the plan has "
                             f"{per_host} a host"))  # fmt: skip
    levels = plan.cluster.levels
    between = inside.get("between_bytes_per_s")
    if between and levels and per_host > 1:
        found += _short(f"host {host}: {min(between) / 1e9:,.0f} GB/s from chip "
                        f"{between.index(min(between))} to the others by {source}",
                        rank, min(between), levels[0])  # fmt: skip
    rates = [rate for rate in facts["rdma"].values() if rate]
    if rates and levels and plan.cluster.chips > levels[0].size:
        each = sum(rates) / min(per_host, plan.layout.chips)
        found += _short(f"host {host}: RDMA devices carry {each / 1e9:,.1f} GB/s a chip",
                        rank, each, levels[-1])  # fmt: skip
    return found


def _short(what: str, rank: int, rate: float, level: Any) -> list[Finding]:
    planned = level.bandwidth_bytes_per_s
    if rate >= SHORT * planned:
        return []
    return [Finding(kind="topology", ranks=(rank,), ratio=planned / max(rate, 1.0),
                    what=f"{what}, the plan has {planned / 1e9:,.1f} at {level.name}")]  # fmt: skip


def _domains(reports: Sequence[Report], raw: Mapping[str, Any]) -> list[Finding]:
    """Hosts of one planned scale-up domain that stand in several, or under several leaves."""
    size = domain_of(raw)
    if size < 2:
        return []
    members: dict[int, dict[str, int]] = {}
    for rank, (slot, _) in enumerate(slots_of(raw)):
        where = _place(reports[rank]["facts"])
        if where:
            members.setdefault(slot // size, {}).setdefault(where, rank)
    return [Finding(kind="topology", ranks=tuple(sorted(places.values())),
                    what=f"the plan's domain {domain} of {size} hosts stands in {len(places)}: "
                    f"{', '.join(sorted(places))}")
            for domain, places in sorted(members.items()) if len(places) > 1]  # fmt: skip


def _place(facts: Mapping[str, Any]) -> str:
    """The scale-up domain of a host, or the leaf above it; empty where nothing says it."""
    said = facts.get("place") or {}
    if said.get("domain"):
        return str(said["domain"])
    above = list(said.get("path") or str(facts.get("topology", "")).split("."))
    if above and above[-1] in facts.get("names", ()):  # Slurm's place ends in the host itself
        above.pop()
    return ".".join(above)
