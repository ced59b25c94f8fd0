"""Offers: of all price rows of a chip, the one to count with and the span of the others.

Rows are taken in this order: dated within 90 days, dated within ``max_age_days``, undated, older;
and in each, what clouds and brokers sell before marketplaces of single machines. Of the first kind
that has a row the cheapest counts. Flagged rows are never taken unasked, averages are no offers.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from weftline.catalog.findings import MARKS
from weftline.catalog.prices import (
    PRICE_TYPES,
    Price,
    PriceType,
    check_price_type,
    date_span,
    prices,
)
from weftline.errors import InputError

ANY: Final = "any"
"""In place of a price type: the cheapest way to pay."""


RECENT_DAYS: Final = 90
"""Beyond this an older list price is no longer preferred for being low: those of 2026 rose by up to
half within a quarter (H100 of one seller: 1.90 in an undated file, 3.20 on 2026-08-26)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceChoice:
    """The price taken for a chip, and the span of the offers beside it (USD per chip hour)."""

    price: Price
    why: str
    low: float
    median: float
    high: float
    rows: int
    """How many offers the span is of: dated within the age asked for, or undated."""
    sellers: int
    """How many providers make them."""
    undated: int
    """How many of them say no day."""
    rejected: int
    """How many rows of this chip and price type were left out as faulty or marked."""
    age_days: int | None
    """None where the row taken says no day."""
    stale: bool
    """True where even the newest row is older than was asked for."""

    @property
    def usd_per_chip_hour(self) -> float:
        """US dollars for one chip for one hour."""
        return self.price.usd_per_chip_hour


def best_price(
    accelerator: str,
    price_type: str = "on-demand",
    *,
    today: datetime.date,
    max_age_days: int = 365,
    provider: str | None = None,
    region: str | None = None,
    chips_min: int = 1,
    marked: bool = False,
    billed: Callable[[Price], Price] | None = None,
) -> PriceChoice:
    """The price of one chip an hour to count with, with the span of all sound offers.

    ``price_type`` ``any`` is the cheapest way to pay, among dated ones where there are any. Of rows
    on one offer the newest counts. Left out are rows that break a rule of ``catalog validate``,
    those whose reader marked them STALE, SUSPECT or OUTLIER unless ``marked``, rows without their
    host where others have it, and instances with fewer than ``chips_min`` chips (a list price of
    one chip that is sold in machines of several sizes counts as all of them). ``billed`` turns a
    row of a list into what is paid (less a discount) before rows are compared.

    Raises InputError where no row is left, saying what is known instead. An old price is returned
    with ``stale`` set: the caller must say so.
    """
    if price_type == ANY:
        return _cheapest_way(
            accelerator, today=today, max_age_days=max_age_days, provider=provider, region=region,
            chips_min=chips_min, marked=marked, billed=billed,
        )  # fmt: skip
    kind = check_price_type(price_type)
    listed = [
        p for p in prices(accelerator, kind, provider, region)
        if p.per_chip or p.chips >= chips_min
    ]  # fmt: skip
    sound = _as_billed((p for p in listed if _takeable(p, marked=marked)), billed)
    current, fit = _in_order(sound, today, max_age_days)
    if not fit:
        raise _missing(accelerator, kind, len(listed), today, provider=provider, region=region)
    best = min(fit, key=lambda p: (p.usd_per_chip_hour, -p.chips, p.age_days(today) or 0))
    costs = [p.usd_per_chip_hour for p in current]
    stale = not _is_current(best, today, max_age_days)
    found = PriceChoice(
        price=best, why="", low=min(costs), median=_median(costs), high=max(costs),
        rows=len(current), sellers=len({p.provider for p in current}),
        undated=sum(not p.dated for p in current), rejected=len(listed) - len(sound),
        age_days=best.age_days(today), stale=stale,
    )  # fmt: skip
    return replace(found, why=_why(found, len(fit)))


