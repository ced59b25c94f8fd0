"""What the measurements say beside what the plan assumed: findings, and what they cost.

A link is held against others of its level (the median), which needs no datasheet, and against
the plan's figure for the level where the job's own network was measured. The thresholds leave room
for what clean runs vary by; each says what it stands for. Of two findings where one explains the
other only the cause is kept: a host that computes slowly also answers slowly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from weftline.launch.place import slots_of
from weftline.launch.preflight.discover import counts_of
from weftline.spec import Plan

SLOW_LINK: Final = 0.6
"""Share of its level's median under which a link is slow; clean ones stay above 0.8."""
ASYMMETRIC: Final = 1.8
"""One way over the other."""
SLOW_LEVEL: Final = 0.7
"""Share of the plan's rate: large messages reach 0.8 to 0.95 of a wire's (fabric_facts)."""
SLOW_WORK: Final = {"cuda": 0.85, "cpu": 0.4}
"""Share of the others' products a second. GPUs of one kind stay within 5 %; a CPU shares its core's
halves and caches with whatever else runs there, which was seen to cost up to half."""
AGAIN: Final = 0.8
"""What is below this share is measured again, a pair or rank at most so many at once."""
AGAIN_MOST: Final = 32
SLOW_DISK: Final = 0.2
"""Share of the fastest host's disk, the best of what was measured again."""
CLOCK_S: Final = 0.1
"""Clocks further apart than this: logs and leases no longer agree."""
PROBE_CAP: Final = 4.0
"""Small bulk this much faster than large: something caps large messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it should be."""

    kind: str
    """slow-link, slow-host, slow-rank, lost, asymmetric, capped, order, missing, clock, disk,
    store, cores, level."""
    what: str
    ranks: tuple[int, ...] = ()
    ratio: float = 1.0
    """How many times slower than it should be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The findings, and the step's predicted slow-down with its parts."""

    findings: tuple[Finding, ...]
    slowdown: float
    """Step time with these findings over the planned one; 1 where nothing counts."""
    basis: str
    levels: Mapping[str, tuple[float, float]]
    """Level -> (median rate, median round trip) in bytes/s and s."""
    ranks: int
    pairs: int


def judge(
    reports: Sequence[Mapping[str, Any]], plan: Plan | None, raw: Mapping[str, Any] | None,
    *, against_plan: bool,
) -> Verdict:  # fmt: skip
    """Findings of all ranks' reports; ``raw`` is the plan as JSON, for its map."""
    hosts = [str(r["facts"]["host"]) for r in reports]
    slots = slots_of(raw) if raw is not None else None
    links = [link for report in reports for link in report["links"]]
    found: list[Finding] = []
    found += order_findings(hosts, slots)
    found += host_findings(reports, hosts)
    slow = work_findings(reports, hosts)
    held = {hosts[rank] for f in slow for rank in f.ranks}
    # A host that gets little of its processor writes slowly too: the cause is said.
    found = [f for f in found if f.kind != "disk" or not f.ranks or hosts[f.ranks[0]] not in held]
    found += slow
    level_of = _leveller(plan, slots, hosts)
    levels = _medians(links, level_of)
    if not any(f.kind == "order" for f in found):
        excused = {rank for f in (*slow, *found) if f.kind in ("slow-host", "slow-rank", "cores")
                   for rank in f.ranks}  # fmt: skip
        sound = [k for k in links if not {k["low"], k["high"]} & excused]
        usual = {**levels, **_medians(sound, level_of)}
        found += link_findings(links, usual, level_of, hosts, excused)
        if against_plan and plan is not None:
            found += level_findings(plan, levels)
    found += clock_findings(links, hosts)
    share = slowdown_of(found, plan)
    basis = "step parts of the plan, each times its worst ratio" if plan is not None else "no plan"
    return Verdict(findings=tuple(dict.fromkeys(found)), slowdown=share, basis=basis,
                   levels=levels, ranks=len(reports), pairs=len(links))  # fmt: skip


def suspects(
    reports: Sequence[Mapping[str, Any]], plan: Plan | None, raw: Mapping[str, Any] | None
) -> tuple[list[tuple[int, int]], list[int]]:
    """Pairs and ranks that look slow so far: to be measured again before anything is said."""
    hosts = [str(r["facts"]["host"]) for r in reports]
    links = [link for report in reports for link in report["links"] if not link["lost"]]
    level_of = _leveller(plan, slots_of(raw) if raw is not None else None, hosts)
    levels = _medians(links, level_of)
    usual = _upper(r["work_per_s"] for r in reports)
    pairs = []
    for link in links:
        usual_rate = levels[level_of(link["low"], link["high"])][0]
        if min(link["there"], link["back"]) < AGAIN * usual_rate:
            pairs.append((link["low"], link["high"]))
    ranks = [n for n, r in enumerate(reports) if r["work_per_s"] < AGAIN * usual]
    return pairs[:AGAIN_MOST], ranks[:AGAIN_MOST]


