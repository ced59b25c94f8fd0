"""Networks as a user writes them: ``torus:8x8x16``, ``switch:8/clos:128``, ``tpu-v5p:4x4x8``.

A text is a kind, a size and options: ``clos:1024,leaf=32,oversubscription=2``. ``/`` joins a
network inside to one across. Link speeds are one direction of one link: for a switch or a Clos what
one chip sends into it. A catalogue fabric brings its own; anything else needs ``link``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from weftline.errors import InputError, UnknownNameError
from weftline.fabric import topologies as build
from weftline.fabric.graph import Topology
from weftline.fabric.named import named_fabric, named_fabrics
from weftline.fabric.nests import nested, product
from weftline.units import parse_duration_s, parse_rate_bytes_per_s

Quantity = str | float | Sequence[float] | None
MAX_CHIPS = 1 << 20
"""Chips of a network a user may ask for: 1,048,576."""

_KINDS: Mapping[str, str] = {
    "ring": "ring:16", "line": "line:8", "torus": "torus:8x8x16", "mesh": "mesh:4x4",
    "full-mesh": "full-mesh:8", "switch": "switch:8 or switch:8,nvls",
    "clos": "clos:1024 or clos:1024,leaf=32,oversubscription=2", "fat-tree": "fat-tree:16",
    "dragonfly": "dragonfly:4x8x4 (chips a router, routers a group, global links a router)",
    "hammingmesh": "hammingmesh:2x2x8x8 (board 2x2, 8x8 boards)",
}  # fmt: skip
_SPLIT = re.compile(rf"/(?=\s*(?:{'|'.join(_KINDS)})\s*:)")


@dataclass(frozen=True, slots=True)
class _Spec:
    """One part of a text: kind, sizes and options."""

    text: str
    kind: str
    sizes: tuple[int, ...]
    options: Mapping[str, str] = field(default_factory=dict)

    def take(self, *allowed: str) -> None:
        """Raise UnknownNameError for an option that is none of ``allowed``."""
        for name in self.options:
            if name not in allowed:
                raise UnknownNameError(
                    f"option of {self.kind}", name, allowed,
                    hint=f"{self.kind} knows {', '.join(allowed) or 'no options'}",
                )  # fmt: skip


def parse_topology(
    text: str, link: Quantity = None, latency: Quantity = None, *, where: str | None = None
) -> Topology:
    """The network a text names; see the head of this file for the forms.

    ``link`` and ``latency`` are one value or one for each axis (level, in a nest), as text
    (``128GB/s,64GB/s``) or numbers in bytes a second and seconds. Raises InputError and
    UnknownNameError, with what can be written.
    """
    try:
        return _parse(text.strip(), link, latency)
    except InputError as error:
        error.where = error.where or where
        raise


def _parse(text: str, link: Quantity, latency: Quantity) -> Topology:
    if text.endswith((".json", ".yaml", ".yml")) or (text and Path(text).is_file()):
        if link is not None or latency is not None:
            raise InputError(
                f"`{text}` states its own speeds and latencies",
                hint="leave --link and --latency out, or import the file anew with others",
            )
        return _from_file(text)
    rates = _values(link, parse_rate_bytes_per_s, "--link")
    delays = _values(latency, parse_duration_s, "--latency")
    parts = _SPLIT.split(text)
    if len(parts) > 2:
        raise InputError(f"`{text}`: only two levels can be nested", hint="switch:8/clos:128")
    if len(parts) == 2:
        return _nest(parts[0], parts[1], rates, delays)
    spec = _spec(text)
    if spec.kind not in _KINDS:
        shape = spec.sizes
        return named_fabric(spec.kind, shape, link=rates, latency=delays, options=spec.options)
    return _one(spec, rates, delays)


def _from_file(text: str) -> Topology:
    path = Path(text)
    if not path.is_file():
        raise InputError(
            f"no file `{text}`", hint="`weftline import` writes a fabric file from your cluster"
        )
    from weftline.fabric.formats import read_topology

    return read_topology(path)


def _values(given: Quantity, parse: Callable[..., float], where: str) -> tuple[float, ...] | None:
    if given is None:
        return None
    if isinstance(given, str):
        return tuple(parse(part.strip(), where=where) for part in given.split(","))
    if isinstance(given, int | float):
        return (float(given),)
    return tuple(float(v) for v in given)


def _spec(text: str) -> _Spec:
    head, *rest = [p.strip() for p in text.split(",")]
    kind, _, size = head.partition(":")
    kind = kind.strip().lower()
    if kind == "hammingmesh":
        size = size.replace("/", "x")
    options: dict[str, str] = {}
    for part in rest:
        name, eq, said = part.partition("=")
        options[name.strip().lower()] = said.strip() if eq else "yes"
    if kind not in _KINDS and kind not in named_fabrics():
        raise UnknownNameError(
            "network", kind, [*_KINDS, *named_fabrics()],
            hint=f"kinds are {', '.join(_KINDS)}; named fabrics are in `weftline catalog list "
            "fabrics`",
        )  # fmt: skip
    if kind in _KINDS and not size:
        raise InputError(f"`{text}` has no size", hint=f"write {_KINDS[kind]}")
    sizes: list[int] = []
    for word in re.split(r"\s*[xX*]\s*", size.strip()) if size.strip() else []:
        if not re.fullmatch(r"\d[\d_]*", word) or int(word) < 1:
            raise InputError(
                f"`{text}`: `{word}` is no whole number from 1",
                hint=f"write {_KINDS.get(kind, 'the sides, 8x8x16')}",
            )
        sizes.append(int(word))
    chips = 1
    for value in sizes:
        chips *= value
    if chips > MAX_CHIPS:
        raise InputError(f"`{text}` has {chips:,} chips", hint=f"at most {MAX_CHIPS:,}")
    return _Spec(text, kind, tuple(sizes), options)


def _one(
    spec: _Spec, link: tuple[float, ...] | None, latency: tuple[float, ...] | None
) -> Topology:
    if "link" in spec.options:
        link = _values(spec.options["link"].replace("+", ","), parse_rate_bytes_per_s, spec.text)
    if "latency" in spec.options:
        latency = _values(spec.options["latency"].replace("+", ","), parse_duration_s, spec.text)
    if link is None:
        raise InputError(
            f"`{spec.text}` has no link speed",
            hint="--link 100GB/s (one direction of one link), or name a fabric: tpu-v5p:8x8x16",
        )
    if latency is None:
        return replace(_one(spec, link, (0.0,)), basis={"latency": "none was given: 0"})
    delays = latency
    if spec.kind in ("torus", "mesh", "ring", "line"):
        return _grid(spec, link, delays)
    if len(link) != 1 or len(delays) != 1:
        raise InputError(
            f"`{spec.text}` takes one link speed and one latency, given are {len(link)} and "
            f"{len(delays)}"
        )
    return _network(spec, link[0], delays[0])


def _grid(spec: _Spec, link: tuple[float, ...], latency: tuple[float, ...]) -> Topology:
    spec.take("link", "latency", "wrap", "twist")
    if spec.kind in ("ring", "line") and len(spec.sizes) != 1:
        raise InputError(f"`{spec.text}`: a {spec.kind} has one side", hint=_KINDS[spec.kind])
    wraps: bool | list[bool] = spec.kind in ("torus", "ring")
    if "wrap" in spec.options:
        letters = spec.options["wrap"].lower()
        if len(letters) != len(spec.sizes) or set(letters) - set("yn"):
            raise InputError(
                f"`{spec.text}`: wrap={spec.options['wrap']}",
                hint="y or n for each axis: torus:4x4x16,wrap=nny",
            )
        wraps = [c == "y" for c in letters]
    twist: tuple[int, ...] = ()
    if "twist" in spec.options:
        words = spec.options["twist"].split("x")
        if not all(w.isdigit() for w in words) or len(words) != len(spec.sizes):
            raise InputError(
                f"`{spec.text}`: twist={spec.options['twist']}",
                hint="the shift at the wrap-around of each axis: torus:4x8,twist=0x2",
            )
        twist = tuple(int(w) for w in words)
    name = spec.text if {"wrap", "twist"} & set(spec.options) else None
    return build.grid(spec.sizes, link, latency, wraps=wraps, twist=twist, name=name)


def _network(spec: _Spec, link: float, latency: float) -> Topology:
    counts = {"fat-tree": 1, "dragonfly": 3, "hammingmesh": 4}
    if len(spec.sizes) != counts.get(spec.kind, 1):
        raise InputError(
            f"`{spec.text}`: {len(spec.sizes)} sizes where {counts.get(spec.kind, 1)} are needed",
            hint=f"write {_KINDS[spec.kind]}",
        )
    size = spec.sizes
    if spec.kind == "full-mesh":
        spec.take("link", "latency")
        return build.full_mesh(size[0], link, latency)
    if spec.kind == "switch":
        spec.take("link", "latency", "nvls")
        reducing = "nvls" in spec.options
        return build.switch(size[0], link, latency, reducing=reducing)
    if spec.kind == "clos":
        spec.take("link", "latency", "leaf", "oversubscription", "sharp")
        return build.clos(
            size[0], link, latency, leaf=_whole(spec, "leaf"),
            oversubscription=_number(spec, "oversubscription", 1.0),
            reducing="sharp" in spec.options,
        )  # fmt: skip
    if spec.kind == "fat-tree":
        spec.take("link", "latency")
        return build.fat_tree(size[0], link, latency)
    if spec.kind == "dragonfly":
        spec.take("link", "latency", "global")
        far = spec.options.get("global")
        return build.dragonfly(
            size[0], size[1], size[2], link, latency,
            global_bytes_per_s=None if far is None else parse_rate_bytes_per_s(far),
        )  # fmt: skip
    spec.take("link", "latency")
    return build.hammingmesh((size[0], size[1]), (size[2], size[3]), link, latency)


def _nest(
    inside: str, across: str, link: tuple[float, ...] | None, latency: tuple[float, ...] | None
) -> Topology:
    """One network inside another; a Clos or switch across has a port for every chip."""
    inner_spec, outer = _spec(inside.strip()), _spec(across.strip())
    if link is not None and len(link) != 2:
        raise InputError(
            f"`{inside}/{across}` needs two link speeds, given is {len(link)}",
            hint="inside and across: --link 450GB/s,50GB/s",
        )
    links = (None, None) if link is None else (link[:1], link[1:])
    both = latency if latency is None or len(latency) == 2 else latency * 2
    delays = (None, None) if both is None else (both[:1], both[1:])
    if inner_spec.kind in _KINDS:
        inner = _one(inner_spec, links[0], delays[0])
    else:
        inner = named_fabric(
            inner_spec.kind, inner_spec.sizes, link=links[0], latency=delays[0],
            options=inner_spec.options,
        )  # fmt: skip
    if outer.kind not in ("clos", "switch") or {"leaf", "nvls", "sharp"} & set(outer.options):
        return product(inner, _one(outer, links[1], delays[1]))
    outer.take("link", "latency", "rails")
    if len(outer.sizes) != 1:
        raise InputError(f"`{across}`: give the number of units", hint="switch:8/clos:128")
    speed = links[1]
    if "link" in outer.options:
        speed = (parse_rate_bytes_per_s(outer.options["link"]),)
    if speed is None:
        raise InputError(
            f"`{across}` has no link speed",
            hint=f"{inside}/{across},link=50GB/s: one chip's share of the network across",
        )
    delay = 0.0 if delays[1] is None else delays[1][0]
    if "latency" in outer.options:
        delay = parse_duration_s(outer.options["latency"])
    rails = outer.options.get("rails", "yes") not in ("no", "0", "off")
    return nested(inner, outer.sizes[0], speed[0], delay, rails=rails)


def _whole(spec: _Spec, name: str) -> int | None:
    text = spec.options.get(name)
    if text is None:
        return None
    if not text.isdigit() or int(text) < 1:
        raise InputError(f"`{spec.text}`: {name}={text}", hint=f"a whole number: {name}=32")
    return int(text)


def _number(spec: _Spec, name: str, default: float) -> float:
    text = spec.options.get(name)
    if text is None:
        return default
    try:
        return float(text)
    except ValueError:
        raise InputError(f"`{spec.text}`: {name}={text}", hint=f"a number: {name}=2") from None
