"""Slurm's topology.conf: tree, block and ring (man 5 topology.conf, Slurm 26.05).

Lines of ``Key=value`` pairs, keys in any case, ``#`` starts a comment, ``\\`` at the end of a line
joins the next one.
"""

from __future__ import annotations

import re

from weftline.errors import InputError, UnknownNameError
from weftline.fabric.formats.clusters.description import (
    Description,
    Host,
    raise_all,
    tree_description,
)
from weftline.fabric.formats.clusters.hostlist import compress_hosts, expand_hosts

FORMAT = "slurm topology.conf"
KEYS = ("SwitchName", "Switches", "Nodes", "LinkSpeed", "BlockName", "BlockSizes", "RingName")
RING_HOSTS_MOST = 16


def detect(text: str) -> bool:
    """Whether the text has a line that only topology.conf has."""
    return bool(re.search(r"^\s*(SwitchName|BlockName|RingName)\s*=", text, re.I | re.M))


def read(text: str, where: str) -> Description:
    """A Description; raises InputError(s) with the line of each mistake."""
    rows = _rows(text, where)
    kinds = {
        key for _, row in rows for key in ("switchname", "blockname", "ringname") if key in row
    }
    if len(kinds) != 1:
        raise InputError(
            "no SwitchName, BlockName or RingName" if not kinds
            else f"several kinds of topology in one file: {', '.join(sorted(kinds))}",
            where=f"{where}:1", hint="one topology.conf describes a tree, blocks or rings",
        )  # fmt: skip
    kind = kinds.pop()
    return {"switchname": _tree, "blockname": _blocks, "ringname": _rings}[kind](rows, where)


_Rows = list[tuple[int, dict[str, str]]]


def _rows(text: str, where: str) -> _Rows:
    known = {k.lower(): k for k in KEYS}
    rows: _Rows = []
    errors: list[InputError] = []
    held, start = "", 0
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.split("#", 1)[0].rstrip()
        start = start or number
        if line.endswith("\\"):
            held += line[:-1] + " "
            continue
        whole, at, held, start = held + line, start, "", 0
        row: dict[str, str] = {}
        for word in whole.split():
            key, equals, value = word.partition("=")
            if not equals or not value:
                errors.append(InputError(f"`{word}` is not Key=value", where=f"{where}:{at}",
                                         hint="for example SwitchName=s0 Nodes=n[0-5]"),
                              )  # fmt: skip
            elif key.lower() not in known:
                errors.append(UnknownNameError("key", key, KEYS, where=f"{where}:{at}"))
            elif key.lower() in row:
                errors.append(InputError(f"`{key}` stands twice", where=f"{where}:{at}"))
            else:
                row[key.lower()] = value
        if row:
            rows.append((at, row))
    raise_all(errors)
    return rows


def _tree(rows: _Rows, where: str) -> Description:
    parents: dict[str, str | None] = {}
    hosts: dict[str, list[str]] = {}
    lines: dict[str, int] = {}
    above: list[tuple[int, str, str]] = []
    errors: list[InputError] = []
    for number, row in rows:
        at = f"{where}:{number}"
        name = row.get("switchname")
        if name is None:
            errors.append(InputError("a line without SwitchName", where=at))
            continue
        if "nodes" not in row and "switches" not in row:
            errors.append(InputError(f"switch `{name}` has neither Nodes nor Switches", where=at))
        for switch in expand_hosts(name, where=at):
            if switch in lines:
                errors.append(InputError(f"switch `{switch}` stands twice", where=at,
                                         hint=f"first on line {lines[switch]}"))  # fmt: skip
            lines[switch] = number
            parents.setdefault(switch, None)
            if "nodes" in row:
                hosts[switch] = expand_hosts(row["nodes"], where=at)
            if "switches" in row:
                above += [(number, c, switch) for c in expand_hosts(row["switches"], where=at)]
    for number, child, switch in above:
        at = f"{where}:{number}"
        if child not in lines:
            errors.append(UnknownNameError("switch", child, lines, where=at))
        elif parents[child] is not None:
            errors.append(InputError(
                f"switch `{child}` lies below `{parents[child]}` and below `{switch}`", where=at,
                hint="a tree needs one way up from each switch"))  # fmt: skip
        else:
            parents[child] = switch
    raise_all(errors)
    return tree_description(FORMAT, parents, hosts, where=where, lines=lines)


