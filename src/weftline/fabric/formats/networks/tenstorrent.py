"""Tenstorrent's mesh graph descriptor (protobuf text): the device grid of one mesh.

``device_topology { dims: [8, 4] dim_types: [RING, LINE] }`` gives sides and which of them close;
``channels { count: 2 }`` the Ethernet channels between neighbours. LINE for an open side is our
reading: only RING stands in a public example (tt-metal issue 51651).
"""

from __future__ import annotations

import re
from typing import Any

from weftline.errors import InputError, UnknownNameError
from weftline.fabric.graph import Topology
from weftline.fabric.topologies import grid

FORMAT = "tenstorrent mesh graph"
CHANNEL_BYTES_PER_S = 50e9
"""One 400 Gbit/s Ethernet channel of a Blackhole chip; give --link for other chips."""
_TOKEN = re.compile(
    r"\s+|#[^\n]*|\"(?:[^\"\\\n]|\\.)*\"|[{}\[\]:,]|[A-Za-z_][\w.]*|-?\d+(?:\.\d+)?"
)


def detect(text: str) -> bool:
    """Whether the text describes meshes."""
    return "mesh_descriptors" in text and "device_topology" in text


def read(
    text: str, where: str, *, link_bytes_per_s: float | None = None, latency_s: float = 0.0
) -> Topology:
    """The Topology of the top-level mesh; raises InputError with the line of a mistake."""
    root = parse_textproto(text, where)
    meshes = {str(m.get("name")): m for m in _all(root, "mesh_descriptors")}
    top = _all(_one(root, "top_level_instance"), "mesh")
    named = str(top[0].get("mesh_descriptor")) if top else next(iter(meshes), "")
    if named not in meshes:
        raise UnknownNameError("mesh", named, meshes, where=where)
    mesh = meshes[named]
    device = _one(mesh, "device_topology")
    dims, types = device.get("dims", []), device.get("dim_types") or []
    if not isinstance(dims, list) or not dims or any(not isinstance(d, int) or d < 1 for d in dims):
        raise InputError(f"mesh `{named}` has no dims", where=where, hint="dims: [ 8, 4 ]")
    types = types if isinstance(types, list) else [types]
    for kind in types:
        if kind not in ("RING", "LINE"):
            raise UnknownNameError("dim_type", str(kind), ("RING", "LINE"), where=where)
    wraps = [k == "RING" for k in types] + [False] * (len(dims) - len(types))
    count = _one(mesh, "channels").get("count", 1)
    if not isinstance(count, int) or count < 1:
        raise InputError(f"mesh `{named}` has channels {{ count: {count} }}", where=where)
    rate = link_bytes_per_s if link_bytes_per_s is not None else CHANNEL_BYTES_PER_S * count
    basis = "given" if link_bytes_per_s is not None else f"{count} x 400 Gbit/s Ethernet, one way"
    return grid(dims, rate, latency_s, wraps=wraps[: len(dims)], name=f"tenstorrent:{named}",
                basis={"link": basis})  # fmt: skip


def write(topology: Topology, *, arch: str = "BLACKHOLE") -> str:
    """The descriptor of a torus or mesh; raises InputError for anything else."""
    if topology.grid is None or any(topology.grid.twist):
        raise InputError(
            f"`{topology.name}` is no grid", hint="only tori and meshes can be written"
        )
    dims = ", ".join(map(str, topology.grid.shape))
    types = ", ".join("RING" if w else "LINE" for w in topology.grid.wraps)
    channels = max(1, round(float(topology.bandwidth_bytes_per_s[0]) / CHANNEL_BYTES_PER_S))
    return (
        f'mesh_descriptors {{\n  name: "M0"\n  arch: {arch}\n'
        f"  device_topology {{ dims: [ {dims} ] dim_types: [ {types} ] }}\n"
        f"  host_topology {{ dims: [ {', '.join('1' for _ in topology.grid.shape)} ] }}\n"
        f"  channels {{ count: {channels} policy: RELAXED }}\n}}\n"
        'top_level_instance { mesh { mesh_descriptor: "M0" mesh_id: 0 } }\n'
    )


def _all(entry: dict[str, Any], key: str) -> list[dict[str, Any]]:
    held = entry.get(key, [])
    return [e for e in (held if isinstance(held, list) else [held]) if isinstance(e, dict)]


def _one(entry: dict[str, Any], key: str) -> dict[str, Any]:
    found = _all(entry, key)
    return found[0] if found else {}


def parse_textproto(text: str, where: str) -> dict[str, Any]:
    """Protobuf text -> nested dictionaries; a field that stands twice becomes a list.

    Raises InputError with the line where the text ends early or holds what is no token.
    """
    tokens: list[tuple[str, int]] = []
    at, line = 0, 1
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise InputError(f"`{text[at]}` is not expected here", where=f"{where}:{line}")
        word = match[0]
        if not word.isspace() and not word.startswith("#"):
            tokens.append((word, line))
        line += word.count("\n")
        at = match.end()
    entry, end = _message(tokens, 0, where, 0)
    if end != len(tokens):
        raise InputError("`}` without `{`", where=f"{where}:{tokens[end][1]}")
    return entry


_Tokens = list[tuple[str, int]]
DEPTH_MOST = 50


def _message(tokens: _Tokens, at: int, where: str, depth: int) -> tuple[dict[str, Any], int]:
    if depth > DEPTH_MOST:
        raise InputError("nested too deep", where=f"{where}:{tokens[at][1]}")
    entry: dict[str, Any] = {}
    while at < len(tokens) and tokens[at][0] != "}":
        name, line = tokens[at]
        at += 1
        if at < len(tokens) and tokens[at][0] == ":":
            at += 1
        value, at = _value(tokens, at, where, line, depth)
        if name in entry:
            held = entry[name]
            entry[name] = [*held, value] if isinstance(held, list) else [held, value]
        else:
            entry[name] = value
    return entry, at


def _value(tokens: _Tokens, at: int, where: str, line: int, depth: int) -> tuple[Any, int]:
    if at >= len(tokens):
        raise InputError("the text ends where a value is expected", where=f"{where}:{line}")
    word, line = tokens[at]
    if word == "{":
        entry, end = _message(tokens, at + 1, where, depth + 1)
        if end >= len(tokens):
            raise InputError("`{` is not closed", where=f"{where}:{line}")
        return entry, end + 1
    if word == "[":
        found: list[Any] = []
        at += 1
        while at < len(tokens) and tokens[at][0] != "]":
            if tokens[at][0] == ",":
                at += 1
                continue
            value, at = _value(tokens, at, where, line, depth + 1)
            found.append(value)
        if at >= len(tokens):
            raise InputError("`[` is not closed", where=f"{where}:{line}")
        return found, at + 1
    if word in "]},:":
        raise InputError(f"`{word}` where a value is expected", where=f"{where}:{line}")
    if word.startswith('"'):
        return word[1:-1], at + 1
    if re.fullmatch(r"-?\d+", word):
        return int(word), at + 1
    return word, at + 1
