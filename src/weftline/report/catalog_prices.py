"""Prices for a reader: who sells what at what, and how old each figure is today."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from weftline.catalog import accelerator, best_price, prices
from weftline.catalog.date import today as this_day
from weftline.catalog.online import Refreshed
from weftline.catalog.prices import PRICE_TYPES, Price, date_span
from weftline.errors import InputError
from weftline.report.catalog_text import columns, fold, plural, span
from weftline.report.offers import age_words
from weftline.report.text import page

Data = dict[str, Any]


def price_rows(provider: str | None, chip: str | None, today: datetime.date | None) -> list[Data]:
    """Rows by chip, provider and way to pay; of one ``chip`` every offer, flagged ones too."""
    day = today or this_day()
    found = [p for p in prices(chip) if provider in (None, p.provider)]
    if chip is not None:
        return [_offer(p, day) for p in sorted(found, key=_cheapest_first)]
    groups: dict[tuple[str, str, str], list[Price]] = {}
    for p in found:
        groups.setdefault((p.accelerator or p.listed_as, p.provider, p.price_type), []).append(p)
    return [_group(name, group, day) for name, group in sorted(groups.items())]


def _cheapest_first(p: Price) -> tuple[bool, int, float]:
    return bool(p.flags), PRICE_TYPES.index(p.price_type), (p.usd_per_hour or 0.0) / p.chips


def _offer(p: Price, day: datetime.date) -> Data:
    return {
        "accelerator": p.accelerator,
        "provider": p.provider,
        "instance": p.instance,
        "region": p.region,
        "price_type": p.price_type,
        "usd_per_chip_hour": None if p.usd_per_hour is None else p.usd_per_chip_hour,
        "chips": p.chips,
        "host_included": p.host_included,
        "channel": p.channel,
        "date": p.date,
        "date_of": p.date_of,
        "age_days": p.age_days(day),
        "flags": list(p.flags),
        "note": p.note,
        "source": p.source,
    }


def _group(key: tuple[str, str, str], group: Sequence[Price], day: datetime.date) -> Data:
    sound = [p for p in group if not p.flags and p.usd_per_hour is not None]
    costs = [p.usd_per_chip_hour for p in sound]
    dated = [p for p in group if p.dated]
    newest = max(dated, key=lambda p: date_span(p.date)[1]) if dated else None
    return {
        "accelerator": key[0],
        "provider": key[1],
        "price_type": key[2],
        "rows": len(group),
        "faulty": len(group) - len(sound),
        "low_usd_per_chip_hour": min(costs, default=None),
        "high_usd_per_chip_hour": max(costs, default=None),
        "host_included": all(p.host_included for p in sound),
        "newest": "unknown" if newest is None else newest.date,
        "age_days": None if newest is None else newest.age_days(day),
    }


def list_prices(rows: Sequence[Data]) -> str:
    """``catalog list prices`` for a terminal: groups, or the offers of one chip."""
    if not rows:
        return "no price is known"
    if "flags" in rows[0]:
        return _list_offers(rows)
    total, faulty = sum(r["rows"] for r in rows), sum(r["faulty"] for r in rows)
    table = [("", "", "", "", "left", "USD per", ""),
             ("accelerator", "provider", "type", "rows", "out", "chip hour", "newest")]  # fmt: skip
    table += [
        (r["accelerator"], r["provider"], r["price_type"], str(r["rows"]), str(r["faulty"]),
         _host(span(r["low_usd_per_chip_hour"], r["high_usd_per_chip_hour"]), r), _age(r))
        for r in rows
    ]  # fmt: skip
    head = f"{total} prices; {faulty} faulty or marked rows are kept and never taken unasked"
    foot = _foot(rows)
    more = "\n\n`--chip h100` lists every offer of a chip, those left out too."
    return fold(head) + "\n\n" + columns(table, right=range(3, 5)) + foot + more


def _list_offers(rows: Sequence[Data]) -> str:
    table = [("", "", "USD per", "", ""),
             ("provider", "type", "chip hour", "age", "instance")]  # fmt: skip
    table += [
        (r["provider"], r["price_type"],
         _host("-" if r["usd_per_chip_hour"] is None else f"{r['usd_per_chip_hour']:.2f}", r),
         _age(r), _instance(r))
        for r in rows
    ]  # fmt: skip
    left = sum(bool(r["flags"]) for r in rows)
    head = (
        f"{plural(len(rows), 'price')} of {rows[0]['accelerator']}; {left} are never taken unasked"
    )
    foot = _foot(rows)
    return fold(head) + "\n\n" + columns(table, right=(2,)) + foot


def _foot(rows: Sequence[Data]) -> str:
    without = not all(r["host_included"] for r in rows)
    return "\n\n* host not included (in some rows, where a line joins several)" if without else ""


def _instance(r: Data) -> str:
    said = str(r["instance"])
    if r["region"] != "unstated":
        said += f", {r['region']}"
    if r["channel"] != "cloud":
        said += f" ({r['channel']})"
    return said + (f": {', '.join(r['flags'])}" if r["flags"] else "")


def _host(text: str, row: Data) -> str:
    return text if row["host_included"] else text + " *"


def _age(row: Data) -> str:
    if row["age_days"] is None:
        return "day unknown"
    date = str(row.get("newest", row.get("date", "")))
    vague = "" if date.count("-") == 2 else ">"
    return f"{vague}{row['age_days']} day{'' if row['age_days'] == 1 else 's'} old"


def chip_prices(name: str, today: datetime.date) -> list[Data]:
    """Of each way to pay for a chip: the price taken and the span of its offers."""
    out: list[Data] = []
    for kind in PRICE_TYPES:
        try:
            best = best_price(accelerator(name).id, kind, today=today)
        except InputError as error:
            out.append({"price_type": kind, "usd_per_chip_hour": None, "why": error.what})
            continue
        out.append(
            {
                "price_type": kind,
                "usd_per_chip_hour": best.usd_per_chip_hour,
                "low": best.low,
                "high": best.high,
                "offers": best.rows,
                "sellers": best.sellers,
                "undated": best.undated,
                "provider": best.price.provider,
                "instance": best.price.instance,
                "region": best.price.region,
                "date": best.price.date,
                "date_of": best.price.date_of,
                "age": age_words(best.price.date, today),
                "age_days": best.age_days,
                "stale": best.stale,
                "host_included": best.price.host_included,
                "source": best.price.source,
                "why": best.why,
            }
        )
    return out


def price_line(p: Mapping[str, Any]) -> str:
    """One way to pay in a line: the price taken, its age, and the span of the offers."""
    if p["usd_per_chip_hour"] is None:
        return f"{p['price_type']:<16}-"
    offers = f"{span(p['low'], p['high'])} by {plural(p['sellers'], 'seller')}"
    said = f"{p['usd_per_chip_hour']:.2f}, {p['age']}; {plural(p['offers'], 'offer')} {offers}"
    return f"{p['price_type']:<16}{said}: {p['why']}"


def refresh_data(done: Refreshed) -> Data:
    """``catalog refresh``: what was fetched, what could not be, and the file."""
    return {
        "path": str(done.path), "rows": done.rows, "faulty": done.faulty, "failed": done.failed,
    }  # fmt: skip


def refresh_text(data: Data) -> str:
    """``catalog refresh`` for a terminal."""
    total = sum(data["rows"].values())
    parts = ", ".join(f"{n} from {name}" for name, n in data["rows"].items())
    lines = [f"{total} prices: {parts}; {data['faulty']} faulty ones are never taken"]
    lines.append(f"written to {data['path']}")
    return page(lines)
