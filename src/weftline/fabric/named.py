"""Fabrics a user can ask for by name, built from the catalogue's facts.

Every speed and latency carries in ``Topology.basis`` what it is, in which direction, how it was
chosen and from which source; what no source states is marked as assumed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from weftline.catalog import accelerator, fabric
from weftline.catalog.fabrics import Fabric
from weftline.catalog.facts import Choice
from weftline.errors import InputError, UnknownNameError
from weftline.fabric import topologies as build
from weftline.fabric.graph import Topology
from weftline.fabric.nests import nested
from weftline.units import format_duration, format_rate

__all__ = ["named_fabric", "named_fabrics"]

Form = Literal["switch", "full-mesh", "clos", "cubes", "sixteen", "torus", "tiers"]
Values = tuple[float, ...] | None

# Latency of one hop where a fabric's own facts state none, and what that is taken from.
_LIKE: Final[Mapping[Form, tuple[float, str]]] = {
    "switch": (3.4e-6, "NVLink's, Simple protocol, in NCCL's tuner"),
    "full-mesh": (3.4e-6, "NVLink's, Simple protocol, in NCCL's tuner"),
    "tiers": (3.4e-6, "NVLink's, Simple protocol, in NCCL's tuner"),
    "clos": (14e-6, "InfiniBand's, Simple protocol, in NCCL's tuner"),
    "cubes": (1e-6, "that of TPU v4 and v5e"),
    "sixteen": (1e-6, "that of TPU v5e"),
    "torus": (1.5e-6, "that of trn2"),
}


@dataclass(frozen=True, slots=True)
class _Entry:
    """One fabric: its facts, how it is built, its usual size."""

    fabric: str
    form: Form
    size: tuple[int, ...] = ()
    reducing: bool = False
    domain: int | None = None


@dataclass(frozen=True, slots=True)
class _Pair:
    """A fabric inside a unit and one across: ``h100-clos``."""

    inner: str
    outer: str
    speed: str
    """Field of the outer fabric's facts, ``field@scope``, or ``chip`` for the accelerator's own."""
    chip: str = ""


_ENTRIES: Final[Mapping[str, _Entry]] = {
    "nvlink4-nvswitch": _Entry("nvlink4-nvswitch", "switch", (8,), reducing=True),
    "nvlink5-nvswitch": _Entry("nvlink5-nvswitch", "switch", (8,), reducing=True),
    "nvlink5-nvl72": _Entry("nvlink5-nvswitch", "switch", (72,), reducing=True, domain=72),
    "ib-ndr-clos": _Entry("ib-ndr-clos", "clos"),
    "ib-xdr-clos": _Entry("ib-xdr-clos", "clos"),
    "efa-v2-p5": _Entry("efa-v2-p5", "clos"),
    "efa-v3-p5en-trn2": _Entry("efa-v3-p5en-trn2", "clos"),
    "efa-v4-p6": _Entry("efa-v4-p6", "clos"),
    "trn1-neuronlink-v2": _Entry("trn1-neuronlink-v2", "torus", (4, 4)),
    "trn2-instance": _Entry("trn2-instance", "torus", (4, 4)),
    "trn2-ultraserver": _Entry("trn2-ultraserver", "torus", (4, 4, 4)),
    "trn3-ultraserver-gen1": _Entry("trn3-ultraserver-gen1", "switch", (64,)),
    "trn3-ultraserver-gen2": _Entry("trn3-ultraserver-gen2", "tiers", (144,)),
    "tpu-v4": _Entry("tpu-v4", "cubes", (16, 16, 16)),
    "tpu-v5e": _Entry("tpu-v5e", "sixteen", (16, 16)),
    "tpu-v5p": _Entry("tpu-v5p", "cubes", (16, 16, 24)),
    "tpu-v6e": _Entry("tpu-v6e", "sixteen", (16, 16)),
    "tpu7x": _Entry("tpu7x", "cubes", (16, 24, 24)),
    "mi300x-xgmi": _Entry("mi300x-xgmi", "full-mesh", (8,)),
    "mi355x-xgmi": _Entry("mi355x-xgmi", "full-mesh", (8,)),
    "maia100": _Entry("maia100", "full-mesh", (4,)),
    "gaudi3": _Entry("gaudi3", "full-mesh", (8,)),
}
_PAIRS: Final[Mapping[str, _Pair]] = {
    "h100-clos": _Pair("nvlink4-nvswitch", "ib-ndr-clos", "port"),
    "h200-clos": _Pair("nvlink4-nvswitch", "ib-ndr-clos", "port"),
    "b200-clos": _Pair("nvlink5-nvswitch", "ib-xdr-clos", "chip", "b200"),
    "b300-clos": _Pair("nvlink5-nvswitch", "ib-xdr-clos", "port"),
    "gb200-clos": _Pair("nvlink5-nvl72", "ib-xdr-clos", "chip", "gb200-nvl72"),
    "p5-efa": _Pair("nvlink4-nvswitch", "efa-v2-p5", "chip_egress"),
    "p5en-efa": _Pair("nvlink4-nvswitch", "efa-v3-p5en-trn2", "chip_egress@p5en"),
    "p6-b200-efa": _Pair("nvlink5-nvswitch", "efa-v4-p6", "chip_egress@p6-b200"),
    "p6-b300-efa": _Pair("nvlink5-nvswitch", "efa-v4-p6", "chip_egress@p6-b300"),
    "trn2-efa": _Pair("trn2-instance", "efa-v3-p5en-trn2", "chip_egress@trn2"),
    "trn2-ultraserver-efa": _Pair("trn2-ultraserver", "efa-v3-p5en-trn2", "chip_egress@trn2"),
    "gaudi3-clos": _Pair("gaudi3", "ib-ndr-clos", "chip", "gaudi3"),
    "mi300x-clos": _Pair("mi300x-xgmi", "ib-ndr-clos", "chip", "mi300x"),
}
_ALIASES: Final[Mapping[str, str]] = {
    "h100": "nvlink4-nvswitch", "h100-sxm": "nvlink4-nvswitch", "h200": "nvlink4-nvswitch",
    "h200-sxm": "nvlink4-nvswitch", "nvlink4-nvswitch-h100": "nvlink4-nvswitch",
    "b200": "nvlink5-nvswitch", "b300": "nvlink5-nvswitch",
    "nvlink5-nvswitch-b200": "nvlink5-nvswitch", "gb200-nvl72": "nvlink5-nvl72",
    "gb300-nvl72": "nvlink5-nvl72", "gb200": "nvlink5-nvl72", "gb300": "nvlink5-nvl72",
    "trn1": "trn1-neuronlink-v2", "trainium1": "trn1-neuronlink-v2", "trn2": "trn2-instance",
    "trainium2": "trn2-ultraserver", "trn3": "trn3-ultraserver-gen2",
    "trainium3": "trn3-ultraserver-gen2", "tpu7x-ironwood": "tpu7x", "ironwood": "tpu7x",
    "tpu-v7x": "tpu7x", "v4": "tpu-v4", "v5e": "tpu-v5e", "v5p": "tpu-v5p", "v6e": "tpu-v6e",
    "trillium": "tpu-v6e", "mi300x": "mi300x-xgmi", "mi325x": "mi300x-xgmi",
    "mi355x": "mi355x-xgmi", "maia-100": "maia100", "p5": "p5-efa", "p5en": "p5en-efa",
    "p6-b200": "p6-b200-efa", "p6-b300": "p6-b300-efa",
}  # fmt: skip


_CHIPS: Final[Mapping[str, str]] = {
    "h100": "h100-sxm", "h100-sxm": "h100-sxm", "nvlink4-nvswitch-h100": "h100-sxm",
    "nvlink4-nvswitch": "h100-sxm", "h200": "h200-sxm", "h200-sxm": "h200-sxm",
    "nvlink5-nvswitch": "b200", "nvlink5-nvswitch-b200": "b200", "b200": "b200", "b300": "b300",
    "nvlink5-nvl72": "gb200-nvl72", "gb200": "gb200-nvl72", "gb200-nvl72": "gb200-nvl72",
    "gb300": "gb300-nvl72", "gb300-nvl72": "gb300-nvl72",
    "trn1-neuronlink-v2": "trainium1", "trn2-instance": "trainium2",
    "trn2-ultraserver": "trainium2", "trn3-ultraserver-gen1": "trainium3",
    "trn3-ultraserver-gen2": "trainium3", "tpu-v4": "tpu-v4", "tpu-v5e": "tpu-v5e",
    "tpu-v5p": "tpu-v5p", "tpu-v6e": "tpu-v6e", "tpu7x": "tpu7x", "mi300x-xgmi": "mi300x",
    "mi325x": "mi325x", "mi355x-xgmi": "mi355x", "maia100": "maia100", "gaudi3": "gaudi3",
    "h100-clos": "h100-sxm", "h200-clos": "h200-sxm", "b200-clos": "b200", "b300-clos": "b300",
    "gb200-clos": "gb200-nvl72", "p5-efa": "h100-sxm", "p5en-efa": "h200-sxm",
    "p6-b200-efa": "b200", "p6-b300-efa": "b300", "trn2-efa": "trainium2",
    "trn2-ultraserver-efa": "trainium2", "gaudi3-clos": "gaudi3", "mi300x-clos": "mi300x",
}  # fmt: skip
"""Whose chips a fabric joins, by the name that was asked for, else by what it stands for."""
_ACROSS: Final[Mapping[str, str]] = {
    "ib-ndr-clos": "InfiniBand NDR", "ib-xdr-clos": "InfiniBand XDR", "efa-v2-p5": "EFA v2",
    "efa-v3-p5en-trn2": "EFA v3", "efa-v4-p6": "EFA v4",
}  # fmt: skip


def named_fabrics() -> tuple[str, ...]:
    """Every name that ``named_fabric`` knows."""
    return (*_ENTRIES, *_PAIRS, *_ALIASES)


def named_fabric(
    name: str,
    size: tuple[int, ...] = (),
    *,
    link: Values = None,
    latency: Values = None,
    options: Mapping[str, str] | None = None,
) -> Topology:
    """A fabric of the catalogue, of ``size`` (sides, or chips) or of its usual size.

    ``link`` and ``latency`` stand in for the catalogue's (one value, or one an axis or level).
    Raises UnknownNameError for the name and InputError for a size it does not come in.
    """
    said = dict(options or {})
    if name.replace("_", "-") in named_fabrics():
        name = name.replace("_", "-")
    key = _ALIASES.get(name, name)
    for option in said:
        if option != "twisted" or key != "tpu-v4":
            raise UnknownNameError("option", option, ["twisted"], hint="tpu-v4:4x4x8,twisted")
    if key in _PAIRS:
        made = _pair(name, _PAIRS[key], size, link, latency)
    elif key in _ENTRIES:
        made = _single(name, _ENTRIES[key], size, link, latency, twisted="twisted" in said)
    else:
        raise UnknownNameError("fabric", name, named_fabrics())
    shown = "x".join(map(str, size))
    full = f"{name}:{shown}" if shown else name
    chip = _CHIPS.get(name, _CHIPS.get(key, ""))
    across = _ACROSS[_PAIRS[key].outer] if key in _PAIRS else ""
    return replace(made, name=",".join([full, *said]), chip=chip, across=across)


def _single(
    name: str,
    entry: _Entry,
    size: tuple[int, ...],
    link: Values,
    latency: Values,
    *,
    twisted: bool,
) -> Topology:
    facts = fabric(entry.fabric)
    size = size or entry.size
    if not size:
        raise InputError(f"`{name}` needs a number of chips", hint=f"write {name}:1024")
    _check_size(name, entry, facts, size)
    delays, basis = _delay(facts, entry.form) if latency is None else (latency, _given("latency"))
    if entry.form in ("torus", "cubes", "sixteen"):
        return _torus(entry, facts, size, link, delays, basis, twisted=twisted)
    if len(size) != 1:
        raise InputError(f"`{name}` takes a number of chips, not sides", hint=f"{name}:{size[0]}")
    if entry.form == "tiers":
        return _tiers(facts, size[0], delays[0], basis)
    if link is None:
        speed, why = _chip_speed(facts, entry.form)
    else:
        speed, why = link[0], _given("link")["link"]
    basis = {**basis, "link": why}
    if entry.form == "full-mesh":
        return build.full_mesh(size[0], speed, delays[0], basis=basis)
    return build.switch(
        size[0], speed, delays[0], reducing=entry.reducing,
        kind="clos" if entry.form == "clos" else "switch", basis=basis,
    )  # fmt: skip


def _check_size(name: str, entry: _Entry, facts: Fabric, size: tuple[int, ...]) -> None:
    most = entry.domain or facts.domain
    chips = math.prod(size)
    if most is not None and chips > most:
        joined = next((p for p, pair in _PAIRS.items() if pair.inner == entry.fabric), None)
        raise InputError(
            f"`{name}` joins {most:,} chips at most, {chips:,} were asked for",
            hint=f"write {joined}:{chips} for more" if joined else "ask for a smaller slice",
        )
    if entry.form in ("torus", "cubes", "sixteen") and len(size) != len(entry.size):
        raise InputError(
            f"`{name}` is a grid of {len(entry.size)} axes, {len(size)} sides were given",
            hint=f"write {name}:{'x'.join(map(str, entry.size))}",
        )
    if entry.form == "torus" and any(s > t for s, t in zip(size, entry.size, strict=True)):
        raise InputError(f"`{name}` is at most {'x'.join(map(str, entry.size))}")
    if entry.form == "sixteen" and max(size) > 16:
        raise InputError(f"`{name}`: a side has at most 16 chips", hint=f"{name}:16x16")


def _torus(
    entry: _Entry,
    facts: Fabric,
    size: tuple[int, ...],
    link: Values,
    delays: tuple[float, ...],
    basis: Mapping[str, str],
    *,
    twisted: bool,
) -> Topology:
    if link is not None:
        speeds, why = list(link), _given("link")
    else:
        speeds, why = _axis_speeds(facts, len(size))
    # A part of an axis has no wrap-around; TPU slices close at 16, or in whole 4x4x4 cubes.
    if entry.form == "torus":
        wraps = [s == full for s, full in zip(size, entry.size, strict=True)]
        rule = "an axis closes where all of it is used"
    elif entry.form == "sixteen":
        wraps = [s == 16 for s in size]
        rule = "an axis closes at 16 chips"
    else:
        wraps = [all(s % 4 == 0 for s in size)] * len(size)
        rule = "all axes close in slices of whole 4x4x4 cubes"
    basis = {**basis, **why, "wrap": f"{rule} ({facts.topology})"}
    twist: tuple[int, ...] = ()
    if twisted:
        size, twist = _twisted(size)
        basis["twist"] = "k x k x 2k and k x 2k x 2k slices may be twisted; long axes come first"
    return build.grid(size, speeds, delays, wraps=wraps, twist=twist, basis=basis)


def _twisted(size: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sides, long ones first, and the shift of half a long side at each short wrap-around."""
    long, short = max(size), min(size)
    if long != 2 * short or short % 4 or set(size) - {long, short}:
        raise InputError(
            f"a slice of {'x'.join(map(str, size))} cannot be twisted", hint="4x4x8 or 4x8x8"
        )
    sides = tuple(sorted(size, reverse=True))
    return sides, tuple(0 if i == 0 or s == long else short for i, s in enumerate(sides))


