"""ASTRA-sim's analytical network: topology, npus_count, bandwidth and latency, one entry an axis.

Bandwidth is that of one link in one direction, latency that of one link in ns. What ASTRA-sim
prints as GB/s is 2**30 bytes a second: its own tests take 19,531 ns for 1 MiB at 50
(astra-network-analytical, test/test_congestion_aware.cpp). A switch is two links away from its end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import product

import numpy as np
import yaml

from weftline.errors import InputError, UnknownNameError
from weftline.fabric.graph import Grid, Topology
from weftline.fabric.topologies import full_mesh, grid, switch
from weftline.spec.located import Located, read_located

FORMAT = "astra-sim network"
BLOCKS = ("Ring", "FullyConnected", "Switch")
GB = 2.0**30
"""Bytes in what ASTRA-sim calls a GB."""


def detect(text: str) -> bool:
    """Whether the text has ASTRA-sim's two keys."""
    return bool(re.search(r"^\s*npus_count\s*:", text, re.M)) and "topology" in text


def read(text: str, where: str) -> Topology:
    """The Topology; raises InputError with the line of what is wrong."""
    root = read_located(text, where)
    kinds = [str(k) for k in _list(root, "topology", where)]
    counts = [_number(v, "npus_count", root, where) for v in _list(root, "npus_count", where)]
    rates = [_number(v, "bandwidth", root, where) for v in _list(root, "bandwidth", where)]
    delays = [_number(v, "latency", root, where) for v in _list(root, "latency", where)]
    if not len(kinds) == len(counts) == len(rates) == len(delays):
        raise InputError(
            f"{len(kinds)} topologies, {len(counts)} npus_count, {len(rates)} bandwidths and "
            f"{len(delays)} latencies", where=f"{where}:{root.line}", hint="one an axis in each",
        )  # fmt: skip
    for kind in kinds:
        if kind not in BLOCKS:
            raise UnknownNameError("building block", kind, BLOCKS, where=f"{where}:{root.line}",
                                   hint=f"one of {', '.join(BLOCKS)}")  # fmt: skip
    sides = [int(c) for c in counts]
    if any(c != s or s < 1 for c, s in zip(counts, sides, strict=True)):
        raise InputError("npus_count is no whole number from 1", where=f"{where}:{root.line}")
    return build(kinds, sides, [r * GB for r in rates], [d * 1e-9 for d in delays])


SYSTEM_KEYS = ("all-reduce-implementation", "scheduling-policy", "preferred-dataset-splits")


def detect_system(text: str) -> bool:
    """Whether the text is ASTRA-sim's system file: how collectives are done, not on what."""
    return any(f'"{key}"' in text for key in SYSTEM_KEYS)


def read_system(text: str, where: str, networks: Mapping[str, str]) -> Topology:
    """The network file beside a system file, with what the system does; ``networks``: name -> text.

    Raises InputError where none, or more than one, stands beside it.
    """
    system = read_located(text, where).plain()
    if len(networks) != 1:
        found = (
            f"{len(networks)} beside it: {', '.join(networks)}" if networks else "none beside it"
        )
        raise InputError(
            "an ASTRA-sim system file names no network: it lacks topology, npus_count, bandwidth "
            f"and latency, and there is {found}", where=f"{where}:1",
            hint="put the network file (npus_count: ...) into the same folder, or import it",
        )  # fmt: skip
    ((name, body),) = networks.items()
    topology = read(body, name)
    means = {k.removesuffix("-implementation"): v for k, v in system.items()
             if k.endswith("-implementation")} if isinstance(system, dict) else {}  # fmt: skip
    said = ", ".join(f"{k} by {'/'.join(map(str, v))}" for k, v in means.items())
    basis = {**topology.basis, "system": f"{where}: {said or 'no algorithm'}"}
    return replace(topology, basis=basis)


def _list(root: Located, key: str, where: str) -> list[object]:
    value = root.get(key)
    if not isinstance(value, list) or not value:
        raise InputError(f"`{key}` is not a list", where=f"{where}:{root.line}",
                         hint=f"{key}: [ ..., ... ], one entry an axis")  # fmt: skip
    return value


