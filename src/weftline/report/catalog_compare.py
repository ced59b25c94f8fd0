"""Chips side by side, as a buyer would table them: what each does, how it is sold, how surely.

The rows are built once as data; the table of a terminal, Markdown, CSV and JSON print those rows.
A figure without a source carries a question mark wherever it is shown.
"""

from __future__ import annotations

import csv
import datetime
import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

from weftline.catalog import network_of, sold_only_as, unconfirmed_of, ways_to_pay
from weftline.catalog.accelerators import DTYPES, Accelerator
from weftline.catalog.confirmed import field_words
from weftline.catalog.offers import PriceChoice
from weftline.catalog.prices import PRICE_TYPES, PriceType, prices
from weftline.report.catalog_text import num, plural, span
from weftline.report.offers import age_words
from weftline.report.text import page, width

Format = Literal["table", "markdown", "json", "csv"]
Data = dict[str, Any]
Cell = dict[str, Any]
Software = Mapping[str, tuple[str, ...]]
"""What runs, by kind: ``training`` and ``serving``."""

_LABEL: Final = 19
_LEAST: Final = 18
"""Columns below which a chip's cells would be a thread of words."""
_DISAGREE: Final = 1.02
"""Sources that lie further apart than this are named as in dispute."""


def compare_data(
    chips: Sequence[Accelerator], software: Mapping[str, Software], today: datetime.date, *,
    own_prices: Mapping[str, float] | None = None,
) -> Data:  # fmt: skip
    """``catalog compare``: rows of one property each, with a cell for each chip.

    A cell holds ``text`` as shown and, of a figure, ``value`` in SI (USD per chip hour of a
    price), ``status`` and ``source``. Rows that no chip has a cell in are left out.
    ``own_prices`` are the user's, USD per chip hour, by chip.
    """
    rows: list[Data] = []
    ways = {a.id: ways_to_pay(a.sold_as, today=today) for a in chips}

    def add(group: str, what: str, unit: str, cells: Mapping[str, Cell | None]) -> None:
        if any(cells.values()):
            filled = {k: c or {"text": "-"} for k, c in cells.items()}
            rows.append({"group": group, "what": what, "unit": unit, "cells": filled})

    for group, what, unit, field, scale in _figures():
        add(group, what, unit, {a.id: _figure(a, field, scale) for a in chips})
        if field == "scale_up_domain":
            add("links", "scale-up wiring", "", {a.id: _said(a.topology) for a in chips})
        if field == "scale_out":
            sold = {a.id: _networks_sold(a) for a in chips}
            add("links", "network as sold", "Gbit/s a chip", sold)
    for kind in ("training", "serving"):
        cells = {a.id: _said(", ".join(software[a.id][kind]) or "none planned for") for a in chips}
        add("software", kind, "", cells)
    add("supply", "state", "", {a.id: _said(_supply(a)) for a in chips})
    add("supply", "sold as", "", {a.id: _said(_sold(a, ways[a.id], today)) for a in chips})
    own = own_prices or {}
    given = {a.id: own.get(a.id, own.get(a.sold_as)) for a in chips}
    add("price", "your own", "USD a chip-hour", {
        k: None if usd is None else {"text": num(usd), "value": usd} for k, usd in given.items()
    })  # fmt: skip
    for pay in PRICE_TYPES:
        add("price", pay, "USD a chip-hour", {a.id: _price(ways[a.id], pay, today) for a in chips})
    add(
        "price",
        "16-bit peak",
        "USD a PFLOP/s-hour",
        {a.id: _per_flop(a, ways[a.id]) for a in chips},
    )
    add("sureness", "unconfirmed", "", {a.id: _said(_fields(unconfirmed_of(a))) for a in chips})
    add("sureness", "sources disagree", "", {a.id: _said(_fields(_disputed(a))) for a in chips})
    return {"chips": [a.id for a in chips], "date": today.isoformat(), "rows": rows}


def _figures() -> Iterator[tuple[str, str, str, str, float]]:
    """Group, label, unit, field and the SI value of that unit."""
    for dtype in DTYPES:
        unit = "TOP/s" if dtype == "int8" else "TFLOP/s"
        yield "compute", f"{dtype} dense", unit, f"peak.{dtype}", 1e12
    yield "memory", "memory", "GB", "memory", 1e9
    yield "memory", "memory bandwidth", "TB/s", "memory_bandwidth", 1e12
    yield "links", "scale-up", "GB/s one way", "scale_up", 1e9
    yield "links", "scale-up domain", "chips", "scale_up_domain", 1.0
    yield "links", "network", "Gbit/s a chip", "scale_out", 1.25e8
    yield "host", "chips a host", "chips", "chips_per_host", 1.0
    yield "host", "power", "W", "tdp", 1.0


def _figure(a: Accelerator, field: str, scale: float) -> Cell | None:
    found = a.choice(field)
    if found is None:
        return None
    unsure = found.fact.status == "unconfirmed"
    return {
        "text": num(found.value, scale) + ("?" if unsure else ""), "value": found.value,
        "status": found.fact.status, "source": found.fact.source,
    }  # fmt: skip


def _said(text: str) -> Cell | None:
    return {"text": text} if text else None


