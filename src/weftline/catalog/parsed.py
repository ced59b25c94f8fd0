"""What reading a catalogue yields, and how one of its rows becomes a price."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from weftline.catalog._lookup import accelerator
from weftline.catalog.figure_rules import Figure
from weftline.catalog.findings import Finding
from weftline.catalog.price_rules import PricedRow
from weftline.catalog.prices import Channel, DateOf, Price, PriceType
from weftline.errors import UnknownNameError
from weftline.spec.located import Located


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


def chip_id(name: str) -> str:
    """The catalogue's id for a chip as people write it; empty where there is none."""
    try:
        return accelerator(name).id
    except UnknownNameError:
        return ""


def price_of(
    row: Mapping[str, str], *, chip: str, name: str, chips: int, cost: float | None
) -> Price:
    """A price from the fields of a row that has been checked."""
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
        host_usd_per_hour=number(row.get("host_usd_per_hour", "")),
        channel=cast("Channel", row.get("channel") or "cloud"),
        date_of=cast("DateOf", row.get("date_of") or "price"),
        per_chip=row.get("per_chip") == "yes",
        host_included=row.get("host_included") != "no",
        nvme_gb=row.get("nvme_gb", ""),
        network_gbps=number(row.get("network_gbps", "")),
        source=row.get("source", ""),
        flags=tuple(row.get("flags", "").split()),
        note=row.get("note", ""),
    )


def number(text: str) -> float | None:
    """A finite number, or None where the text is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
