"""Schedules in files of executors and simulators: what they do, proved, timed, step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from weftline.errors import InputError
from weftline.fabric.bounds import bound
from weftline.fabric.checker import check
from weftline.fabric.evaluators import algorithm_bandwidth, bus_bandwidth, evaluate
from weftline.fabric.formats import read_schedule
from weftline.fabric.graph import Topology
from weftline.fabric.parse import parse_topology
from weftline.fabric.schedule import Schedule
from weftline.units import parse_bytes


def checked(
    file: Path, *, on: str | None = None, link: str | None = None, latency: str | None = None
) -> dict[str, Any]:
    """The proof of a file's schedule. Raises InputError naming the first thing that is wrong."""
    schedule = read_schedule(file)
    topology = None if on is None else _network(on, schedule, link, latency)
    try:
        proof = check(schedule, topology)
    except InputError as error:
        error.where = error.where or str(file)
        raise
    return {
        **_facts(file, schedule), "chunks": proof.chunks, "proved": True,
        "network": None if topology is None else topology.name,
    }  # fmt: skip


def timed(
    file: Path, size: str, *, on: str, link: str | None = None, latency: str | None = None
) -> dict[str, Any]:
    """The time of a file's schedule on a network, proved first, beside the lower bound."""
    size_bytes = parse_bytes(size, where="SIZE")
    schedule = read_schedule(file)
    topology = _network(on, schedule, link, latency)
    check(schedule, topology)
    timing = evaluate(topology, schedule, size_bytes)
    target = None
    if schedule.collective == "send" and schedule.target is not None:
        target = int(schedule.target[0])
    least = bound(topology, schedule.collective, size_bytes, root=schedule.root, target=target)
    seconds = timing.time_s
    busiest = int(np.argmax(timing.link_load_bytes)) if topology.links else 0
    return {
        **_facts(file, schedule), "size_bytes": size_bytes, "network": topology.name,
        "time_s": seconds, "evaluator": timing.evaluator, "exact": timing.exact,
        "algorithm_bytes_per_s": algorithm_bandwidth(size_bytes, seconds),
        "bus_bytes_per_s": bus_bandwidth(schedule.collective, schedule.ranks, size_bytes, seconds),
        "bound_s": least.time_s, "share_of_bound": least.time_s / seconds if seconds else None,
        "busiest_link": f"{topology.label(int(topology.source[busiest]))} -> "
                        f"{topology.label(int(topology.destination[busiest]))}",
        "busiest_link_bytes": float(timing.link_load_bytes[busiest]),
    }  # fmt: skip


def shown(file: Path) -> dict[str, Any]:
    """What a file's schedule sends, step by step."""
    schedule = read_schedule(file)
    fraction = schedule.fractions()
    steps = []
    for step in range(schedule.steps):
        rows = schedule.step == step
        pairs = np.unique(schedule.source[rows] * schedule.nodes + schedule.destination[rows])
        steps.append({
            "step": step, "messages": len(pairs), "rows": int(rows.sum()),
            "reductions": int(schedule.reduce[rows].sum()),
            "buffers_sent": float(fraction[rows].sum()),
        })  # fmt: skip
    sent = np.bincount(schedule.source, weights=fraction, minlength=schedule.nodes)
    return {
        **_facts(file, schedule), "chunks": schedule.chunks, "by_step": steps,
        "buffers_sent_least": float(sent[: schedule.ranks].min()),
        "buffers_sent_most": float(sent[: schedule.ranks].max()),
    }  # fmt: skip


def _network(on: str, schedule: Schedule, link: str | None, latency: str | None) -> Topology:
    topology = parse_topology(on, link=link, latency=latency, where="--on")
    if topology.ranks != schedule.ranks:
        raise InputError(
            f"the file is for {schedule.ranks} ranks, `{topology.name}` has {topology.ranks} chips",
            where="--on", hint="name a network of as many chips",
        )  # fmt: skip
    return topology


def _facts(file: Path, schedule: Schedule) -> dict[str, Any]:
    return {
        "file": str(file), "collective": schedule.collective, "algorithm": schedule.algorithm,
        "ranks": schedule.ranks, "switches": schedule.switches, "rows": schedule.rows,
        "steps": schedule.steps,
    }  # fmt: skip
