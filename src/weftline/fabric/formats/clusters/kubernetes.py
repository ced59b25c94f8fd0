"""Kubernetes nodes by their labels: EKS, GKE, OKE, topograph and the GPU operator.

Reads what ``kubectl get nodes -o json`` (or yaml) prints, or a list of nodes. Tiers of switches
come from the first family of labels a node carries; scale-up domains from clique and
UltraServer labels; a TPU slice's torus from ``gke-tpu-topology``.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from typing import Any, Final

from weftline.errors import InputError
from weftline.fabric.formats.clusters.description import Description, Host, raise_all
from weftline.fabric.formats.clusters.instances import (
    CHIP_LABELS,
    TPU_LABELS,
    counted,
    has_none,
    machine_of,
    offered,
    product_chip,
)
from weftline.spec.located import Located, read_located

FORMAT = "kubernetes node labels"
TIERS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("topograph", tuple(f"fabric.topograph.run/tier-{i}" for i in range(8))),
    ("topograph v1", tuple(f"network.topology.nvidia.com/{t}" for t in ("leaf", "spine", "core"))),
    ("eks", tuple(f"topology.k8s.aws/network-node-layer-{i}" for i in (4, 3, 2, 1))),
    ("gke", tuple(f"cloud.google.com/gce-topology-{t}" for t in ("subblock", "block"))),
    ("oke", ("oci.oraclecloud.com/host.rack_id", "oci.oraclecloud.com/host.network_block_id",
             "oci.oraclecloud.com/host.hpc_island_id")),
)  # fmt: skip
"""Families of labels, the leaf first. EKS numbers its layers from the spine."""
DOMAINS: Final = (
    "accelerator.topograph.run/domain",
    "network.topology.nvidia.com/accelerator",
    "topology.k8s.aws/ultraserver-id",
    "nvidia.com/gpu.clique",
    "topology.k8s.aws/capacity-block-id",
)
INSTANCE_TYPE: Final = "node.kubernetes.io/instance-type"
GKE_COUNT: Final = "cloud.google.com/gke-accelerator-count"
TPU_SHAPE: Final = "cloud.google.com/gke-tpu-topology"
TPU_SLICE: Final = re.compile(r"cloud\.google\.com/gke-tpu-partition-.*-id|gke-nodepool")


def detect(text: str) -> bool:
    """Whether the text holds one of the labels."""
    keys = [k for _, tier in TIERS for k in tier] + list(DOMAINS) + [TPU_SHAPE]
    return any(key in text for key in keys) and "labels" in text


def read(text: str, where: str) -> Description:
    """A Description; raises InputError(s) for nodes without a name or without any such label."""
    root = read_located(text, where)
    nodes = root.value if isinstance(root.value, list) else root.items("items") or [root]
    hosts: list[Host] = []
    shapes: dict[str, tuple[int, ...]] = {}
    errors: list[InputError] = []
    without: list[str | None] = []
    for node in nodes:
        try:
            host = _host(node, shapes, where)
        except InputError as error:
            errors.append(error)
            continue
        if isinstance(host, Host):
            hosts.append(host)
        else:
            without.append(host)
    raise_all(errors)
    if not hosts:
        raise InputError("no node has accelerators", where=f"{where}:1",
                         hint="a label such as nvidia.com/gpu.product shows one")  # fmt: skip
    kind: Any = "tree" if any(h.path for h in hosts) else "torus3d" if shapes else "block"
    slices: dict[str, tuple[int, ...]] = {}
    fabrics = {h.chip for h in hosts}
    if kind == "torus3d":
        slices = dict(shapes)
        hosts = _placed(hosts, shapes, where)
    known = next(iter(fabrics)) if slices and len(fabrics) == 1 else None
    return Description(
        format=FORMAT, kind=kind, hosts=tuple(hosts), shapes=shapes, slices=slices,
        fabric=known, left_out=counted(without, "no accelerator"),
    )  # fmt: skip


def _host(node: Located, shapes: dict[str, tuple[int, ...]], where: str) -> Host | str | None:
    """A node with its place, or the type of one that has no accelerator (None: none is said)."""
    at = f"{where}:{node.line}"
    plain = node.plain()
    meta = plain.get("metadata", plain) if isinstance(plain, dict) else {}
    meta = meta if isinstance(meta, dict) else {}
    name, labels = meta.get("name"), meta.get("labels")
    if not isinstance(name, str) or not isinstance(labels, dict):
        raise InputError("a node with metadata.name and metadata.labels is expected", where=at)
    path: tuple[str, ...] = ()
    for _, keys in TIERS:
        path = tuple(str(labels[k]) for k in keys if labels.get(k))
        if path:
            break
    domain = next((str(labels[k]) for k in DOMAINS if labels.get(k)), None)
    group = None
    if shape := labels.get(TPU_SHAPE):
        if not re.fullmatch(r"\d+(x\d+){1,2}", str(shape)):
            raise InputError(f"`{TPU_SHAPE}: {shape}` is no shape", where=at, hint="4x4x4")
        group = next((str(v) for k, v in labels.items() if TPU_SLICE.search(k)), str(shape))
        shapes[group] = tuple(int(s) for s in str(shape).split("x"))
    kind = labels.get(INSTANCE_TYPE)
    chip, chips, rate = _accelerators(labels, plain)
    if chip is None and not chips and (has_none(kind) or not (path or domain or group)):
        return None if kind is None else str(kind)
    if not path and domain is None and group is None:
        raise InputError(f"node `{name}` has none of the labels that say where it lies", where=at,
                         hint="for example topology.k8s.aws/network-node-layer-1")  # fmt: skip
    return Host(name=name, path=path, domain=domain, group=group, instance_type=kind, chip=chip,
                chips=chips or None, network_bytes_per_s=rate)  # fmt: skip


def _accelerators(
    labels: dict[str, Any], plain: dict[str, Any]
) -> tuple[str | None, int, float | None]:
    """Chip, chips and a chip's share of the network, as labels, type and resources say."""
    machine = machine_of(labels.get(INSTANCE_TYPE))
    count = offered(plain) or int(str(labels.get("nvidia.com/gpu.count", "0")) or 0)
    if tpu := labels.get("cloud.google.com/gke-tpu-accelerator"):
        return TPU_LABELS.get(str(tpu), str(tpu)), count, None
    if machine is not None:
        return machine.chip, count or machine.chips, machine.network_bytes_per_s
    label = str(labels.get("cloud.google.com/gke-accelerator", ""))
    product = str(labels.get("nvidia.com/gpu.product", ""))
    chip = CHIP_LABELS.get(label) or product_chip(product) or label or product or None
    return chip, count or int(str(labels.get(GKE_COUNT, "0")) or 0), None


