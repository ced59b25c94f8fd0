"""The ways a library can go, each as latency, a pipeline that fills, and bytes at a rate.

GPU libraries (NCCL, RCCL and their kin), after NCCL's tuner: a way is an algorithm and a protocol.
Latency counts hops: along the ranks inside a domain, over a tree's depth or once around a ring
between domains. Low-latency protocols (LL, LL128) pay for flags in their rate; Simple pays for the
chunks that must be under way before all links are busy: ``fill`` times the latency of a small
message, half of it at ``fill_bytes``. Rates are the slowest stage's. In-switch reduction (NVLS)
needs no steps around the ranks, and moves M out of a chip where a ring moves 2 M (N-1)/N.

Sources: NCCL's src/graph/tuning.cc for hops, bases, caps and shares (``collective_machines.json``);
the bandwidth bound 2(N-1)/N M/B of nccl-tests' PERFORMANCE.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from weftline.fabric.facts import machine_facts
from weftline.fabric.predictor.constants import Constants
from weftline.fabric.predictor.machines import Machine, Network, log2

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Way:
    """One algorithm and protocol: seconds = startup + hops + fill x share(M) + M / rate."""

    name: str
    startup_s: float
    hops_s: float
    bytes_per_s: float
    fill_s: float = 0.0
    fill_bytes: float = 1.0
    fill_power: float = 1.0
    host_s: float = 0.0
    """Of the hops, what the host adds; counted in ``hops_s``."""

    def filled_s(self, size: FloatArray) -> FloatArray:
        """What of the pipeline's filling a message of ``size`` pays."""
        share = (size / self.fill_bytes) ** self.fill_power
        return self.fill_s * share / (1 + share)

    def seconds(self, size: FloatArray) -> FloatArray:
        """[sizes] seconds."""
        moved = size / self.bytes_per_s
        return self.startup_s + self.hops_s + self.filled_s(size) + moved


def gpu_ways(c: Constants, m: Machine, collective: str, asked: str) -> list[Way]:
    """Every way a GPU library may take, or those that ``asked`` names (ring, tree, nvls, ...)."""
    if m.library == "gloo":
        return [_gloo(c, m, collective)]
    if collective == "all-to-all":
        return [_exchange(c, m)]
    if collective == "send":
        return [_send(c, m, asked)]
    return _allowed(_Gpu(c, m, collective).ways(), m, asked.lower())


def hop_out_s(c: Constants, network: Network) -> float:
    """One message between domains, with what the host adds."""
    factor = c.rdma_hop if network.family in ("rdma", "tcp") else 1.0
    return network.hop_s * factor + network.host.hop_s


def ring_rate(c: Constants, m: Machine) -> float:
    """Bytes a second that pass each chip of a ring inside a domain."""
    share = {"full-mesh": c.mesh_share, "pcie": c.pcie_share}.get(m.kind, c.ring_share)
    rate = m.ring_bytes_per_s * share
    cap = machine_facts()["ring_max_bytes_per_s"].get(m.generation, math.inf)
    return min(rate, cap) if m.kind == "nvlink" else rate


