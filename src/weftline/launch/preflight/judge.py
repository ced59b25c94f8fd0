"""What the measurements say beside what the plan assumed: findings, and what they cost.

A link is held against others of its level, which needs no datasheet, and against the plan's figure
for the level where the job's own network was measured. What counts as slower follows from how much
the measurements vary (``noise``). Of two findings where one explains the other only the cause is
kept: a host that computes slowly also answers slowly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from weftline.launch.place import slots_of
from weftline.launch.preflight import hosts as of_hosts
from weftline.launch.preflight import links as of_links
from weftline.launch.preflight.finding import Finding, Report
from weftline.launch.preflight.measure import Again
from weftline.launch.preflight.noise import WORTH, slow_ones
from weftline.launch.preflight.topology import topology_findings
from weftline.spec import Plan
from weftline.spec.step_parts import AXES, slowed

AGAIN_MOST: Final = 32
"""Pairs, and ranks, that are sampled again at once."""
OF_A_RANK: Final = 3
"""Pairs of one rank among them: a bad NIC makes all of its links slow."""
SOUND: Final = 3
"""Sound ones that are sampled beside them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The findings, and the step's predicted slow-down with its parts."""

    findings: tuple[Finding, ...]
    slowdown: float
    """Step time with these findings over the planned one; 1 where nothing counts."""
    basis: str
    levels: Mapping[str, tuple[float, float]]
    """Level -> (rate, median round trip) in bytes/s and s."""
    ranks: int
    pairs: int


def judge(
    reports: Sequence[Report], plan: Plan | None, raw: Mapping[str, Any] | None,
    *, against_plan: bool,
) -> Verdict:  # fmt: skip
    """Findings of all ranks' reports; ``raw`` is the plan as JSON, for its map."""
    hosts = [str(r["facts"]["host"]) for r in reports]
    slots = slots_of(raw) if raw is not None else None
    links = [link for report in reports for link in report["links"]]
    order = of_hosts.order_findings(hosts, slots)
    work = of_hosts.work_findings(reports, hosts)
    cores = of_hosts.core_findings(reports, hosts)
    excused = {rank for f in (*work, *cores) for rank in f.ranks}
    found = [*order, *of_hosts.missing_findings(reports, hosts), *cores,
             *of_hosts.storage_findings(reports, hosts, excused), *work,
             *topology_findings(reports, plan, raw)]  # fmt: skip
    level_of = of_links.leveller(plan, slots, hosts)
    levels = of_links.levels_of(links, level_of)
    if not order:
        found += of_links.link_findings(links, level_of, hosts, excused)
        if against_plan and plan is not None:
            found += of_links.level_findings(plan, levels)
    found += of_hosts.clock_findings(links, hosts)
    basis = "step parts of the plan, each times its worst ratio" if plan is not None else "no plan"
    return Verdict(findings=tuple(dict.fromkeys(found)), slowdown=slowdown_of(found, plan),
                   basis=basis, levels=levels, ranks=len(reports), pairs=len(links))  # fmt: skip


def suspects(reports: Sequence[Report], plan: Plan | None, raw: Mapping[str, Any] | None) -> Again:
    """What looks slow and is not settled, with some sound ones beside it: to be sampled again."""
    hosts = [str(r["facts"]["host"]) for r in reports]
    links = [link for report in reports for link in report["links"]]
    level_of = of_links.leveller(plan, slots_of(raw) if raw is not None else None, hosts)
    _, unsettled, sound = of_links.slow_links(links, level_of)
    count: dict[int, int] = {}
    pairs = []
    for pair in unsettled:
        if all(count.get(rank, 0) < OF_A_RANK for rank in pair):
            pairs.append(pair)
            for rank in pair:
                count[rank] = count.get(rank, 0) + 1
    near: dict[str, list[tuple[int, int]]] = {}
    for pair in sound:
        near.setdefault(level_of(*pair), []).append(pair)
    device = str(reports[0]["device"]).split(":")[0]
    beside = [pair for some in near.values() for pair in some[:SOUND]]
    return Again(
        pairs=(*pairs[: AGAIN_MOST - len(beside)], *beside),
        ranks=_unsettled(of_hosts.work_samples(reports), WORTH[device]),
        disks=_unsettled(of_hosts.disk_samples(reports), WORTH["disk"]),
    )


def _unsettled(samples: Mapping[int, Sequence[float]], worth: float) -> tuple[int, ...]:
    """Ranks to sample again, sound ones beside them (those that were before, if any)."""
    slow, left = slow_ones(samples, worth)
    if not left:
        return ()
    sound = sorted(samples.keys() - slow.keys() - set(left), key=lambda n: (-len(samples[n]), n))
    return (*left[: AGAIN_MOST - SOUND], *sound[:SOUND])


def slowdown_of(findings: Sequence[Finding], plan: Plan | None) -> float:
    """Step time with the findings over the planned one: every part times the worst it meets.

    A slow rank holds back all compute, a slow link the exchanges of the axes whose groups it is
    in, a slow level those that cross it.
    """
    if plan is None:
        return max((f.ratio for f in findings), default=1.0)
    work = max((f.ratio for f in findings if f.kind in ("slow-rank", "slow-host", "cores")),
               default=1.0)  # fmt: skip
    exchange = {axis: _worst(findings, plan, axis) for axis in AXES.values()}
    return slowed(plan, work=work, exchange=exchange)


def _worst(findings: Sequence[Finding], plan: Plan, axis: str) -> float:
    worst = 1.0
    for f in findings:
        if f.kind not in ("slow-link", "slow-nic", "asymmetric", "capped", "level"):
            continue
        if len(f.ranks) == 2 and max(f.ranks) < plan.layout.chips:
            a, b = (plan.layout.coordinates(r) for r in f.ranks)
            same = all(a[n] == b[n] for n in ("tp", "cp", "dp", "pp") if axis not in (n, "ep"))
            if not same:
                continue
        worst = max(worst, f.ratio)
    return worst
