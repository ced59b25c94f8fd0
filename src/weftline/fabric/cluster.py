"""A cluster of one accelerator: its network levels, as the catalogue's facts describe them."""

from __future__ import annotations

from typing import Final

from weftline.catalog import Accelerator, ProductNetwork, accelerator, sources
from weftline.errors import InputError
from weftline.fabric.facts import host_source
from weftline.fabric.torus import torus_shape
from weftline.spec import Cluster, Level

# Latency of one hop, seconds. NVLink and InfiniBand: NCCL's tuner (nccl@5067397c
# src/graph/tuning.cc, hw latencies of the Simple protocol); torus links and EFA: the makers'
# documents in the catalogue's fabric facts; the rest is taken as its nearest relative.
_HOP_S: Final = {"switch": 3.4e-6, "full-mesh": 3.4e-6, "torus": 1.0e-6, "clos": 14.0e-6}
_EFA_HOP_S: Final = 15.0e-6
_NEURONLINK_HOP_S: Final = 1.5e-6
_DCN_BYTES_PER_S: Final = 6.25e9
"""Data-centre network share of a TPU whose sources state none: that of the v5p (50 Gbit/s)."""
_DEFAULT_OUT_BYTES_PER_S: Final = 12.5e9
"""Network share of a chip whose sources state none: 100 Gbit/s, marked as assumed."""

_TRN2_XY_BYTES_PER_S: Final = 512e9
_TRN2_Z_BYTES_PER_S: Final = 128e9
"""trn2 UltraServer, one direction a chip: 4 x 128 GB/s inside an instance, 2 x 64 GB/s along Z
(fabric facts `trn2_instance` and `trn2_ultraserver`, AWS Neuron documentation)."""


def cluster_of(
    chip: str | Accelerator, chips: int, *, network: ProductNetwork | None = None
) -> Cluster:
    """The cluster of ``chips`` chips of one accelerator, in its usual machines.

    ``network`` is that of the product it is rented as, where one is known.

    Raises UnknownNameError for a chip the catalogue lacks, InputError for one that cannot train.
    """
    acc = accelerator(chip) if isinstance(chip, str) else chip
    peaks = {p: f for p in ("fp32", "tf32", "bf16", "fp8", "fp4", "int8")
             if (f := acc.peak_flops(p)) is not None}  # fmt: skip
    if "bf16" not in peaks and (half := acc.peak_flops("fp16")) is not None:
        peaks["bf16"] = half
    memory, bandwidth = acc.usable_memory_bytes, acc.memory_bandwidth_bytes_per_s
    if not acc.trains or memory is None or bandwidth is None:
        raise InputError(
            f"`{acc.id}` cannot be planned for training: "
            + ("it is an inference chip" if acc.purpose == "inference"
               else "its bf16 peak, memory or bandwidth is not published"),
            hint=f"`weftline catalog show {acc.id}` lists what is known",
        )  # fmt: skip
    per_host = acc.chips_per_host or 8
    levels, basis = _levels(acc, chips, network)
    return Cluster(
        accelerator=acc.id,
        chips=chips,
        chips_per_host=min(per_host, chips),
        memory_bytes=memory,
        memory_bandwidth_bytes_per_s=bandwidth,
        peak_flops=peaks,
        levels=levels,
        tdp_w=acc.tdp_w,
        host=acc.host,
        basis=_sources(acc)
        | basis
        | ({"host": host_source(_way(acc))} if chips > per_host else {}),
    )


def _way(acc: Accelerator) -> str:
    return "bypass" if acc.host == "auto" else acc.host


def _sources(acc: Accelerator) -> dict[str, str]:
    found: dict[str, str] = {}
    known = sources()
    memory = "memory" if acc.choice("memory_usable") is None else "memory_usable"
    for field in ("peak.bf16", memory, "memory_bandwidth", "scale_up", "scale_out", "tdp"):
        choice = acc.choice(field)
        if choice is not None:
            source = choice.fact.source
            title = known[source].title if source in known else source
            found[field] = f"{choice.fact.status}: {title} [{source}]"
    return found