class _Gpu:
    """All-reduce, its halves and broadcast through NCCL or RCCL on one machine."""

    def __init__(self, c: Constants, m: Machine, collective: str) -> None:
        self.c, self.m, self.collective = c, m, collective
        self.facts: dict[str, Any] = dict(machine_facts())
        self.passes = 2 if collective == "all-reduce" else 1
        self.per = m.per_domain
        self.inside = ring_rate(c, m) if self.per > 1 else math.inf
        net = m.network
        self.out_s = 0.0 if net is None else hop_out_s(c, net)
        self.host_s = 0.0 if net is None else net.host.hop_s
        self.nic = math.inf if net is None else net.rate_bytes_per_s * self.per
        n = m.ranks
        self.bus = {"all-reduce": n / (2 * (n - 1)), "broadcast": 1.0}.get(collective, n / (n - 1))

    def ways(self) -> list[Way]:
        """All there are on this machine."""
        found = [*self._rings()]
        if self.collective == "all-reduce" and self.m.network is not None:
            found += self._trees()
        if self.m.nvls > 0 and self.per > 1 and self.collective != "broadcast":
            found += self._nvls()
        if self.m.network is not None and self.collective == "all-reduce":
            found.append(self._in_network())
        if self.per == 1 and self.collective in ("all-gather", "reduce-scatter"):
            found.append(self._pat())
        return found

    def _latency(self, shape: str, protocol: str) -> tuple[float, float]:
        """Startup of a ``ring`` or ``tree``, and hops around it or over its depth."""
        row = self.facts["protocols"][protocol][shape]
        alone = self.m.network is None
        hop = self.m.hop_s * (1.0 if alone and protocol == "LL" else row["hop_inside"])
        factor = self.c.startup if alone else self.c.startup_out
        along = self.m.ranks - self.m.domains if shape == "ring" else self.per - 1
        hops = self.passes * (along * hop * factor + self._out(shape, protocol))
        return row["base"] * factor, hops

    def _out(self, shape: str, protocol: str) -> float:
        """Hops between domains of one pass: around a ring of neighbours, or over a tree's depth,
        whose every level waits for the last of all domains."""
        if self.m.network is None:
            return 0.0
        if shape == "ring":
            return (self.m.domains - 1) * self._hop_out(shape, protocol)
        depth = log2(self.m.domains)
        return float(depth * self._hop_out(shape, protocol) * max(depth, 1.0) ** self.c.crowd)

    def _hop_out(self, shape: str, protocol: str) -> float:
        net = self.m.network
        if net is None:
            return 0.0
        row = self.facts["protocols"][protocol][shape]
        times = row["hop_efa" if net.family == "efa" else "hop_rdma"]
        return float((self.out_s - self.host_s) * times + self.host_s)

    def _ring_fill(self, protocol: str) -> float:
        """What a ring's pipeline costs until all links are busy: every rank starts with what it
        holds, so that no chunk waits for more than one domain's ranks and the way to the next."""
        row = self.facts["protocols"][protocol]["ring"]
        alone = self.m.network is None
        hop = self.m.hop_s * (1.0 if alone and protocol == "LL" else row["hop_inside"])
        factor = self.c.startup if alone else self.c.startup_out
        chain = (self.per - 1) * hop * factor + self._hop_out("ring", protocol)
        return float(self.c.fill * (row["base"] * factor + self.passes * chain))

    def _rings(self) -> list[Way]:
        rate = min(self.inside, self.nic * self.c.nic_ring) * self.bus
        startup, hops = self._latency("ring", "Simple")
        host = self.passes * (self.m.domains - 1) * self.host_s
        return [
            self._simple("ring", startup, hops, rate, self._ring_fill("Simple"), host),
            *self._low("ring", rate),
        ]

    def _simple(
        self, name: str, startup: float, hops: float, rate: float, fill: float, host: float
    ) -> Way:
        c = self.c
        return Way(name, startup, hops, rate, fill, c.fill_bytes, c.fill_power, host)

    def _low(self, shape: str, rate: float) -> list[Way]:
        """LL and LL128 of a ring or tree."""
        found = []
        cap = self.facts["ll_max_bytes_per_s"].get(self.m.generation, [math.inf] * 3)
        place = min(self.m.domains, 3) - 1
        share = "tree_share" if shape == "tree" else "alone_share" if self.per == 1 else "share"
        for protocol in ("LL", "LL128"):
            row = self.facts["protocols"][protocol]
            startup, hops = self._latency(shape, protocol)
            here = rate * row[share]
            if protocol == "LL":
                here = min(here, cap[place] * self.bus)
                if self.m.network is not None:
                    efa = self.m.network.family == "efa"
                    proxy = self.c.ll_efa_bytes_per_s if efa else self.c.ll_rdma_bytes_per_s
                    here = 1 / (1 / here + 1 / proxy)
            steps = self.m.domains - 1 if shape == "ring" else log2(self.m.domains)
            host = self.passes * self.host_s * steps
            fill = self._ring_fill(protocol) if shape == "ring" else (
                self.c.fill * (startup + hops))  # fmt: skip
            found.append(
                self._simple(f"{shape} {protocol}", startup, hops, here, fill * row["fills"], host)
            )
        return found

    def _tree_nic(self) -> float:
        """Rate of trees between domains: an inner one sends up once and down twice half of the
        buffer, a leaf up once: two buffers in all; two domains only exchange halves."""
        efa = self.m.network is not None and self.m.network.family == "efa"
        share = self.c.nic_tree_efa if efa else self.c.nic_tree
        return self.nic * share / (1 if self.m.domains <= 2 else 2)

    def _trees(self) -> list[Way]:
        inside = self.inside * self.per / (2 * max(self.per - 1, 1))
        caps = self.facts["tree_cap_per_channel"].get(self.m.generation)
        if caps is not None:
            inside *= caps[min(self.m.domains, 3) - 1] / max(caps)
        rate = staged(self.c, self._tree_nic(), inside if self.per > 1 else math.inf)
        startup, hops = self._latency("tree", "Simple")
        fill = self.c.fill * (startup + hops)
        host = self.passes * log2(self.m.domains) * self.host_s
        return [
            self._simple("tree", startup, hops, rate, fill, host),
            *self._low("tree", rate),
        ]

    def _nvls(self) -> list[Way]:
        """In-switch reduction: alone in a domain, under a tree between domains."""
        m, c = self.m, self.c
        # Five sixths of NCCL's share of the links, whatever the number of ranks (nccl-tuning).
        rate = m.ring_bytes_per_s * m.nvls * 5 / 6 * c.nvls_share
        if self.collective != "all-reduce":
            rate = rate * m.ranks / (m.ranks - 1)
        base = self.facts["hops_s"]["nvls"] * c.startup
        fill = c.nvls_fill_s * self.per
        if m.network is None:
            return [Way("nvls", base, 0.0, rate, fill, c.nvls_fill_bytes, c.fill_power)]
        if self.collective != "all-reduce":
            return []
        if m.domains > 2:
            caps = self.facts["nvls_tree_more_than_two"]
            before = m.generation == "blackwell" and (0,) < m.version < (2, 27)
            rate *= caps["blackwell_before_2.27" if before else m.generation]
        out = self.passes * self._out("tree", "NVLS")
        host = self.passes * log2(m.domains) * self.host_s
        rate = staged(c, rate, self._tree_nic())
        return [self._simple("nvls tree", base, out, rate, fill + c.fill * out, host)]

    def _in_network(self) -> Way:
        """CollNet: switches between domains add up (SHARP); only where it is asked for."""
        row = self.facts["collnet"]
        inside = self.inside * self.per / (2 * max(self.per - 1, 1))
        rate = staged(self.c, self.nic * row["share"], inside)
        hops = self.passes * (self.per - 1) * row["hop_inside_s"] + row["hop_out_s"] + self.host_s
        fill = self.c.fill * hops
        return self._simple("collnet", 0.0, hops, rate, fill, self.host_s)

    def _pat(self) -> Way:
        """Parallel aggregated trees: NCCL's for one rank a node."""
        row = self.facts["pat"]
        depth = log2(self.m.domains)
        over = depth * self._hop_out("tree", "Simple") / 3.5
        rate = self.nic * self.c.nic_ring * row["share"] * self.bus
        fill = self.c.fill * (row["base_s"] + over)
        hops = over + self.m.ranks * row["rank_s"]
        return self._simple("pat", row["base_s"], hops, rate, fill, depth * self.host_s)