def _blocks(rows: _Rows, where: str) -> Description:
    hosts: list[Host] = []
    sizes: tuple[int, ...] = ()
    errors: list[InputError] = []
    names: set[str] = set()
    for number, row in rows:
        at = f"{where}:{number}"
        if "blocksizes" in row:
            pieces = row["blocksizes"].split(",")
            if not all(p.strip().isdigit() for p in pieces):
                said = f"BlockSizes `{row['blocksizes']}` are not numbers"
                errors.append(InputError(said, where=at, hint="for example BlockSizes=18,36"))
            else:
                sizes = tuple(int(p) for p in pieces)
        name = row.get("blockname")
        if name is None:
            continue
        if name in names or "nodes" not in row:
            errors.append(InputError(f"block `{name}` " + ("stands twice" if name in names
                                     else "has no Nodes"), where=at))  # fmt: skip
        names.add(name)
        members = expand_hosts(row.get("nodes", ""), where=at)
        hosts += [Host(name=h, domain=name) for h in members]
    raise_all(errors)
    return _checked(Description, where, kind="block", hosts=tuple(hosts), block_sizes=sizes)


def _rings(rows: _Rows, where: str) -> Description:
    hosts: list[Host] = []
    shapes: dict[str, tuple[int, ...]] = {}
    errors: list[InputError] = []
    for number, row in rows:
        at = f"{where}:{number}"
        name = row.get("ringname", "")
        members = expand_hosts(row.get("nodes", ""), where=at)
        if not name or not members or name in shapes:
            what = (
                "without RingName" if not name else "twice" if name in shapes else "without Nodes"
            )
            errors.append(InputError(f"ring `{name}` {what}", where=at))
        if len(members) > RING_HOSTS_MOST:
            errors.append(InputError(f"ring `{name}` has {len(members)} nodes", where=at,
                                     hint=f"Slurm takes at most {RING_HOSTS_MOST}"))  # fmt: skip
        shapes[name] = (len(members),)
        hosts += [Host(name=h, group=name, point=(i,)) for i, h in enumerate(members)]
    raise_all(errors)
    return _checked(Description, where, kind="ring", hosts=tuple(hosts), shapes=shapes)


def _checked(make: type[Description], where: str, **fields: object) -> Description:
    try:
        return make(format=FORMAT, **fields)  # type: ignore[arg-type]
    except InputError as error:
        error.where = error.where or f"{where}:1"
        raise


def write(described: Description) -> str:
    """The file; raises InputError for what topology.conf cannot say (a torus)."""
    if described.kind == "block" or (described.kind == "flat" and described.domains):
        lines = [
            f"BlockName={name} Nodes={compress_hosts(members)}"
            for name, members in described.domains.items()
        ]
        if described.block_sizes:
            lines.append("BlockSizes=" + ",".join(map(str, described.block_sizes)))
        return "\n".join(lines) + "\n"
    if described.kind == "ring":
        return "".join(
            f"RingName={ring} Nodes={compress_hosts(ring_hosts(described, ring))}\n"
            for ring in described.shapes
        )
    if described.kind != "tree":
        raise InputError(
            f"topology.conf cannot describe a {described.kind}", hint="write topology.yaml"
        )
    parents = described.parents | dict(described.empty_switches)
    children: dict[str, list[str]] = {}
    for switch, above in parents.items():
        if above is not None:
            children.setdefault(above, []).append(switch)
    hosts: dict[str, list[str]] = {}
    for host in described.hosts:
        hosts.setdefault(host.path[0] if host.path else "switch", []).append(host.name)
    lines = []
    for switch in parents or hosts:
        line = f"SwitchName={switch}"
        if switch in children:
            line += f" Switches={compress_hosts(children[switch])}"
        if switch in hosts:
            line += f" Nodes={compress_hosts(hosts[switch])}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def ring_hosts(described: Description, ring: str) -> list[str]:
    """Hosts of one ring or torus in the order of their points, first coordinate fastest."""
    members = [h for h in described.hosts if h.group == ring]
    return [h.name for h in sorted(members, key=lambda h: tuple(reversed(h.point or ())))]
