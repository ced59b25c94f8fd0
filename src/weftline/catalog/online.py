"""``catalog refresh``: fetch today's prices, check them, and keep them for this user.

Three sources: SkyPilot's published catalogue, the Azure retail price API and AWS through boto3.
What is fetched goes through the same rules as everything else and lands, flagged, in the user's
data directory in one rename; the shipped files are never touched. Without a network it says which
source could not be reached and that the shipped snapshot stays in use.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from weftline.catalog._read import user_data_dir
from weftline.catalog.date import CATALOG_DATE
from weftline.catalog.formats import parse
from weftline.catalog.parsed import chip_id
from weftline.catalog.price_rules import PricedRow, check_prices, quarantined
from weftline.catalog.prices import COLUMNS, DAY_UNKNOWN, USER_PRICES_FILE, Price, PriceType
from weftline.catalog.skypilot import PROVIDERS
from weftline.errors import InputError, OfflineError, UnknownNameError

Fetch = Callable[[str], str]
"""Address -> text; raises OSError where it cannot be had."""

SOURCES: Final = ("skypilot", "azure", "aws")
TIMEOUT_S: Final = 30.0
BYTES_MAX: Final = 64 * 1024 * 1024
PAGES_MAX: Final = 60
SKYPILOT_BASE: Final = "https://raw.githubusercontent.com/skypilot-org/skypilot-catalog/master"
SKYPILOT_HISTORY: Final = "https://api.github.com/repos/skypilot-org/skypilot-catalog/commits"
SKYPILOT_VERSIONS: Final = ("v9", "v8")
"""Newest first: a seller stands in the newest version that has its file."""
AZURE_HOST: Final = "prices.azure.com"
AZURE_API: Final = f"https://{AZURE_HOST}/api/retail/prices"
HOURS_A_YEAR: Final = 8760
# Azure names no chip in its prices: this is what the machine series hold (chip, chips).
AZURE_MACHINES: Final[dict[str, tuple[str, int]]] = {
    "Standard_ND96asr_v4": ("a100-40-sxm", 8), "Standard_ND96amsr_A100_v4": ("a100-80-sxm", 8),
    "Standard_NC24ads_A100_v4": ("a100-80-sxm", 1), "Standard_NC48ads_A100_v4": ("a100-80-sxm", 2),
    "Standard_NC96ads_A100_v4": ("a100-80-sxm", 4), "Standard_ND96isr_H100_v5": ("h100-sxm", 8),
    "Standard_NC40ads_H100_v5": ("h100-nvl", 1), "Standard_NC80adis_H100_v5": ("h100-nvl", 2),
    "Standard_ND96isr_H200_v5": ("h200-sxm", 8), "Standard_ND96isr_MI300X_v5": ("mi300x", 8),
    "Standard_ND128isr_NDR_GB200_v6": ("gb200-nvl72", 4), "Standard_NV36ads_A10_v5": ("a10", 1),
}  # fmt: skip
AWS_MACHINES: Final[dict[str, tuple[str, int]]] = {
    "p4d.24xlarge": ("a100-40-sxm", 8), "p4de.24xlarge": ("a100-80-sxm", 8),
    "p5.48xlarge": ("h100-sxm", 8), "p5e.48xlarge": ("h200-sxm", 8),
    "p5en.48xlarge": ("h200-sxm", 8), "p6-b200.48xlarge": ("b200", 8),
    "p6-b300.48xlarge": ("b300", 8), "trn1.32xlarge": ("trainium1", 16),
    "trn1n.32xlarge": ("trainium1", 16), "trn2.48xlarge": ("trainium2", 16),
    "inf2.48xlarge": ("inferentia2", 12), "g6.48xlarge": ("l4", 8), "g6e.48xlarge": ("l40s", 8),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Refreshed:
    """What a refresh did: how many rows from where, what failed, and the file written."""

    path: Path
    rows: dict[str, int]
    """Rows kept, by source."""
    faulty: int
    """Rows kept with flags, which are never taken."""
    failed: dict[str, str]
    """Sources that could not be had, with the reason."""


def refresh(
    names: Sequence[str] = SOURCES,
    out_dir: Path | None = None,
    *,
    today: datetime.date | None = None,
    fetch: Fetch | None = None,
    aws: Callable[[], Any] | None = None,
) -> Refreshed:
    """Fetch prices from ``names`` (``skypilot``, ``azure``, ``aws``) into ``out_dir``.

    ``fetch`` and ``aws`` (which makes a boto3 pricing client) are there for tests. Raises
    OfflineError where no source could be had, UnknownNameError for a name that is no source.
    """
    for name in names:
        if name not in SOURCES:
            raise UnknownNameError(
                "price source", name, SOURCES, hint=f"one of {', '.join(SOURCES)}"
            )
    day = today or datetime.date.today()
    got: dict[str, list[Price]] = {}
    failed: dict[str, str] = {}
    for name in names:
        try:
            if name == "aws":
                got[name] = list(aws_prices((aws or _aws_client)(), day))
            elif name == "azure":
                got[name] = list(azure_prices(fetch or fetch_https, day))
            else:
                got[name], missed = skypilot_prices(fetch or fetch_https)
                failed |= missed
        except _FAILURES as error:
            failed[name] = _reason(error)
    if not any(got.values()):
        raise _offline(failed, got)
    rows = [p for part in got.values() for p in part]
    checked = flag(rows, day)
    path = (out_dir or user_data_dir()) / USER_PRICES_FILE
    write_prices(path, checked)
    counts = {name: len(part) for name, part in got.items()}
    return Refreshed(
        path=path, rows=counts, faulty=sum(bool(p.flags) for p in checked), failed=failed
    )


_FAILURES: Final = (OSError, ImportError, ValueError, KeyError, TypeError, InputError)


def _reason(error: BaseException) -> str:
    if isinstance(error, ImportError):
        return "boto3 is not installed (pip install 'weftline[prices]')"
    if isinstance(error, OSError):
        return str(getattr(error, "reason", None) or error.strerror or error) or "no connection"
    return f"its answer could not be read: {error}"


def _offline(failed: dict[str, str], got: dict[str, list[Price]]) -> OfflineError:
    reasons = [f"{name}: {reason}" for name, reason in failed.items()]
    reasons += [f"{name}: no row of a known chip" for name, rows in got.items() if not rows]
    return OfflineError(
        "no price source could be read\n  " + "\n  ".join(reasons),
        hint=f"the shipped snapshot of {CATALOG_DATE} and earlier refreshes stay in use",
    )


def fetch_https(url: str) -> str:
    """The text at an https address, at most 64 MiB, within 30 s; raises OSError."""
    import http.client
    import urllib.request

    if not url.startswith("https://"):
        raise ValueError("only https addresses are fetched")
    request = urllib.request.Request(url, headers={"User-Agent": "weftline"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            if not str(answer.geturl()).startswith("https://"):
                raise ValueError("led away from https")
            body: bytes = answer.read(BYTES_MAX + 1)
    except http.client.HTTPException as error:
        raise OSError(f"broken answer ({type(error).__name__})") from error
    if len(body) > BYTES_MAX:
        raise ValueError("larger than 64 MiB")
    return body.decode("utf-8")


def skypilot_prices(fetch: Fetch) -> tuple[list[Price], dict[str, str]]:
    """On-demand and spot prices of known chips of all sellers of SkyPilot's catalogue (Apache-2.0),
    and the sellers that could not be had, with the reason.

    Each row carries the day of the last change to its seller's file. Raises OSError or ValueError
    where no seller could be had.
    """
    out: list[Price] = []
    missed: dict[str, str] = {}
    first: OSError | ValueError | None = None
    for provider in PROVIDERS:
        try:
            name, text = _vms(fetch, provider)
            parsed = parse(text, name, date=_last_change(fetch, name))
        except (OSError, ValueError, InputError) as error:
            missed[f"skypilot {provider}"] = _reason(error)
            first = first or (error if isinstance(error, (OSError, ValueError)) else None)
            continue
        rows = (r.price for r in parsed.prices if r.price.accelerator)
        out.extend(replace(p, source=f"skypilot-{provider}") for p in rows)
    if not out and first is not None:
        raise first
    return out, missed


def _vms(fetch: Fetch, provider: str) -> tuple[str, str]:
    """Name and text of a seller's file in the newest version that has it."""
    missing: OSError | None = None
    for version in SKYPILOT_VERSIONS:
        name = f"catalogs/{version}/{provider}/vms.csv"
        try:
            return name, fetch(f"{SKYPILOT_BASE}/{name}")
        except OSError as error:
            missing = missing or error
    raise missing or OSError("no version of it is known")


