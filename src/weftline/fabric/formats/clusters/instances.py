"""What a machine has, by the name of its instance type or its labels: chip, chips, network.

Instance types are those of the catalogue's price rows. A type that no row names is known to have no
accelerator where its family is one of a cloud's general ones.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from weftline.catalog import prices

# Families of machines with accelerators; a type of the same cloud outside them has none.
_AWS_TYPE: Final = re.compile(r"^([a-z][a-z0-9-]*)\.(\d*[a-z0-9-]+)$")
_AWS_ACCELERATED: Final = re.compile(r"^(p\d|g\d|gr\d|trn|inf|dl|vt|f\d)")
_GCE_TYPE: Final = re.compile(r"^(a\d|g\d|ct\d?\w*|tpu\w*|n\d\w?|e2|c\d\w?|m\d|t2\w|h\d|x4|z3)-")
_GCE_ACCELERATED: Final = re.compile(r"^(a[234]|g[24]|ct|tpu)")
_OCI_TYPE: Final = re.compile(r"^(BM|VM)\.")
_OCI_ACCELERATED: Final = re.compile(r"GPU")

CHIP_LABELS: Final[Mapping[str, str]] = {
    "nvidia-h100-80gb": "h100-sxm", "nvidia-h100-mega-80gb": "h100-sxm",
    "nvidia-h200-141gb": "h200-sxm", "nvidia-b200": "b200", "nvidia-gb200": "gb200-nvl72",
    "nvidia-gb300": "gb300-nvl72", "nvidia-a100-80gb": "a100-80-sxm",
    "nvidia-tesla-a100": "a100-40-sxm", "nvidia-l4": "l4", "nvidia-tesla-t4": "t4",
    "nvidia-tesla-v100": "v100-16-sxm", "nvidia-rtx-pro-6000": "rtx-pro-6000",
}  # fmt: skip
"""``cloud.google.com/gke-accelerator`` -> accelerator of the catalogue (GKE's documentation)."""
TPU_LABELS: Final[Mapping[str, str]] = {
    "tpu-v4-podslice": "tpu-v4", "tpu-v5p-slice": "tpu-v5p", "tpu-v5-lite-podslice": "tpu-v5e",
    "tpu-v5-lite-device": "tpu-v5e", "tpu-v6e-slice": "tpu-v6e", "tpu-v6e-device": "tpu-v6e",
    "tpu7x": "tpu7x",
}  # fmt: skip
"""``cloud.google.com/gke-tpu-accelerator`` -> fabric of the catalogue."""
_PRODUCTS: Final = (
    ("GB300", "gb300-nvl72"), ("GB200", "gb200-nvl72"), ("B300", "b300"), ("B200", "b200"),
    ("H200 NVL", "h200-nvl"), ("H200", "h200-sxm"), ("H100 NVL", "h100-nvl"),
    ("H100 PCIE", "h100-pcie"), ("H100", "h100-sxm"), ("H20", "h20"), ("GH200", "gh200"),
    ("A100 80GB PCIE", "a100-80-pcie"), ("A100 40GB PCIE", "a100-40-pcie"),
    ("A100 80GB", "a100-80-sxm"), ("A100 40GB", "a100-40-sxm"), ("L40S", "l40s"), ("L4", "l4"),
    ("V100 32GB", "v100-32-sxm"), ("V100", "v100-16-sxm"), ("T4", "t4"), ("A10G", "a10g"),
)  # fmt: skip
"""Words of ``nvidia.com/gpu.product``, the longer first."""
RESOURCES: Final = ("nvidia.com/gpu", "amd.com/gpu", "google.com/tpu", "aws.amazon.com/neuron",
                    "habana.ai/gaudi")  # fmt: skip
"""What nodes offer where they have accelerators."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """An instance type with accelerators."""

    chip: str
    chips: int
    network_bytes_per_s: float | None
    """One chip's share of the machine's network, one way; None where no row says it."""


@cache
def _machines() -> dict[str, Machine]:
    found: dict[str, Machine] = {}
    for row in prices():
        if not row.accelerator or row.per_chip or not row.instance:
            continue
        known = found.get(row.instance.lower())
        rate = row.network_bytes_per_s
        if known is None or (known.network_bytes_per_s is None and rate is not None):
            found[row.instance.lower()] = Machine(
                chip=row.accelerator, chips=row.chips, network_bytes_per_s=rate
            )
    return found


def machine_of(instance_type: str | None) -> Machine | None:
    """The accelerators of an instance type; None where the catalogue's rows do not name it."""
    return None if not instance_type else _machines().get(instance_type.lower())


def has_none(instance_type: str | None) -> bool:
    """Whether an instance type is known to have no accelerator."""
    if not instance_type or machine_of(instance_type) is not None:
        return False
    for kind, accelerated in (
        (_OCI_TYPE, _OCI_ACCELERATED), (_GCE_TYPE, _GCE_ACCELERATED), (_AWS_TYPE, _AWS_ACCELERATED),
    ):  # fmt: skip
        if kind.search(instance_type):
            return not accelerated.search(instance_type)
    return False


def product_chip(product: str) -> str | None:
    """``NVIDIA-H100-80GB-HBM3`` (nvidia.com/gpu.product) -> accelerator of the catalogue."""
    words = product.upper().replace("NVIDIA-", "")
    for part, chip in _PRODUCTS:
        if all(p in words for p in part.split()):
            return chip
    return None


def offered(node: Mapping[str, Any]) -> int:
    """Accelerators a Kubernetes node says it has, in ``status``; 0 where it says none."""
    status = node.get("status")
    for key in ("allocatable", "capacity"):
        table = status.get(key) if isinstance(status, Mapping) else None
        if not isinstance(table, Mapping):
            continue
        for resource in RESOURCES:
            value = str(table.get(resource, "0"))
            if value.isdigit() and int(value):
                return int(value)
    return 0


def counted(types: Iterable[str | None], what: str) -> dict[str, int]:
    """``2 m5.large`` -> how many machines of each type were left out."""
    return {f"{name or 'machines'} ({what})": n for name, n in Counter(types).items()}