def _networks_sold(a: Accelerator) -> Cell | None:
    """The span of what products that name their network give each chip."""
    rates = [
        n.bytes_per_s / 1.25e8
        for p in prices(a.sold_as)
        if p.network_bytes_per_s is not None and (n := network_of(a, p)) is not None
    ]
    if not rates:
        return None
    low, high = (f"{x:.3g}" for x in (min(rates), max(rates)))
    return {"text": low if low == high else f"{low} to {high}", "value": min(rates) * 1.25e8}


def _supply(a: Accelerator) -> str:
    place = "" if a.use == "data-centre" else f", {a.use}"
    return f"{a.availability}{place}, launched {a.launch}"


def _sold(a: Accelerator, ways: Mapping[PriceType, PriceChoice], today: datetime.date) -> str:
    if not ways:
        return "no price known"
    only = sold_only_as(a.sold_as, today=today)
    return f"only {only}" if only else ", ".join(w.replace("-", " ") for w in ways)


def _price(
    ways: Mapping[PriceType, PriceChoice], pay: PriceType, today: datetime.date
) -> Cell | None:
    best = ways.get(pay)
    if best is None:
        return None
    row = best.price
    host = "" if row.host_included else ", host not included"
    text = f"{best.usd_per_chip_hour:.2f} {row.provider}, {age_words(row.date, today)}{host}"
    if best.rows > 1:
        text += f"; {span(best.low, best.high)} in {plural(best.rows, 'offer')}"
    return {
        "text": text, "value": best.usd_per_chip_hour, "low": best.low, "high": best.high,
        "offers": best.rows, "provider": row.provider, "instance": row.instance, "date": row.date,
        "age_days": best.age_days, "host_included": row.host_included, "source": row.source,
    }  # fmt: skip


def _per_flop(a: Accelerator, ways: Mapping[PriceType, PriceChoice]) -> Cell | None:
    """On-demand dollars for one PFLOP/s of dense 16-bit peak for an hour."""
    peak = a.peak_flops("bf16") or a.peak_flops("fp16")
    best = ways.get("on-demand")
    if peak is None or best is None:
        return None
    usd = best.usd_per_chip_hour / (peak / 1e15)
    return {"text": f"{usd:.2f}", "value": usd}


def _disputed(a: Accelerator) -> tuple[str, ...]:
    found = ((f, a.choice(f)) for f in a.fields())
    return tuple(f for f, c in found if c is not None and c.low > 0 and c.high > c.low * _DISAGREE)


def _fields(names: Sequence[str]) -> str:
    return ", ".join(field_words(n) for n in names)


# -- formats


def compare_text(data: Data, form: Format) -> str:
    """The rows as a terminal table, Markdown or CSV."""
    if form == "csv":
        return _csv(data)
    return _markdown(data) if form == "markdown" else _table(data)


def _texts(data: Data, chips: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """A label with its unit and the chips' texts; a group's name before its first row is empty."""
    for row in data["rows"]:
        unit = f", {row['unit']}" if row["unit"] else ""
        yield row["what"] + unit, [row["cells"][c]["text"] for c in chips]


def _csv(data: Data) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["group", "what", "unit", *data["chips"]])
    for row in data["rows"]:
        cells = [row["cells"][c]["text"] for c in data["chips"]]
        writer.writerow([row["group"], row["what"], row["unit"], *cells])
    return out.getvalue().rstrip("\n")


def _markdown(data: Data) -> str:
    lines = [["", *data["chips"]], ["---"] * (1 + len(data["chips"]))]
    lines += [[label, *cells] for label, cells in _texts(data, data["chips"])]
    body = ["| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines]
    return "\n".join([*body, "", _foot(data)])


def _table(data: Data) -> str:
    chips = data["chips"]
    most = max(1, (width() - _LABEL) // (_LEAST + 2))
    blocks = -(-len(chips) // most)
    each = -(-len(chips) // blocks)
    column = max(_LEAST, (width() - _LABEL) // each - 2)
    shown = [_block(data, chips[i : i + each], column) for i in range(0, len(chips), each)]
    return page("\n\n".join([*shown, textwrap.fill(_foot(data), width())]).split("\n"))


def _block(data: Data, chips: Sequence[str], column: int) -> str:
    lines = _folded("", chips, column)
    group = ""
    for row, (label, cells) in zip(data["rows"], _texts(data, chips), strict=True):
        if row["group"] != group:
            group = row["group"]
            lines += ["", group]
        lines += _folded(label, cells, column)
    return "\n".join(lines)


def _folded(label: str, cells: Sequence[str], column: int) -> list[str]:
    """One row, its cells going on below themselves; an age is never torn, so that it shows red."""
    parts = [textwrap.wrap(label, _LABEL - 2, initial_indent=" ", subsequent_indent="   ")]
    whole = (c.replace(" days old", "\u00a0days\u00a0old") for c in cells)
    parts += [[t.replace("\u00a0", " ") for t in textwrap.wrap(c, column)] or [""] for c in whole]
    deep = max(len(p) for p in parts)
    filled = [p + [""] * (deep - len(p)) for p in parts]
    wide = [_LABEL - 2, *([column] * len(cells))]
    return [
        "  ".join(text.ljust(w) for text, w in zip(line, wide, strict=True)).rstrip()
        for line in zip(*filled, strict=True)
    ]


def _foot(data: Data) -> str:
    return (
        f"Peaks are dense; prices are the ones plans take, ages as of {data['date']}; a figure "
        "with ? has no source. `weftline catalog show CHIP` gives the source of each figure."
    )