def order_findings(hosts: list[str], slots: Sequence[tuple[int, int]] | None) -> list[Finding]:
    """Ranks that the plan puts together and that are apart, or the other way round."""
    if slots is None or len(slots) != len(hosts):
        return [] if slots is None else [Finding(
            kind="order", what=f"{len(hosts)} ranks run, the plan has {len(slots)}")]  # fmt: skip
    home: dict[int, str] = {}
    wrong = []
    for rank, (slot, _) in enumerate(slots):
        if home.setdefault(slot, hosts[rank]) != hosts[rank]:
            wrong.append(rank)
    if not wrong and len(set(home.values())) < len(home):
        wrong = list(range(len(hosts)))
    if not wrong:
        return []
    what = (
        f"{len(wrong)} ranks are not where the plan puts them, rank {wrong[0]} on {hosts[wrong[0]]}"
    )
    return [Finding(kind="order", what=f"{what}: start them through weftline_place.py",
                    ranks=tuple(wrong))]  # fmt: skip


def host_findings(reports: Sequence[Mapping[str, Any]], hosts: list[str]) -> list[Finding]:
    """What a host lacks beside the others, cores that are too few, disks and stores."""
    found: list[Finding] = []
    first = {host: reports[hosts.index(host)] for host in dict.fromkeys(hosts)}
    most: dict[str, int] = {}
    for name in ("network interface", "RDMA device", "GPU", "active NVLink"):
        most[name] = max(counts_of(r["facts"])[name] for r in reports)
    for rank, report in enumerate(reports):
        for name, count in counts_of(report["facts"]).items():
            if count < most[name]:
                lacks = ""
                if name == "network interface":
                    others = [set(r["facts"]["interfaces"]) for r in reports if r is not report]
                    gone = sorted(set.intersection(*others) - set(report["facts"]["interfaces"]))
                    lacks = f" (without {', '.join(gone[:4])})" if gone else ""
                found.append(Finding(kind="missing", ranks=(rank,),
                                     what=f"host {hosts[rank]}, rank {rank}: {count} {name}s, "
                                     f"others have {most[name]}{lacks}"))  # fmt: skip
    for host in first:
        mine = [n for n, h in enumerate(hosts) if h == host]
        cores = {core for n in mine for core in reports[n]["facts"]["cores"]}
        if len(cores) < len(mine):
            found.append(Finding(kind="cores", ranks=tuple(mine), ratio=len(mine) / len(cores),
                                 what=f"host {host}: {len(mine)} processes on "
                                 f"{len(cores)} core{'s' if len(cores) > 1 else ''}"))  # fmt: skip
    rates = [r["disk_bytes_per_s"] for r in first.values() if r["disk_bytes_per_s"]]
    for host, report in first.items():
        if report["disk_error"]:
            found.append(Finding(kind="disk", what=f"host {host}: no checkpoint can be written: "
                                 f"{report['disk_error']}"))  # fmt: skip
        rate = report["disk_bytes_per_s"]
        if rate and rate < SLOW_DISK * max(rates):
            found.append(Finding(kind="disk", ranks=(hosts.index(host),),
                                 what=f"host {host}: disk at {rate / 1e6:,.0f} MB/s, "
                                 f"the fastest at {max(rates) / 1e6:,.0f} MB/s"))  # fmt: skip
        if report["store_error"]:
            found.append(Finding(kind="store", what=f"host {host}: the object store does not "
                                 f"answer: {report['store_error']}"))  # fmt: skip
    return found


def work_findings(reports: Sequence[Mapping[str, Any]], hosts: list[str]) -> list[Finding]:
    """Ranks that compute slowly; one finding of a host where all of its ranks do."""
    usual = _upper(r["work_per_s"] for r in reports)
    slow = {n for n, r in enumerate(reports)
            if r["work_per_s"] < SLOW_WORK[r["device"].split(":")[0]] * usual}  # fmt: skip
    found = []
    for host in dict.fromkeys(hosts[n] for n in sorted(slow)):
        mine = [n for n, h in enumerate(hosts) if h == host]
        bad = [n for n in mine if n in slow]
        ratio = max(usual / max(reports[n]["work_per_s"], 1e-9) for n in bad)
        whole = len(bad) == len(mine) and len(mine) > 1
        what = f"host {host}" if whole else f"rank {bad[0]} on {host}"
        found.append(Finding(kind="slow-host" if whole else "slow-rank", ranks=tuple(bad),
                             ratio=ratio, what=f"{what} computes {ratio:.1f} times slower than "
                             "the others"))  # fmt: skip
    return found


