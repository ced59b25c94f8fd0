"""The machine a collective runs on, as the predictor sees it: chips, domains, network, library.

What is known before anything is fitted stands in ``data/collective_machines.json`` with its
sources: NCCL's and RCCL's own rates and latencies, those AWS's plugin tells NCCL, and the
catalogue's wires. ``reading`` makes a machine of two lines of text, ``networks`` of a topology or
of a cluster's levels; both end in ``machine`` here, so that they give the same to the digit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final, Literal

from weftline.catalog import Accelerator
from weftline.errors import InputError, UnknownNameError
from weftline.fabric.facts import machine_facts
from weftline.fabric.torus import torus_shape

Kind = Literal["nvlink", "pcie", "full-mesh", "torus", "neuron"]
Harness = Literal["device", "unsaid", "host"]
HostPath = Literal["bypass", "tcp"]
LIBRARIES: Final = ("auto", "nccl", "rccl", "neuron", "xla", "oneccl", "gloo", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What the host adds to a message between domains."""

    path: HostPath = "bypass"
    """The NIC is driven from user space (EFA, InfiniBand, RoCE), or through the kernel's TCP."""
    hop_s: float = 0.0
    """Added to every message."""
    rate_share: float = 1.0
    """Share of the NIC that is left."""
    source: str = "the NIC is driven from user space: nothing is added"


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What joins domains: one rank's share of it, one way, and the latency of a hop."""

    family: str
    """efa, rdma, dcn or tcp: what its shares and latencies are fitted with."""
    name: str
    chip_bytes_per_s: float
    hop_s: float
    source: str
    host: Host = Host()

    @property
    def rate_bytes_per_s(self) -> float:
        """One rank's share of it that the host leaves."""
        return self.chip_bytes_per_s * self.host.rate_share


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Chips that run one collective, at the rates their makers state."""

    chip: str
    kind: Kind
    generation: str
    ranks: int
    domains: int
    """Scale-up domains the ranks lie in: nodes, or racks where a rack is one domain."""
    wire_bytes_per_s: float
    """One way, all links of a chip that the ranks can use."""
    ring_bytes_per_s: float
    """What the library counts on for rings: NCCL's figure a link times links; else the wire."""
    nvls: float = 0.0
    """NCCL's share for reductions in the switch; 0 where the switch adds nothing."""
    hop_s: float = 0.6e-6
    shape: tuple[int, ...] = ()
    """Sides of a torus."""
    axes_bytes_per_s: tuple[float, ...] = ()
    """One way out of a chip along each side, where the sides' links are shared with other groups;
    else they follow from the shape."""
    is_line: bool = False
    """A torus whose longer sides do not close."""
    library: str = "nccl"
    version: tuple[int, ...] = ()
    """Of the library: (2, 27); empty where it is not known."""
    network: Network | None = None
    assumed: str = ""
    """What was not said and was taken from the chip's usual machine."""

    @property
    def per_domain(self) -> int:
        """Ranks of one domain."""
        return max(1, -(-self.ranks // self.domains))

    @property
    def group(self) -> str:
        """Chip and network: machines that share what a maker made."""
        return self.chip if self.network is None else f"{self.chip} over {self.network.name}"

    @property
    def level_class(self) -> str:
        """What bands are learnt by: where the bytes go and whose library moves them."""
        if self.kind == "neuron":
            return "neuron"
        if self.kind == "torus":
            return "torus"
        return "one domain" if self.network is None else "several domains"


def known_library(name: str) -> str:
    """The name of a library as asked for; raises UnknownNameError."""
    if name.lower() not in LIBRARIES:
        raise UnknownNameError("library", name, LIBRARIES)
    return name.lower()


def library_of(acc: Accelerator, asked: str = "") -> str:
    """The library a chip's collectives run with, unless another is named that runs on it too.

    Raises InputError for one that does not.
    """
    own = machine_facts()["libraries"].get(acc.vendor, ["nccl"])
    if not asked or asked == "auto":
        return str(own[0])
    if asked not in own:
        raise InputError(f"`{asked}` does not run on `{acc.id}`", hint=f"there: {', '.join(own)}")
    return asked


def known_as(acc: Accelerator) -> str:
    """The chip whose network this is: of one with changed figures, or like another, that one."""
    return acc.like or acc.sold_as


def machine(
    acc: Accelerator,
    ranks: int,
    domains: int,
    *,
    network: Network | None = None,
    wire_bytes_per_s: float | None = None,
    shape: tuple[int, ...] = (),
    axes_bytes_per_s: tuple[float, ...] = (),
    is_line: bool = False,
    library: str = "",
    version: tuple[int, ...] = (),
    assumed: str = "",
) -> Machine:
    """``ranks`` chips in ``domains`` domains.

    ``wire_bytes_per_s`` is what one chip sends inside its domain where that is not the catalogue's;
    of a mesh what its links to the ranks of the domain carry. Raises InputError where no rate is
    known.
    """
    if ranks < 2 or domains < 1 or domains > ranks:
        raise InputError(f"{ranks} ranks in {domains} domains are no collective")
    if domains == 1:
        network = None
    elif network is None:
        raise InputError(f"no network joins the domains of `{acc.id}`")
    facts = machine_facts()
    if acc.vendor not in facts["libraries"]:
        unsaid = f"no source on the library of {acc.vendor}'s chips: taken as NCCL"
        assumed = "; ".join(t for t in (assumed, unsaid) if t)
    here = -(-ranks // domains)
    wire = wire_bytes_per_s if wire_bytes_per_s is not None else inside_wire(acc, here)
    generation = facts["generations"].get(known_as(acc), acc.vendor)
    kind, ring, nvls, hop = _kind(acc, here), wire, 0.0, facts["hops_s"]["nvlink"]
    nccl = facts["nccl"].get(known_as(acc))
    if kind == "nvlink" and nccl is not None:
        catalogue = acc.scale_up_bytes_per_s or wire
        ring = nccl["links"] * nccl["link_bytes_per_s"] * wire / catalogue
        nvls = nccl["nvls"]
    elif acc.vendor == "amd" and kind == "full-mesh":
        hop = facts["hops_s"]["xgmi"]
    elif kind == "pcie":
        hop = facts["hops_s"]["pci"]
    elif kind in ("torus", "neuron"):
        hop = facts["hops_s"]["ici" if acc.vendor == "google" else "neuronlink"]
    return Machine(
        chip=known_as(acc), kind=kind, generation=generation, ranks=ranks, domains=domains,
        wire_bytes_per_s=wire, ring_bytes_per_s=ring, nvls=nvls, hop_s=hop, shape=shape,
        axes_bytes_per_s=axes_bytes_per_s, is_line=is_line, library=library_of(acc, library),
        version=version, network=network, assumed=assumed,
    )  # fmt: skip


def _kind(acc: Accelerator, here: int) -> Kind:
    if acc.vendor == "google":
        return "torus"
    if acc.vendor == "aws":
        return "neuron"
    domain = acc.scale_up_domain or 1
    if known_as(acc) in machine_facts()["nccl"]:
        return "nvlink"
    if acc.topology_kind == "switch" and domain > 1:
        return "nvlink"
    if acc.topology_kind in ("fully_connected", "mesh") and domain > 1:
        # A bridge joins two or four cards; what it does not join meets over the host's bus.
        return "full-mesh" if here <= domain else "pcie"
    return "pcie"


def inside_wire(acc: Accelerator, here: int) -> float:
    """One way, of one chip among ``here`` in its domain, as the catalogue states it."""
    wire = acc.scale_up_bytes_per_s
    domain = acc.scale_up_domain or 1
    bus: float = machine_facts()["bus_bytes_per_s"]
    if wire is None:
        return bus
    if acc.topology_kind in ("fully_connected", "mesh") and acc.vendor != "google":
        if here > domain:
            return bus
        if known_as(acc) not in machine_facts()["nccl"] and domain > 1:
            return wire * max(here - 1, 1) / (domain - 1)
    return wire


def usual_network(acc: Accelerator) -> Network:
    """The scale-out network of a chip where none is named, marked as such by the caller."""
    facts = machine_facts()
    rate = acc.scale_out_bytes_per_s or facts["usual_chip_bytes_per_s"]
    family, name, hop = "rdma", "usual network", facts["hops_s"]["rdma"]
    if acc.vendor == "google":
        family, name, hop = "dcn", "data-centre network", facts["hops_s"]["dcn"]
    if acc.vendor == "aws":
        family, name, hop = "efa", "EFA", facts["hops_s"]["efa"]
    return Network(family=family, name=name, chip_bytes_per_s=rate, hop_s=hop,
                   source="the catalogue's scale-out rate")  # fmt: skip


def with_host(network: Network, path: str) -> Network:
    """The same network with its NICs driven another way: ``bypass`` or ``tcp``.

    Raises InputError for anything else.
    """
    known = machine_facts()["hosts"]
    if path not in known:
        raise InputError(
            f"unknown way of the host `{path}`", hint=f"known: {', '.join(sorted(known))}"
        )
    row = known[path]
    host = Host(path="tcp" if path == "tcp" else "bypass", hop_s=row["hop_s"],
                rate_share=row["rate_share"], source=row["source"])  # fmt: skip
    return replace(network, host=host)


def usual_shape(acc: Accelerator, ranks: int) -> tuple[int, ...]:
    """The most cubic slice of so many chips; up to a host's chips of trn2 lie in its plane."""
    dims = {"torus3d": 3, "torus2d": 2, "ring": 1}.get(acc.topology_kind or "", 2)
    if known_as(acc) in machine_facts()["axes_bytes_per_s"] and ranks <= (acc.chips_per_host or 0):
        dims = 2
    return torus_shape(ranks, dims)


def slice_of(
    acc: Accelerator, shape: tuple[int, ...], *, is_open: bool = False
) -> tuple[bool, float]:
    """Whether some longer axis of a slice is a line, and one way out of a chip of it: over two
    links of an axis that closes on itself, over one of a line or of a side of two.

    Raises InputError where no link rate is known.
    """
    wire = acc.scale_up_bytes_per_s
    if wire is None:
        raise InputError(f"the catalogue states no link rate for `{acc.id}`")
    closed = [not is_open and axis_closes(acc, shape, side) for side in shape]
    is_line = any(side > 2 and not shut for side, shut in zip(shape, closed, strict=True))
    links = [0 if side == 1 else 2 if shut else 1
             for side, shut in zip(shape, closed, strict=True)]  # fmt: skip
    rates = machine_facts()["axes_bytes_per_s"].get(known_as(acc))
    if rates:
        return is_line, float(sum(n * r for n, r in zip(links, rates, strict=False)))
    of_chip = {"torus3d": 6, "torus2d": 4, "ring": 2}.get(acc.topology_kind or "", 4)
    return is_line, wire / of_chip * max(1, sum(links))


def axis_closes(acc: Accelerator, shape: tuple[int, ...], side: int) -> bool:
    """Whether an axis of a slice closes on itself: trn's whole axes, TPU v5e's and v6e's of 16,
    those of whole 4x4x4 cubes."""
    if side <= 2:
        return False
    if acc.vendor == "aws":
        return side >= 4
    if acc.topology_kind == "torus2d" or len(shape) < 2:
        return side % 16 == 0
    return all(s % 4 == 0 for s in shape)


def log2(value: float) -> float:
    """Levels of a tree over ``value`` domains; 0 for one."""
    return math.log2(max(value, 1.0))
