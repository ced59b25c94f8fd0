"""Prices: what a chip costs an hour, by provider, region, date and way of buying.

``usd_per_hour`` is for the whole instance, ``usd_per_chip_hour`` for one chip of it. Rows that
``catalog validate`` finds impossible (spot above on-demand, sentinels, ...) stay in the file with
their ``flags`` and are never taken.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Final, Literal, cast, get_args

from weftline.catalog._read import data_rows, user_data_dir
from weftline.catalog.date import CATALOG_DATE
from weftline.errors import InputError

PriceType = Literal["on-demand", "spot", "reserved", "capacity-block"]
DatePrecision = Literal["day", "month", "year"]
PRICE_TYPES: Final[tuple[PriceType, ...]] = get_args(PriceType)
"""The day on which the shipped rows were read; a vague date is never later than this."""
USER_PRICES_FILE: Final = "prices.csv"
COLUMNS: Final = (
    "date", "provider", "instance", "accelerator", "listed_as", "chips", "region", "zone",
    "price_type", "usd_per_hour", "host_included", "nvme_gb", "network_gbps", "source", "flags",
    "note",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """One row: what one instance costs in one place on one date."""

    date: str
    """As the source gives it: ``2026-07-20``, ``2024-12`` or ``2026-xx``."""
    provider: str
    instance: str
    accelerator: str
    """The catalogue's id, or empty where the catalogue does not know the chip."""
    listed_as: str
    chips: int
    region: str
    """``*`` where the source says only "most regions"."""
    zone: str
    price_type: PriceType
    usd_per_hour: float | None
    """Of the whole instance; None where the source lists it without a price."""
    host_included: bool
    """False where the row prices the chips only and the host comes on top."""
    nvme_gb: str
    network_gbps: float | None
    source: str
    flags: tuple[str, ...] = ()
    """Rules of ``catalog validate`` that this row breaks; such a row is never taken."""
    note: str = ""

    @property
    def usd_per_chip_hour(self) -> float:
        """US dollars for one chip for one hour; NaN where the row has no price."""
        return float("nan") if self.usd_per_hour is None else self.usd_per_hour / self.chips

    @property
    def date_precision(self) -> DatePrecision:
        """How exactly the date is known."""
        return date_span(self.date)[2]

    def age_days(self, today: datetime.date) -> int:
        """Days from the latest day the row can stand for to ``today``; 0 at least."""
        return max(0, (today - date_span(self.date)[1]).days)


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceChoice:
    """The price taken for a chip, and the span of the rows it is from (USD per chip hour)."""

    price: Price
    why: str
    low: float
    median: float
    high: float
    rows: int
    """How many rows were fit to be taken."""
    rejected: int
    """How many rows of this chip and price type were left out as faulty."""
    age_days: int
    stale: bool
    """True where even the newest row is older than was asked for."""

    @property
    def usd_per_chip_hour(self) -> float:
        """US dollars for one chip for one hour."""
        return self.price.usd_per_chip_hour


