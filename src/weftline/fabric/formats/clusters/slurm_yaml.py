"""Slurm's topology.yaml: tree, block, flat, ring and torus3d (man 5 topology.yaml, Slurm 26.05).

A file is a list of topologies; the one named (``topology.yaml#racks``) is read, else the one marked
``cluster_default``, else the first; the others are listed. In a torus ``nodes`` fill it with x
fastest; ``regions`` place lists of nodes at anchors; ``placements`` are the boxes jobs may take.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

import yaml

from weftline.errors import InputError, UnknownNameError
from weftline.fabric.formats.clusters.description import (
    Description,
    Host,
    raise_all,
    tree_description,
)
from weftline.fabric.formats.clusters.hostlist import compress_hosts, expand_hosts
from weftline.fabric.formats.clusters.slurm_conf import ring_hosts
from weftline.spec.located import Located, read_located

FORMAT = "slurm topology.yaml"
KINDS = ("tree", "block", "flat", "ring", "torus3d")


def detect(text: str) -> bool:
    """Whether a list item opens with ``topology:``."""
    return bool(re.search(r"^\s*-\s+topology\s*:", text, re.M))


def read(text: str, where: str, *, topology: str | None = None) -> Description:
    """The default topology of the file, or the one named; raises InputError with the line."""
    tree = read_located(text, where)
    if not isinstance(tree.value, list) or not tree.value:
        raise InputError("a list of topologies is expected", where=f"{where}:1",
                         hint="- topology: NAME")  # fmt: skip
    entries = {str(e.get("topology")): e for e in tree.value if isinstance(e.value, dict)}
    if topology is not None and topology not in entries:
        raise UnknownNameError("topology", topology, entries, where=where,
                               hint=f"the file has {', '.join(entries)}")  # fmt: skip
    default = next((e for e in entries.values() if e.get("cluster_default") is True), None)
    entry = entries[topology] if topology else default or next(iter(entries.values()), None)
    if entry is None:
        raise InputError("an entry without `topology:`", where=f"{where}:{tree.line}")
    kinds = [k for k in KINDS if k in entry.value]
    if len(kinds) != 1:
        raise InputError(
            f"topology `{entry.get('topology')}` has {', '.join(kinds) or 'no kind'}",
            where=f"{where}:{entry.line}", hint=f"exactly one of {', '.join(KINDS)}",
        )  # fmt: skip
    readers: dict[str, Callable[[Located, str, str], Description]] = {
        "tree": _tree, "block": _blocks, "ring": _rings, "torus3d": _torus, "flat": _flat,
    }  # fmt: skip
    name = str(entry.get("topology"))
    try:
        found = readers[kinds[0]](entry.value[kinds[0]], where, name)
        others = [f"{n} ({_kind(e)})" for n, e in entries.items() if n != name]
        said = (
            ""
            if topology
            else ("the default" if entry.get("cluster_default") is True else "the first")
        )
        note = f"read `{name}`{', ' + said if said else ''}; also in the file: {', '.join(others)}"
        notes = (f"{note}; FILE#NAME reads another",) if others else ()
        return replace(found, notes=(*found.notes, *notes))
    except InputError as error:
        error.where = error.where or f"{where}:{entry.line}"
        raise


def _kind(entry: Located) -> str:
    return next((k for k in KINDS if k in entry.value), "no kind")


def _text(item: Located, key: str, where: str, *, needed: bool = True) -> str:
    value = item.get(key) if isinstance(item.value, dict) else None
    if value is None and not needed:
        return ""
    if not isinstance(value, str | int):
        raise InputError(f"`{key}: TEXT` is expected here", where=f"{where}:{item.line}")
    return str(value)


def _flat(item: Located, where: str, name: str) -> Description:
    if item.value is not True and not isinstance(item.value, dict):
        raise InputError("`flat: true` or `flat:` with its options is expected",
                         where=f"{where}:{item.line}")  # fmt: skip
    return Description(format=FORMAT, kind="flat", hosts=(), name=name)


def _tree(item: Located, where: str, name: str) -> Description:
    parents: dict[str, str | None] = {}
    hosts: dict[str, list[str]] = {}
    lines: dict[str, int] = {}
    above: list[tuple[int, str, str]] = []
    for entry in _items(item, "switches", where):
        switch = _text(entry, "switch", where)
        at = f"{where}:{entry.line}"
        if switch in lines:
            raise InputError(f"switch `{switch}` stands twice", where=at)
        lines[switch] = entry.line
        parents.setdefault(switch, None)
        if nodes := _text(entry, "nodes", where, needed=False):
            hosts[switch] = expand_hosts(nodes, where=at)
        children = _text(entry, "children", where, needed=False)
        above += [(entry.line, c, switch) for c in expand_hosts(children, where=at)]
    errors: list[InputError] = []
    for number, child, switch in above:
        at = f"{where}:{number}"
        if child not in lines:
            errors.append(UnknownNameError("switch", child, lines, where=at))
        elif parents[child] is not None:
            errors.append(InputError(f"switch `{child}` has two parents", where=at))
        else:
            parents[child] = switch
    raise_all(errors)
    return tree_description(FORMAT, parents, hosts, where=where, lines=lines, name=name)


def _items(item: Located, key: str, where: str) -> list[Located]:
    found = item.items(key)
    if not found:
        raise InputError(f"a list `{key}:` is expected", where=f"{where}:{item.line}")
    return found


def _blocks(item: Located, where: str, name: str) -> Description:
    sizes = item.get("block_sizes") or []
    if not isinstance(sizes, list) or not all(isinstance(s, int) for s in sizes):
        raise InputError("`block_sizes` are not whole numbers", where=f"{where}:{item.line}")
    hosts = [
        Host(name=h, domain=_text(entry, "block", where))
        for entry in _items(item, "blocks", where)
        for h in expand_hosts(_text(entry, "nodes", where), where=f"{where}:{entry.line}")
    ]
    return Description(
        format=FORMAT, kind="block", hosts=tuple(hosts), name=name, block_sizes=tuple(sizes)
    )


def _rings(item: Located, where: str, name: str) -> Description:
    hosts: list[Host] = []
    shapes: dict[str, tuple[int, ...]] = {}
    for entry in _items(item, "rings", where):
        ring = _text(entry, "ring", where)
        members = expand_hosts(_text(entry, "nodes", where), where=f"{where}:{entry.line}")
        shapes[ring] = (len(members),)
        hosts += [Host(name=h, group=ring, point=(i,)) for i, h in enumerate(members)]
    return Description(format=FORMAT, kind="ring", hosts=tuple(hosts), name=name, shapes=shapes)


def _torus(item: Located, where: str, name: str) -> Description:
    hosts: list[Host] = []
    notes: list[str] = []
    shapes: dict[str, tuple[int, ...]] = {}
    for entry in _items(item, "toruses", where):
        torus = _text(entry, "name", where)
        dims = _point(entry, "dims", where)
        if min(dims) < 1:
            raise InputError(f"torus `{torus}` has a side of {min(dims)}",
                             where=f"{where}:{entry.line}")  # fmt: skip
        shapes[torus] = dims
        notes += _placements(entry, torus, dims, where)
        regions = entry.items("regions")
        if regions:
            for region in regions:
                hosts += _region(region, torus, dims, where)
        else:
            hosts += _fill(entry, torus, dims, (0,) * len(dims), where)
    taken: dict[tuple[str, tuple[int, ...]], str] = {}
    for host in hosts:
        key = (host.group or "", host.point or ())
        if key in taken:
            raise InputError(f"`{taken[key]}` and `{host.name}` lie at the same point {key[1]}",
                             where=f"{where}:{item.line}")  # fmt: skip
        taken[key] = host.name
    return Description(format=FORMAT, kind="torus3d", hosts=tuple(hosts), name=name,
                       shapes=shapes, notes=tuple(notes))  # fmt: skip


def _placements(entry: Located, torus: str, dims: tuple[int, ...], where: str) -> list[str]:
    """The boxes that jobs may take; InputError for one larger than its torus."""
    boxes = []
    for placement in entry.items("placements"):
        box = _point(placement, "dims", where)
        if min(box) < 1 or any(b > d for b, d in zip(box, dims, strict=True)):
            raise InputError(f"a placement of {box} in the torus {dims}",
                             where=f"{where}:{placement.line}")  # fmt: skip
        boxes.append("x".join(map(str, box)))
    return [f"`{torus}`: jobs may take {', '.join(boxes)}"] if boxes else []


def _region(region: Located, torus: str, dims: tuple[int, ...], where: str) -> list[Host]:
    anchor, sides = _point(region, "anchor", where), _point(region, "dims", where)
    if any(a + s > d for a, s, d in zip(anchor, sides, dims, strict=True)) or min(sides) < 1:
        raise InputError(
            f"a region of {sides} at {anchor} leaves the torus {dims}",
            where=f"{where}:{region.line}",
        )
    return _fill(region, torus, sides, anchor, where)


def _fill(
    entry: Located, torus: str, sides: tuple[int, ...], anchor: tuple[int, ...], where: str
) -> list[Host]:  # fmt: skip
    names = expand_hosts(_text(entry, "nodes", where), where=f"{where}:{entry.line}")
    if len(names) != math.prod(sides):
        raise InputError(
            f"{'x'.join(map(str, sides))} points and {len(names)} nodes",
            where=f"{where}:{entry.line}", hint="`nodes` names one node a point, x fastest",
        )  # fmt: skip
    hosts = []
    for i, name in enumerate(names):
        point, rest = [], i
        for side, first in zip(sides, anchor, strict=True):
            point.append(first + rest % side)
            rest //= side
        hosts.append(Host(name=name, group=torus, point=tuple(point)))
    return hosts


def _point(item: Located, key: str, where: str) -> tuple[int, ...]:
    value = item.get(key)
    if not isinstance(value, dict) or any(not isinstance(value.get(a), int) for a in "xyz"):
        raise InputError(
            f"`{key}` is not a point", where=f"{where}:{item.line}", hint="{x: 4, y: 4, z: 4}"
        )
    return tuple(int(value[a]) for a in "xyz")


def write(described: Description) -> str:
    """The file with this one topology, marked the cluster's default."""
    body: object
    if described.kind == "flat" and not described.domains:
        body, key = True, "flat"
    elif described.kind in ("block", "flat"):
        key = "block"
        blocks = [{"block": b, "nodes": compress_hosts(m)} for b, m in described.domains.items()]
        sizes = {"block_sizes": list(described.block_sizes)} if described.block_sizes else {}
        body = {**sizes, "blocks": blocks}
    elif described.kind == "ring":
        key = "ring"
        body = {"rings": [{"ring": r, "nodes": compress_hosts(ring_hosts(described, r))}
                          for r in described.shapes]}  # fmt: skip
    elif described.kind == "torus3d":
        key, body = "torus3d", {"toruses": [_torus_entry(described, t) for t in described.shapes]}
    else:
        key, body = "tree", {"switches": _switch_entries(described)}
    entry = {"topology": described.name, "cluster_default": True, key: body}
    return yaml.safe_dump([entry], sort_keys=False)


