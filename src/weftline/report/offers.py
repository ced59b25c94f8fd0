"""Prices for a reader: how old each is today, and what the other offers of the chip cost."""

from __future__ import annotations

import datetime
import re
from typing import Final

from weftline.catalog.date import today
from weftline.report.text import wrapped
from weftline.spec import Estimate, PriceQuote
from weftline.units import format_usd

_DATED: Final = re.compile(r"(?<![\w-])(\d{4}-\d{2}-\d{2})(?![\w-])(?!, \d+ days old)")


def age_words(date: str, day: datetime.date | None = None) -> str:
    """``9 days old``, ``at least 700 days old`` of a vague date, ``day unknown`` of none."""
    from weftline.catalog.prices import DAY_UNKNOWN, date_span

    if not date or date == DAY_UNKNOWN:
        return "day unknown"
    _, last, precision = date_span(date)
    age = max(0, ((day or today()) - last).days)
    return f"{'' if precision == 'day' else 'at least '}{age} day{'' if age == 1 else 's'} old"


def with_age(text: str) -> str:
    """A text that names the days of prices, each with its age behind it."""
    return _DATED.sub(lambda m: f"{m[1]}, {age_words(m[1])}", text)


def listed(basis: str) -> str:
    """``price list of 2026-09-20`` in a narrow column: ``list 71 days old``."""
    match = re.fullmatch(r"price (list|file) of (.+)", basis)
    if match is None:
        return basis
    kind, date = match.groups()
    return f"{kind}, day unknown" if date == "unknown day" else f"{kind} {age_words(date)}"


def offers_lines(quote: PriceQuote | None, chip: str, cost: Estimate | None = None) -> list[str]:
    """The span of the offers, apart from the band of the plan; nothing for a price of the user's.

    With ``cost`` also what the same plan would cost at the lowest and the highest of them.
    """
    if quote is None or not quote.offers:
        return []
    each = quote.usd_per_chip_hour
    sellers = "" if quote.sellers == 1 else f" of {quote.sellers} sellers"
    undated = f", {quote.undated} without a day" if quote.undated else ""
    many = f"{quote.offers} offer{'' if quote.offers == 1 else 's'}{sellers}{undated}"
    text = f"offers: {chip} {quote.price_type} {_span(each.low, each.high)} a chip-hour, {many}"
    if cost is not None and each.low < each.high:
        low, high = (cost.value * x / each.value for x in (each.low, each.high))
        text += f"; this plan {_span(low, high)}"
    if not quote.host_included:
        text += "; host not included"
    return wrapped(text, hang="  ")


def _span(low: float, high: float) -> str:
    return format_usd(low) if low == high else f"{format_usd(low)} to {format_usd(high)}"
