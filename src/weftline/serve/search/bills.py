"""What a fleet is bought as: so many chips of each kind, each kind at its own price."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from weftline.catalog import Price
from weftline.serve.search.economics import Market
from weftline.serve.search.screen import Option

__all__ = ["Bought", "bills", "cheapest_by", "usd_of"]

Markets = Mapping[str, Sequence[Market]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bought:
    """Chips of one kind."""

    market: Market
    chips: int
    together: int
    """Of one replica or group: no smaller instance is taken."""

    @property
    def usd_per_hour(self) -> float | None:
        """US dollars an hour in whole instances; None without a price."""
        return self.market.cheapest(self.chips, self.together)[0] if self.market.known else None

    @property
    def row(self) -> Price | None:
        """The catalogue's row; None where the user gave a price, or there is none."""
        return self.market.cheapest(self.chips, self.together)[1] if self.market.known else None

    @property
    def paid_chips(self) -> int:
        """Chips on the bill: whole instances."""
        row = self.row
        return self.chips if row is None else math.ceil(self.chips / row.chips) * row.chips


def bills(option: Option, replicas: int, markets: Markets) -> list[tuple[Bought, ...]]:
    """``replicas`` replicas or groups, once for each way to pay for the chips that decode; other
    kinds are bought the same way where that has a price for them, else as is cheapest."""
    kinds = option.config.chips_by_kind()
    out = []
    for market in markets[option.config.chip]:
        parts = []
        for name, each in kinds.items():
            way = market
            if name != option.config.chip:
                way = _same_way(markets[name], market.price_type, each * replicas, each)
            parts.append(Bought(market=way, chips=each * replicas, together=each))
        out.append(tuple(parts))
    return out


def _same_way(markets: Sequence[Market], price_type: str, chips: int, together: int) -> Market:
    known = [m for m in markets if m.known] or list(markets)
    same = [m for m in known if m.price_type == price_type] or known
    return min(same, key=lambda m: m.cheapest(chips, together)[0] if m.known else math.inf)


def usd_of(parts: Iterable[Bought]) -> float | None:
    """US dollars an hour of all; None where one has no price."""
    each = [part.usd_per_hour for part in parts]
    return None if any(usd is None for usd in each) else sum(usd for usd in each if usd is not None)


def cheapest_by(
    options: Iterable[Option], markets: Markets, rate_per_s: float
) -> tuple[float, Option] | None:
    """(US dollars an hour, option) of the cheapest by the closed form; None without a price."""
    found = [
        (usd, option)
        for option in options for parts in bills(option, option.replicas(rate_per_s), markets)
        if (usd := usd_of(parts)) is not None
    ]  # fmt: skip
    return min(found, key=lambda pair: pair[0], default=None)
