"""Where clouds say their instances lie: EC2, Google Compute Engine and Oracle, as JSON.

EC2: the answer of DescribeInstanceTopology; ``NetworkNodes`` runs from the core to the leaf.
GCE: instances with ``resourceStatus.physicalHostTopology`` (cluster, block, subblock, host).
OCI: compute hosts with hpcIslandId, networkBlockId, localBlockId and gpuMemoryFabricId.
YAML of the same shape is read too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from weftline.errors import InputError
from weftline.fabric.formats.clusters.description import Description, Host, raise_all
from weftline.fabric.formats.clusters.instances import counted, has_none, machine_of
from weftline.spec.located import Located, read_located

EC2 = "ec2 DescribeInstanceTopology"
GCE = "gce physicalHostTopology"
OCI = "oci host topology"
OCI_FIELDS = ("localBlockId", "networkBlockId", "hpcIslandId")
"""The leaf first."""


def detect(text: str) -> str | None:
    """Which cloud's words the text holds."""
    if '"NetworkNodes"' in text or "NetworkNodes:" in text:
        return EC2
    if "physicalHostTopology" in text:
        return GCE
    if "networkBlockId" in text or "localBlockId" in text:
        return OCI
    return None


def read(text: str, where: str) -> Description:
    """A Description; raises InputError(s) with the line of each mistake."""
    found = detect(text)
    if found is None:
        raise InputError("no instance topology of EC2, GCE or OCI", where=f"{where}:1")
    readers: dict[str, Callable[[Located, str], Host]] = {EC2: _ec2, GCE: _gce, OCI: _oci}
    hosts: list[Host] = []
    errors: list[InputError] = []
    root = read_located(text, where)
    for entry in _entries(root, where):
        try:
            hosts.append(readers[found](entry, where))
        except InputError as error:
            errors.append(error)
    raise_all(errors)
    kept, left_out = accelerated(hosts, where)
    try:
        described = Description(format=found, kind="tree", hosts=kept, left_out=left_out,
                                notes=_pages(root))  # fmt: skip
        _ = described.parents
    except InputError as error:
        error.where = error.where or f"{where}:1"
        raise
    return described


def accelerated(hosts: Sequence[Host], where: str) -> tuple[tuple[Host, ...], dict[str, int]]:
    """Hosts with what their instance types have, and how many have no accelerator.

    Raises InputError where none of them has one.
    """
    kept: list[Host] = []
    without: list[str | None] = []
    for host in hosts:
        machine = machine_of(host.instance_type)
        if machine is None and has_none(host.instance_type):
            without.append(host.instance_type)
            continue
        if machine is not None and host.chip is None:
            kept.append(replace(host, chip=machine.chip, chips=machine.chips,
                                network_bytes_per_s=machine.network_bytes_per_s))  # fmt: skip
        else:
            kept.append(host)
    if without and not kept:
        types = ", ".join(sorted({str(t) for t in without}))
        raise InputError(f"no instance has accelerators: {types}", where=f"{where}:1",
                         hint="list those that the job is to run on")  # fmt: skip
    return tuple(kept), counted(without, "no accelerator")


def _pages(root: Located) -> tuple[str, ...]:
    """Whether the answer goes on in a further page that is not here."""
    pages = root.value if isinstance(root.value, list) else [root]
    last = pages[-1] if pages else root
    if not isinstance(last.value, dict) or not last.get("NextToken"):
        return ()
    return ("NextToken is set: this is one page, more instances follow in the next; put the pages "
            "into one list",)  # fmt: skip


def _entries(root: Located, where: str) -> list[Located]:
    """The list of instances, whether bare or under the usual key (pages of answers joined)."""
    if isinstance(root.value, list):
        inner = [e for e in root.value if isinstance(e.value, dict) and "Instances" in e.value]
        return [i for page in inner for i in page.items("Instances")] or root.value
    if isinstance(root.value, dict):
        for key in ("Instances", "instances", "items", "hosts"):
            if found := root.items(key):
                return found
        if "physicalHostTopology" in str(root.plain()):
            return [root]
        data = root.value.get("data")
        if isinstance(data, Located):
            return _entries(data, where)
    raise InputError("a list of instances is expected", where=f"{where}:{root.line}",
                     hint='{"Instances": [...]}')  # fmt: skip


def _needed(entry: Located, key: str, kind: type, where: str) -> Any:
    value = entry.get(key)
    if not isinstance(value, kind) or not value:
        what = "a list" if kind is list else "text"
        raise InputError(f"`{key}` is not {what}", where=f"{where}:{entry.line}")
    return value


def _ec2(entry: Located, where: str) -> Host:
    nodes = _needed(entry, "NetworkNodes", list, where)
    if not all(isinstance(n, str) for n in nodes):
        raise InputError("`NetworkNodes` are not names", where=f"{where}:{entry.line}")
    return Host(
        name=_needed(entry, "InstanceId", str, where),
        path=tuple(reversed(nodes)),
        domain=entry.get("CapacityBlockId"),
        instance_type=entry.get("InstanceType"),
        group=entry.get("GroupName"),
    )


def _gce(entry: Located, where: str) -> Host:
    status = entry.get("resourceStatus")
    inner = status.get("physicalHostTopology") if isinstance(status, dict) else None
    place = entry.get("physicalHostTopology") or inner
    if not isinstance(place, dict) or not place.get("block"):
        raise InputError("no physicalHostTopology with a block", where=f"{where}:{entry.line}")
    path = [str(place[k]) for k in ("subblock", "block", "cluster") if place.get(k)]
    machine = entry.get("machineType")
    return Host(
        name=_needed(entry, "name", str, where),
        path=tuple(_qualified(path)),
        instance_type=str(machine).rsplit("/", maxsplit=1)[-1] if machine else None,
    )


def _qualified(path: Sequence[str]) -> list[str]:
    """Sub-blocks are numbered within their block: the whole way up makes the name unique."""
    return ["/".join(reversed(path[i:])) for i in range(len(path))]


def _oci(entry: Located, where: str) -> Host:
    name = entry.get("instanceId") or entry.get("id") or entry.get("displayName")
    if not name:
        raise InputError("no instanceId, id or displayName", where=f"{where}:{entry.line}")
    path = [str(v) for k in OCI_FIELDS if (v := entry.get(k))]
    if not path:
        raise InputError(f"none of {', '.join(OCI_FIELDS)}", where=f"{where}:{entry.line}")
    return Host(name=str(name), path=tuple(path), domain=entry.get("gpuMemoryFabricId"),
                instance_type=entry.get("shape"))  # fmt: skip
