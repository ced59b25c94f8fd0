"""Findings about hosts: order, what they lack, slow chips and disks, stores, clocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Final

from weftline.launch.preflight.discover import counts_of
from weftline.launch.preflight.finding import Finding, Report
from weftline.launch.preflight.noise import WORTH, slow_ones

CLOCK_S: Final = 0.1
"""Clocks further apart than this: logs and leases no longer agree."""


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


def missing_findings(reports: Sequence[Report], hosts: list[str]) -> list[Finding]:
    """Devices that a host lacks beside the others."""
    found = []
    counts = [counts_of(r["facts"]) for r in reports]
    most = {name: max(count[name] for count in counts) for name in counts[0]}
    for rank, report in enumerate(reports):
        for name, count in counts[rank].items():
            if count == most[name]:
                continue
            lacks = ""
            if name == "network interface":
                others = [set(r["facts"]["interfaces"]) for r in reports if r is not report]
                gone = sorted(set.intersection(*others) - set(report["facts"]["interfaces"]))
                lacks = f" (without {', '.join(gone[:4])})" if gone else ""
            found.append(Finding(kind="missing", ranks=(rank,),
                                 what=f"host {hosts[rank]}, rank {rank}: {count} {name}s, "
                                 f"others have {most[name]}{lacks}"))  # fmt: skip
    return found


def core_findings(reports: Sequence[Report], hosts: list[str]) -> list[Finding]:
    """Hosts whose processes have fewer cores than they are."""
    found = []
    for host in dict.fromkeys(hosts):
        mine = [n for n, h in enumerate(hosts) if h == host]
        cores = {core for n in mine for core in reports[n]["facts"]["cores"]}
        if len(cores) < len(mine):
            found.append(Finding(kind="cores", ranks=tuple(mine), ratio=len(mine) / len(cores),
                                 what=f"host {host}: {len(mine)} processes on "
                                 f"{len(cores)} core{'s' if len(cores) > 1 else ''}"))  # fmt: skip
    return found


def storage_findings(
    reports: Sequence[Report], hosts: list[str], excused: set[int]
) -> list[Finding]:
    """Disks that fail or are slow, stores that do not answer; a host that gets little of its
    processor writes slowly too, and that is not said twice."""
    found = []
    first = {host: hosts.index(host) for host in dict.fromkeys(hosts)}
    slow, _ = slow_ones(disk_samples(reports), WORTH["disk"])
    for host, rank in first.items():
        report = reports[rank]
        if report["disk_error"]:
            found.append(Finding(kind="disk", what=f"host {host}: no checkpoint can be written: "
                                 f"{report['disk_error']}"))  # fmt: skip
        elif rank in slow and rank not in excused:
            rate = max(report["disk_bytes_per_s"])
            found.append(Finding(kind="disk", ranks=(rank,), ratio=slow[rank],
                                 what=f"host {host}: disk at {rate / 1e6:,.0f} MB/s, others at "
                                 f"{rate * slow[rank] / 1e6:,.0f} MB/s"))  # fmt: skip
        if report["store_error"]:
            found.append(Finding(kind="store", what=f"host {host}: the object store does not "
                                 f"answer: {report['store_error']}"))  # fmt: skip
    return found


def disk_samples(reports: Sequence[Report]) -> dict[int, list[float]]:
    """Rank -> samples of its host's disk, for those that measured one."""
    return {n: r["disk_bytes_per_s"] for n, r in enumerate(reports) if r["disk_bytes_per_s"]}


def work_samples(reports: Sequence[Report]) -> dict[int, list[float]]:
    """Rank -> samples of its chip."""
    return {n: r["work_per_s"] for n, r in enumerate(reports) if r["work_per_s"]}


def work_findings(reports: Sequence[Report], hosts: list[str]) -> list[Finding]:
    """Ranks that compute slowly; one finding of a host where all of its ranks do."""
    worth = WORTH[str(reports[0]["device"]).split(":")[0]]
    slow, _ = slow_ones(work_samples(reports), worth)
    found = []
    for host in dict.fromkeys(hosts[n] for n in sorted(slow)):
        mine = [n for n, h in enumerate(hosts) if h == host]
        bad = [n for n in mine if n in slow]
        ratio = max(slow[n] for n in bad)
        whole = len(bad) == len(mine) and len(mine) > 1
        what = f"host {host}" if whole else f"rank {bad[0]} on {host}"
        found.append(Finding(kind="slow-host" if whole else "slow-rank", ranks=tuple(bad),
                             ratio=ratio, what=f"{what} computes {ratio:.1f} times slower than "
                             "the others"))  # fmt: skip
    return found


def clock_findings(links: Sequence[Mapping[str, Any]], hosts: list[str]) -> list[Finding]:
    """Hosts whose clock is off against most others."""
    off: dict[int, list[float]] = {}
    for link in links:
        # Half of the round trip bounds the error of an offset.
        if link["offset_s"] is not None and abs(link["offset_s"]) > link["round_trip_s"] / 2:
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
