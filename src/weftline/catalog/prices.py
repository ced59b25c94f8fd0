"""Price rows: what a machine costs an hour, by provider, region, date and way of buying.

``usd_per_hour`` is for the whole instance, ``usd_per_chip_hour`` for one chip of it. Rows that
``catalog validate`` finds impossible (spot above on-demand, sentinels, ...), or whose reader marked
them (STALE, SUSPECT, OUTLIER), stay in the file with their ``flags``; :mod:`offers` never takes
them unasked.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Final, Literal, cast, get_args

from weftline.catalog._read import data_rows, user_data_dir
from weftline.catalog.date import CATALOG_DATE
from weftline.errors import InputError, UnknownNameError

PriceType = Literal["on-demand", "spot", "reserved", "capacity-block"]
DatePrecision = Literal["day", "month", "year", "unknown"]
DateOf = Literal["price", "file"]
Channel = Literal["cloud", "marketplace", "broker", "index"]
PRICE_TYPES: Final[tuple[PriceType, ...]] = get_args(PriceType)
DATES_OF: Final[tuple[DateOf, ...]] = get_args(DateOf)
CHANNELS: Final[tuple[Channel, ...]] = get_args(Channel)
DAY_UNKNOWN: Final = "unknown"
"""Written where a source gives a price without any day."""
NO_REGION: Final = frozenset({"*", "unstated"})
"""Regions that are none: "most of them", and not said."""
USER_PRICES_FILE: Final = "prices.csv"
COLUMNS: Final = (
    "date", "date_of", "provider", "instance", "accelerator", "listed_as", "chips", "region",
    "zone", "price_type", "usd_per_hour", "host_usd_per_hour", "host_included", "channel",
    "per_chip", "nvme_gb", "network_gbps", "source", "flags", "note",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """One row: what one instance costs in one place on one date."""

    date: str
    """As the source gives it: ``2026-07-20``, ``2024-12``, ``2024`` or ``unknown``."""
    date_of: DateOf = "price"
    """``file``: the day its catalogue's file was last changed; the price is as old or older."""
    provider: str
    instance: str
    accelerator: str
    """The catalogue's id, or empty where the catalogue does not know the chip."""
    listed_as: str
    chips: int
    region: str
    """``*`` where the source says only "most regions", ``unstated`` where it says none."""
    zone: str
    price_type: PriceType
    usd_per_hour: float | None
    """Of the whole instance; None where the source lists it without a price."""
    host_usd_per_hour: float | None = None
    """The part of it that pays for the host, where the source lists chips and host apart."""
    host_included: bool
    """False where the row prices the chips only and the host comes on top."""
    channel: Channel = "cloud"
    """Who sells: a cloud, a marketplace of single machines, a broker; ``index`` is no offer."""
    per_chip: bool = False
    """A list price of one chip that machines of several sizes are sold at."""
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
    def chips_usd_per_hour(self) -> float:
        """US dollars an hour for the instance without its host, where that is listed apart."""
        return (self.usd_per_hour or 0.0) - (self.host_usd_per_hour or 0.0)

    @property
    def dated(self) -> bool:
        """False where nothing is known of the day."""
        return self.date != DAY_UNKNOWN

    @property
    def date_precision(self) -> DatePrecision:
        """How exactly the date is known."""
        return date_span(self.date)[2] if self.dated else "unknown"

    def age_days(self, today: datetime.date) -> int | None:
        """Days from the latest day the row can stand for to ``today``, 0 at least; None undated."""
        return max(0, (today - date_span(self.date)[1]).days) if self.dated else None

    @property
    def network_bytes_per_s(self) -> float | None:
        """One chip's share of the instance's network, bytes/s one way; None where not stated."""
        return None if self.network_gbps is None else self.network_gbps / 8 * 1e9 / self.chips


def date_span(text: str) -> tuple[datetime.date, datetime.date, DatePrecision]:
    """The first and last day a date can mean, and its precision. ``2026-xx`` is a year.

    A vague date is never later than the day on which the shipped rows were read.
    """
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
        host_usd_per_hour=float(row["host_usd_per_hour"]) if row["host_usd_per_hour"] else None,
        channel=cast("Channel", row["channel"] or "cloud"),
        date_of=cast("DateOf", row["date_of"] or "price"),
        per_chip=row["per_chip"] == "yes",
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
            return tuple(_usable(price_from(row)) for row in reader)
        except (ValueError, TypeError, AttributeError, InputError) as error:
            said = error.what if isinstance(error, InputError) else error
            raise InputError(
                f"a row cannot be read: {said}",
                where=f"{path}:{reader.line_num}",
                hint="run `weftline catalog refresh` again, or delete the file",
            ) from error


def _usable(price: Price) -> Price:
    """A row of a file that someone may have edited; ValueError where it cannot be counted with."""
    if price.dated:
        date_span(price.date)
    check_price_type(price.price_type)
    if price.chips < 1:
        raise ValueError(f"{price.chips} chips")
    return price


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

    name = text.lower().replace("_", "-").replace(" ", "-")
    name = {"ondemand": "on-demand", "capacityblock": "capacity-block"}.get(name, name)
    if name not in PRICE_TYPES:
        hint = f"one of {', '.join(PRICE_TYPES)}"
        raise UnknownNameError("price type", text, PRICE_TYPES, hint=hint)
    return name