def _tiers(facts: Fabric, chips: int, latency_s: float, basis: Mapping[str, str]) -> Topology:
    """trn3 Gen2: servers of 4 on one switch, racks on another, a cable to the other rack."""
    if chips != 144:
        raise InputError("a Trn3 Gen2 UltraServer has 144 chips", hint="trn3-ultraserver-gen2")
    half, server = chips // 2, 4
    chip = np.arange(chips, dtype=np.int64)
    near, rack = chips + chip // server, chips + chips // server + chip // half
    first = chip[:half]
    pairs = np.concatenate([
        np.stack([chip, near], axis=1), np.stack([chip, rack], axis=1),
        np.stack([first, first + half], axis=1),
    ])  # fmt: skip
    source, destination = build.cables(pairs)
    counts = (chips, chips, half)
    fields = ("tier.server", "tier.rack", "tier.between_racks")
    rates = [_needed(facts, f) for f in fields]
    tiers = np.repeat([0, 1, 2], counts)
    delay = np.repeat([latency_s / 2, latency_s / 2, latency_s], counts)
    return Topology(
        name=facts.id, ranks=chips, switches=chips // server + 2,
        source=source, destination=destination,
        bandwidth_bytes_per_s=np.tile(np.array([r.value for r in rates])[tiers], 2),
        latency_s=np.tile(delay, 2), kind="nested", levels=(server, half, chips),
        chips_forward=False,
        basis={
            **basis, **{f: _why(r) for f, r in zip(fields, rates, strict=True)},
            "racks": "assumed: two racks of 18 servers, a cable between chips of one place",
        },
    )  # fmt: skip