def _last_change(fetch: Fetch, name: str) -> str:
    """The day of the last commit to a file of the catalogue, or ``unknown`` where none is told."""
    try:
        commits = json.loads(fetch(f"{SKYPILOT_HISTORY}?path={name}&per_page=1"))
        day = str(commits[0]["commit"]["committer"]["date"])[:10]
        return datetime.date.fromisoformat(day).isoformat()
    except (OSError, ValueError, LookupError, TypeError):
        return DAY_UNKNOWN


def azure_prices(fetch: Fetch, today: datetime.date) -> Iterator[Price]:
    """On-demand and spot prices of known machines from the Azure retail price API, page by page."""
    from urllib.parse import quote, urlsplit

    for machine, (chip, chips) in AZURE_MACHINES.items():
        query = f"serviceName eq 'Virtual Machines' and armSkuName eq '{machine}'"
        url: str | None = f"{AZURE_API}?$filter={quote(query)}"
        for _ in range(PAGES_MAX):
            if not url:
                break
            page = json.loads(fetch(url))
            for item in page["Items"]:
                price = _azure_price(item, machine, chip, chips, today)
                if price is not None:
                    yield price
            url = page.get("NextPageLink")
            # The API writes its own port into this link, so only scheme and host are compared.
            if url and (urlsplit(url).scheme, urlsplit(url).hostname) != ("https", AZURE_HOST):
                raise ValueError("its next page is not on the price API")


