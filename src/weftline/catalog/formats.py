"""The catalogues ``validate`` can read, each turned into priced rows, figures and facts.

* ours: YAML or JSON with ``sources``, ``accelerators``, ``fabrics``, ``prices`` and ``figures``
  (docs/catalog.md), or a CSV with the columns of the shipped ``prices.csv``;
* SkyPilot's ``vms.csv``: InstanceType, AcceleratorName, AcceleratorCount, MemoryGiB, Price,
  SpotPrice, Region, AvailabilityZone, GpuInfo;
* a table of grid carbon by cloud region with the columns provider, region, impact.
"""

from __future__ import annotations

import ast
import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from weftline.catalog._lookup import accelerator
from weftline.catalog.figure_rules import Figure
from weftline.catalog.findings import Finding, finding
from weftline.catalog.located import Located, read_located
from weftline.catalog.price_rules import PricedRow
from weftline.catalog.prices import (
    CHANNELS,
    COLUMNS,
    DATES_OF,
    DAY_UNKNOWN,
    PRICE_TYPES,
    Channel,
    DateOf,
    Price,
    PriceType,
)
from weftline.catalog.schema_rules import good_date, positive
from weftline.errors import InputError, UnknownNameError

SKYPILOT_COLUMNS: Final = ("InstanceType", "AcceleratorName", "AcceleratorCount", "Price", "Region")
GRID_COLUMNS: Final = ("provider", "region", "impact")
NEEDED_COLUMNS: Final = (
    "date", "provider", "instance", "accelerator", "chips", "region", "price_type", "usd_per_hour",
)  # fmt: skip
# Names of other catalogues that are none of ours; SkyPilot's plain A100 is the 40 GB one.
_SKYPILOT_NAMES: Final = {
    "a100": "a100-40-sxm", "h100-mega": "h100-sxm", "trainium": "trainium1",
    "inferentia": "inferentia1", "v100": "", "v100-32gb": "v100-32-sxm", "gh200": "gh200",
}  # fmt: skip


@dataclass(slots=True, kw_only=True)
class Parsed:
    """What one file holds, and what was found wrong while reading it."""

    name: str
    document: Located | None = None
    prices: list[PricedRow] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    grid_providers: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    skipped: int = 0
    """Rows that are none of ours to judge (machines without accelerators)."""


def parse(text: str, name: str, *, date: str) -> Parsed:
    """Read a catalogue; ``date`` stands in where the format has none (SkyPilot's).

    Raises InputError where the format is not known; faults of single rows become findings.
    """
    if not name.lower().endswith(".csv"):
        return _parse_document(text, name)
    reader = csv.DictReader(io.StringIO(text, newline=None))
    try:
        return _parse_csv(reader, name, date)
    except csv.Error as error:
        raise InputError(f"not CSV: {error}", where=f"{name}:{reader.line_num + 1}") from error


def _parse_csv(reader: csv.DictReader[str], name: str, date: str) -> Parsed:
    columns = tuple(c.strip() for c in reader.fieldnames or ())
    reader.fieldnames = list(columns)
    if set(SKYPILOT_COLUMNS) <= set(columns):
        return _parse_skypilot(reader, name, date)
    if set(NEEDED_COLUMNS) <= set(columns):
        return _parse_prices(reader, name)
    if set(GRID_COLUMNS) <= set(columns):
        rows = list(reader)
        return Parsed(name=name, grid_providers=[r["provider"] or "" for r in rows])
    ours = [c for c in NEEDED_COLUMNS if c not in columns]
    raise InputError(
        "these columns are of no catalogue weftline knows",
        where=f"{name}:1",
        hint=f"ours lacks {', '.join(ours)}; SkyPilot's begins {', '.join(SKYPILOT_COLUMNS)}",
    )


def chip_id(name: str) -> str:
    """The catalogue's id for another catalogue's name; empty where there is none."""
    plain = name.strip().lower()
    if plain in _SKYPILOT_NAMES:
        return _SKYPILOT_NAMES[plain]
    tpu = re.fullmatch(r"tpu-(v\d+(?:lite)?[a-z]*?)(?:pod)?-\d+", plain)
    if tpu:
        plain = "tpu-" + tpu[1].replace("v5lite", "v5e")
    try:
        return accelerator(plain).id
    except UnknownNameError:
        return ""