def date_span(text: str) -> tuple[datetime.date, datetime.date, DatePrecision]:
    """The first and last day a date can mean, and its precision. ``2026-xx`` is a year."""
    parts = text.removesuffix("-xx").split("-")
    year = int(parts[0])
    if len(parts) == 3:
        day = datetime.date(year, int(parts[1]), int(parts[2]))
        return day, day, "day"
    month = int(parts[1]) if len(parts) == 2 else 12
    first = datetime.date(year, month if len(parts) == 2 else 1, 1)
    turn = datetime.date(year + month // 12, month % 12 + 1, 1)
    last = turn - datetime.timedelta(days=1)
    read = datetime.date.fromisoformat(CATALOG_DATE)
    last = read if first <= read < last else last
    return first, last, "month" if len(parts) == 2 else "year"


def price_from(row: Mapping[str, str]) -> Price:
    """Build a price from a row of ``prices.csv`` (already checked)."""
    return Price(
        date=row["date"],
        provider=row["provider"],
        instance=row["instance"],
        accelerator=row["accelerator"],
        listed_as=row["listed_as"],
        chips=int(row["chips"]),
        region=row["region"],
        zone=row["zone"],
        price_type=cast("PriceType", row["price_type"]),
        usd_per_hour=float(row["usd_per_hour"]) if row["usd_per_hour"] else None,
        host_included=row["host_included"] != "no",
        nvme_gb=row["nvme_gb"],
        network_gbps=float(row["network_gbps"]) if row["network_gbps"] else None,
        source=row["source"],
        flags=tuple(row["flags"].split()),
        note=row["note"],
    )


@cache
def shipped_prices() -> tuple[Price, ...]:
    """The rows weftline ships, a snapshot of ``CATALOG_DATE``."""
    return tuple(price_from(row) for row in data_rows("prices.csv"))


def refreshed_prices(directory: Path | None = None) -> tuple[Price, ...]:
    """The rows ``catalog refresh`` fetched for this user; none where it never ran."""
    path = (directory or user_data_dir()) / USER_PRICES_FILE
    try:
        state = path.stat()
    except OSError:
        return ()
    return _read_refreshed(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4)
def _read_refreshed(path: Path, changed_ns: int, size: int) -> tuple[Price, ...]:
    """Read a price file once for each state of it: ``changed_ns`` and ``size`` are the key."""
    import csv

    del changed_ns, size
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise InputError(
                "not a price file of this version of weftline",
                where=f"{path}:1",
                hint="run `weftline catalog refresh` again, or delete the file",
            )
        try:
            return tuple(price_from(row) for row in reader)
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(
                f"a row cannot be read: {error}",
                where=f"{path}:{reader.line_num}",
                hint="run `weftline catalog refresh` again, or delete the file",
            ) from error


def prices(
    accelerator: str | None = None,
    price_type: str | None = None,
    provider: str | None = None,
    region: str | None = None,
) -> tuple[Price, ...]:
    """Prices that fit all of what is given, refreshed rows before shipped ones, faulty ones too."""
    from weftline.catalog._lookup import accelerator as look_up

    chip = None if accelerator is None else look_up(accelerator).sold_as
    kind = None if price_type is None else check_price_type(price_type)
    return tuple(
        p
        for p in (*refreshed_prices(), *shipped_prices())
        if (chip is None or p.accelerator == chip)
        and (kind is None or p.price_type == kind)
        and (provider is None or p.provider == provider.lower())
        and (region is None or p.region in (region, "*"))
    )


def check_price_type(text: str) -> PriceType:
    """``ondemand``, ``capacity_block`` -> the one spelling; raises UnknownNameError."""
    from weftline.errors import UnknownNameError

    name = text.lower().replace("_", "-").replace(" ", "-")
    name = {"ondemand": "on-demand", "capacityblock": "capacity-block"}.get(name, name)
    if name not in PRICE_TYPES:
        hint = f"one of {', '.join(PRICE_TYPES)}"
        raise UnknownNameError("price type", text, PRICE_TYPES, hint=hint)
    return name


def best_price(
    accelerator: str,
    price_type: str = "on-demand",
    *,
    today: datetime.date,
    max_age_days: int = 365,
    provider: str | None = None,
    region: str | None = None,
    chips_min: int = 1,
) -> PriceChoice:
    """The cheapest sound price of one chip an hour, with the span of all sound ones.

    Of rows on one offer the newest counts. Left out are rows that break a rule of ``catalog
    validate``, rows without their host where others have it, rows older than ``max_age_days``
    where newer ones exist, and instances with fewer than ``chips_min`` chips.

    Raises InputError where no row is left, saying what is known instead. An old price is returned
    with ``stale`` set: the caller must say so.
    """
    kind = check_price_type(price_type)
    listed = [p for p in prices(accelerator, kind, provider, region) if p.chips >= chips_min]
    sound = [p for p in listed if p.usd_per_hour is not None and not p.flags]
    whole = _newest_of_each([p for p in sound if p.host_included] or sound)
    fresh = [p for p in whole if p.age_days(today) <= max_age_days]
    if not whole:
        raise _missing(accelerator, kind, len(listed), today, provider=provider, region=region)
    # Stale rows serve only where nothing newer exists, and then the newest of them.
    newest = min(p.age_days(today) for p in whole)
    fit = fresh or [p for p in whole if p.age_days(today) == newest]
    best = min(fit, key=lambda p: (p.usd_per_chip_hour, p.age_days(today)))
    costs = [p.usd_per_chip_hour for p in fit]
    age = best.age_days(today)
    return PriceChoice(
        price=best,
        why=_why(best, fit, rejected=len(listed) - len(sound), age=age, stale=not fresh),
        low=min(costs),
        median=_median(costs),
        high=max(costs),
        rows=len(fit),
        rejected=len(listed) - len(sound),
        age_days=age,
        stale=not fresh,
    )


def _newest_of_each(rows: Sequence[Price]) -> list[Price]:
    """Of rows on the same offer only the newest: a price that has changed is no price."""
    newest: dict[tuple[str, ...], Price] = {}
    for p in rows:
        key = (p.provider, p.instance, p.region, p.zone, p.accelerator)
        held = newest.get(key)
        if held is None or date_span(p.date)[1] > date_span(held.date)[1]:
            newest[key] = p
    return list(newest.values())


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _why(best: Price, fit: Sequence[Price], *, rejected: int, age: int, stale: bool) -> str:
    places = len({(p.provider, p.region) for p in fit})
    row = "the only row" if len(fit) == 1 else f"cheapest of {len(fit)} rows in {places} regions"
    parts = [f"{row}: {best.provider} {best.region} {best.instance}, {best.date}"]
    if rejected:
        parts.append(f"{rejected} faulty {'row' if rejected == 1 else 'rows'} left out")
    if not best.host_included:
        parts.append("the host is not in it")
    if stale:
        parts.append(f"old: {age} days")
    return "; ".join(parts)


def _missing(
    accelerator: str, kind: PriceType, listed: int, today: datetime.date, *,
    provider: str | None, region: str | None,
) -> InputError:  # fmt: skip
    where = " ".join(x for x in (provider, region) if x)
    at = f" at {where}" if where else ""
    faulty = f": all {listed} rows are faulty or without a price" if listed else ""
    hint = _known_instead(prices(accelerator), kind, today)
    return InputError(f"no {kind} price for `{accelerator}`{at}{faulty}", hint=hint)


def _known_instead(rows: Iterable[Price], kind: PriceType, today: datetime.date) -> str:
    sound = [p for p in rows if p.usd_per_hour is not None and not p.flags and p.price_type != kind]
    if not sound:
        return "give your own price with `--price`, for example `--price '$2.50/h'`"
    best = min(sound, key=lambda p: (PRICE_TYPES.index(p.price_type), p.usd_per_chip_hour))
    return (
        f"{best.price_type} is known: ${best.usd_per_chip_hour:.2f} a chip hour "
        f"({best.provider} {best.region}, {best.age_days(today)} days old); "
        "or give your own with `--price`"
    )