def _pair(name: str, pair: _Pair, size: tuple[int, ...], link: Values, latency: Values) -> Topology:
    if link is not None and len(link) != 2:
        raise InputError(
            f"`{name}` has two levels, {len(link)} link speeds were given",
            hint="inside and across: --link 450GB/s,50GB/s",
        )
    outer = fabric(pair.outer)
    inner = named_fabric(
        pair.inner, link=None if link is None else link[:1],
        latency=None if latency is None else latency[:1],
    )  # fmt: skip
    if len(size) != 1 or size[0] % inner.ranks:
        raise InputError(
            f"`{name}` needs a number of chips in whole units of {inner.ranks}",
            hint=f"write {name}:{16 * inner.ranks}",
        )
    delays, basis = _delay(outer, "clos")
    delay = delays[0] if latency is None else latency[-1]
    if link is not None:
        speed, why = link[1], _given("link")["link"]
    else:
        speed, why = _outer_speed(pair, outer)
    basis = {"out.link": why, "out.latency": basis["latency"]}
    return nested(inner, size[0] // inner.ranks, speed, delay, basis=basis)


def _outer_speed(pair: _Pair, outer: Fabric) -> tuple[float, str]:
    if pair.speed == "chip":
        choice = accelerator(pair.chip).choice("scale_out")
        if choice is None:
            raise InputError(f"no source states the network of `{pair.chip}`", hint="give --link")
        return choice.value, _why(choice)
    field, _, scope = pair.speed.partition("@")
    if not scope:
        choice = _needed(outer, field)
        return choice.value, _why(choice)
    fact = next(f for f in outer.facts(field) if f.scope == scope)
    return fact.si, (
        f"{format_rate(fact.si)} one direction for {scope}; {fact.status}, source {fact.source} "
        f"({fact.date})"
    )


def _chip_speed(facts: Fabric, form: Form) -> tuple[float, str]:
    """One link of a full mesh, or what a chip sends into its switch; and what that rests on."""
    link, egress = facts.choice("link"), facts.choice("chip_egress")
    if form == "full-mesh":
        if link is not None:
            return link.value, _why(link)
        ports = facts.count("ports_per_chip")
        if ports is not None and (port := facts.choice("port")) is not None:
            # Maia: three ports to each of three neighbours, and three to the network.
            each = ports // (facts.domain or 1)
            return each * port.value, f"{each} ports to each neighbour; a port: {_why(port)}"
        if egress is not None:
            peers = (facts.domain or 2) - 1
            return egress.value / peers, f"a chip's egress over {peers} cables: {_why(egress)}"
    if egress is not None:
        return egress.value, _why(egress)
    for field in ("port", "link", "nic"):
        choice = facts.choice(field)
        if choice is not None:
            count = facts.count(f"{field}s_per_chip") or 1
            assumed = "" if facts.count(f"{field}s_per_chip") else "assumed one a chip; "
            return count * choice.value, f"{assumed}{count} x {_why(choice)}"
    raise InputError(f"no source states how fast `{facts.id}` is", hint="give --link")


def _axis_speeds(facts: Fabric, axes: int) -> tuple[list[float], dict[str, str]]:
    plane, deep = facts.choice("link.xy"), facts.choice("link.z")
    if plane is not None and deep is not None:
        speeds = [plane.value] * (axes - 1) + [deep.value]
        return speeds, {"link.xy": _why(plane), "link.z": _why(deep)}
    link = facts.choice("link")
    if link is not None:
        return [link.value] * axes, {"link": _why(link)}
    egress = _needed(facts, "chip_egress")
    text = f"a chip's egress over {2 * axes} links: {_why(egress)}"
    return [egress.value / (2 * axes)] * axes, {"link": text}


def _needed(facts: Fabric, field: str) -> Choice:
    choice = facts.choice(field)
    if choice is None:
        raise InputError(f"no source states `{field}` of `{facts.id}`", hint="give --link")
    return choice


def _delay(facts: Fabric, form: Form) -> tuple[tuple[float, ...], dict[str, str]]:
    for field in ("alpha", "alpha.ring_simple", "alpha.net_ring_simple"):
        choice = facts.choice(field)
        if choice is not None:
            text = f"{format_duration(choice.value)} a hop ({field}); {_source(choice)}"
            return (choice.value,), {"latency": text}
    value, like = _LIKE[form]
    return (value,), {"latency": f"{format_duration(value)} a hop; assumed: {like}"}


def _given(what: str) -> dict[str, str]:
    return {what: "given by the user"}


def _why(choice: Choice) -> str:
    return f"{format_rate(choice.value)} one direction; {_source(choice)}"


def _source(choice: Choice) -> str:
    fact = choice.fact
    return f"{choice.why}; {fact.status}, source {fact.source} ({fact.date})"