def _torus_entry(described: Description, torus: str) -> dict[str, object]:
    dims = described.shapes[torus]
    members = ring_hosts(described, torus)
    sides = dict(zip("xyz", dims, strict=True))
    if len(members) == math.prod(dims):
        return {"name": torus, "dims": sides, "nodes": compress_hosts(members)}
    one = dict(zip("xyz", (1, 1, 1), strict=True))
    points = {h.name: h.point or (0, 0, 0) for h in described.hosts}
    regions = [
        {"anchor": dict(zip("xyz", points[m], strict=True)), "dims": one, "nodes": m}
        for m in members
    ]
    return {"name": torus, "dims": sides, "regions": regions}


def _switch_entries(described: Description) -> list[dict[str, str]]:
    parents = described.parents | dict(described.empty_switches)
    children: dict[str, list[str]] = {}
    for switch, above in parents.items():
        if above is not None:
            children.setdefault(above, []).append(switch)
    hosts: dict[str, list[str]] = {}
    for host in described.hosts:
        if host.path:
            hosts.setdefault(host.path[0], []).append(host.name)
    entries = []
    for switch in parents:
        entry = {"switch": switch}
        if switch in children:
            entry["children"] = compress_hosts(children[switch])
        if switch in hosts:
            entry["nodes"] = compress_hosts(hosts[switch])
        entries.append(entry)
    return entries
