"""NCCL's XML of one host: what it found (NCCL_TOPO_DUMP_FILE), chose (NCCL_GRAPH_DUMP_FILE).

The topology is a tree of ``cpu``, ``pci``, ``gpu`` and ``nic`` with NVLinks and xGMI links as
children of a GPU. PCIe's speed is that of the generation and the width; an NVLink's is its
generation's, by the GPU's ``sm``; an xGMI's by ``gcn``. RCCL writes the same file.

The graph file gives channels: rings, trees or NVLS, by the numbers of GPUs. It becomes a network of
the connections its channels use.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from weftline.errors import InputError
from weftline.fabric.formats.speeds import LinkSpeeds
from weftline.fabric.formats.xml_tree import Element, parse_xml
from weftline.fabric.graph import Topology

TOPOLOGY = "nccl topology"
GRAPH = "nccl graph"
NVLINK_BYTES_PER_S: Final = ((60, 20e9), (70, 25e9), (86, 14.0625e9), (90, 25e9), (100, 50e9))
"""First sm of a generation -> one link one way (NVIDIA's datasheets; 80 to 85 as 70, 86 to 89 the
RTX A6000's bridge)."""
XGMI_BYTES_PER_S: Final = (("gfx950", 76.8e9), ("gfx94", 64e9), ("gfx90a", 50e9), ("gfx90", 46e9))
"""Beginning of gcn -> one xGMI link one way (AMD's datasheets)."""
SOCKETS_BYTES_PER_S: Final = 22e9
"""Between two CPUs: what NCCL takes for Sapphire Rapids (nccl src/graph/topo.h, SRP_QPI_WIDTH)."""
SWITCH_CLASS, GPU_CLASSES = "0x0680", ("0x0302", "0x0300", "0x0380", "0x1200")
NVLINK_HOP_S: Final = 3.4e-6
PCIE_HOP_S: Final = 1.0e-6
"""One PCIe hop (NCCL's tuner takes 1.0 us on a host's PCIe)."""
PATTERNS: Final = {"1": "balanced tree", "2": "split tree", "3": "tree", "4": "ring", "5": "NVLS",
                   "6": "CollNet direct"}  # fmt: skip


def detect_topology(text: str) -> bool:
    """Whether the text is a topology dump."""
    return "<system" in text and ("<cpu" in text or "<gpu" in text)


def detect_graph(text: str) -> bool:
    """Whether the text is a graph dump."""
    return "<graphs" in text and "<graph" in text


class _HostGraph:
    """Nodes of a host as they are found, chips first in the end."""

    def __init__(self, where: str, speeds: LinkSpeeds) -> None:
        self.where, self.speeds = where, speeds
        self.names: list[str] = []
        self.is_chip: list[bool] = []
        self.adds: list[bool] = []
        self.by_bus: dict[str, int] = {}
        self.cables: list[tuple[int, int, float, float]] = []
        self.kinds: dict[str, int] = {}
        self.hidden = 0
        """PCIe links that say neither speed nor width."""

    def node(self, name: str, *, chip: bool = False, adds: bool = False) -> int:
        self.names.append(name)
        self.is_chip.append(chip)
        self.adds.append(adds)
        return len(self.names) - 1

    def cable(self, a: int, b: int, rate: float, delay_s: float, kind: str) -> None:
        self.cables.append((a, b, rate, delay_s))
        self.kinds[kind] = self.kinds.get(kind, 0) + 1

    def topology(self, name: str, basis: dict[str, str]) -> Topology:
        """Chips in the order they were found, then everything else."""
        order = sorted(range(len(self.names)), key=lambda n: not self.is_chip[n])
        number = {n: i for i, n in enumerate(order)}
        rows = [(number[u], number[v], r, d) for a, b, r, d in self.cables
                for u, v in ((a, b), (b, a))]  # fmt: skip
        table = np.asarray(rows, dtype=np.float64).reshape(-1, 4)
        ranks = sum(self.is_chip)
        adds = [self.adds[n] for n in order[ranks:]]
        basis["counted"] = ", ".join(f"{n} {kind}" for kind, n in sorted(self.kinds.items()))
        return Topology(
            name=name, ranks=ranks, switches=len(order) - ranks,
            source=table[:, 0].astype(np.int64), destination=table[:, 1].astype(np.int64),
            bandwidth_bytes_per_s=table[:, 2], latency_s=table[:, 3], chips_forward=False,
            labels=tuple(self.names[n] for n in order), levels=(ranks,),
            reducing=np.asarray(adds) if any(adds) else None, basis=basis,
        )  # fmt: skip


def read_topology(text: str, where: str, *, speeds: LinkSpeeds | None = None) -> Topology:
    """The host: GPUs are chips; CPUs, PCIe bridges, NICs and the NVSwitch are switches.

    Raises InputError with the line of a link whose speed the file does not tell.
    """
    root = parse_xml(text, where)
    host = _HostGraph(where, speeds or LinkSpeeds())
    cpus = [e for e in root.walk() if e.name == "cpu"]
    numbers: list[int] = []
    for cpu in cpus:
        node = host.node(f"CPU {cpu.attributes.get('numaid', len(numbers))}")
        numbers.append(node)
        _below(host, cpu, node)
    rate = host.speeds.of("socket") or SOCKETS_BYTES_PER_S
    for i, a in enumerate(numbers):
        for b in numbers[i + 1 :]:
            host.cable(a, b, rate, PCIE_HOP_S / 2, "links between CPUs")
    gpus = [e for e in root.walk() if e.name == "gpu"]
    placed = {id(g) for e in root.walk() if e.name == "pci" for g in e.children if g.name == "gpu"}
    if not gpus:
        raise InputError("no <gpu>", where=f"{where}:{root.line}")
    if loose := next((g for g in gpus if id(g) not in placed), None):
        raise InputError("a <gpu> outside any <pci>", where=f"{where}:{loose.line}",
                         hint="NCCL writes <cpu>, in it <pci>, in it <gpu>")  # fmt: skip
    if not cpus:
        raise InputError("no <cpu>", where=f"{where}:{root.line}")
    _links_between(host, root)
    basis = {
        "pcie": "generation and width of each link",
        "nvlink": "links x the generation's rate, one way (datasheet)",
        "sockets": f"assumed: {rate / 1e9:g} GB/s between CPUs, NCCL's figure",
    }
    if host.hidden:
        basis["pcie"] += (f"; assumed: generation 3, 16 lanes for {host.hidden} that say neither, "
                          "as NCCL takes them; --link pcie=64GB/s gives it")  # fmt: skip
    return host.topology("nccl host", basis)


def _below(host: _HostGraph, above: Element, parent: int) -> None:
    for child in above.children:
        if child.name == "pci":
            gpu = next((c for c in child.children if c.name == "gpu"), None)
            bus = child.attributes.get("busid", "?")
            if gpu is not None:
                node = host.node(f"GPU {gpu.attributes.get('dev', bus)}", chip=True)
            else:
                nics = [n for c in child.children if c.name == "nic" for n in c.children]
                named = next((n.attributes.get("name") for n in nics if n.name == "net"), None)
                node = host.node(named or f"PCIe {bus}")
                host.kinds["NICs"] = host.kinds.get("NICs", 0) + sum(n.name == "net" for n in nics)
            host.by_bus[bus.lower()] = node
            host.cable(parent, node, _pcie(host, child), PCIE_HOP_S / 2, "PCIe links")
            _below(host, child, node)
        elif child.name == "nic":
            # NICs that are no PCIe device of their own hang on what holds them.
            host.kinds["NICs"] = host.kinds.get("NICs", 0) + (
                0 if above.name == "pci" else sum(n.name == "net" for n in child.children)
            )


def _pcie(host: _HostGraph, link: Element) -> float:
    """One way: GT/s times lanes, less the line code (128/130 from generation 3 on)."""
    text = link.attributes.get("link_speed", "")
    lanes = link.attributes.get("link_width", "")
    number = text.split()[0] if text.split() else ""
    try:
        rate, width = float(number), int(lanes)
    except ValueError:
        rate, width = 0.0, 0
    if rate <= 0 or width <= 0:
        # Virtual machines hide it; NCCL then takes generation 3 and 16 lanes.
        known = host.speeds.of("pcie")
        host.hidden += known is None
        return known or _one_way(8.0, 16)
    return _one_way(rate, width)


def _one_way(gt_per_s: float, lanes: int) -> float:
    return gt_per_s * 1e9 * lanes / 8 * (128 / 130 if gt_per_s >= 8 else 0.8)


def _links_between(host: _HostGraph, root: Element) -> None:
    """NVLinks and xGMI links: to an NVSwitch (one for the host) or from GPU to GPU."""
    hub: int | None = None
    ports: dict[int, float] = {}
    done: set[tuple[int, int]] = set()
    for pci in root.walk():
        for gpu in (c for c in pci.children if c.name == "gpu"):
            own = host.by_bus[pci.attributes.get("busid", "?").lower()]
            for link in (c for c in gpu.children if c.name in ("nvlink", "xgmi", "xgmilink")):
                count = link.number("count", host.where)
                rate = count * _link_rate(host, gpu, link)
                kind = "xGMI" if link.name.startswith("xgmi") else "NVLink"
                if link.attributes.get("tclass", "").startswith(SWITCH_CLASS):
                    if hub is None:
                        sm = float(gpu.attributes.get("sm", 0))
                        hub = host.node("NVSwitch", adds=sm >= 90)
                    # Several switch chips of one baseboard are one switch.
                    ports[own] = ports.get(own, 0.0) + rate
                    continue
                other = host.by_bus.get(link.attributes.get("target", "").lower())
                if other is None:
                    raise InputError(
                        f"a link to `{link.attributes.get('target')}`, which is no device here",
                        where=f"{host.where}:{link.line}",
                    )
                if (other, own) not in done:
                    done.add((own, other))
                    host.cable(own, other, rate, NVLINK_HOP_S, f"{kind} cables")
    for own, rate in ports.items():
        host.cable(own, hub or 0, rate, NVLINK_HOP_S / 2, "GPUs at the NVSwitch")


def _link_rate(host: _HostGraph, gpu: Element, link: Element) -> float:
    if link.name.startswith("xgmi"):
        given = host.speeds.of("xgmi")
        name = gpu.attributes.get("gcn", "")
        found = next((r for start, r in XGMI_BYTES_PER_S if name.startswith(start)), None)
        what, hint = f'gcn="{name}"', "give one link's: --link xgmi=64GB/s"
    else:
        given = host.speeds.of("nvlink")
        sm = float(gpu.attributes.get("sm", 0) or 0)
        found = next((r for first, r in reversed(NVLINK_BYTES_PER_S) if sm >= first), None)
        what, hint = f"sm {sm:g}", "give one link's: --link nvlink=25GB/s"
    if given or found:
        return given or found or 0.0
    raise InputError(f"no link rate of a GPU of {what} is known",
                     where=f"{host.where}:{gpu.line}", hint=hint)  # fmt: skip


def read_graph(text: str, where: str) -> Topology:
    """The connections that NCCL's channels use, each with the channels' speed added up.

    Raises InputError with the line of a graph without channels or GPUs.
    """
    root = parse_xml(text, where)
    rates: dict[tuple[int, int], float] = {}
    said: list[str] = []
    nets: set[int] = set()
    for graph in (c for c in root.children if c.name == "graph"):
        pattern = PATTERNS.get(graph.attributes.get("pattern", ""), "another pattern")
        channels = [c for c in graph.children if c.name == "channel"]
        if not channels:
            continue
        speed = graph.number("speedintra", where) * 1e9
        orders = []
        for channel in channels:
            gpus = [int(e.number("dev", where)) for e in channel.children if e.name == "gpu"]
            nets |= {int(e.number("dev", where)) for e in channel.children if e.name == "net"}
            closes = not any(e.name == "net" for e in channel.children)
            pairs = list(zip(gpus, gpus[1:] + gpus[:1] if closes else gpus[1:], strict=False))
            for a, b in pairs if len(gpus) > 1 else ():
                rates[a, b] = rates.get((a, b), 0.0) + speed
            orders.append("-".join(map(str, gpus)))
        said.append(f"{len(channels)} channels, {pattern}, {speed / 1e9:g} GB/s each "
                    f"({graph.attributes.get('typeintra', '?')}): {', '.join(orders[:8])}"
                    + (f" and {len(orders) - 8} more" if len(orders) > 8 else ""))  # fmt: skip
    chips = sorted({g for pair in rates for g in pair})
    if not chips:
        raise InputError("no channel with two GPUs", where=f"{where}:{root.line}",
                         hint="NCCL_GRAPH_DUMP_FILE has <graph> with <channel>")  # fmt: skip
    number = {g: i for i, g in enumerate(chips)}
    both = dict(rates)
    for (a, b), rate in rates.items():
        both.setdefault((b, a), rate)
    table = np.asarray([(number[a], number[b], r) for (a, b), r in both.items()])
    basis = {f"graph {i}": text for i, text in enumerate(said)}
    basis["links"] = "speed NCCL found for its channels, added up for each connection"
    if nets:
        basis["network"] = f"{len(nets)} NICs in the channels"
    return Topology(
        name="nccl graph", ranks=len(chips), source=table[:, 0].astype(np.int64),
        destination=table[:, 1].astype(np.int64), bandwidth_bytes_per_s=table[:, 2],
        latency_s=np.full(len(table), NVLINK_HOP_S), labels=tuple(f"GPU {g}" for g in chips),
        basis=basis,
    )  # fmt: skip
