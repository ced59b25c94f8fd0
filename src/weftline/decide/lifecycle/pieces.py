"""One stage at one site: its lines, its chips, its time; and the drivers that lines move with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from weftline.decide.lifecycle.read import Fields
from weftline.decide.lifecycle.sites import HOUR_S, MONTH_S, Site
from weftline.errors import InputError
from weftline.spec import Estimate
from weftline.spec.lifecycle import Driver, LifeLine

__all__ = ["DEMAND", "DRAW", "FAILURES", "PEOPLE", "Drivers", "Piece", "cluster_lines"]

DEMAND: Final = "demand"
FAILURES: Final = "failure rate"
PEOPLE: Final = "people"
CORES: Final = "bytes a second a core"
DRAW: Final = "power drawn"
GRID: Final = "carbon of the grid"
PRICE: Final = "price at "
LEAST_BAND: Final = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A stage at a site. Money and energy are in its lines."""

    stage: str
    kind: str
    site: Site | None
    """None for stages on CPU cores and in storage that no site was chosen for."""
    lines: tuple[LifeLine, ...]
    chips: int = 0
    """The largest number at once."""
    lasts_s: float = 0.0
    said: str = ""
    shares: tuple[float, ...] = ()
    """Of a stage of many months: what falls in each; else it is spread over its time."""
    trains: bool = False
    """Whether its cluster has to be set up and looked after as one for training."""
    tokens: float = 0.0
    """Tokens that are served."""

    @property
    def usd(self) -> float:
        """All of its lines at the middle."""
        return sum(line.usd for line in self.lines)


class Drivers:
    """The drivers of one lifecycle, by name, each made once."""

    def __init__(self, bands: Fields) -> None:
        self.bands = bands
        self.by_name: dict[str, Driver] = {}

    def add(self, name: str, low: float, high: float, basis: str, at: str = "") -> str:
        """A driver of this name, made where there is none yet; a band without width is none."""
        if name not in self.by_name and max(1 / low, high) > 1 + LEAST_BAND:
            self.by_name[name] = Driver(name=name, low=min(low, 1.0), high=max(high, 1.0),
                                        basis=basis, at=at)  # fmt: skip
        return name

    def of_file(self, name: str, field_name: str, basis: str, at: str = "") -> str:
        """A driver whose band stands in the file: ``0.8..1.3``."""
        text = self.bands.text(field_name)
        low, dots, high = text.partition("..")
        where = self.bands.where(field_name)
        try:
            span = (float(low), float(high))
        except ValueError:
            span = (0.0, 0.0)
        if not dots or not 0 < span[0] <= 1 <= span[1]:
            raise InputError(f"`{text}` is not a band around 1", where=where, hint="0.8..1.3")
        given = field_name in self.bands.lines
        return self.add(name, *span, "given by the user" if given else basis, at)

    def price(self, site: Site, usd: float) -> str:
        """The price at a site; the user's own has no band."""
        name = f"{PRICE}{site.name}"
        if site.own_usd is not None:
            return name
        return self.of_file(
            name, "price",
            "assumed: list prices of H100 and B200 moved by up to half within a quarter of 2026",
            f"${usd:.2f} a chip-hour",
        )  # fmt: skip

    def speed(self, name: str, estimate: Estimate, at: str) -> str:
        """How fast something runs, from the band of an estimate that grows with it."""
        low, high = estimate.low / estimate.value, estimate.high / estimate.value
        return self.add(name, low, high, f"the plan's band: {estimate.basis.partition(';')[0]}", at)

    def failures(self) -> str:
        """Failures a chip and day."""
        return self.of_file(FAILURES, "failures", "published: Meta RSC-2 and RSC-1 about Llama 3's",
                            "0.474 failures a 1,000 chip-days")  # fmt: skip

    def people(self) -> str:
        """Set-up and debugging."""
        return self.of_file(PEOPLE, "people", "assumed")

    def demand(self, at: str) -> str:
        """Tokens served."""
        return self.of_file(DEMAND, "demand", "assumed: the market's word is not known", at)

    def known(self, powers: Mapping[str, float]) -> dict[str, float]:
        """Powers of the drivers that have a band."""
        return {name: power for name, power in powers.items() if name in self.by_name}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rented:
    """Chips rented by a stage, however long: what all overheads are counted from."""

    stage: str
    site: Site
    usd: float
    """Of the chips."""
    chips: float
    """On average over the time."""
    months: float
    formula: str
    basis: str
    chip_hours: float
    energy_j: float | None
    drivers: Mapping[str, float] = field(default_factory=dict)


