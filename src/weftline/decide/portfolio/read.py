"""A portfolio file: demand by quarter, offers, and how unsure demand is; every mistake at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Final

from weftline.errors import InputError, UnknownNameError
from weftline.spec.located import Located, read_located
from weftline.spec.parse import Collector, choice, own_price
from weftline.spec.portfolio import WAYS, CapacityDemand, CapacityOffer
from weftline.units import parse_fraction, parse_usd

__all__ = ["Asked", "parse_portfolio", "read_portfolio"]

BLOCK_UNITS: Final = 64
"""Instances of one capacity block, and it is signed for eight weeks ahead: within a quarter."""
MOST_QUARTERS: Final = 24
_HEAD: Final = ("kind", "demand", "offers", "spread", "scenarios", "fresh", "seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A portfolio file as values."""

    kinds: tuple[CapacityDemand, ...]
    offers: tuple[CapacityOffer, ...]
    spread: float
    """Standard deviation of the logarithm of demand after a year."""
    scenarios: int
    fresh: int
    """Scenarios that policies are held against."""
    seed: int
    plain: Mapping[str, Any]


def read_portfolio(path: str) -> Asked:
    """The portfolio in a YAML or JSON file. Raises every mistake with file and line."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        what = f"`{path}`: {getattr(error, 'strerror', None) or 'not a text file'}"
        hint = "examples/portfolio/lab.yaml is one to start from"
        raise InputError(what, hint=hint) from None
    return parse_portfolio(text, path)


def parse_portfolio(text: str, path: str) -> Asked:
    """The same from text."""
    root = read_located(text, path)
    if not isinstance(root.value, dict):
        raise InputError("a portfolio is a mapping", where=f"{path}:1",
                         hint="demand: [...], offers: [...]")  # fmt: skip
    get = Collector()
    for key, held in root.value.items():
        if key not in _HEAD:
            get.errors.append(UnknownNameError("field", key, _HEAD, where=f"{path}:{held.line}"))
    kinds = get.each(root.items("demand"), lambda h: _demand(h, path))
    offers = get.each(root.items("offers"), lambda h: _offer(h, path))
    for name, found in (("demand", kinds), ("offers", offers)):
        if not root.items(name):
            get.errors.append(InputError(f"no {name}", where=f"{path}:{root.line}"))
        names = [f.name for f in found]
        get.errors += [InputError(f"two {name} are called `{n}`", where=f"{path}:{root.line}")
                       for n in sorted({n for n in names if names.count(n) > 1})]  # fmt: skip
    lengths = {len(k.chips) for k in kinds}
    if len(lengths) > 1 or max(lengths, default=1) > MOST_QUARTERS:
        get.errors.append(InputError("demand of equally many quarters, 24 at most",
                                     where=f"{path}:{root.line}"))  # fmt: skip
    numbers = {}
    for name, usual, low, high in (("scenarios", 12, 1, 200), ("fresh", 200, 10, 2000),
                                   ("seed", 0, 0, 1 << 31)):  # fmt: skip
        value = root.get(name)
        numbers[name] = usual if value is None else value
        if not isinstance(numbers[name], int) or not low <= numbers[name] <= high:
            where = f"{path}:{root.value[name].line}"
            get.errors.append(InputError(f"`{name}`: {low} to {high}", where=where))
    told = root.get("spread")
    spread = get(lambda: parse_fraction(str("30%" if told is None else told), where=path))
    get.raise_all()
    return Asked(kinds=kinds, offers=offers, spread=spread or 0.0, plain=root.plain(), **numbers)


def _mapping(held: Located, path: str, kind: type) -> dict[str, Any]:
    place = f"{path}:{held.line}"
    if not isinstance(held.value, dict):
        raise InputError("a mapping is needed", where=place)
    known = {f.name for f in fields(kind)} - {"basis"}
    get = Collector()
    for key, value in held.value.items():
        if key not in (*known, "price", "capex"):
            get.errors.append(UnknownNameError("field", key, known, where=f"{path}:{value.line}"))
    needed = [f.name for f in fields(kind) if f.default is MISSING]
    plain: dict[str, Any] = held.plain()
    lacking = [n for n in needed if n not in plain and n != "usd_per_chip_hour"]
    if lacking:
        get.errors.append(InputError(f"{', '.join(lacking)} missing", where=place))
    get.raise_all()
    return plain


def _demand(held: Located, path: str) -> CapacityDemand:
    plain = _mapping(held, path, CapacityDemand)
    place = f"{path}:{held.line}"
    chips = plain["chips"]
    if not isinstance(chips, list) or not chips or not all(
        isinstance(c, int | float) and c >= 0 for c in chips
    ):  # fmt: skip
        raise InputError("`chips` is a list of numbers, one a quarter", where=place)
    wait = plain.get("wait", 0)
    if not isinstance(wait, int) or wait < 0:
        raise InputError("`wait` is a number of quarters", where=place)
    return CapacityDemand(name=str(plain["name"]), chips=tuple(map(float, chips)), wait=wait,
                          firm=bool(plain.get("firm", wait == 0)))  # fmt: skip


def _offer(held: Located, path: str) -> CapacityOffer:
    plain = _mapping(held, path, CapacityOffer)
    place = f"{path}:{held.line}"
    way = choice(str(plain["way"]), WAYS, "way to buy", where=place)
    price = own_price(str(plain.get("price", "")), where=place)
    if price is None:
        raise InputError("`price` is missing", where=place, hint="price: $2.50/h, of one chip")
    numbers = {n: plain[n] for n in ("unit_chips", "speed", "term", "lead", "available")
               if n in plain}  # fmt: skip
    bad = [n for n, v in numbers.items() if not isinstance(v, int | float) or v < 0
           or (n in ("unit_chips", "speed", "term", "available") and v <= 0)]  # fmt: skip
    if bad or numbers.get("available", 1) > 1:
        raise InputError(f"{', '.join(bad) or 'available'}: not such a number", where=place)
    resale = parse_fraction(str(plain.get("resale", 0)), where=place)
    supply = plain.get("supply", [])
    supply = supply if isinstance(supply, list) else [supply]
    if way == "block" and not supply:
        supply = [BLOCK_UNITS * numbers.get("unit_chips", 8)]
    capex = plain.get("capex")
    return CapacityOffer(
        name=str(plain["name"]), vendor=str(plain["vendor"]), way=way, usd_per_chip_hour=price,
        supply=tuple(float(s) for s in supply), resale=resale or 0.0,
        capex_usd=0.0 if capex is None else parse_usd(str(capex), where=place), **numbers,
    )  # fmt: skip
