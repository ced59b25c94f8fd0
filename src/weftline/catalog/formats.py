"""The catalogues ``validate`` can read, each turned into priced rows, figures and facts.

* ours: YAML or JSON with ``sources``, ``accelerators``, ``fabrics``, ``prices`` and ``figures``
  (docs/catalog.md), or a CSV with the columns of the shipped ``prices.csv``;
* SkyPilot's ``vms.csv``: InstanceType, AcceleratorName, AcceleratorCount, MemoryGiB, Price,
  SpotPrice, Region, AvailabilityZone, GpuInfo;
* a table of grid carbon by cloud region with the columns provider, region, impact.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Final

from weftline.catalog.figure_rules import Figure
from weftline.catalog.findings import finding
from weftline.catalog.parsed import Parsed, chip_id, number, price_of
from weftline.catalog.price_rules import PricedRow
from weftline.catalog.prices import CHANNELS, COLUMNS, DATES_OF, DAY_UNKNOWN, PRICE_TYPES
from weftline.catalog.schema_rules import good_date, positive
from weftline.catalog.skypilot import COLUMNS as SKYPILOT_COLUMNS
from weftline.catalog.skypilot import parse_vms, skypilot_chip
from weftline.errors import InputError
from weftline.spec.located import Located, read_located

GRID_COLUMNS: Final = ("provider", "region", "impact")
NEEDED_COLUMNS: Final = (
    "date", "provider", "instance", "accelerator", "chips", "region", "price_type", "usd_per_hour",
)  # fmt: skip


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
        return parse_vms(reader, name, date)
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
    known = _id_of(chip) if chip else ""
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
    chips, cost = number(row.get("chips", "")), number(row.get("usd_per_hour", ""))
    if row.get("chips") and (chips is None or chips < 1 or chips != int(chips)):
        text = f"{label}: `{row['chips']}` chips"
        out.findings.append(finding("not-readable", where, text, "a whole number is needed"))
    if row.get("usd_per_hour") and cost is None:
        text = f"{label}: `{row['usd_per_hour']}` is not a number"
        out.findings.append(finding("not-readable", where, text, "US dollars an hour"))
    if row.get("host_usd_per_hour") and number(row["host_usd_per_hour"]) is None:
        text = f"{label}: host `{row['host_usd_per_hour']}` is not a number"
        out.findings.append(finding("not-readable", where, text, "US dollars an hour"))
    if len(out.findings) == before:
        price = price_of(row, chip=known, name=name, chips=int(chips or 1), cost=cost)
        out.prices.append(PricedRow(price=price, where=where))


def _id_of(name: str) -> str:
    """Our id of a chip as our catalogue, or SkyPilot's of a seller of SXM modules, names it."""
    return chip_id(name) or skypilot_chip(name, "aws", "")


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
    chip = _id_of(str(name))
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
