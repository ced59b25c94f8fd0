"""NVIDIA topograph: its model files (what it simulates) and the output of its graph engine.

Model: ``switches`` as a map of switch -> {switches, nodes}, ``nodes`` and ``capacity_blocks``, or
``blocks`` as a list with the switch, nodes and annotations of each. Graph: ``instances`` with
``network_layers`` from the leaf up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

from weftline.errors import InputError, UnknownNameError, nearest_names
from weftline.fabric.formats.clusters.description import (
    Description,
    Host,
    raise_all,
    tree_description,
)
from weftline.fabric.formats.clusters.hostlist import compress_hosts, expand_hosts
from weftline.spec.located import Located, read_located

MODEL = "topograph model"
GRAPH = "topograph graph"
DOMAIN_KEYS = ("accelerator.topograph.run/domain", "accelerator.topology.test/domain")


def detect(text: str) -> str | None:
    """MODEL, GRAPH or None."""
    if "network_layers" in text and "instances" in text:
        return GRAPH
    if re.search(r'^\s*"?switches"?\s*:', text, re.M) and re.search(
        r'^\s*"?(capacity_blocks|blocks|nodes)"?\s*:', text, re.M
    ):
        return MODEL
    return None


def read(text: str, where: str) -> Description:
    """A Description; raises InputError(s) with the line of each mistake."""
    root = read_located(text, where)
    if detect(text) == GRAPH:
        return _graph(root, where)
    return _model(root, where)


def _graph(root: Located, where: str) -> Description:
    hosts = []
    for entry in root.items("instances"):
        plain = _mapping(entry, where)
        if not isinstance(plain.get("id"), str):
            raise InputError("an instance without `id`", where=f"{where}:{entry.line}")
        layers = plain.get("network_layers") or []
        if not isinstance(layers, list) or not all(isinstance(x, str) for x in layers):
            raise InputError("`network_layers` is no list of names", where=f"{where}:{entry.line}")
        hosts.append(Host(name=plain["id"], path=tuple(layers), domain=_domain(plain),
                          instance_type=plain.get("type")))  # fmt: skip
    if not hosts:
        raise InputError("no `instances`", where=f"{where}:{root.line}")
    described = Description(format=GRAPH, kind="tree", hosts=tuple(hosts))
    _ = described.parents
    return described


def _domain(plain: dict[str, Any]) -> str | None:
    attributes = plain.get("attributes") or {}
    labels = {**(plain.get("annotations") or {}), **(plain.get("labels") or {})}
    found = attributes.get("nvlink") or next((labels[k] for k in DOMAIN_KEYS if k in labels), None)
    return None if found is None else str(found)


def _model(root: Located, where: str) -> Description:
    if not isinstance(root.value, dict):
        raise InputError("a map `switches:` is expected", where=f"{where}:{root.line}")
    switches = _table(root, "switches", where)
    parents: dict[str, str | None] = dict.fromkeys(switches)
    hosts: dict[str, list[str]] = {}
    lines = {name: entry.line for name, entry in switches.items()}
    domains: dict[str, str] = {}
    types: dict[str, str] = {}
    _members(root, hosts, lines, domains, types, where)
    parents |= {name: None for name in hosts if name not in parents}
    errors: list[InputError] = []
    for name, entry in switches.items():
        at = f"{where}:{entry.line}"
        for child in _names(entry, "switches", where):
            if child not in parents and (likely := _mistyped(child, parents, switches, where)):
                errors.append(UnknownNameError("switch", str(child), [likely], where=at))
            elif child not in parents:
                # Named by another and without an entry of its own: a leaf by use.
                parents[child] = name
            elif parents[child] is not None:
                errors.append(InputError(f"switch `{child}` has two parents", where=at))
            else:
                parents[child] = name
        if nodes := _names(entry, "nodes", where):
            hosts.setdefault(name, [])
            hosts[name] += nodes
    raise_all(errors)
    described = tree_description(MODEL, parents, hosts, where=where, lines=lines)
    return Description(
        format=MODEL, kind="tree", empty_switches=described.empty_switches,
        hosts=tuple(
            Host(name=h.name, path=h.path, domain=domains.get(h.name),
                 instance_type=types.get(h.name))
            for h in described.hosts
        ),
    )  # fmt: skip


def _mistyped(
    child: str, parents: Mapping[str, str | None], switches: Mapping[str, Located], where: str
) -> str | None:
    """The switch that was meant: one like it that nobody names, so that it would hang loose."""
    named = {c for entry in switches.values() for c in _names(entry, "switches", where)}
    loose = [s for s in parents if s not in named and not _names_any(switches.get(s), where)]
    return next(iter(nearest_names(child, loose, 1)), None)


def _names_any(entry: Located | None, where: str) -> bool:
    return entry is not None and bool(_names(entry, "switches", where))


def _mapping(entry: Located, where: str) -> dict[str, Any]:
    """The plain mapping of an entry and of its attributes; {} where it is empty."""
    plain = entry.plain() or {}
    if not isinstance(plain, dict):
        raise InputError("a mapping is expected", where=f"{where}:{entry.line}")
    for key in ("attributes", "annotations", "labels"):
        if not isinstance(plain.get(key) or {}, dict):
            raise InputError(f"`{key}` is no mapping", where=f"{where}:{entry.line}")
    return plain


def _names(entry: Located, key: str, where: str) -> list[str]:
    """The host names or switches listed under a key."""
    listed = _mapping(entry, where).get(key) or []
    if not isinstance(listed, list):
        raise InputError(f"`{key}` is no list", where=f"{where}:{entry.line}")
    return [h for n in listed for h in expand_hosts(str(n), where=f"{where}:{entry.line}")]


def _table(root: Located, key: str, where: str) -> dict[str, Located]:
    held = root.value.get(key)
    if held is None or held.value is None:
        return {}
    if not isinstance(held.value, dict):
        raise InputError(f"`{key}` is no mapping", where=f"{where}:{held.line}")
    return dict(held.value)


def _members(
    root: Located, hosts: dict[str, list[str]], lines: dict[str, int],
    domains: dict[str, str], types: dict[str, str], where: str,
) -> None:  # fmt: skip
    """Blocks, capacity blocks and nodes: who is in which domain, and which switch holds a block."""
    for entry in root.items("blocks"):
        members = _names(entry, "nodes", where)
        switch = entry.get("switch")
        if switch is not None:
            hosts.setdefault(str(switch), []).extend(members)
            lines.setdefault(str(switch), entry.line)
        if (domain := _domain(_mapping(entry, where))) is not None:
            domains |= dict.fromkeys(members, domain)
    for name, entry in _table(root, "capacity_blocks", where).items():
        attributes = _mapping(entry, where).get("attributes") or {}
        domain = str(attributes.get("nvlink") or name)
        domains |= dict.fromkeys(_names(entry, "nodes", where), domain)
    for name, entry in _table(root, "nodes", where).items():
        plain = _mapping(entry, where)
        held = (plain.get("attributes") or {}).get("nvlink") or plain.get("capacity_block")
        if held is not None:
            domains[name] = str(held)
        if plain.get("type"):
            types[name] = str(plain["type"])


def write(described: Description, to: str = GRAPH) -> str:
    """The graph engine's JSON, or a model file."""
    if to == GRAPH:
        instances = []
        for host in described.hosts:
            entry: dict[str, Any] = {"id": host.name}
            if host.instance_type:
                entry["type"] = host.instance_type
            entry["network_layers"] = list(host.path)
            if host.domain is not None:
                entry["attributes"] = {"nvlink": host.domain}
            instances.append(entry)
        return json.dumps({"instances": instances}, indent=2) + "\n"
    parents = described.parents | dict(described.empty_switches)
    switches: dict[str, dict[str, Any]] = {name: {} for name in parents}
    for child, above in parents.items():
        if above is not None:
            switches[above].setdefault("switches", []).append(child)
    members: dict[str, list[str]] = {}
    for host in described.hosts:
        if host.path:
            members.setdefault(host.path[0], []).append(host.name)
    for name, hosts in members.items():
        switches[name]["nodes"] = [compress_hosts(hosts)]
    nodes: dict[str, dict[str, Any]] = {}
    for host in described.hosts:
        nodes[host.name] = {"type": host.instance_type} if host.instance_type else {}
        if host.domain is not None:
            nodes[host.name]["attributes"] = {"nvlink": host.domain}
    return yaml.safe_dump({"switches": switches, "nodes": nodes}, sort_keys=False)