def _placed(hosts: list[Host], shapes: dict[str, tuple[int, ...]], where: str) -> list[Host]:
    """Hosts of a TPU slice in the order of the list, each with an equal box of its chips.

    GKE numbers a slice's hosts x fastest; a host's chips are 2x2 of it, or fewer in small slices.
    """
    found: list[Host] = []
    for group, shape in shapes.items():
        members = [h for h in hosts if h.group == group]
        chips = math.prod(shape)
        if chips % len(members):
            said = f"slice `{group}` has {chips} chips on {len(members)} nodes"
            raise InputError(said, where=f"{where}:1", hint="every node of the slice is needed")
        boxes = _boxes(shape, chips // len(members))
        for i, host in enumerate(members):
            point, rest = [], i
            for side in boxes:
                point.append(rest % side)
                rest //= side
            found.append(replace(host, path=(), group=group, point=tuple(point)))
        shapes[group] = boxes
    return found


def _boxes(shape: tuple[int, ...], chips_per_host: int) -> tuple[int, ...]:
    """Hosts along each axis: 2 chips of x and 2 of y a host where 4 chips make one."""
    sides = list(shape)
    rest = chips_per_host
    for axis in range(len(sides)):
        step = math.gcd(sides[axis], min(2, rest) if rest % 2 == 0 else 1)
        sides[axis] //= step
        rest //= step
    for axis in range(len(sides)):
        step = math.gcd(sides[axis], rest)
        sides[axis] //= step
        rest //= step
    return tuple(sides)


def write(described: Description, family: str = "topograph") -> str:
    """Nodes with the labels of one family, as ``kubectl get nodes -o json`` prints them."""
    families = dict(TIERS)
    if family not in families:
        raise InputError(f"unknown family of labels `{family}`", hint=", ".join(families))
    keys = families[family]
    if family == "eks":
        keys = keys[1:] if all(len(h.path) <= 3 for h in described.hosts) else keys
    domain_key = {"topograph v1": DOMAINS[1], "eks": DOMAINS[2]}.get(family, DOMAINS[0])
    items = []
    for host in described.hosts:
        if len(host.path) > len(keys):
            raise InputError(f"host `{host.name}` has {len(host.path)} tiers of switches above it",
                             hint=f"{family} labels have {len(keys)}")  # fmt: skip
        labels = dict(zip(keys, host.path, strict=False))
        if host.domain is not None:
            labels[domain_key] = host.domain
        if host.instance_type:
            labels[INSTANCE_TYPE] = host.instance_type
        items.append({"apiVersion": "v1", "kind": "Node",
                      "metadata": {"name": host.name, "labels": labels}})  # fmt: skip
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items}, indent=2) + "\n"