def _azure_price(
    item: Any, machine: str, chip: str, chips: int, today: datetime.date
) -> Price | None:
    product, sku = str(item.get("productName", "")), str(item.get("skuName", ""))
    if item.get("currencyCode") != "USD" or "Windows" in product or "Low Priority" in sku:
        return None
    cost = float(item["retailPrice"])
    kind: PriceType = "spot" if "Spot" in sku else "on-demand"
    if item.get("type") == "Reservation":
        # A reservation is priced for its whole term: "1 Year", "3 Years".
        years = int(str(item["reservationTerm"]).split()[0])
        kind, cost = "reserved", cost / (years * HOURS_A_YEAR)
    elif item.get("type") != "Consumption" or item.get("unitOfMeasure") != "1 Hour":
        return None
    region = str(item["armRegionName"])
    return _row(today, "azure", machine, chip, chips, region, kind, cost, "azure-retail-api")


def aws_prices(client: Any, today: datetime.date) -> Iterator[Price]:
    """On-demand Linux prices of known instances from the AWS price list, through boto3."""
    for machine, (chip, chips) in AWS_MACHINES.items():
        wanted = {
            "instanceType": machine, "operatingSystem": "Linux", "tenancy": "Shared",
            "preInstalledSw": "NA", "capacitystatus": "Used",
        }  # fmt: skip
        filters = [{"Type": "TERM_MATCH", "Field": k, "Value": v} for k, v in wanted.items()]
        token: str | None = None
        for _ in range(PAGES_MAX):
            more = {"NextToken": token} if token else {}
            try:
                page = client.get_products(ServiceCode="AmazonEC2", Filters=filters, **more)
            except Exception as error:  # boto3's errors share no base with the standard library's
                raise OSError(f"boto3 says {type(error).__name__}") from error
            for text in page["PriceList"]:
                yield from _aws_rows(json.loads(text), machine, chip, chips, today)
            token = page.get("NextToken")
            if not token:
                break


def _aws_rows(
    product: Any, machine: str, chip: str, chips: int, today: datetime.date
) -> Iterator[Price]:
    region = product["product"]["attributes"]["regionCode"]
    for term in product["terms"].get("OnDemand", {}).values():
        for dimension in term["priceDimensions"].values():
            cost = float(dimension["pricePerUnit"].get("USD", "0"))
            if dimension["unit"] == "Hrs" and cost > 0:
                yield _row(
                    today, "aws", machine, chip, chips, region, "on-demand", cost, "aws-price-list"
                )


def _aws_client() -> Any:
    import boto3

    return boto3.client("pricing", region_name="us-east-1")


def _row(
    today: datetime.date, provider: str, machine: str, chip: str, chips: int, region: str,
    kind: PriceType, cost: float, source: str,
) -> Price:  # fmt: skip
    return Price(
        date=today.isoformat(),
        provider=provider,
        instance=machine,
        accelerator=chip_id(chip),
        listed_as=chip,
        chips=chips,
        region=region,
        zone="",
        price_type=kind,
        usd_per_hour=cost,
        host_included=True,
        nvme_gb="",
        network_gbps=None,
        source=source,
    )


def flag(rows: Sequence[Price], today: datetime.date) -> list[Price]:
    """The rows with the flags that the rules of ``catalog validate`` give them."""
    placed = [PricedRow(price=p, where=str(n)) for n, p in enumerate(rows)]
    held = quarantined(check_prices(placed, today=today, max_age_days=36500))
    return [replace(p, flags=held.get(str(n), ())) for n, p in enumerate(rows)]


def write_prices(path: Path, rows: Sequence[Price]) -> None:
    """Write a price file so that a reader sees the old one or the new one, never a half."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for p in rows:
        cost = "" if p.usd_per_hour is None else repr(p.usd_per_hour)
        host = "" if p.host_usd_per_hour is None else repr(p.host_usd_per_hour)
        network = "" if p.network_gbps is None else f"{p.network_gbps:g}"
        writer.writerow(
            (p.date, p.date_of, p.provider, p.instance, p.accelerator, p.listed_as, p.chips,
             p.region, p.zone, p.price_type, cost, host, "yes" if p.host_included else "no",
             p.channel, "yes" if p.per_chip else "", p.nvme_gb, network, p.source,
             " ".join(p.flags), p.note)
        )  # fmt: skip
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".prices-", suffix=".csv")
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", where=str(path.parent)) from error
    held = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text.getvalue())
            file.flush()
            os.fsync(file.fileno())
        held.replace(path)
    except OSError as error:
        held.unlink(missing_ok=True)
        raise InputError(f"cannot be written: {error.strerror}", where=str(path)) from error
