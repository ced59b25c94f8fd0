"""SkyPilot's catalogue: the ``vms.csv`` of every seller it knows (Apache-2.0).

One row gives on-demand and spot, and the memory inside ``GpuInfo``. Google's chips stand apart from
their machines, which have rows of their own: the two are added. Names of chips say the form factor
or not, by seller; where neither the name, the machine nor the seller does, the chip stays unknown.
"""

from __future__ import annotations

import ast
import csv
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from weftline.catalog.figure_rules import Figure
from weftline.catalog.findings import finding
from weftline.catalog.parsed import Parsed, chip_id, number, price_of
from weftline.catalog.price_rules import PricedRow

COLUMNS: Final = ("InstanceType", "AcceleratorName", "AcceleratorCount", "Price", "Region")
PROVIDERS: Final = (
    "aws", "azure", "gcp", "cudo", "do", "fluidstack", "hyperbolic", "hyperstack", "ibm",
    "jarvislabs", "lambda", "lium", "mithril", "nebius", "oci", "paperspace", "primeintellect",
    "runpod", "scp", "seeweb", "shadeform", "spheron", "vast", "verda", "yotta",
)  # fmt: skip
_MARKETPLACES: Final = frozenset({"vast", "lium", "mithril"})
_BROKERS: Final = frozenset({"shadeform", "primeintellect", "spheron", "yotta"})
# Where a plain `H100` or `A100` is the SXM module, and where it is the PCIe card.
_SXM_SELLERS: Final = frozenset({"aws", "azure", "gcp", "lambda", "nebius", "oci", "verda", "do"})
_PCIE_SELLERS: Final = frozenset({"runpod"})
# By family: the chip by form factor. A plain A100 is the 40 GB one in this catalogue.
_FORMS: Final[tuple[tuple[str, Mapping[str, str]], ...]] = (
    (r"a100-?80", {"sxm": "a100-80-sxm", "pcie": "a100-80-pcie"}),
    (r"a100", {"sxm": "a100-40-sxm", "pcie": "a100-40-pcie"}),
    (r"h100", {"sxm": "h100-sxm", "pcie": "h100-pcie", "nvl": "h100-nvl"}),
    (r"h200", {"sxm": "h200-sxm", "nvl": "h200-nvl", "plain": "h200-sxm"}),
    (r"v100-?32", {"sxm": "v100-32-sxm"}),
    (r"v100", {"sxm": "v100-16-sxm"}),
)
_GCP_HOSTS: Final = {
    "a100": "a2-highgpu-{}g", "a100-80gb": "a2-ultragpu-{}g", "h100": "a3-highgpu-{}g",
    "h100-mega": "a3-megagpu-{}g", "h200": "a3-ultragpu-{}g", "b200": "a4-highgpu-{}g",
}  # fmt: skip
"""The only machine each chip of Google's can be had in, by count; others choose among many."""
_Hosts = dict[tuple[str, str], tuple[float | None, float | None]]


def parse_vms(reader: csv.DictReader[str], name: str, date: str) -> Parsed:
    """Read one ``vms.csv``; ``date`` is the day its prices are of, or ``unknown``."""
    out = Parsed(name=name)
    rows = [({k: (v or "").strip() for k, v in raw.items() if k}, reader.line_num)
            for raw in reader]  # fmt: skip
    hosts = _hosts(row for row, _ in rows)
    for row, line in rows:
        _add_row(out, row, f"{name}:{line}", date, hosts)
    return out


def provider_of(name: str) -> str:
    """The provider a catalogue file is about, from its path: ``catalogs/v9/aws/vms.csv`` -> aws."""
    parts = re.split(r"[/\\_.-]", name.lower())
    return next((p for p in parts if p in PROVIDERS), "unknown")


def _hosts(rows: Any) -> _Hosts:
    """On-demand and spot price of machines without a chip, by machine and region."""
    return {
        (row["InstanceType"], row["Region"]): (
            number(row.get("Price", "")), number(row.get("SpotPrice", "")),
        )
        for row in rows
        if row["InstanceType"] and not row["AcceleratorName"]
    }  # fmt: skip