def _parse_document(text: str, name: str) -> Parsed:
    out = Parsed(name=name, document=read_located(text, name))
    doc = out.document
    if doc is None or not isinstance(doc.value, dict):
        raise InputError(
            "a catalogue is a mapping",
            where=f"{name}:1",
            hint="with `sources`, `accelerators`, `fabrics`, `prices` or `figures`",
        )
    for record in doc.items("prices"):
        if isinstance(record.value, dict):
            row = {k: "" if v is None else str(v) for k, v in record.plain().items()}
            _add_price(out, row, f"{name}:{record.line}")
        else:
            where = f"{name}:{record.line}"
            out.findings.append(finding("not-readable", where, "a price is a mapping", ""))
    for record in doc.items("figures"):
        _add_figure(out, record, f"{name}:{record.line}")
    return out


def _parse_prices(reader: csv.DictReader[str], name: str) -> Parsed:
    out = Parsed(name=name)
    for row in reader:
        _add_price(out, {k: v or "" for k, v in row.items() if k}, f"{name}:{reader.line_num}")
    return out


def _add_price(out: Parsed, row: Mapping[str, str], where: str) -> None:
    before = len(out.findings)
    chip = row.get("accelerator", "")
    known = chip_id(chip) if chip else ""
    name = row.get("listed_as") or chip
    label = f"{row.get('provider', '')} {row.get('instance', '')}".strip() or "price"
    for key in row:
        if key not in COLUMNS:
            out.findings.append(
                finding("unknown-key", where, f"{label}: unknown field `{key}`", "")
            )
    for key in NEEDED_COLUMNS:
        if not row.get(key) and key not in ("usd_per_hour", "accelerator", "date"):
            out.findings.append(finding("missing-key", where, f"{label} has no `{key}`", ""))
    if row.get("date") != DAY_UNKNOWN and not good_date(row.get("date", "")):
        hint = "write 2026-11-21, 2026-11, 2026 or unknown"
        text = f"{label}: `{row.get('date', '')}` is not a date"
        out.findings.append(finding("date-missing", where, text, "", hint=hint))
    if row.get("price_type") and row["price_type"] not in PRICE_TYPES:
        hint = f"one of {', '.join(PRICE_TYPES)}"
        text = f"{label}: price type `{row['price_type']}`"
        out.findings.append(finding("not-readable", where, text, "", hint=hint))
    for key, allowed in (("channel", CHANNELS), ("date_of", DATES_OF)):
        if row.get(key) and row[key] not in allowed:
            hint = f"one of {', '.join(allowed)}"
            text = f"{label}: {key} `{row[key]}`"
            out.findings.append(finding("not-readable", where, text, "", hint=hint))
    if chip and not known:
        out.findings.append(
            finding("unknown-accelerator", where, f"{label}: `{chip}` is not in the catalogue", "")
        )
        before += 1
    chips, cost = _number(row.get("chips", "")), _number(row.get("usd_per_hour", ""))
    if row.get("chips") and (chips is None or chips < 1 or chips != int(chips)):
        text = f"{label}: `{row['chips']}` chips"
        out.findings.append(finding("not-readable", where, text, "a whole number is needed"))
    if row.get("usd_per_hour") and cost is None:
        text = f"{label}: `{row['usd_per_hour']}` is not a number"
        out.findings.append(finding("not-readable", where, text, "US dollars an hour"))
    if row.get("host_usd_per_hour") and _number(row["host_usd_per_hour"]) is None:
        text = f"{label}: host `{row['host_usd_per_hour']}` is not a number"
        out.findings.append(finding("not-readable", where, text, "US dollars an hour"))
    if len(out.findings) == before:
        price = _price(row, chip=known, name=name, chips=int(chips or 1), cost=cost)
        out.prices.append(PricedRow(price=price, where=where))