def offers_to_take(
    accelerator: str, price_type: str, *, today: datetime.date, region: str | None = None,
    max_age_days: int = 365, billed: Callable[[Price], Price] | None = None,
) -> tuple[Price, ...]:  # fmt: skip
    """The sound rows of the first kind that has one: those among which the cheapest counts."""
    rows = prices(accelerator, price_type, region=region)
    sound = _as_billed((p for p in rows if _takeable(p, marked=False)), billed)
    return tuple(_in_order(sound, today, max_age_days)[1])


def ways_to_pay(accelerator: str, *, today: datetime.date) -> dict[PriceType, PriceChoice]:
    """The best price of each way to pay for a chip that has a sound row, in the usual order."""
    found: dict[PriceType, PriceChoice] = {}
    for kind in PRICE_TYPES:
        try:
            found[kind] = best_price(accelerator, kind, today=today)
        except InputError:
            continue
    return found


def sold_only_as(accelerator: str, *, today: datetime.date) -> str:
    """``capacity block, spot`` for a chip that no one sells on demand; empty for others."""
    ways = ways_to_pay(accelerator, today=today)
    return "" if "on-demand" in ways else ", ".join(w.replace("-", " ") for w in ways)


def _cheapest_way(
    accelerator: str, *, today: datetime.date, max_age_days: int, provider: str | None,
    region: str | None, chips_min: int, marked: bool, billed: Callable[[Price], Price] | None,
) -> PriceChoice:  # fmt: skip
    found: list[PriceChoice] = []
    missing: InputError | None = None
    for kind in PRICE_TYPES:
        try:
            found.append(
                best_price(
                    accelerator, kind, today=today, max_age_days=max_age_days, provider=provider,
                    region=region, chips_min=chips_min, marked=marked, billed=billed,
                )
            )  # fmt: skip
        except InputError as error:
            missing = error
    if not found:
        where = " ".join(x for x in (provider, region) if x)
        raise InputError(
            f"no price of any kind for `{accelerator}`{f' at {where}' if where else ''}",
            hint=missing.hint if missing else None,
        )
    return min(
        found, key=lambda c: (taken_order(c.price, today, max_age_days), c.price.usd_per_chip_hour)
    )


def taken_order(p: Price, today: datetime.date, max_age_days: int = 365) -> tuple[int, bool]:
    """How early a row is taken: see the head of this file."""
    age = p.age_days(today)
    if age is None:
        kind = 2
    elif age > max_age_days:
        kind = 3
    else:
        kind = 0 if age <= RECENT_DAYS else 1
    return kind, p.channel == "marketplace"


def _as_billed(rows: Iterable[Price], billed: Callable[[Price], Price] | None) -> list[Price]:
    return list(rows) if billed is None else [billed(p) for p in rows]


def _in_order(
    sound: Sequence[Price], today: datetime.date, max_age_days: int
) -> tuple[list[Price], list[Price]]:
    """The rows young enough to span, and those of the first kind that has one, to take from."""
    whole = _newest_of_each([p for p in sound if p.host_included] or sound)
    if not whole:
        return [], []
    current = [p for p in whole if _is_current(p, today, max_age_days)]
    first = min(taken_order(p, today, max_age_days) for p in whole)
    fit = [p for p in whole if taken_order(p, today, max_age_days) == first]
    if not current:
        # Stale rows serve only where nothing newer exists, and then the newest of them.
        newest = min(p.age_days(today) or 0 for p in fit)
        fit = current = [p for p in fit if p.age_days(today) == newest]
    return current, fit


def _takeable(p: Price, *, marked: bool) -> bool:
    flags = set(p.flags) - MARKS if marked else set(p.flags)
    return p.usd_per_hour is not None and not flags


def _is_current(p: Price, today: datetime.date, max_age_days: int) -> bool:
    age = p.age_days(today)
    return age is None or age <= max_age_days


