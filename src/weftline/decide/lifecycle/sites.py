"""Where stages may run: a chip at a seller, its price, its power, and what a cluster costs there.

Overheads come from the file, else from the kind of seller in ``decide/data/clusters.yaml``.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

from weftline.catalog import (
    Accelerator,
    accelerator,
    egress,
    embodied,
    embodied_lifespan_years,
    grid_intensity,
    list_words,
    pue,
)
from weftline.catalog.asked import chip_named, parse_accelerators, sellers
from weftline.catalog.date import CATALOG_DATE
from weftline.cost import Terms
from weftline.decide.lifecycle.read import Fields, Life, Place
from weftline.errors import InputError, UnknownNameError
from weftline.spec.job import PRICE_TYPES
from weftline.spec.parse import Collector, choice, own_price, parse_discounts
from weftline.units import parse_duration_s, parse_fraction, parse_usd

__all__ = ["HOUR_S", "MONTH_H", "MONTH_S", "Overheads", "Site", "sites_of"]

HOUR_S: Final = 3600.0
MONTH_H: Final = 730.0
"""Hours a month, as price lists count."""
MONTH_S: Final = MONTH_H * HOUR_S
DEFAULT_CHIPS_PER_HOST: Final = 8
NOTHING: Final = frozenset({"0", "$0", "0s", "0%", "0days"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Overheads:
    """What a cluster costs beside its chips; money in US dollars."""

    goodput_loss: float
    support: float
    setup_idle_s: float
    setup_staff_usd: float
    debugging_usd_month: float
    storage_usd_month: float
    """Where given; else by chip."""
    storage_usd_chip_month: float
    network_usd_month: float
    cpu_nodes_usd_month: float
    cpu_nodes_usd_chip_month: float
    control_plane_usd_month: float
    basis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A place as it counts."""

    name: str
    chip: Accelerator
    own_usd: float | None
    """The user's own price, US dollars a chip-hour."""
    price_type: str
    seller: str
    region: str
    usd_per_chip_hour: float
    price_basis: str
    overheads: Overheads
    discount: str | None = None
    """As the file has it, for the planners."""
    only_region: str | None = None

    @property
    def embodied_kg_per_chip_hour(self) -> float:
        """kgCO2e of making a chip with its share of a host, for an hour of its life."""
        parts = embodied()
        each = self.chip.chips_per_host or DEFAULT_CHIPS_PER_HOST
        host = parts["server"].value + 2 * parts["per_cpu"].value + 8 * parts["per_ssd"].value
        whole = host / each + parts["per_gpu_card"].value
        return whole / (embodied_lifespan_years() * 365.25 * 24)

    @property
    def embodied_basis(self) -> str:
        """What that rests on."""
        return (
            f"published: {embodied()['server'].source}, host with 2 CPUs and 8 disks over its "
            f"chips, {embodied_lifespan_years():g} years"
        )

    @property
    def grid_kg_per_joule(self) -> float:
        """kgCO2e a joule of the grid there."""
        return self._grid()[0]

    @property
    def grid_basis(self) -> str:
        """Which grid and which PUE."""
        return f"{self._grid()[1]}, {self.facility[1]}"

    def _grid(self) -> tuple[float, str]:
        try:
            found = grid_intensity(self.seller, self.region)
            return found.kgco2e_per_joule, f"grid of {self.region}"
        except InputError:
            return grid_intensity("country", "USA").kgco2e_per_joule, "grid of the USA, assumed"

    @property
    def facility(self) -> tuple[float, str]:
        """(PUE, what it rests on)."""
        try:
            return pue(self.seller, self.region).value, f"PUE of {self.seller}"
        except InputError:
            return pue("aws").value, "PUE of aws, assumed"

    def egress_usd(self, size_bytes: float) -> tuple[float, str]:
        """(US dollars to send bytes out of here in one month, what that rests on)."""
        try:
            table = egress(self.seller)
        except InputError:
            dearest = max(("aws", "azure", "gcp", "oci"), key=lambda p: egress(p).usd(size_bytes))
            return egress(dearest).usd(size_bytes), f"assumed: as {dearest}, no price is known"
        return table.usd(size_bytes), f"price list: {table.source} of {table.date}"


@cache
def tiers() -> Mapping[str, Any]:
    """Kinds of seller and what a cluster costs there, as shipped."""
    import yaml

    text = resources.files("weftline.decide").joinpath("data/clusters.yaml").read_text("utf-8")
    found: Mapping[str, Any] = yaml.safe_load(text)
    return found


def tier_of(seller: str) -> str:
    """The kind of a seller; silver where it is not named."""
    for name, held in tiers()["tiers"].items():
        if seller in held["sellers"]:
            return str(name)
    return "silver"


