"""Accelerators: every stated figure kept, one taken by rule, ready in SI for the planner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from weftline.catalog.facts import FactSheet
from weftline.spec.cluster import HostPath

TopologyKind = Literal[
    "switch",  # every chip reaches every other through one switched domain
    "fully_connected",  # a direct link between every two chips
    "torus2d",
    "torus3d",
    "ring",
    "mesh",  # some chips linked, not all
    "dragonfly",
    "none",  # no link beside the host's bus
    "unknown",
]
Use = Literal["data-centre", "desktop", "edge", "cpu"]
Availability = Literal[
    "shipping", "export-limited", "internal", "announced", "end-of-life", "end-of-sale",
    "hypothetical",
]  # fmt: skip

# The fields a chip can have facts on, beside `peak.<dtype>`.
FIELDS: Final = (
    "memory", "memory_usable", "memory_bandwidth", "scale_up", "scale_up_domain", "scale_out",
    "tdp", "chips_per_host",
)  # fmt: skip
DTYPES: Final = ("fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp4")

# What people write for a chip. The plain name is the one that most machines hold.
ALIASES: Final[Mapping[str, str]] = {
    "a100": "a100-80-sxm", "a100-80": "a100-80-sxm", "a100-80gb": "a100-80-sxm",
    "a100-sxm": "a100-80-sxm", "a100-40": "a100-40-sxm", "a100-40gb": "a100-40-sxm",
    "h100": "h100-sxm", "h100-80gb": "h100-sxm", "h100-sxm5": "h100-sxm", "h100-mega": "h100-sxm",
    "h200": "h200-sxm", "h800": "h800-sxm", "v100": "v100-32-sxm", "v100-32gb": "v100-32-sxm",
    "gb200": "gb200-nvl72", "gb300": "gb300-nvl72", "vr200": "vr200-nvl72",
    "rubin": "vr200-nvl72", "trn1": "trainium1", "trainium": "trainium1", "trn2": "trainium2",
    "trn3": "trainium3", "trn4": "trainium4", "inf1": "inferentia1", "inferentia": "inferentia1",
    "inf2": "inferentia2", "inf3": "inferentia3", "v4": "tpu-v4", "tpuv4": "tpu-v4",
    "v5e": "tpu-v5e", "tpuv5e": "tpu-v5e", "tpu-v5litepod": "tpu-v5e", "v5p": "tpu-v5p",
    "tpuv5p": "tpu-v5p", "v6e": "tpu-v6e", "tpuv6e": "tpu-v6e", "trillium": "tpu-v6e",
    "tpu-v7": "tpu7x", "tpu-v7x": "tpu7x", "v7": "tpu7x", "v7x": "tpu7x", "ironwood": "tpu7x",
    "tpu8t": "tpu-8t", "8t": "tpu-8t", "tpu8i": "tpu-8i", "8i": "tpu-8i",
    "a100-pcie": "a100-80-pcie", "tesla-t4": "t4", "v100-16gb": "v100-16-sxm",
    "rtx3090": "rtx-3090", "3090": "rtx-3090", "rtx4090": "rtx-4090", "4090": "rtx-4090",
    "rtx5090": "rtx-5090", "5090": "rtx-5090", "a6000": "rtx-a6000", "rtxpro6000": "rtx-pro-6000",
    "rtx-pro-6000-blackwell": "rtx-pro-6000", "rtx6000-ada": "rtx-6000-ada",
    "rtx-6000ada": "rtx-6000-ada", "dgx-spark": "gb10", "spark": "gb10",
    "jetson-orin": "jetson-orin-64", "orin": "jetson-orin-64", "thor": "jetson-thor",
    "jetson-agx-thor": "jetson-thor", "jetson-agx-orin": "jetson-orin-64",
    "apple-m3-ultra": "m3-ultra", "apple-m4-max": "m4-max", "turin": "epyc-9965",
    "xeon6": "xeon-6980p", "granite-rapids": "xeon-6980p", "910b": "ascend-910b",
    "910c": "ascend-910c", "helios": "mi455x", "mi350": "mi350x",
    "maia": "maia100", "groq": "groq-lpu1", "wse-3": "wse3", "cerebras": "wse3",
    "mi250": "mi250x", "mi300": "mi300x", "mi325": "mi325x", "mi355": "mi355x",
    "gaudi-2": "gaudi2", "gaudi-3": "gaudi3",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator(FactSheet):
    """One chip as its sources describe it.

    Attributes give the figure taken (see :mod:`weftline.catalog.facts`) in SI, or None where no
    source states one; ``choice`` says why it was taken and how far others lie from it.
    """

    vendor: str
    availability: Availability
    launch: str
    process: str
    topology: str
    """The scale-up network in words."""
    topology_kind: TopologyKind
    topology_shape: tuple[int, ...] = ()
    """Length of each torus dimension of the largest domain; empty where it is not a known torus."""
    purpose: Literal["training", "inference"] = "training"
    """``inference`` where the maker sells or uses it for inference only."""
    use: Use = "data-centre"
    """Where it stands: a machine under a desk, a robot or a CPU socket is planned for only when
    it is named."""
    host: HostPath = "auto"
    """How its hosts drive their NICs, where the user says so; auto: as its network usually is."""
    like: str = ""
    """The chip whose measurements a chip of the user's own takes over; empty for shipped ones."""

    @property
    def stack(self) -> str:
        """Whose software it needs: its vendor's, or of a CPU ``amd-cpu`` and so on."""
        return f"{self.vendor}-cpu" if self.use == "cpu" else self.vendor

    @property
    def sold_as(self) -> str:
        """The name price lists have for it: of a chip with changed figures, that of the chip."""
        return self.id.partition("+")[0]

    def peak_flops(self, dtype: str) -> float | None:
        """Dense peak in FLOP/s (OP/s for ``int8``); None where no dense figure is stated."""
        return self.si(f"peak.{dtype.lower()}")

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The number formats with a dense peak, widest first."""
        return tuple(d for d in DTYPES if self.peak_flops(d) is not None)

    @property
    def memory_bytes(self) -> float | None:
        """Nominal memory in bytes.

        NVIDIA's 80 GB are 80 GiB less ECC and reserve; the decimal 80e9 is what is sold.
        """
        return self.si("memory")

    @property
    def usable_memory_bytes(self) -> float | None:
        """Memory a job can have: what the driver reports where that is known, else the nominal."""
        reported = self.si("memory_usable")
        return self.memory_bytes if reported is None else reported

    @property
    def memory_bandwidth_bytes_per_s(self) -> float | None:
        """Peak bandwidth of the chip's memory, bytes/s."""
        return self.si("memory_bandwidth")

    @property
    def scale_up_bytes_per_s(self) -> float | None:
        """What one chip can send into its scale-up network, bytes/s, one direction."""
        return self.si("scale_up")

    @property
    def scale_up_domain(self) -> int | None:
        """Chips in the largest scale-up domain."""
        return self.count("scale_up_domain")

    @property
    def scale_out_bytes_per_s(self) -> float | None:
        """One chip's share of the host's network, bytes/s, one direction."""
        return self.si("scale_out")

    @property
    def tdp_w(self) -> float | None:
        """Thermal design power of one chip, watts."""
        return self.si("tdp")

    @property
    def chips_per_host(self) -> int | None:
        """Chips under one operating system, in the usual full machine."""
        return self.count("chips_per_host")

    @property
    def hypothetical(self) -> bool:
        """True where no maker has announced the chip: to be used only when asked for."""
        return self.availability == "hypothetical"

    @property
    def purchasable(self) -> bool:
        """True where someone outside its maker can have one today."""
        return self.availability in ("shipping", "export-limited", "end-of-life", "end-of-sale")

    @property
    def rentable(self) -> bool:
        """True where a search over all chips should try it: to be had, for data centres."""
        return self.purchasable and self.use == "data-centre"

    @property
    def trains(self) -> bool:
        """True where a training run can be planned on it.

        Not made for inference only; bf16 or fp16 peak, memory and bandwidth are known.
        """
        peak = self.peak_flops("bf16") or self.peak_flops("fp16")
        return self.purpose == "training" and None not in (
            peak,
            self.memory_bytes,
            self.memory_bandwidth_bytes_per_s,
        )
