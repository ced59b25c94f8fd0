"""Preflight as one call: measure on every rank, judge on rank 0, and say it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from weftline.errors import InputError
from weftline.launch.preflight.judge import Verdict, judge, suspects
from weftline.launch.preflight.measure import measure
from weftline.launch.preflight.topology import places_in
from weftline.launch.preflight.transport import TorchTransport
from weftline.spec import Plan
from weftline.spec.hosts_there import HostsThere
from weftline.spec.serialize import read_plan

GROUP_BYTES: Final = {"cpu": 1 << 20, "cuda": 64 << 20}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """What rank 0 knows after it."""

    verdict: Verdict
    reports: list[dict[str, Any]]


def preflight(
    plan_path: Path | None,
    *,
    folder: str = "",
    store: str = "",
    topology: Path | None = None,
    against_plan: bool | None = None,
) -> Preflight | None:
    """Measure with all ranks of ``RANK`` and ``WORLD_SIZE``; the verdict on rank 0, else None.

    ``folder`` is where checkpoints go, ``store`` an object store's URL, ``topology`` a file that
    describes the cluster (read by rank 0). Raises InputError outside a job, without torch, and for
    a plan or a topology that does not fit.
    """
    import os

    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        raise InputError(
            "no job is around this process", where="preflight",
            hint="python3 weftline_place.py plan.json -- -m weftline preflight plan.json, under "
            "your launcher",
        )  # fmt: skip
    plan = None if plan_path is None else read_plan(plan_path)
    raw = None if plan_path is None else json.loads(plan_path.read_text(encoding="utf-8"))
    try:
        world = TorchTransport()
    except ImportError:
        raise InputError("PyTorch is not installed", where="preflight",
                         hint="pip install 'weftline[run]'") from None  # fmt: skip
    gpu = world.device != "cpu"
    reports = measure(
        world, folder=folder, store=store, groups=groups_of(plan, world.size),
        group_bytes=GROUP_BYTES["cuda" if gpu else "cpu"],
        suspects=lambda so_far: suspects(so_far, plan, raw),
    )  # fmt: skip
    world.close()
    if reports is None:
        return None
    if topology is not None:
        places = places_in(topology, [[r["facts"]["host"], *r["facts"]["names"]] for r in reports])
        for rank, place in places.items():
            reports[rank]["facts"]["place"] = place
    fast = gpu if against_plan is None else against_plan
    return Preflight(verdict=judge(reports, plan, raw, against_plan=fast), reports=reports)


def hosts_of(done: Preflight, plan: Plan, path: Path) -> HostsThere:
    """The hosts that are there and how slow each is, for ``plan train --within``."""
    called = [str(report["facts"]["host"]) for report in done.reports]
    slow: dict[str, float] = {}
    for finding in done.verdict.findings:
        if finding.kind in ("slow-host", "slow-rank", "cores"):
            for host in {called[rank] for rank in finding.ranks}:
                slow[host] = max(slow.get(host, 1.0), round(finding.ratio, 2))
    return HostsThere(
        chip=plan.cluster.accelerator, chips_per_host=plan.cluster.chips_per_host,
        hosts=tuple(dict.fromkeys(called)), slow=slow, plan=path.resolve(),
    )  # fmt: skip


def groups_of(plan: Plan | None, ranks: int) -> Mapping[str, list[list[int]]]:
    """The plan's own groups by axis; those of one rank are left out."""
    if plan is None or plan.layout.chips != ranks:
        return {}
    found: dict[str, list[list[int]]] = {}
    lay = plan.layout
    for axis in lay.order:
        if getattr(lay, axis) == 1:
            continue
        members: dict[tuple[int, ...], list[int]] = {}
        for rank in range(ranks):
            at = lay.coordinates(rank)
            members.setdefault(tuple(at[a] for a in lay.order if a != axis), []).append(rank)
        found[axis] = list(members.values())
    return found