def sites_of(life: Life) -> tuple[Site, ...]:
    """The places of a lifecycle. Raises all mistakes at once."""
    get = Collector()
    found: list[Site] = []
    if life.places:
        for place in life.places:
            site = get(lambda p=place: _given(p, life.head))  # type: ignore[misc]
            found += [] if site is None else [site]
    else:
        where = life.head.where("on")
        names = get(lambda: parse_accelerators(life.head.text("on"), where=where)) or ()
        for name in names:
            site = get(lambda n=name: _listed(n, life.head))  # type: ignore[misc]
            found += [] if site is None else [site]
    get.raise_all()
    names_seen = [s.name for s in found]
    for name in names_seen:
        if names_seen.count(name) > 1:
            raise InputError(f"two places are called `{name}`", where=f"{life.path}:1")
    return tuple(found)


def _listed(name: str, head: Fields) -> Site:
    """A chip at the best price of the list."""
    empty = Fields(values={"name": name, "chip": name}, lines=head.lines, path=head.path,
                   line=head.lines.get("on", head.line))  # fmt: skip
    return _given(empty, head)


def _given(place: Place, head: Fields) -> Site:
    get = Collector()
    try:
        chip = accelerator(chip_named(place.text("chip")))
    except UnknownNameError as error:
        error.where = place.where("chip")
        raise
    told = place.get("price")
    own = None if told is None else get(lambda: own_price(told, where=place.where("price")))
    kinds = head.text("price") if told is None else told
    tier = place.get("tier")
    if tier is not None:
        get(lambda: choice(tier, tuple(tiers()["tiers"]), "tier", where=place.where("tier")))
    discount = head.get("discount")
    region = place.get("region") or head.get("region")
    get.raise_all()
    if own is not None:
        seller = place.get("seller") or "the user's"
        return _site(place, chip, own, "on-demand", seller, region or "", own, "given by the user",
                     discount, region)  # fmt: skip
    off = parse_discounts(discount, sellers(), where=head.where("discount"))
    kind, found = _first_way(chip, kinds, Terms(discounts=off, region=region), place)
    row = found.price
    words = f"{list_words(row)}, {kind}, {row.provider} {row.region}".strip()
    return _site(place, chip, None, kind, place.get("seller") or row.provider, row.region,
                 found.usd_per_chip_hour, words, discount, region)  # fmt: skip


def _first_way(chip: Accelerator, kinds: str, terms: Terms, place: Place) -> tuple[str, Any]:
    """(the first way to pay that the chip is sold in, the price taken)."""
    where = place.where("price")
    today = datetime.date.fromisoformat(CATALOG_DATE)
    last: InputError | None = None
    for word in kinds.split(","):
        kind = choice(word.strip(), PRICE_TYPES, "price type", where=where)
        for least in dict.fromkeys((chip.chips_per_host or 1, 1)):
            try:
                return kind, terms.best(chip.id, kind, today, chips_min=least)
            except InputError as error:
                last = error
    what = last.what if last is not None else "no price"
    raise InputError(f"{chip.id}: {what}", where=place.where("chip"),
                     hint="places: [{name: mine, chip: h100, price: $2.50/h}]")  # fmt: skip


def _site(
    place: Place, chip: Accelerator, own: float | None, kind: str, seller: str, region: str,
    usd: float, basis: str, discount: str | None, only: str | None,
) -> Site:  # fmt: skip
    return Site(
        name=place.text("name"), chip=chip, own_usd=own, price_type=kind, seller=seller,
        region=region, usd_per_chip_hour=usd, price_basis=basis, discount=discount,
        only_region=only, overheads=_overheads(place, place.get("tier") or tier_of(seller)),
    )  # fmt: skip


def _overheads(place: Place, tier: str) -> Overheads:
    held = tiers()["tiers"][tier]
    get = Collector()

    def read(name: str, parse: Callable[..., float], default: float) -> float:
        text = place.get(name)
        if text is None:
            return default
        if text.strip() in NOTHING:
            return 0.0
        value = get(lambda: parse(text, where=place.where(name)))
        return default if value is None else value

    found = Overheads(
        goodput_loss=read("goodput_loss", parse_fraction, held["goodput_loss"]),
        support=read("support", parse_fraction, held["support"]),
        setup_idle_s=read("setup_idle", parse_duration_s, held["setup_idle_months"] * MONTH_S),
        setup_staff_usd=read("setup_staff", parse_usd, held["setup_staff_usd"]),
        debugging_usd_month=read("debugging", parse_usd, held["debugging_usd_month"]),
        storage_usd_month=read("storage", parse_usd, 0.0),
        storage_usd_chip_month=(
            0.0 if place.get("storage") is not None else held["storage_usd_chip_month"]
        ),
        network_usd_month=read("network", parse_usd, held["network_usd_month"]),
        cpu_nodes_usd_month=read("cpu_nodes", parse_usd, 0.0),
        cpu_nodes_usd_chip_month=(
            0.0 if place.get("cpu_nodes") is not None else held["cpu_nodes_usd_chip_month"]
        ),
        control_plane_usd_month=read(
            "control_plane", parse_usd, held["control_plane_usd_month"]
        ),
        basis=f"published: {tiers()['source']} of {tiers()['date']}, a {tier} seller",
    )  # fmt: skip
    get.raise_all()
    return found