def staged(c: Constants, one: float, two: float) -> float:
    """Rate of two stages in a pipeline: the slower's time, and of the quicker's what is serial."""
    return 1 / (1 / min(one, two) + c.serial / max(one, two))


def _gloo(c: Constants, m: Machine, collective: str) -> Way:
    """Gloo: a ring of the hosts' processes, through memory of the host and the kernel's TCP."""
    facts = machine_facts()["gloo"]
    n = m.ranks
    steps = {"all-reduce": 2 * (n - 1), "send": 1}.get(collective, n - 1)
    moved = 1.0 if collective in ("send", "broadcast") else steps / n
    rate, host = facts["bytes_per_s"], 0.0
    hop = facts["hop_s"]
    if m.network is not None:
        # A node's processes share its NICs; every step waits for the slowest, the one across.
        rate = min(rate, m.network.rate_bytes_per_s * m.per_domain * c.nic_ring)
        hop += hop_out_s(c, m.network)
        host = steps * m.network.host.hop_s
    return Way("ring", facts["startup_s"], steps * hop, rate / moved, host_s=host)


def _exchange(c: Constants, m: Machine) -> Way:
    """All-to-all: every rank sends a part to each other one, NCCL's grouped sends."""
    n, per = m.ranks, m.per_domain
    inside = ring_rate(c, m) * c.exchange_share
    hops_s = min(per - 1, 8) * m.hop_s * c.startup
    base = machine_facts()["hops_s"]["nvlink"]
    startup = machine_facts()["protocols"]["LL"]["ring"]["base"] * c.startup
    slowest, host = (per - 1) / n / inside if per > 1 else 0.0, 0.0
    if m.network is not None:
        # Each further peer is a message that a proxy posts: as long as a hop inside a domain.
        hops_s += hop_out_s(c, m.network) + (n - per) * base
        nic = m.network.rate_bytes_per_s * c.nic_ring
        slowest = max(slowest, (n - per) / n / (nic * c.exchange_share))
        host = m.network.host.hop_s
    fill = c.fill * (startup + hops_s)
    return Way("direct", startup, hops_s, 1 / slowest, fill, c.fill_bytes, c.fill_power, host)


