"""The text ibnetdiscover prints: every InfiniBand switch with its ports and who is at their ends.

Channel adapters of one host (``"node01 mlx5_0"``, ``"node01 HCA-1"``) are its ports: together one
end. Adapters that switches have for themselves (SHARP's aggregation nodes) and the fabric manager's
(UFM) are no hosts. A port's rate stands at the end of its line: 4xNDR is 400 Gbit/s. Only the
switches' blocks are needed; adapters are read from them.
"""

from __future__ import annotations

import re
from typing import Final

import numpy as np

from weftline.errors import InputError
from weftline.fabric.graph import Topology

FORMAT = "ibnetdiscover"
LANE_BYTES_PER_S: Final = {
    "SDR": 0.25e9, "DDR": 0.5e9, "QDR": 1.0e9, "FDR10": 1.25e9, "FDR": 1.75e9, "EDR": 3.125e9,
    "HDR": 6.25e9, "NDR": 12.5e9, "XDR": 25.0e9,
}  # fmt: skip
"""One lane, data rate one way (InfiniBand Trade Association; 4x HDR = 200 Gbit/s)."""
_SWITCH = re.compile(r'^Switch\s+\d+\s+"(S-[^"]+)"\s*#\s*"([^"]*)"')
_PORT = re.compile(
    r'^\[(\d+)\](?:\[ext \d+\])?\s+"([SHR]-[^"]+)"\[(\d+)\](?:\([0-9a-fA-F]+\))?'
    r'\s*(?:#\s*"([^"]*)"\s+lid\s+\d+\s+(?:(\d+)x([A-Z0-9]+))?)?'
)
_NO_HOST: Final = re.compile(r"aggregation node|sharp|\bufm\b|ufm-", re.IGNORECASE)
"""What adapters that are no host's are called."""
_MAKER: Final = re.compile(r"mellanox|voltaire|infinihost|intel|^MT\d+", re.IGNORECASE)
_ADAPTER: Final = re.compile(
    r"\s+(?:mlx\d+_\d+|HCA-\d+|hfi\d+_\d+|ib\w*\d+|CX\S*).*$", re.IGNORECASE
)
HOP_S: Final = 0.6e-6
"""One switch (HDR; IBTA publishes none for later rates): half at each of its links."""


def detect(text: str) -> bool:
    """Whether the text has a switch as ibnetdiscover prints it."""
    return bool(re.search(r'^switchguid=|^Switch\s+\d+\s+"S-', text, re.M))


def read(text: str, where: str, *, latency_s: float = HOP_S) -> Topology:
    """The Topology: a host with its adapters is one end, switches are switches.

    Raises InputError with the line of a port outside a switch, or of an unknown rate.
    """
    names: dict[str, str] = {}
    cables: dict[tuple[str, str], float] = {}
    here: str | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        at = f"{where}:{number}"
        if match := _SWITCH.match(line):
            here = match[1]
            names[here] = match[2]
        elif re.match(r'^(Ca|Rt)\s+\d+\s+"', line):
            here = None
            if match := re.match(r'^\w+\s+\d+\s+"([HR]-[^"]+)"\s*#\s*"([^"]*)"', line):
                names.setdefault(match[1], match[2])
        elif here and line.startswith("["):
            port = _PORT.match(line)
            if port is None:
                hint = '[1] "H-0c"[1](0c) # "node01 mlx5_0" lid 9 4xNDR'
                raise InputError("not a port line", where=at, hint=hint)
            end, width, speed = port[2], port[5], port[6]
            if port[4] is not None:
                names.setdefault(end, port[4])
            rate = _rate(width, speed, at)
            cables[(here, end)] = cables.get((here, end), 0.0) + rate
    adapters = [n for n in names if n.startswith("H-")]
    other = {n for n in adapters if _NO_HOST.search(names[n])}
    hosts: dict[str, list[str]] = {}
    for adapter in sorted(set(adapters) - other, key=lambda n: (_natural(names[n]), n)):
        name = _ADAPTER.sub("", names[adapter])
        # What every adapter of a maker is called is nobody's name.
        host = f"{name} {adapter}".strip() if not name or _MAKER.search(name) else name
        hosts.setdefault(host, []).append(adapter)
    switches = [n for n in names if n.startswith("S-")]
    if not hosts or not switches:
        raise InputError("no switch with a channel adapter of a host", where=f"{where}:1")
    return _topology(hosts, switches, names, cables, latency_s, len(other))


def _rate(width: str | None, speed: str | None, at: str) -> float:
    if width is None or speed is None:
        raise InputError("a port without rate", where=at, hint="such as 4xNDR at its end")
    if speed not in LANE_BYTES_PER_S:
        raise InputError(f"unknown rate `{speed}`", where=at,
                         hint=f"one of {', '.join(LANE_BYTES_PER_S)}")  # fmt: skip
    return int(width) * LANE_BYTES_PER_S[speed]


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name) if p]


def _topology(
    hosts: dict[str, list[str]], switches: list[str], names: dict[str, str],
    cables: dict[tuple[str, str], float], latency_s: float, left_out: int,
) -> Topology:  # fmt: skip
    number = {a: i for i, held in enumerate(hosts.values()) for a in held}
    number |= {s: len(hosts) + i for i, s in enumerate(switches)}
    rows: list[tuple[int, int, float, float]] = []
    for (a, b), rate in cables.items():
        if a not in number or b not in number:
            continue
        rows.append((number[a], number[b], rate, latency_s / 2))
        if b.startswith("H-"):
            # An adapter's own block is not read: what its switch sends, it sends back as fast.
            rows.append((number[b], number[a], rate, latency_s / 2))
    table = np.asarray(rows, dtype=np.float64).reshape(-1, 4)
    ports = sorted({len(held) for held in hosts.values()})
    basis = {
        "links": "ibnetdiscover, data rate of the port, one direction",
        "hosts": f"{len(hosts)} hosts of {' or '.join(map(str, ports))} adapters, an end each",
    }
    if left_out:
        basis["left out"] = f"{left_out} aggregation nodes and managers, which are no hosts"
    return Topology(
        name="ibnetdiscover", ranks=len(hosts), switches=len(switches),
        source=table[:, 0].astype(np.int64), destination=table[:, 1].astype(np.int64),
        bandwidth_bytes_per_s=table[:, 2], latency_s=table[:, 3], chips_forward=False,
        labels=(*hosts, *(names[n] or n for n in switches)), basis=basis, across="InfiniBand",
    )  # fmt: skip