def _price(
    row: Mapping[str, str], *, chip: str, name: str, chips: int, cost: float | None
) -> Price:
    return Price(
        date=row["date"],
        provider=row["provider"].lower(),
        instance=row["instance"],
        accelerator=chip,
        listed_as=name,
        chips=chips,
        region=row["region"],
        zone=row.get("zone", ""),
        price_type=cast("PriceType", row["price_type"]),
        usd_per_hour=cost,
        host_usd_per_hour=_number(row.get("host_usd_per_hour", "")),
        channel=cast("Channel", row.get("channel") or "cloud"),
        date_of=cast("DateOf", row.get("date_of") or "price"),
        per_chip=row.get("per_chip") == "yes",
        host_included=row.get("host_included") != "no",
        nvme_gb=row.get("nvme_gb", ""),
        network_gbps=_number(row.get("network_gbps", "")),
        source=row.get("source", ""),
        flags=tuple(row.get("flags", "").split()),
        note=row.get("note", ""),
    )


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _add_figure(out: Parsed, record: Located, where: str) -> None:
    from weftline.catalog.facts import KINDS, UNITS

    name, value, unit = (record.get(k) for k in ("accelerator", "value", "unit"))
    good = isinstance(value, (int, float)) and isinstance(unit, str) and unit in UNITS
    if not name or not good or not record.get("field"):
        text = "a figure needs `accelerator`, `field`, `value` and a known `unit`"
        out.findings.append(finding("missing-key", where, text, repr(record.plain())))
        return
    if not positive(value):
        out.findings.append(finding("not-positive", where, f"{name} is {value}", ""))
        return
    kind = record.get("kind") or "unstated"
    if kind not in KINDS:
        out.findings.append(finding("label-missing", where, f"{name}: kind `{kind}`", ""))
        return
    chip = chip_id(str(name))
    if not chip:
        text = f"`{name}` is not in the catalogue"
        out.findings.append(finding("unknown-accelerator", where, text, ""))
    out.figures.append(
        Figure(
            accelerator=chip,
            listed_as=str(name),
            field=str(record.get("field")),
            value=float(value),
            unit=str(unit),
            kind=kind,
            where=where,
        )
    )


def _parse_skypilot(reader: csv.DictReader[str], name: str, date: str) -> Parsed:
    """SkyPilot gives on-demand and spot in one row and the memory inside ``GpuInfo``."""
    out = Parsed(name=name)
    for raw in reader:
        row = {k: (v or "").strip() for k, v in raw.items() if k}
        where = f"{name}:{reader.line_num}"
        listed, count = row["AcceleratorName"], _number(row["AcceleratorCount"])
        if not listed or not count or count < 1:
            out.skipped += 1
            continue
        chip = chip_id(listed)
        chips = _skypilot_chips(listed, int(count))
        shared = {
            "date": date,
            "provider": provider_of(name),
            "instance": row["InstanceType"] or listed,
            "region": row["Region"],
            "zone": row.get("AvailabilityZone", ""),
            "source": "skypilot",
            # GCP lists chips of virtual machines apart from the machine; TPUs come with theirs.
            "host_included": "yes" if row["InstanceType"] or chip.startswith("tpu") else "no",
        }
        for column, kind in (("Price", "on-demand"), ("SpotPrice", "spot")):
            text = row.get(column, "")
            cost = _number(text)
            if kind == "spot" and not text:
                continue
            if text and cost is None:
                message = f"{listed}: `{text}` is not a number"
                out.findings.append(finding("not-readable", where, message, column))
                continue
            fields = {**shared, "price_type": kind}
            price = _price(fields, chip=chip, name=listed, chips=chips, cost=cost)
            out.prices.append(PricedRow(price=price, where=where))
        out.figures.extend(
            _gpu_memory(row.get("GpuInfo") or row.get("GPUInfo", ""), chip, listed, where)
        )
    return out


def provider_of(name: str) -> str:
    """The provider a catalogue file is about, from its path: ``catalogs/v9/aws/vms.csv`` -> aws."""
    known = ("aws", "gcp", "azure", "nebius", "lambda", "oci", "runpod", "fluidstack", "cudo")
    parts = re.split(r"[/\\_.-]", name.lower())
    return next((p for p in parts if p in known), "unknown")


def _skypilot_chips(listed: str, count: int) -> int:
    """``tpu-v4-N`` and ``tpu-v5p-N`` count TensorCores, two a chip; other slices count chips."""
    cores = re.fullmatch(r"tpu-(v2|v3|v4|v5p)-(\d+)", listed.lower())
    if cores:
        return max(1, int(cores[2]) // 2) * count
    slices = re.fullmatch(r"tpu-(?:v5litepod|v6e)-(\d+)", listed.lower())
    return int(slices[1]) * count if slices else count


def _gpu_memory(text: str, chip: str, listed: str, where: str) -> Sequence[Figure]:
    try:
        info: Any = ast.literal_eval(text) if text else {}
        gpu = info["Gpus"][0]
        size = float(gpu["MemoryInfo"]["SizeInMiB"])
    except (ValueError, SyntaxError, KeyError, IndexError, TypeError, MemoryError, RecursionError):
        return ()
    if not chip or size <= 0:
        return ()
    return (
        Figure(
            accelerator=chip,
            listed_as=listed,
            field="memory",
            value=size,
            unit="MiB",
            kind="unstated",
            where=where,
        ),
    )