def _send(c: Constants, m: Machine, asked: str) -> Way:
    startup = machine_facts()["protocols"]["LL"]["ring"]["base"] * c.startup
    if m.network is not None:
        nic = m.network.rate_bytes_per_s * c.nic_ring
        rate = min(nic, ring_rate(c, m))
        hop = hop_out_s(c, m.network)
        return Way("send", startup, hop, rate, c.fill * (startup + hop), c.fill_bytes,
                   c.fill_power, m.network.host.hop_s)  # fmt: skip
    wire = m.wire_bytes_per_s
    if m.kind == "full-mesh":
        wire /= max(m.per_domain - 1, 1)
    return Way("copy" if "copy" in asked else "send", startup, m.hop_s, wire * c.copy_share)


def _allowed(found: list[Way], m: Machine, asked: str) -> list[Way]:
    """The ways a library may take, or those that were asked for."""
    least = machine_facts()["nvls_ranks_min"].get(m.generation, 2)
    plain = asked.split("(", maxsplit=1)[0]
    forced = "auto" not in plain or "=" in plain

    def these(test: Callable[[Way], bool]) -> list[Way]:
        return [w for w in found if test(w)]

    nvls = these(lambda w: w.name.startswith("nvls"))
    if forced and "nvls" in plain and "off" not in asked and nvls:
        return nvls
    if forced and any(word in plain for word in ("collnet", "sharp")):
        added = these(lambda w: w.name == "collnet")
        if added:
            return added
    found = these(lambda w: w.name != "collnet")
    for word in ("ring", "tree", "pat"):
        if forced and word in plain:
            only = these(lambda w, word=word: w.name.startswith(word))  # type: ignore[misc]
            if only:
                return only
    if m.network is None and m.ranks < least:
        return [w for w in found if w not in nvls]
    return found
