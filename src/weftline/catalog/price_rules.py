"""Rules that find impossible prices, by comparing rows with each other.

No rule knows a catalogue: a fault is found because the rows beside it contradict it.
"""

from __future__ import annotations

import datetime
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from weftline.catalog.findings import QUARANTINE, Finding, finding
from weftline.catalog.prices import Price, date_span

# A price this many times the median of its chip is no price (seen: 700.0 for a 2.70 chip).
SENTINEL_RATIO: Final = 20.0
# On-demand this far below the other regions is another product. Seen: 0.43 and 0.55 for queued
# capacity; Google sells it at 45 % off, and no ordinary region is that much cheaper.
LOW_RATIO: Final = 0.56
SPREAD_RATIO: Final = 3.0
# Numbers that programs write for "none", used where a row has too few peers to compare with.
SENTINELS: Final = frozenset({-1.0, 99.0, 999.0, 9999.0, 99999.0, 999999.0, 700.0, 1e6, 1e9})


_MARK: Final = re.compile(r"\b(STALE|SUSPECT|OUTLIER)\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedRow:
    """A price and the place it stands in (``prices.csv:12``)."""

    price: Price
    where: str


def check_prices(
    rows: Sequence[PricedRow], *, today: datetime.date, max_age_days: int
) -> list[Finding]:
    """All findings on these rows, in the order of the rules."""
    out: list[Finding] = []
    for rule in (_missing, _not_positive, _marked):
        out.extend(rule(rows))
    hosts = list(_host(rows))
    out.extend(hosts)
    sound = [r for r in rows if r.price.usd_per_hour is not None and r.price.usd_per_hour > 0]
    sentinels = list(_sentinel(sound))
    out.extend(sentinels)
    wrong_hosts = (f for f in hosts if f.rule == "host-above-price")
    apart = {f.where for f in (*sentinels, *wrong_hosts, *_not_offers(rows))}
    real = [r for r in sound if r.where not in apart]
    for rule in (_spot, _low, _spread):
        out.extend(rule(real))
    out.extend(_stale(rows, today=today, max_age_days=max_age_days))
    return out


def quarantined(findings: Iterable[Finding]) -> dict[str, tuple[str, ...]]:
    """The rows (by ``where``) that must never be taken, with the rules they break."""
    held: dict[str, set[str]] = defaultdict(set)
    for f in findings:
        if f.rule in QUARANTINE:
            for where in f.where.split(", "):
                held[where].add(f.rule)
    return {where: tuple(sorted(rules)) for where, rules in held.items()}


def _offer(p: Price) -> str:
    place = p.zone or p.region
    return f"{p.provider} {p.instance} {place}"


def _missing(rows: Sequence[PricedRow]) -> Iterator[Finding]:
    for r in rows:
        if r.price.usd_per_hour is None:
            yield finding(
                "missing-price",
                r.where,
                f"{_offer(r.price)} is listed without {r.price.price_type} price",
                "the field is empty",
                hint="ask the provider, or remove the row",
                subject=r.price.listed_as,
            )


def _not_positive(rows: Sequence[PricedRow]) -> Iterator[Finding]:
    for r in rows:
        if r.price.usd_per_hour is not None and not 0 < r.price.usd_per_hour < float("inf"):
            yield finding(
                "not-positive",
                r.where,
                f"{_offer(r.price)} costs {r.price.usd_per_hour:g} USD/h",
                "a price is above zero",
                subject=r.price.listed_as,
            )


def _host(rows: Sequence[PricedRow]) -> Iterator[Finding]:
    for r in rows:
        host, whole = r.price.host_usd_per_hour, r.price.usd_per_hour
        if not r.price.host_included:
            yield finding(
                "host-missing",
                r.where,
                f"{_offer(r.price)}: {r.price.price_type} price of the chips alone",
                "host_included is no",
                hint="add the host's price as `host_usd_per_hour`; rows with it are taken first",
                subject=r.price.listed_as,
            )
        if host is not None and whole is not None and not 0 <= host < whole:
            yield finding(
                "host-above-price",
                r.where,
                f"{_offer(r.price)}: host ${host:,.2f} of ${whole:,.2f} an hour",
                "usd_per_hour is of host and chips together",
                subject=r.price.listed_as,
            )


def _not_offers(rows: Sequence[PricedRow]) -> Iterator[Finding]:
    for r in rows:
        if r.price.channel == "index":
            yield finding(
                "not-an-offer",
                r.where,
                f"{_offer(r.price)}: {r.price.price_type} price of an average",
                "channel is index",
                subject=r.price.listed_as,
            )


def _marked(rows: Sequence[PricedRow]) -> Iterator[Finding]:
    yield from _not_offers(rows)
    for r in rows:
        for mark in sorted(set(_MARK.findall(r.price.note))):
            yield finding(
                f"marked-{mark.lower()}",
                r.where,
                f"{_offer(r.price)}: {r.price.price_type} price marked {mark}",
                next(part for part in r.price.note.split("; ") if mark in part),
                hint="taken only when asked for",
                subject=r.price.listed_as,
            )


def _groups(rows: Sequence[PricedRow], *names: str) -> dict[tuple[str, ...], list[PricedRow]]:
    table: dict[tuple[str, ...], list[PricedRow]] = defaultdict(list)
    for r in rows:
        table[tuple(str(getattr(r.price, n)) for n in names)].append(r)
    return table


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _sentinel(rows: Sequence[PricedRow]) -> Iterator[Finding]:
    for group in _groups(rows, "listed_as").values():
        for r in group:
            own = r.price.usd_per_chip_hour
            peers = [q.price.usd_per_chip_hour for q in group if q is not r]
            # With two or more peers they decide; a lone row is judged by the number itself.
            if len(peers) >= 2:
                middle = _median(peers)
                odd = own > SENTINEL_RATIO * middle
                evidence = f"{len(peers)} other rows of {r.price.listed_as}: median ${middle:.2f}"
            else:
                odd = r.price.usd_per_hour in SENTINELS
                evidence = "a number that programs write for `none`"
            if odd:
                yield finding(
                    "sentinel-price",
                    r.where,
                    f"{_offer(r.price)} costs ${own:,.2f} a chip hour",
                    evidence,
                    hint="it means `not available` here: remove the row",
                    subject=r.price.listed_as,
                )


def _spot(rows: Sequence[PricedRow]) -> Iterator[Finding]:
    names = ("provider", "instance", "listed_as", "chips", "region", "zone")
    for group in _groups(rows, *names).values():
        asked = [r for r in group if r.price.price_type == "on-demand"]
        for spot in (r for r in group if r.price.price_type == "spot"):
            for base in asked:
                # Of host and chips listed apart the chips are compared: a host has no spot market.
                a, b = spot.price.chips_usd_per_hour, base.price.chips_usd_per_hour
                where = ", ".join(dict.fromkeys((base.where, spot.where)))
                evidence = f"spot ${a:,.2f}/h, on-demand ${b:,.2f}/h"
                if a > b * 1.0001:
                    yield finding(
                        "spot-above-on-demand",
                        where,
                        f"{_offer(spot.price)}: spot above on-demand",
                        evidence,
                        hint="one of the two is another product: neither is taken",
                        subject=spot.price.listed_as,
                    )
                elif a > b * 0.9999:
                    yield finding(
                        "spot-equals-on-demand",
                        spot.where,
                        f"{_offer(spot.price)}: spot equals on-demand",
                        evidence,
                        hint="a placeholder, or no spot market there",
                        subject=spot.price.listed_as,
                    )


def _low(rows: Sequence[PricedRow]) -> Iterator[Finding]:
    asked = [r for r in rows if r.price.price_type == "on-demand"]
    for group in _groups(asked, "provider", "instance", "listed_as", "chips").values():
        by_region: dict[str, float] = {}
        for r in group:
            own = r.price.chips_usd_per_hour / r.price.chips
            by_region[r.price.region] = min(by_region.get(r.price.region, own), own)
        for r in group:
            own = r.price.chips_usd_per_hour / r.price.chips
            others = [v for region, v in by_region.items() if region != r.price.region]
            if len(others) < 2 or own > LOW_RATIO * _median(others):
                continue
            yield finding(
                "low-on-demand",
                r.where,
                f"{_offer(r.price)}: ${own:.2f} a chip hour on demand",
                f"median of {len(others)} other regions: ${_median(others):.2f}",
                hint="queued or flexible capacity is another product than on-demand",
                subject=r.price.listed_as,
            )


def _spread(rows: Sequence[PricedRow]) -> Iterator[Finding]:
    for (chip, kind), group in _groups(rows, "listed_as", "price_type").items():
        by_provider = {
            name: _median([r.price.usd_per_chip_hour for r in part])
            for (name,), part in _groups(group, "provider").items()
        }
        if len(by_provider) < 2:
            continue
        low = min(by_provider, key=lambda n: by_provider[n])
        high = max(by_provider, key=lambda n: by_provider[n])
        if by_provider[high] >= SPREAD_RATIO * by_provider[low]:
            yield finding(
                "price-spread",
                group[0].where,
                f"{chip} {kind}: {by_provider[high] / by_provider[low]:.1f}x between providers",
                f"{low} ${by_provider[low]:.2f}, {high} ${by_provider[high]:.2f} a chip hour",
                hint="name the provider: an average of these is nobody's price",
                subject=chip,
            )


def _stale(
    rows: Sequence[PricedRow], *, today: datetime.date, max_age_days: int
) -> Iterator[Finding]:
    for r in rows:
        age = r.price.age_days(today)
        if age is None:
            yield finding(
                "day-unknown",
                r.where,
                f"{_offer(r.price)}: {r.price.price_type} price without a day",
                f"source {r.price.source or 'not named'}",
                hint="dated rows are taken first; `weftline catalog refresh` dates its own",
                subject=r.price.listed_as,
            )
        elif date_span(r.price.date)[0] > today:
            yield finding(
                "date-future",
                r.where,
                f"{_offer(r.price)} is dated {r.price.date}",
                f"today is {today.isoformat()}",
                subject=r.price.listed_as,
            )
        elif age > max_age_days:
            yield finding(
                "stale-price",
                r.where,
                f"{_offer(r.price)}: {r.price.price_type} price is {age} days old",
                f"dated {r.price.date}, at most {max_age_days} days asked for",
                hint="`weftline catalog refresh`",
                subject=r.price.listed_as,
            )