def _upper(values: Any) -> float:
    """The median of the better half: half of the ranks may be slow."""
    ordered = sorted(float(value) for value in values)
    return float(median(ordered[len(ordered) // 2 :]))


def link_findings(
    links: Sequence[Mapping[str, Any]], levels: Mapping[str, tuple[float, float]],
    level_of: Any, hosts: list[str], excused: set[int],
) -> list[Finding]:  # fmt: skip
    """Lost, capped, one-sided and slow links; a rank or host that all of them touch is named."""
    found: list[Finding] = []
    slow: dict[tuple[int, int], float] = {}
    for link in links:
        low, high = link["low"], link["high"]
        name = f"{hosts[low]} rank {low} - {hosts[high]} rank {high}"
        if link["lost"]:
            small = link["lost"] == "small"
            what = (
                "does not answer"
                if small
                else ("passes small messages and loses large ones: an MTU or a filter in between")
            )
            found.append(Finding(kind="lost" if small else "capped", ranks=(low, high),
                                 what=f"{name} {what}"))  # fmt: skip
            continue
        there, back = link["there"], link["back"]
        if {low, high} & excused:
            continue
        usual = levels[level_of(low, high)][0]
        least, best = min(there, back), max(there, back)
        if best > ASYMMETRIC * least and least < 0.75 * usual:
            way = f"rank {low} to {high}" if there < back else f"rank {high} to {low}"
            what = f"{name}: {way} at {least / 1e6:,.0f} MB/s, the other way at {best / 1e6:,.0f}"
            found.append(
                Finding(kind="asymmetric", ranks=(low, high), ratio=usual / least, what=what)
            )
        elif min(there, back) < SLOW_LINK * usual:
            capped = link["probe"] > PROBE_CAP * there and link["probe"] > SLOW_LINK * usual
            if capped and there < SLOW_LINK * usual / 4:
                found.append(Finding(kind="capped", ranks=(low, high), ratio=usual / there,
                                     what=f"{name}: small messages at {link['probe'] / 1e6:,.0f} "
                                     f"MB/s, large ones at {there / 1e6:,.0f}"))  # fmt: skip
            slow[low, high] = usual / min(there, back)
    return [*found, *_named(slow, links, level_of, levels, hosts)]


def _named(
    slow: Mapping[tuple[int, int], float], links: Sequence[Mapping[str, Any]], level_of: Any,
    levels: Mapping[str, tuple[float, float]], hosts: list[str],
) -> list[Finding]:  # fmt: skip
    """A rank whose links of one level are all slow is the cause of them; the others one by one."""
    found, left = [], dict(slow)
    for rank in range(len(hosts)):
        for level in levels:
            all_ = [(k["low"], k["high"]) for k in links if rank in (k["low"], k["high"])
                    and level_of(k["low"], k["high"]) == level]  # fmt: skip
            bad = [pair for pair in all_ if pair in left]
            if len(all_) > 1 and len(bad) == len(all_) and _alone(rank, bad, slow, links):
                ratio = max(left.pop(pair) for pair in bad)
                found.append(Finding(kind="slow-nic", ranks=(rank,), ratio=ratio,
                                     what=f"every {level} link of rank {rank} on {hosts[rank]} is "
                                     f"slow, up to {ratio:.1f} times"))  # fmt: skip
    for (low, high), ratio in left.items():
        usual = levels[level_of(low, high)][0]
        found.append(Finding(kind="slow-link", ranks=(low, high), ratio=ratio,
                             what=f"{hosts[low]} rank {low} - {hosts[high]} rank {high} at "
                             f"{usual / ratio / 1e6:,.0f} MB/s, its level at "
                             f"{usual / 1e6:,.0f} MB/s"))  # fmt: skip
    return found


def _alone(
    rank: int, bad: Sequence[tuple[int, int]], slow: Mapping[tuple[int, int], float],
    links: Sequence[Mapping[str, Any]],
) -> bool:  # fmt: skip
    """Whether the other ends have links beside these that are sound: then the cause is here."""
    for pair in bad:
        other = pair[0] if pair[1] == rank else pair[1]
        rest = [(k["low"], k["high"]) for k in links if other in (k["low"], k["high"])
                and rank not in (k["low"], k["high"])]  # fmt: skip
        if rest and all(p in slow for p in rest):
            return False
    return True


def level_findings(plan: Plan, levels: Mapping[str, tuple[float, float]]) -> list[Finding]:
    """Levels that are slower than the plan took them for."""
    found = []
    for level in plan.cluster.levels:
        if level.name not in levels:
            continue
        rate = levels[level.name][0]
        if rate < SLOW_LEVEL * level.bandwidth_bytes_per_s:
            ratio = level.bandwidth_bytes_per_s / rate
            found.append(Finding(kind="level", ratio=ratio,
                                 what=f"{level.name}: {rate / 1e9:,.2f} GB/s a chip one way, the "
                                 f"plan has {level.bandwidth_bytes_per_s / 1e9:,.2f}"))  # fmt: skip
    return found


def clock_findings(links: Sequence[Mapping[str, Any]], hosts: list[str]) -> list[Finding]:
    """Hosts whose clock is off against most others."""
    off: dict[int, list[float]] = {}
    for link in links:
        if link["offset_s"] is not None:
            off.setdefault(link["high"], []).append(link["offset_s"])
            off.setdefault(link["low"], []).append(-link["offset_s"])
    wrong: dict[str, tuple[int, float]] = {}
    for rank, values in off.items():
        middle = median(values)
        if abs(middle) > CLOCK_S and hosts[rank] not in wrong:
            wrong[hosts[rank]] = (rank, middle)
    if len(wrong) == len(set(hosts)):  # two hosts: either is off against the other
        wrong = dict(list(wrong.items())[:1])
    return [Finding(kind="clock", ranks=(rank,),
                    what=f"host {host}: its clock is {value:+.2f} s off the others'")
            for host, (rank, value) in wrong.items()]  # fmt: skip


def _leveller(plan: Plan | None, slots: Any, hosts: list[str]) -> Any:
    """Level of two ranks: the innermost of the plan that holds both, else their hosts."""
    if plan is None or slots is None or len(slots) != len(hosts):
        return lambda a, b: "host" if hosts[a] == hosts[b] else "network"
    per = plan.cluster.chips_per_host
    chips = [slot * per + local for slot, local in slots]

    def level(a: int, b: int) -> str:
        for one in plan.cluster.levels:
            if chips[a] // one.size == chips[b] // one.size:
                return one.name
        return plan.cluster.levels[-1].name if plan.cluster.levels else "network"

    return level


def _medians(links: Sequence[Mapping[str, Any]], level_of: Any) -> dict[str, tuple[float, float]]:
    rates: dict[str, list[float]] = {}
    trips: dict[str, list[float]] = {}
    for link in links:
        if not link["lost"]:
            name = level_of(link["low"], link["high"])
            rates.setdefault(name, []).extend((link["there"], link["back"]))
            trips.setdefault(name, []).append(link["round_trip_s"])
    return {name: (_upper(rates[name]), median(trips[name])) for name in rates}


_COMPUTE: Final = ("matrix products", "attention", "norms and activations", "optimizer")
_AXES: Final = {"tensor-parallel": "tp", "context-parallel": "cp", "expert": "ep",
                "pipeline": "pp", "gradient": "dp"}  # fmt: skip


def slowdown_of(findings: Sequence[Finding], plan: Plan | None) -> float:
    """Step time with the findings over the planned one: every part times the worst it meets.

    A slow rank holds back all compute, a slow link the exchanges of the axes whose groups it is
    in, a slow level those that cross it. What was hidden stays hidden up to its own share, so this
    is a floor for findings beyond it.
    """
    if plan is None:
        return max((f.ratio for f in findings), default=1.0)
    total = sum(part.value for part in plan.step_parts)
    if total <= 0:
        return 1.0
    work = max((f.ratio for f in findings if f.kind in ("slow-rank", "slow-host", "cores")),
               default=1.0)  # fmt: skip
    extra = 0.0
    for part in plan.step_parts:
        if part.name in _COMPUTE:
            extra += part.value * (work - 1.0)
        axis = next((a for word, a in _AXES.items() if part.name.startswith(word)), None)
        if axis is not None and "bubble" not in part.name:
            extra += part.value * (_worst(findings, plan, axis) - 1.0)
    return 1.0 + max(0.0, extra) / total


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
