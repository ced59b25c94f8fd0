"""Who is plugged into whom, as switches and hosts hear it: LLDP (lldpctl, JSON) and netq.

lldpctl tells what one host hears: files of several hosts stand in one folder, each named after its
host. netq tells it of all. A host that hears several leaf switches is below all of them together:
they are taken as one, named ``leaf-1+leaf-2``, as are the switches above them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from weftline.errors import InputError
from weftline.fabric.formats.clusters.description import Description, tree_description
from weftline.spec.located import Located, read_located

LLDP = "lldp"
NETQ = "netq lldp"


def detect(text: str) -> bool:
    """Whether the text is lldpctl's JSON or netq's."""
    return bool(re.search(r'"lldp"\s*:', text)) and bool(
        re.search(r'"interface"\s*:|"peer[_-]?hostname"\s*:', text, re.IGNORECASE)
    )


def read(text: str, where: str) -> Description:
    """The cluster one file describes; of lldpctl's, the host is called as the file is."""
    return read_all({where: text})


def read_all(texts: Mapping[str, str]) -> Description:
    """Files of several hosts joined; raises InputError with file and line of what is none."""
    heard: dict[str, set[str]] = {}
    hosts: set[str] | None = None
    for where, text in texts.items():
        root = read_located(text, where)
        held = root.value.get("lldp") if isinstance(root.value, dict) else None
        if held is None:
            raise InputError("no `lldp`", where=f"{where}:{root.line}")
        if isinstance(held.value, list):
            for own, peer in _pairs(held, where):
                heard.setdefault(own, set()).add(peer)
        else:
            stem = re.split(r"[/\\]", where)[-1].rsplit(".", 1)[0]
            peers = set(_chassis(held, where))
            if not peers:
                raise InputError("no interface hears a chassis", where=f"{where}:{held.line}")
            heard.setdefault(stem, set()).update(peers)
            hosts = (hosts or set()) | {stem}
    first = next(iter(texts))
    return _tree(heard, hosts, first)


def _pairs(held: Located, where: str) -> Iterator[tuple[str, str]]:
    """netq's entries: a host name and the one it hears."""
    for entry in held.value:
        plain = entry.plain()
        names = {re.sub(r"[_-]", "", str(k)).lower(): v for k, v in plain.items()} if isinstance(
            plain, dict) else {}  # fmt: skip
        own, peer = names.get("hostname"), names.get("peerhostname")
        if not own or not peer:
            raise InputError("an entry without hostname and peerHostname",
                             where=f"{where}:{entry.line}")  # fmt: skip
        yield str(own), str(peer)


def _chassis(held: Located, where: str) -> Iterator[str]:
    """Names of the systems at the other ends of a host's interfaces."""
    plain = held.plain()
    found: Any = plain.get("interface") if isinstance(plain, dict) else None
    entries = found if isinstance(found, list) else [found] if isinstance(found, dict) else []
    for entry in entries:
        for name, interface in entry.items() if isinstance(entry, dict) else ():
            chassis = interface.get("chassis") if isinstance(interface, dict) else None
            if not isinstance(chassis, dict) or not chassis:
                raise InputError(f"interface `{name}` hears no chassis",
                                 where=f"{where}:{held.line}")  # fmt: skip
            # A chassis stands under its name; one that has none is its fields.
            key = next(iter(chassis))
            if isinstance(chassis.get("id"), dict) and "value" in chassis["id"]:
                key = str(chassis["id"]["value"])
            yield key


def _tree(heard: Mapping[str, set[str]], told: set[str] | None, where: str) -> Description:
    """Tiers from the hosts up; where no file tells the hosts, they are the network's ends."""
    links: dict[str, set[str]] = {}
    for own, peers in heard.items():
        for peer in peers:
            links.setdefault(own, set()).add(peer)
            links.setdefault(peer, set()).add(own)
    # Switches tell what they hear; of netq, who is only heard of is a host.
    hosts = told if told is not None else set(links) - set(heard) or _ends(links)
    tier = dict.fromkeys(hosts, 0)
    front = set(hosts)
    while front:
        above = {p for n in front for p in links[n] if p not in tier}
        tier |= dict.fromkeys(above, max(tier.values()) + 1)
        front = above

    def up(names: list[str]) -> list[str]:
        found = {p for n in names for p in links[n] if tier[p] == tier[n] + 1}
        return sorted(found, key=_natural)

    parents: dict[str, str | None] = {}
    members: dict[str, list[str]] = {}
    for host in sorted(hosts, key=_natural):
        group = up([host])
        if not group:
            continue
        members.setdefault("+".join(group), []).append(host)
        while group:
            above_them = up(group)
            parents["+".join(group)] = "+".join(above_them) or None
            group = above_them
    if not members:
        raise InputError("no host that hears a switch", where=f"{where}:1")
    kind = NETQ if told is None else LLDP
    return tree_description(kind, parents, members, where=where)


def _ends(links: Mapping[str, set[str]]) -> set[str]:
    """Those whose every neighbour has more neighbours than they have: the ends of the network."""
    return {n for n, peers in links.items() if all(len(links[p]) > len(peers) for p in peers)}


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name) if p]