def _newest_of_each(rows: Sequence[Price]) -> list[Price]:
    """Of rows on the same offer only the newest: a price that has changed is no price."""
    newest: dict[tuple[str | int, ...], Price] = {}
    for p in rows:
        key = (p.provider, p.instance, p.chips, p.region, p.zone, p.accelerator)
        held = newest.get(key)
        if held is None or _last_day(p) > _last_day(held):
            newest[key] = p
    return list(newest.values())


def _last_day(p: Price) -> datetime.date:
    return date_span(p.date)[1] if p.dated else datetime.date.min


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def list_words(p: Price) -> str:
    """``price list of 2026-10-07``, or ``of unknown day``: what a cost rests on."""
    if not p.dated:
        return "price list of unknown day"
    return f"price {'list' if p.date_of == 'price' else 'file'} of {p.date}"


def dated_text(p: Price) -> str:
    """``2026-10-07``, ``file of 2026-11-30`` or ``day unknown``."""
    if not p.dated:
        return "day unknown"
    return p.date if p.date_of == "price" else f"file of {p.date}"


def _why(found: PriceChoice, alike: int) -> str:
    best = found.price
    place = "" if best.region == "unstated" else f" {best.region}"
    row = "the only offer"
    if found.rows > 1:
        recent = best.dated and (found.age_days or 0) <= RECENT_DAYS
        within = f"{RECENT_DAYS} days" if recent else "a year"
        rank = f"dated within {within}" if best.dated and not found.stale else "of unknown day"
        kind = "the newest" if found.stale else f"{alike} {rank}"
        row = f"cheapest of {kind}"
    parts = [f"{row}: {best.provider}{place} {best.instance}, {dated_text(best)}"]
    if best.host_usd_per_hour is not None:
        chips, host = best.chips_usd_per_hour, best.host_usd_per_hour
        parts.append(f"${chips:,.2f} for the chips and ${host:,.2f} for their host an hour")
    if not best.host_included:
        parts.append("host not included")
    if found.rejected:
        said = "row" if found.rejected == 1 else "rows"
        parts.append(f"{found.rejected} faulty or marked {said} left out")
    if found.stale:
        parts.append(f"old: {found.age_days} days")
    return "; ".join(parts)


def _missing(
    accelerator: str, kind: PriceType, listed: int, today: datetime.date, *,
    provider: str | None, region: str | None,
) -> InputError:  # fmt: skip
    where = " ".join(x for x in (provider, region) if x)
    at = f" at {where}" if where else ""
    faulty = f": all {listed} rows are faulty, marked or without a price" if listed else ""
    hint = _known_instead(prices(accelerator), kind, today)
    return InputError(f"no {kind} price for `{accelerator}`{at}{faulty}", hint=hint)


def _known_instead(rows: Iterable[Price], kind: PriceType, today: datetime.date) -> str:
    """The same way to pay elsewhere, else another way; else that the user may name a price."""
    held = [p for p in rows if _takeable(p, marked=False)]
    elsewhere = [p for p in held if p.price_type == kind]
    if not held:
        return "give your own price with `--price`, for example `--price '$2.50/h'`"
    best = min(
        elsewhere or held,
        key=lambda p: (
            taken_order(p, today, 365),
            PRICE_TYPES.index(p.price_type),
            p.usd_per_chip_hour,
        ),
    )
    age = best.age_days(today)
    known = (
        f"${best.usd_per_chip_hour:.2f} a chip hour "
        f"({best.provider}{'' if best.region == 'unstated' else ' ' + best.region}, "
        f"{'day unknown' if age is None else f'{age} days old'})"
    )
    if elsewhere:
        return f"{kind} is known elsewhere: {known}"
    ways = {p.price_type for p in held}
    return (
        f"it is sold only as {' or '.join(k for k in PRICE_TYPES if k in ways)}; "
        f"{best.price_type} is known: {known}; "
        f"`--price {best.price_type}` counts with it, `--price any` with the cheapest way to pay"
    )
