"""Volcano's HyperNodes: what a scheduler of Kubernetes is told of the network.

A HyperNode is a switch of one tier with its members by name: nodes, or HyperNodes of the tier below
(``exactMatch``; patterns and label selectors name no hosts and are refused).
"""

from __future__ import annotations

import re

from weftline.errors import InputError
from weftline.fabric.formats.clusters.description import Description, tree_description
from weftline.spec.located import Located, read_located

FORMAT = "volcano HyperNode"


def detect(text: str) -> bool:
    """Whether the text holds a HyperNode."""
    return bool(re.search(r'kind"?\s*:\s*"?HyperNode\b', text))


def read(text: str, where: str) -> Description:
    """The tree of HyperNodes; raises InputError with the line of a member that names no node."""
    parents: dict[str, str | None] = {}
    hosts: dict[str, list[str]] = {}
    lines: dict[str, int] = {}
    for document in _documents(text, where):
        if document.get("kind") != "HyperNode":
            continue
        meta, spec = document.get("metadata"), document.value.get("spec")
        name = meta.get("name") if isinstance(meta, dict) else None
        if not isinstance(name, str) or spec is None or not isinstance(spec.value, dict):
            raise InputError("a HyperNode needs metadata.name and spec",
                             where=f"{where}:{document.line}")  # fmt: skip
        parents.setdefault(name, None)
        lines[name] = document.line
        for member in spec.items("members"):
            kind, child = _member(member, where)
            if kind == "Node":
                hosts.setdefault(name, []).append(child)
            elif parents.get(child) is not None:
                raise InputError(
                    f"HyperNode `{child}` lies below two", where=f"{where}:{member.line}"
                )
            else:
                parents[child] = name
    if not lines:
        raise InputError("no HyperNode", where=f"{where}:1")
    return tree_description(FORMAT, parents, hosts, where=where, lines=lines)


def _documents(text: str, where: str) -> list[Located]:
    """Documents of a YAML stream or items of a List, their lines those of the whole file."""
    found: list[Located] = []
    start = 0
    pieces = re.split(r"(?m)^---.*$", text)
    for piece in pieces:
        root = read_located("\n" * start + piece, where)
        start += piece.count("\n")
        items = root.items("items") if isinstance(root.value, dict) else []
        found += [d for d in items or [root] if isinstance(d.value, dict) and d.value]
    return found


def _member(member: Located, where: str) -> tuple[str, str]:
    plain = member.plain()
    selector = plain.get("selector") if isinstance(plain, dict) else None
    exact = selector.get("exactMatch") if isinstance(selector, dict) else None
    name = exact.get("name") if isinstance(exact, dict) else None
    if not isinstance(name, str) or plain.get("type") not in ("Node", "HyperNode"):
        raise InputError(
            "a member without type and exactMatch.name", where=f"{where}:{member.line}",
            hint="regexMatch and labelMatch name no nodes: list them, or import the node labels",
        )  # fmt: skip
    return str(plain["type"]), name
