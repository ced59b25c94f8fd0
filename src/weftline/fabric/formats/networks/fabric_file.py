"""weftline's own fabric file: one JSON object that holds a Topology whole.

``weftline_fabric`` is the version, 1. ``links`` is a list of [source, destination, bytes/s one way,
seconds]; nodes 0 .. ranks-1 are chips, switches follow. Every other key is a field of Topology of
the same name; grids are {shape, wraps, twist}. Fields at their default are left out.
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import numpy as np

from weftline.errors import InputError, UnknownNameError
from weftline.fabric.graph import Grid, Topology

FORMAT = "weftline fabric"
VERSION = 1
NODES_MOST = 1 << 31
_LINKS = ("source", "destination", "bandwidth_bytes_per_s", "latency_s")
_GRIDS = ("grid", "group")
_ARRAYS = {"reducing": np.bool_, "injection_bytes_per_s": np.float64, "link_class": np.int64}
_TUPLES = ("levels", "labels", "failed")


def detect(text: str) -> bool:
    """Whether the text says that it is one."""
    return '"weftline_fabric"' in text[:2000]


def write(topology: Topology) -> str:
    """The file, a link a line so that versions can be compared."""
    plain: dict[str, Any] = {"weftline_fabric": VERSION}
    for field in fields(Topology):
        value = getattr(topology, field.name)
        if field.name in _LINKS or value is None:
            continue
        if field.name in _GRIDS:
            value = {"shape": value.shape, "wraps": value.wraps, "twist": value.twist}
        elif field.name in _ARRAYS:
            value = value.tolist()
        elif field.name == "basis":
            value = dict(value)
        elif field.name in _TUPLES:
            value = list(value)
        if value in ([], {}) or value == field.default:
            continue
        plain[field.name] = value
    head = json.dumps(plain, indent=1)
    columns = [getattr(topology, name).tolist() for name in _LINKS]
    rows = ",\n  ".join(json.dumps(row) for row in zip(*columns, strict=True))
    return f'{head[:-2]},\n "links": [\n  {rows}\n ]\n}}\n'


def read(text: str, where: str) -> Topology:
    """The Topology; raises InputError for what is no fabric file of this version."""
    try:
        plain = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg}", where=f"{where}:{error.lineno}") from error
    if not isinstance(plain, dict) or plain.pop("weftline_fabric", None) != VERSION:
        raise InputError(f"not a fabric file of version {VERSION}", where=f"{where}:1")
    known = {f.name for f in fields(Topology)}
    for key in plain:
        if key not in known | {"links"}:
            raise UnknownNameError("field", key, known, where=f"{where}:1")
    rows = plain.pop("links", None)
    links = _links(rows, where)
    made: dict[str, Any] = {}
    try:
        for key, value in plain.items():
            if key in _GRIDS:
                made[key] = Grid(shape=tuple(int(s) for s in value["shape"]),
                                 wraps=tuple(bool(w) for w in value["wraps"]),
                                 twist=tuple(int(t) for t in value.get("twist", ())))  # fmt: skip
            elif key in _ARRAYS:
                made[key] = np.asarray(value, dtype=_ARRAYS[key])
            elif key in _TUPLES:
                made[key] = tuple(value)
            elif key in ("ranks", "switches"):
                if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                    raise InputError(f"`{key}` is {value!r}, no count")
                made[key] = value
            else:
                made[key] = value
        topology = Topology(
            source=links[:, 0].astype(np.int64), destination=links[:, 1].astype(np.int64),
            bandwidth_bytes_per_s=links[:, 2], latency_s=links[:, 3], **made,
        )  # fmt: skip
        _check_sizes(topology)
    except InputError as error:
        error.where = error.where or f"{where}:1"
        raise
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise InputError(f"not a fabric file: {error}", where=f"{where}:1") from error
    return topology


def _links(rows: Any, where: str) -> Any:
    try:
        links = np.asarray(rows, dtype=np.float64)
        good = links.ndim == 2 and links.shape[1] == 4 and bool(np.isfinite(links).all())
        ends = links[:, :2] if good else links
        good = good and bool((ends == np.floor(ends)).all() and (np.abs(ends) < NODES_MOST).all())
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good:
        raise InputError(
            "`links` is no list of [source, destination, bytes/s, seconds]", where=f"{where}:1"
        )
    return links


def _check_sizes(topology: Topology) -> None:
    sizes = {
        "reducing": topology.switches, "injection_bytes_per_s": topology.ranks,
        "link_class": topology.links,
    }  # fmt: skip
    for name, size in sizes.items():
        value = getattr(topology, name)
        if value is not None and len(value) != size:
            raise InputError(f"`{name}` has {len(value)} entries, {size} are needed")
    for name in _GRIDS:
        grid = getattr(topology, name)
        if grid is not None and grid.size != topology.ranks:
            raise InputError(f"`{name}` holds {grid.size} chips of {topology.ranks}")
