"""Names of the catalogue as people write them: accelerators and regions, every mistake at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from weftline.catalog._lookup import accelerator
from weftline.catalog._read import accelerators
from weftline.catalog.accelerators import Accelerator
from weftline.catalog.machines import HERE, machine, machines
from weftline.catalog.own import changed_figures, read_own_chips
from weftline.catalog.prices import prices
from weftline.errors import InputError, UnknownNameError
from weftline.spec import ANY
from weftline.spec.options import Where, as_option
from weftline.spec.parse import Collector, choice

__all__ = [
    "check_region",
    "chip_named",
    "known_terms",
    "named_accelerators",
    "parse_accelerators",
    "parse_own_chips",
    "sellers",
]

NO_REGION: Final = frozenset({"*", "unstated"})
"""What stands in the place of a region where a list names none."""


_USES: Final = ("cpu", "edge", "desktop")


def check_region(region: str | None, *, where: str = "--region") -> None:
    """Raise UnknownNameError for a region that no price is known of."""
    known = {p.region for p in prices()} - NO_REGION
    if region is not None and region not in known:
        hint = "`weftline catalog list prices` shows where prices are known"
        raise UnknownNameError("region", region, sorted(known), where=where, hint=hint)


def parse_accelerators(on: str, *, where: str = "--on") -> tuple[str, ...]:
    """``h100,mi300x`` as catalogue names, nothing for ``all``. Raises all unknown names.

    ``cpu``, ``edge``, ``desktop`` stand for every chip that is used so.
    """
    if on.strip().lower() == "all":
        return ()
    names = [name.strip() for name in on.split(",") if name.strip()]
    if not names:
        raise InputError("no accelerator is named", where=where, hint="--on h100,mi300x or all")
    get = Collector(where=where)
    found: list[str] = []
    for name in names:
        if name.lower() in _USES:
            found += [id_ for id_ in accelerators() if accelerator(id_).use == name.lower()]
            continue
        chip = get(lambda name=name: accelerator(name))  # type: ignore[misc]
        found += [] if chip is None else [chip.id]
    get.raise_all()
    return tuple(dict.fromkeys(found))


def named_accelerators(names: Sequence[str]) -> tuple[Accelerator, ...]:
    """The chips to compare, each once, in the order asked. Raises all unknown names."""
    get = Collector()
    found = [get(lambda name=name: accelerator(name)) for name in names]  # type: ignore[misc]
    get.raise_all()
    once = {a.id: a for a in found if a is not None}
    if len(once) < 2:
        hint = "`weftline catalog compare h100 b200 mi355x`"
        raise InputError("two or more chips are compared", where="CHIP", hint=hint)
    return tuple(once.values())


def parse_own_chips(
    files: str | None, changes: str | None, *, on: str = "", where: Where = as_option
) -> tuple[tuple[dict[str, Any], ...], dict[str, float]]:
    """Records of own chips and changed figures, and the prices among them. Raises all mistakes.

    Machines that the user has measured and names in ``on`` are chips of their own.
    """
    get = Collector()
    read = get(lambda: read_own_chips(files, where=where("chip"))) or ([], {})
    changed = get(lambda: changed_figures(changes, where=where("chip_set"))) or ([], {})
    get.raise_all()
    given = {record["id"] for record in read[0]}
    known = (HERE, *machines())
    named = [name for part in on.split(",") if (name := part.strip().lower()) in known]
    mine = [get(partial(machine, name)) for name in dict.fromkeys(named) if name not in given]
    get.raise_all()
    chips = (dict(found.chip) for found in mine if found is not None)
    return (*read[0], *changed[0], *chips), {**read[1], **changed[1]}


def chip_named(name: str) -> str:
    """The catalogue's name of a chip that prices are given for, whatever its figures are."""
    return accelerator(name).sold_as


def sellers() -> tuple[str, ...]:
    """Who sells: the providers of the price list."""
    return tuple(sorted({p.provider for p in prices()}))


def known_terms(
    own_prices: Mapping[str, float], discounts: Mapping[str, float]
) -> tuple[dict[str, float], dict[str, float]]:
    """Own prices by the catalogue's names, and discounts of sellers that there are.

    Raises all that is wrong: an unknown chip or seller, a price of nothing, a share beyond all.
    """
    get = Collector()
    prices: dict[str, float] = {}

    def price(name: str) -> None:
        usd = own_prices[name]
        if not usd > 0:
            raise InputError(f"{usd} US dollars a chip-hour for {name}: above zero is needed",
                             where="own_prices")  # fmt: skip
        prices[name if name == ANY else chip_named(name)] = usd

    def discount(name: str) -> None:
        if not 0 < discounts[name] < 1:
            raise InputError(f"{discounts[name]} off: a share between 0 and 1 is needed",
                             where="discounts")  # fmt: skip
        if name != ANY:
            choice(name, sellers(), "seller", where="discounts")

    get.each(own_prices, price)
    get.each(discounts, discount)
    get.raise_all()
    return prices, dict(discounts)
