"""What neither a CRD's schema nor kubernetes-validate knows: words of pods, and what must agree.

A pod template inside a CRD has no enums (``restartPolicy: Nevr`` passes), nor has the Job schema of
kubernetes-validate (``completionMode: Indexd`` passes). Kueue reads its annotations only when pods
are there. The words are those of the API reference of Kubernetes 1.37, read 2026-11-30.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from weftline.errors import nearest_names
from weftline.launch.check.found import Document, Finding, Path, dotted

WORDS: Final = {
    "restartPolicy": ("Always", "OnFailure", "Never", "RecreateGroupOnPodRestart", "None",
                      "Default", "RecreateGroupAfterStart"),
    "completionMode": ("Indexed", "NonIndexed"),
    "dnsPolicy": ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"),
    "imagePullPolicy": ("Always", "IfNotPresent", "Never"),
    "medium": ("", "Memory"),
    "operator": ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt", "Equal", "All", "Any"),
    "protocol": ("TCP", "UDP", "SCTP"),
    "metricType": ("AverageValue", "Value", "Utilization"),
}  # fmt: skip
_QUANTITY: Final = re.compile(r"\d+(\.\d+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|e\d+)?")
_LABEL: Final = re.compile(r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_TAS: Final = "kueue.x-k8s.io/podset-"


def object_findings(document: Document) -> Iterator[Finding]:
    """Every mistake of these kinds in one object."""
    for path in document.repeated:
        yield Finding(what=f"`{dotted(path)}` stands twice", where=document.where(path))
    for path, name, value in _walk(document.value, ()):
        words = WORDS.get(name)
        if words is not None and isinstance(value, str) and value not in words:
            near = nearest_names(value, [w for w in words if w], 1)
            yield Finding(
                what=f"{dotted(path)} is `{value}`",
                where=document.where(path),
                hint=f"did you mean `{near[0]}`?" if near else f"one of {words}",
            )
        if isinstance(value, dict):
            yield from _parts(document, path, name, value)


def _walk(value: Any, path: Path) -> Iterator[tuple[Path, str, Any]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield (*path, name), str(name), part
            yield from _walk(part, (*path, name))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            if isinstance(part, dict):
                yield (*path, number), "", part
            yield from _walk(part, (*path, number))


def _parts(document: Document, path: Path, name: str, value: dict[str, Any]) -> Iterator[Finding]:
    if name in ("limits", "requests"):
        for resource, amount in value.items():
            if not _QUANTITY.fullmatch(str(amount)):
                yield Finding(what=f"{dotted((*path, resource))}: `{amount}` is no quantity",
                              where=document.where((*path, resource)))  # fmt: skip
    if isinstance(value.get("containers"), list):
        yield from _pod(document, path, value)
    if "completionMode" in value:
        yield from _indexed(document, path, value)
    if name == "annotations":
        yield from _topology(document, path, value)
    if "minReplicas" in value and "maxReplicas" in value:
        low, high = value["minReplicas"], value["maxReplicas"]
        if isinstance(low, int) and isinstance(high, int) and low > high:
            yield Finding(what=f"{dotted(path)}: minReplicas {low} is above maxReplicas {high}",
                          where=document.where((*path, "minReplicas")))  # fmt: skip


def _pod(document: Document, path: Path, spec: dict[str, Any]) -> Iterator[Finding]:
    volumes = {v.get("name") for v in spec.get("volumes", ()) if isinstance(v, dict)}
    for number, container in enumerate(spec["containers"]):
        here = (*path, "containers", number)
        if not isinstance(container, dict):
            continue
        for n, mount in enumerate(container.get("volumeMounts", ())):
            if mount.get("name") not in volumes:
                yield Finding(what=f"{dotted(here)} mounts `{mount.get('name')}`, which is no "
                              "volume of the pod",
                              where=document.where((*here, "volumeMounts", n)))  # fmt: skip
        names = [e.get("name") for e in container.get("env", ()) if isinstance(e, dict)]
        for twice in sorted({name for name in names if names.count(name) > 1}, key=str):
            yield Finding(what=f"{dotted(here)} sets {twice} twice", where=document.where(here))
        resources = container.get("resources", {})
        for resource, amount in resources.get("limits", {}).items():
            asked = resources.get("requests", {}).get(resource, amount)
            if "/" in resource and str(asked) != str(amount):
                yield Finding(what=f"{dotted(here)}: {resource} cannot be overcommitted, requests "
                              f"{asked} and limits {amount} differ",
                              where=document.where((*here, "resources")))  # fmt: skip


def _indexed(document: Document, path: Path, spec: dict[str, Any]) -> Iterator[Finding]:
    """Ranks are told from the completion index: every pod runs at once, and is none's retry."""
    if spec["completionMode"] == "Indexed" and spec.get("completions") != spec.get("parallelism"):
        yield Finding(what=f"{dotted(path)}: {spec.get('parallelism')} pods run at once, "
                      f"{spec.get('completions')} are wanted: the ranks would wait forever",
                      where=document.where((*path, "parallelism")))  # fmt: skip
    annotations = spec.get("template", {}).get("metadata", {}).get("annotations", {})
    size = str(annotations.get(f"{_TAS}slice-size", ""))
    pods = spec.get("parallelism")
    if size.isdigit() and int(size) and isinstance(pods, int) and pods % int(size):
        yield Finding(
            what=f"{dotted(path)}: {pods} pods are no whole number of slices of {size}",
            where=document.where((*path, "template", "metadata", "annotations")),
        )


def _topology(document: Document, path: Path, value: dict[str, Any]) -> Iterator[Finding]:
    """Kueue's podset annotations, as its concepts page has them (0.19)."""
    where = document.where(path)
    has = {name.removeprefix(_TAS) for name in value if str(name).startswith(_TAS)}
    known = {
        "required-topology",
        "preferred-topology",
        "unconstrained-topology",
        "group-name",
        "slice-required-topology",
        "slice-size",
        "slice-required-topology-constraints",
    }
    for name in sorted(has - known):
        near = nearest_names(name, known, 1)
        yield Finding(what=f"Kueue knows no annotation `{_TAS}{name}`", where=where,
                      hint=f"did you mean `{_TAS}{near[0]}`?" if near else "")  # fmt: skip
    if len(has & {"required-topology", "preferred-topology", "unconstrained-topology"}) > 1:
        yield Finding(what="one of required, preferred and unconstrained topology", where=where)
    if "slice-required-topology" in has and "slice-size" not in has:
        yield Finding(what="a slice topology needs a slice size (since Kueue 0.19)", where=where,
                      hint=f"add {_TAS}slice-size")  # fmt: skip
    size = value.get(f"{_TAS}slice-size")
    if size is not None and not re.fullmatch(r"[1-9]\d*", str(size)):
        yield Finding(what=f"slice size `{size}` is no number of pods", where=where)
    for name, label in value.items():
        if str(name).endswith("-topology") and str(name).startswith(_TAS) and (
                not _LABEL.fullmatch(str(label))):  # fmt: skip
            yield Finding(what=f"{name}: `{label}` is no node label", where=where)