def _levels(
    acc: Accelerator, chips: int, network: ProductNetwork | None
) -> tuple[tuple[Level, ...], dict[str, str]]:
    levels: list[Level] = []
    basis: dict[str, str] = {}
    if acc.sold_as == "trainium2":
        levels += _trn2_levels(chips)
    elif acc.scale_up_bytes_per_s is not None and (acc.scale_up_domain or 1) > 1:
        levels.append(_scale_up(acc, chips, acc.scale_up_bytes_per_s, acc.scale_up_domain or 1))
    reached = levels[-1].size if levels else 1
    if reached < chips or not levels:
        out = acc.scale_out_bytes_per_s
        if network is not None:
            out, basis["scale_out"] = network.bytes_per_s, network.basis
        if out is None:
            out = _DCN_BYTES_PER_S if acc.vendor == "google" else _DEFAULT_OUT_BYTES_PER_S
            basis["scale_out"] = "assumed: no source states one"
        if not levels:
            # A chip without a scale-up network still has the scale-out one as its only level;
            # the empty domain of one chip keeps the two apart.
            levels.append(
                Level(name="chip", kind="switch", size=1, bandwidth_bytes_per_s=out, latency_s=0.0)
            )
        hop = _EFA_HOP_S if acc.vendor == "aws" else _HOP_S["clos"]
        levels.append(
            Level(name="scale-out", kind="clos", size=chips, bandwidth_bytes_per_s=out,
                  latency_s=hop, basis=basis.get("scale_out", "datasheet"))
        )  # fmt: skip
    return tuple(levels), basis


def _scale_up(acc: Accelerator, chips: int, rate: float, domain: int) -> Level:
    size = min(domain, chips)
    if acc.topology_kind in ("torus2d", "torus3d", "ring"):
        dims = {"torus2d": 2, "torus3d": 3, "ring": 1}[acc.topology_kind]
        shape = torus_shape(size, dims, 4 if dims == 3 else 1)
        hop = _NEURONLINK_HOP_S if acc.vendor == "aws" else _HOP_S["torus"]
        # TPU slices close on themselves only at full sides: 16 in two dimensions, whole 4x4x4 cubes
        # in three (fabric facts `tpu_v5e`, `tpu_v4`).
        whole = all(side == 16 for side in shape) if dims == 2 else all(s % 4 == 0 for s in shape)
        is_open = acc.vendor == "google" and not whole
        return Level(name=f"{'x'.join(map(str, shape))} torus", kind="torus", size=size,
                     bandwidth_bytes_per_s=rate, latency_s=hop, shape=shape,
                     open_sides=is_open)  # fmt: skip
    kind = "full-mesh" if acc.topology_kind in ("fully_connected", "mesh") else "switch"
    # A full mesh used in part keeps the links between the chips that take part.
    if kind == "full-mesh" and size < domain:
        rate = rate * max(size - 1, 1) / (domain - 1)
    name = f"{size}-chip {'mesh' if kind == 'full-mesh' else 'switched domain'}"
    return Level(name=name, kind="full-mesh" if kind == "full-mesh" else "switch", size=size,
                 bandwidth_bytes_per_s=rate, latency_s=_HOP_S[kind])  # fmt: skip


def _trn2_levels(chips: int) -> list[Level]:
    """A 4x4 torus an instance, and a ring of up to four instances with thinner links."""
    inside = min(16, chips)
    shape = torus_shape(inside, 2)
    levels = [
        Level(name=f"{'x'.join(map(str, shape))} torus", kind="torus", size=inside,
              bandwidth_bytes_per_s=_TRN2_XY_BYTES_PER_S, latency_s=_NEURONLINK_HOP_S, shape=shape)
    ]  # fmt: skip
    if chips > 16:
        ring = min(64, chips) // 16
        levels.append(
            Level(name=f"{ring}-instance ring", kind="torus", size=ring * 16, shape=(ring,),
                  bandwidth_bytes_per_s=_TRN2_Z_BYTES_PER_S, latency_s=_NEURONLINK_HOP_S)
        )  # fmt: skip
    return levels
