"""Money, energy and spares of a fleet: what the tokens cost, and what failures ask for."""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass
from typing import Any, Final

from weftline.catalog import (
    Accelerator,
    Price,
    PriceChoice,
    list_words,
    pue,
)
from weftline.catalog.date import CATALOG_DATE
from weftline.catalog.offers import taken_order
from weftline.catalog.prices import PRICE_TYPES
from weftline.cost import FAILURES_BASIS, Terms, no_price
from weftline.cost.energy import HOST_FRACTION, POWER_BAND, POWER_FRACTION
from weftline.cost.goodput import FAILURES_PER_CHIP_DAY
from weftline.errors import InputError
from weftline.serve.engine.config import ServingConfig
from weftline.spec import Estimate, PriceQuote

IDLE_FRACTION: Final = 0.2
"""Draw of a waiting chip over its design power, assumed (an idle H100 SXM reads about 70 to 120 W
of 700 W)."""
REPAIR_S: Final = 3600.0
"""From a failure to a replica that serves again on another host, assumed: detect, replace, load."""
SPOT_WARNING: Final = (
    "spot: the provider may take instances back at minutes' notice, several at once; the spares "
    "count failures only, so hold more, or keep the needed replicas on demand"
)
AVAILABILITY: Final = 0.999
"""Share of time in which at least the needed replicas must be up."""


class Market:
    """What chips of one kind cost an hour, by whole instances.

    The user's own price of a chip-hour comes first, chips sold one by one; else the catalogue's
    sound rows of the price type count, dated ones before others, none older than a year where newer
    exist, less what their seller takes off.
    """

    def __init__(self, chip: Accelerator, price_type: str, terms: Terms) -> None:
        self.chip = chip
        self.own = terms.own(chip.id)
        self.price_type = price_type if self.own is None else "given"
        self.choice: PriceChoice | None = None
        self.rows: tuple[Price, ...] = ()
        self.instead = ""
        """Where there is no price: so in words, with what the catalogue knows of other ways."""
        if self.own is not None:
            return
        today = datetime.date.fromisoformat(CATALOG_DATE)
        try:
            self.choice = terms.best(chip.id, price_type, today)
        except InputError:
            self.instead = no_price(chip.id, price_type, terms.region)
            return
        self.price_type = self.choice.price.price_type
        self.rows = terms.offers(chip.id, self.price_type, today)

    @property
    def known(self) -> bool:
        """Whether there is a price at all."""
        return self.own is not None or bool(self.rows)

    @property
    def warning(self) -> str:
        """What the price does not pay for."""
        return SPOT_WARNING if self.price_type == "spot" and self.own is None else ""

    def cheapest(self, chips: int, together: int) -> tuple[float, Price | None]:
        """(US dollars an hour, the row) for ``chips`` chips in instances of ``together`` or more.

        An instance smaller than a replica is taken only where no row has one as large; a list price
        of one chip is paid in machines of any size.
        """
        if self.own is not None:
            return self.own * chips, None
        widest = max(p.chips for p in self.rows)
        fit = [p for p in self.rows if p.per_chip or p.chips >= min(together, widest)]
        best = min(fit, key=lambda p: (self._bill(p, chips), p.usd_per_chip_hour))
        return self._bill(best, chips), best

    @staticmethod
    def _bill(row: Price, chips: int) -> float:
        return math.ceil(chips / row.chips) * (row.usd_per_hour or math.inf)

    def quote(self, row: Price | None) -> PriceQuote | None:
        """The price as a plan keeps it, with the span of the rows beside it."""
        if self.own is not None:
            return PriceQuote(
                usd_per_chip_hour=Estimate.exact(self.own, "USD/chip-hour", "given by the user"),
                price_type="given", provider="", instance="", region="", date="",
                source="the user",
            )  # fmt: skip
        if row is None or self.choice is None:
            return None
        each, choice = row.usd_per_chip_hour, self.choice
        basis = f"{list_words(row)}; lowest to highest of {choice.rows} offers"
        return PriceQuote(
            usd_per_chip_hour=Estimate(
                value=each, unit="USD/chip-hour", low=min(each, choice.low),
                high=max(each, choice.high), basis=basis,
            ),
            price_type=row.price_type, provider=row.provider, instance=row.instance,
            region=row.region, date=row.date, source=row.source,
            note=_words(row), offers=choice.rows, sellers=choice.sellers, undated=choice.undated,
            host_included=row.host_included,
        )  # fmt: skip


def markets_of_any(chip: Accelerator, terms: Terms) -> list[Market]:
    """Every way to pay that may be the cheapest for a fleet of ``chip``.

    Which one is, depends on the fleet: spot by eight chips is dearer for one than one on demand.
    Left out are ways whose best row is taken after that of another, old or of unknown day.
    """
    today = datetime.date.fromisoformat(CATALOG_DATE)
    markets = [Market(chip, way, terms) for way in PRICE_TYPES]
    found = [(taken_order(m.choice.price, today), m) for m in markets if m.choice is not None]
    first = min((order for order, _ in found), default=None)
    return [market for order, market in found if order == first]