def _add_row(out: Parsed, row: Mapping[str, str], where: str, date: str, hosts: _Hosts) -> None:
    listed, count = row["AcceleratorName"], number(row["AcceleratorCount"])
    if not listed or not count or count < 1:
        out.skipped += 1
        return
    provider = provider_of(out.name)
    chip = skypilot_chip(listed, provider, row["InstanceType"])
    chips = chips_of(listed, int(count))
    # GCP lists chips of virtual machines apart from the machine; TPUs come with theirs.
    alone = not row["InstanceType"] and not chip.startswith("tpu")
    machine = _GCP_HOSTS.get(listed.lower(), "").format(chips) if alone else ""
    shared = {
        "date": date,
        "date_of": "file",
        "provider": provider,
        "instance": row["InstanceType"] or machine or listed,
        "region": row["Region"] or "unstated",
        "zone": row.get("AvailabilityZone", ""),
        "source": "skypilot",
        "channel": _channel(provider, row["InstanceType"]),
    }
    for n, (column, kind) in enumerate((("Price", "on-demand"), ("SpotPrice", "spot"))):
        text = row.get(column, "")
        cost = number(text)
        # A spot price of nothing is a seller without a spot market.
        if kind == "spot" and (not text or cost == 0):
            continue
        if text and cost is None:
            message = f"{listed}: `{text}` is not a number"
            out.findings.append(finding("not-readable", where, message, column))
            continue
        host = hosts.get((machine, row["Region"]), (None, None))[n]
        fields = {**shared, "price_type": kind, "host_included": "no" if alone else "yes"}
        if host is not None and cost is not None:
            # Zero is Google's way to say that the chip's price is the whole machine's.
            cost += host
            fields |= {"host_included": "yes", "host_usd_per_hour": repr(host) if host else ""}
        price = price_of(fields, chip=chip, name=listed, chips=chips, cost=cost)
        out.prices.append(PricedRow(price=price, where=where))
    out.figures.extend(_gpu_memory(row.get("GpuInfo") or row.get("GPUInfo", ""), chip, listed,
                                   where))  # fmt: skip


def _channel(provider: str, instance: str) -> str:
    if provider in _MARKETPLACES or "community" in instance.lower():
        return "marketplace"
    return "broker" if provider in _BROKERS else "cloud"


def skypilot_chip(listed: str, provider: str, instance: str) -> str:
    """The catalogue's id of a chip as a seller lists it; empty where its form stays open."""
    plain = listed.strip().lower().replace("_", "-")
    tpu = re.fullmatch(r"tpu-(v\d+(?:lite)?[a-z]*?)(?:pod)?-\d+", plain)
    if tpu:
        return chip_id("tpu-" + tpu[1].replace("v5lite", "v5e"))
    for family, forms in _FORMS:
        if re.match(family, plain):
            return forms.get(_form(plain, provider, instance), "")
    return chip_id(re.sub(r"^(rtx)-?(pro)?-?(\d)", r"\1-\2-\3", plain).replace("--", "-"))


def _form(plain: str, provider: str, instance: str) -> str:
    text = f"{plain} {instance.lower()}"
    if "pci" in text:
        return "pcie"
    if "sxm" in text or "hgx" in text or "mega" in plain:
        return "sxm"
    if re.search(r"nvl(?!ink)", text) or re.match(r"standard_nc\d+\w*_h100", instance.lower()):
        return "nvl"
    if re.match(r"standard_nc\d+\w*_a100", instance.lower()):
        return "pcie"
    if provider in _PCIE_SELLERS and not plain.startswith("h200"):
        return "pcie"
    return "sxm" if provider in _SXM_SELLERS else "plain"


def chips_of(listed: str, count: int) -> int:
    """``tpu-v4-N`` and ``tpu-v5p-N`` count TensorCores, two a chip; other slices count chips."""
    cores = re.fullmatch(r"tpu-(v2|v3|v4|v5p)-(\d+)", listed.lower())
    if cores:
        return max(1, int(cores[2]) // 2) * count
    slices = re.fullmatch(r"tpu-(?:v5litepod|v6e)-(\d+)", listed.lower())
    return int(slices[1]) * count if slices else count


def _gpu_memory(text: str, chip: str, listed: str, where: str) -> Sequence[Figure]:
    try:
        # Some files write JSON's null inside Python's quotes.
        info: Any = ast.literal_eval(re.sub(r"\bnull\b", "None", text)) if text else {}
        size = float(info["Gpus"][0]["MemoryInfo"]["SizeInMiB"])
    except (ValueError, SyntaxError, KeyError, IndexError, TypeError, MemoryError, RecursionError):
        return ()
    if not chip or size <= 0:
        return ()
    return (
        Figure(accelerator=chip, listed_as=listed, field="memory", value=size, unit="MiB",
               kind="unstated", where=where),
    )  # fmt: skip