def _number(value: object, key: str, root: Located, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise InputError(f"`{key}` holds `{value}`, a number is expected",
                         where=f"{where}:{root.line}")  # fmt: skip
    return float(value)


def build(
    kinds: list[str], sides: list[int], link_bytes_per_s: list[float], latency_s: list[float]
) -> Topology:
    """Axes of building blocks -> one Topology; the first axis is the innermost, as ASTRA-sim's.

    Rings alone make a torus, its last axis ASTRA-sim's first (ranks run along that one fastest).
    """
    if set(kinds) == {"Ring"}:
        return grid(sides[::-1], link_bytes_per_s[::-1], latency_s[::-1])
    if len(kinds) == 1 and kinds[0] == "FullyConnected":
        return full_mesh(sides[0], link_bytes_per_s[0], latency_s[0])
    if len(kinds) == 1:
        return switch(sides[0], link_bytes_per_s[0], 2 * latency_s[0])
    rows: list[tuple[float, float, float, float]] = []
    shape = tuple(reversed(sides))
    number = np.arange(int(np.prod(shape))).reshape(shape)
    nodes = number.size
    for axis, (kind, side, rate, delay) in enumerate(
        zip(kinds, sides, link_bytes_per_s, latency_s, strict=True)
    ):
        where = len(shape) - 1 - axis
        lines = np.moveaxis(number, where, -1).reshape(-1, side)
        for row in lines:
            nodes = _line(rows, row.tolist(), kind, rate, delay, nodes)
    table = np.asarray(rows, dtype=np.float64).reshape(-1, 4)
    return Topology(
        name="astra-sim:" + "_".join(f"{k}{s}" for k, s in zip(kinds, sides, strict=True)),
        ranks=number.size, switches=nodes - number.size,
        source=table[:, 0].astype(np.int64),
        destination=table[:, 1].astype(np.int64),
        bandwidth_bytes_per_s=table[:, 2], latency_s=table[:, 3],
        levels=tuple(int(np.prod(sides[: i + 1])) for i in range(len(sides))),
        group=Grid(shape=shape, wraps=(True,) * len(shape)), link_class=_classes(sides, kinds),
        basis={"links": "astra-sim network file, one link one way, 1 GB = 2**30 bytes"},
    )  # fmt: skip


def _line(
    rows: list[tuple[float, float, float, float]], members: list[int], kind: str, rate: float,
    delay: float, nodes: int,
) -> int:  # fmt: skip
    """Links of the chips along one line of an axis; returns the next free node number."""
    n = len(members)
    if kind == "Switch":
        rows += [(m, nodes, rate, delay) for m in members]
        rows += [(nodes, m, rate, delay) for m in members]
        return nodes + 1
    if kind == "FullyConnected":
        rows += [(a, b, rate, delay) for a, b in product(members, members) if a != b]
        return nodes
    steps = (1,) if n == 2 else (1, n - 1)
    rows += [(members[i], members[(i + s) % n], rate, delay) for s in steps
             for i in range(n) if n > 1]  # fmt: skip
    return nodes


def _classes(sides: list[int], kinds: list[str]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Links that shifts of the ranks map on each other, in the order they are built."""
    found: list[int] = []
    total = int(np.prod(sides))
    at = 0
    for side, kind in zip(sides, kinds, strict=True):
        lines = total // side
        if kind == "Switch":
            one = [at] * side + [at + 1] * side
        elif kind == "FullyConnected":
            one = [at + (b - a) % side for a, b in product(range(side), repeat=2) if a != b]
        else:
            steps = 0 if side == 1 else 1 if side == 2 else 2
            one = [at + s for s in range(steps) for _ in range(side)]
        found += one * lines
        at += side + 2
    return np.asarray(found, dtype=np.int64)


def write(topology: Topology) -> str:
    """The file of a torus, a full mesh or a switch; raises InputError for anything else."""
    rate = topology.bandwidth_bytes_per_s
    if topology.grid is not None and topology.kind in ("torus", "ring"):
        sides = list(topology.grid.shape)
        up = topology.grid_links()[0, :, 0].tolist()
        per_axis = [(float(rate[i]), float(topology.latency_s[i])) for i in up if i >= 0]
        sides = [s for s in sides if s > 1]
        kinds = ["Ring"] * len(sides)
    elif topology.kind == "full-mesh":
        sides, kinds = [topology.ranks], ["FullyConnected"]
        per_axis = [(float(rate[0]), float(topology.latency_s[0]))]
    elif topology.switches == 1 and topology.kind in ("switch", "clos"):
        sides, kinds = [topology.ranks], ["Switch"]
        per_axis = [(float(rate[0]), float(topology.latency_s[0]))]
    else:
        raise InputError(f"ASTRA-sim's network file has no words for `{topology.name}`",
                         hint=f"it knows {', '.join(BLOCKS)} on each axis")  # fmt: skip
    body = {
        "topology": kinds[::-1],
        "npus_count": sides[::-1],
        "bandwidth": [r / GB for r, _ in per_axis][::-1],
        "latency": [d * 1e9 for _, d in per_axis][::-1],
    }
    return yaml.safe_dump(body, sort_keys=False, default_flow_style=None)