def _words(row: Price) -> str:
    place = "" if row.region == "unstated" else f" {row.region}"
    size = "by the chip" if row.per_chip else f"{row.chips} chips an instance"
    host = "" if row.host_included else ", host not included"
    return f"{row.provider}{place} {row.instance}, {size}{host}"


def spares_of(replicas: int, chips_per_replica: int) -> int:
    """Replicas beside the needed ones, so that failures leave enough up 99.9 % of the time.

    Each is down for ``REPAIR_S`` after a failure of any of its chips, independently of others;
    the number up is binomial.
    """
    down = 1.0 - math.exp(-chips_per_replica * FAILURES_PER_CHIP_DAY / 86400.0 * REPAIR_S)
    for spares in range(replicas + 2):
        total = replicas + spares
        # Chance that more than `spares` are down at once.
        fine = sum(
            math.exp(
                math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1)
                + k * math.log(down) + (total - k) * math.log1p(-down)
            )
            for k in range(spares + 1)
        )  # fmt: skip
        if fine >= AVAILABILITY:
            return spares
    return replicas + 2


SPARES_BASIS: Final = (
    f"assumed: {REPAIR_S / 60:.0f} min to replace a replica, enough of them up "
    f"{AVAILABILITY:.1%} of the time; failures {FAILURES_BASIS}"
)


def power_w(chip: Accelerator, chips: int, busy_share: float) -> tuple[float, float, float] | None:
    """(value, low, high) watts at the meter of the building; None where no design power is known.

    ``busy_share`` of the time a chip draws as a busy training chip does, else as an idle one.
    """
    if chip.tdp_w is None:
        return None
    facility = _pue(chip)
    full = chips * chip.tdp_w * (1 + HOST_FRACTION) * facility

    def at(busy: float) -> float:
        return full * (busy * busy_share + IDLE_FRACTION * (1 - busy_share))

    return at(POWER_FRACTION), at(POWER_BAND[0]), at(POWER_BAND[1])


def _pue(chip: Accelerator) -> float:
    provider = {"google": "gcp", "aws": "aws", "microsoft": "azure"}.get(chip.vendor, "aws")
    try:
        return float(pue(provider).value)
    except InputError:
        return float(pue("aws").value)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCosts:
    """US dollars a million tokens, the fleet's cost divided by what each kind keeps busy."""

    input_usd: float
    output_usd: float
    cached_usd: float
    """A prompt token found in the prefix cache: attention to it is all that is computed."""
    prefill_share: float
    """Of the chips' working time."""


def token_costs(
    config: ServingConfig, *, usd_per_hour: float, rate_per_s: float, input_tokens: float,
    output_tokens: float, cached_share: float, batch: float,
) -> TokenCosts:  # fmt: skip
    """Divide a fleet's dollars by time: prompts alone, decode steps at the mean batch."""
    from weftline.serve.simulate.step import prefill_surface, surface

    decode, prefill = surface(config), prefill_surface(config)
    fresh = max(1.0, input_tokens * (1.0 - cached_share))
    cached = input_tokens - fresh if cached_share else 0.0
    chunk = float(config.chunk_tokens)
    # A full iteration's tokens share its fixed part: what a prompt takes in a busy engine.
    packed = max(chunk, fresh)
    a_prompt = (prefill.token(packed, prompts=True) + prefill.host_s) * fresh / packed
    attend = prefill.chunk(fresh, 0.0)
    a_prompt += attend
    look_back = max(0.0, prefill.chunk(fresh, cached) - attend) if cached else 0.0
    some = max(1.0, batch)
    context = input_tokens + output_tokens / 2.0
    step = decode.step_s(0.0, 0.0, some, some * context)
    an_answer = output_tokens * step / some / decode.tokens_per_step
    total = a_prompt + look_back + an_answer
    usd_each = usd_per_hour / 3600.0 / rate_per_s
    reach = look_back if cached else _reach(prefill, chunk, context)
    per_cached = reach / cached if cached else reach
    return TokenCosts(
        input_usd=usd_each * a_prompt / total / fresh * 1e6,
        output_usd=usd_each * an_answer / total / output_tokens * 1e6,
        cached_usd=usd_each * per_cached / total * 1e6,
        prefill_share=(a_prompt + look_back) / total,
    )  # fmt: skip


def _reach(surface: Any, chunk: float, context: float) -> float:
    """Seconds that one cached token adds to the attention of a prompt of 512 new tokens."""
    new = min(512.0, chunk)
    return float(max(0.0, surface.chunk(new, context) - surface.chunk(new, 0.0)) / context)