def chips_line(rented: Rented, part: str = "chips") -> LifeLine:
    """The line of the chips themselves, with energy and carbon."""
    site = rented.site
    return LifeLine(
        stage=rented.stage, part=part, place=site.name, seller=site.seller, usd=rented.usd,
        formula=rented.formula, basis=rented.basis, chip_hours=rented.chip_hours,
        energy_j=rented.energy_j,
        kgco2e=None if rented.energy_j is None else rented.energy_j * site.grid_kg_per_joule,
        kgco2e_embodied=rented.chip_hours * site.embodied_kg_per_chip_hour,
        drivers=dict(rented.drivers),
    )  # fmt: skip


def cluster_lines(rented: Rented, drivers: Drivers, *, trains: bool) -> tuple[LifeLine, ...]:
    """What a cluster costs beside its chips while it is rented: storage, network, CPU nodes,
    control plane, people, support. Set-up is counted once a place, elsewhere."""
    site, over = rented.site, rented.site.overheads
    base = LifeLine(stage=rented.stage, part="", place=site.name, seller=site.seller, usd=0.0,
                    formula="", basis=over.basis)  # fmt: skip
    # What goes by the month goes on as long as the run does: the same powers, but for the price.
    longer = {n: p for n, p in rented.drivers.items() if not n.startswith(PRICE)}
    billed: list[LifeLine] = []

    def add(part: str, a_month: float, a_chip_month: float) -> None:
        usd = (a_month + a_chip_month * rented.chips) * rented.months
        said = " + ".join(
            [f"${a_month:,.0f}"] * bool(a_month)
            + [f"${a_chip_month:.3g} x {rented.chips:,.0f} chips"] * bool(a_chip_month)
        )
        if usd:
            billed.append(replace(base, part=part, usd=usd, drivers=longer,
                                  formula=f"({said}) x {rented.months:.3g} months"))  # fmt: skip

    add("storage", over.storage_usd_month, over.storage_usd_chip_month)
    add("network", over.network_usd_month, 0.0)
    add("CPU nodes", over.cpu_nodes_usd_month, over.cpu_nodes_usd_chip_month)
    add("control plane", over.control_plane_usd_month, 0.0)
    lines = list(billed)
    if over.support:
        beside = sum(line.usd for line in billed)
        for what, usd, powers in (("the chips", rented.usd, dict(rented.drivers)),
                                  ("what is billed beside", beside, longer)):  # fmt: skip
            if usd:
                lines.append(replace(base, part="support", usd=over.support * usd, drivers=powers,
                                     formula=f"{over.support:.3g} of {what}"))  # fmt: skip
    if trains and over.debugging_usd_month:
        powers = drivers.known({**longer, drivers.people(): 1.0})
        lines.append(replace(
            base, part="debugging", usd=over.debugging_usd_month * rented.months, drivers=powers,
            formula=f"${over.debugging_usd_month:,.0f} x {rented.months:.3g} months",
        ))  # fmt: skip
    return tuple(lines)


def setup_lines(
    stage: str, site: Site, chips: int, usd_per_chip_hour: float, drivers: Drivers
) -> tuple[LifeLine, ...]:
    """A training cluster made ready, once a place: its chips idle, and people."""
    over = site.overheads
    base = LifeLine(stage=stage, part="set-up", place=site.name, seller=site.seller, usd=0.0,
                    formula="", basis=over.basis)  # fmt: skip
    hours = over.setup_idle_s / HOUR_S
    found = []
    if hours:
        price = drivers.price(site, usd_per_chip_hour)
        powers = drivers.known({price: 1.0, drivers.people(): 1.0})
        found.append(replace(
            base, usd=chips * hours * usd_per_chip_hour, drivers=powers, chip_hours=chips * hours,
            formula=f"{chips:,} chips x {hours:,.0f} h idle x ${usd_per_chip_hour:.2f}",
            kgco2e_embodied=chips * hours * site.embodied_kg_per_chip_hour,
        ))  # fmt: skip
    if over.setup_staff_usd:
        found.append(replace(base, usd=over.setup_staff_usd, formula="people, once",
                             drivers=drivers.known({drivers.people(): 1.0})))  # fmt: skip
    return tuple(found)


def months_of(seconds: float) -> float:
    """Months of 730 hours."""
    return seconds / MONTH_S
