"""What people write, as values: choices, prices, and every mistake of one question at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

from weftline.errors import InputError, InputErrors, UnknownNameError
from weftline.spec.job import ANY, PRICE_CHOICES, PRICE_TYPES, PriceType
from weftline.spec.layout import MAY_BE_ZERO
from weftline.units import parse_fraction, parse_usd

__all__ = [
    "Collector", "choice", "discount_text", "own_price", "parse_discounts", "parse_knobs",
    "parse_parts", "parse_price", "parse_prices", "parts_text", "price_text",
]  # fmt: skip

S = TypeVar("S")
T = TypeVar("T")


class Collector:
    """Runs parsers and keeps their errors, so that a user sees every mistake in one go.

    ``where`` is the place of those that name none themselves.
    """

    def __init__(self, where: str | None = None) -> None:
        self.errors: list[InputError] = []
        self.where = where

    def __call__(self, parse: Callable[[], T]) -> T | None:
        """The parsed value, or None after a mistake."""
        try:
            return parse()
        except InputErrors as several:
            self.errors += several.errors
        except InputError as error:
            self.errors.append(error)
        return None

    def each(self, values: Iterable[S], parse: Callable[[S], T]) -> tuple[T, ...]:
        """The parsed values; those with a mistake are missing."""
        found = (self(partial(parse, value)) for value in values)
        return tuple(value for value in found if value is not None)

    def raise_all(self) -> None:
        """Raise what was collected, if anything was."""
        for error in self.errors:
            error.where = error.where or self.where
        if len(self.errors) == 1:
            raise self.errors[0]
        if self.errors:
            raise InputErrors(self.errors)


def choice(text: str, allowed: Sequence[T], kind: str, *, where: str) -> T:
    """``text`` if it is one of ``allowed``, else UnknownNameError with all of them."""
    for value in allowed:
        if str(value) == text.strip().lower():
            return value
    names = [str(v) for v in allowed]
    raise UnknownNameError(kind, text, names, where=where, hint=f"one of {', '.join(names)}")


def own_price(text: str, *, where: str) -> float | None:
    """``$2.50/h`` -> 2.5 US dollars a chip-hour; None where the text is not a number at all."""
    if not re.match(r"^\s*(\$|usd\s*)?\d", text, flags=re.IGNORECASE):
        return None
    match = re.fullmatch(r"(.*?)\s*/\s*(h|hr|hour|chip-hour)", text.strip())
    if match is None:
        raise InputError(
            f"`{text}` has no period", where=where, hint="write $2.50/h, a price of one chip-hour"
        )
    return parse_usd(match.group(1), where=where)


def parse_price(text: str, *, where: str = "--price") -> tuple[float | None, PriceType]:
    """The user's own price and, where it is none, the type of price to look up."""
    mine = own_price(text, where=where)
    if mine is not None:
        return mine, "on-demand"
    return None, choice(text, PRICE_CHOICES, "price type", where=where)


def parse_prices(
    text: str, chip_named: Callable[[str], str], *, where: str = "--price"
) -> tuple[dict[str, float], tuple[PriceType, ...]]:
    """(own US dollars a chip-hour by chip, types of list prices for the others), all mistakes once.

    ``$2.50/h`` is for every chip; ``h100=2.1,b200=$4/h`` names some, beside ``on-demand,spot`` or
    ``all`` types. ``chip_named`` gives the catalogue's name and raises for an unknown one.
    """
    get = Collector(where)
    own: dict[str, float] = {}
    kinds: list[PriceType] = []

    def one(part: str) -> None:
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if equals:
            has_period = "/" in value
            priced = own_price(value, where=where) if has_period else parse_usd(value, where=where)
            if priced is None:
                raise InputError(f"`{value}` is not a price", where=where, hint="h100=$2.10/h")
            own[chip_named(name)] = priced
        elif name.lower() == "all":
            kinds.extend(PRICE_TYPES)
        else:
            mine, kind = parse_price(name, where=where)
            if mine is None:
                kinds.append(kind)
            else:
                own[ANY] = mine

    for part in _parts(text):
        get(partial(one, part))
    get.raise_all()
    return own, tuple(dict.fromkeys(kinds)) or ("on-demand",)


def parse_discounts(
    text: str | None, sellers: Sequence[str], *, where: str = "--discount"
) -> dict[str, float]:
    """``20%`` of every seller, or ``aws=20%,gcp=10%`` -> share taken off, by seller; ``*`` for all.

    Raises all mistakes at once: an unknown seller, a share that leaves nothing to pay.
    """
    get = Collector(where)
    found: dict[str, float] = {}

    def one(part: str) -> None:
        name, equals, value = (piece.strip() for piece in part.partition("="))
        who = choice(name, tuple(sellers), "seller", where=where) if equals else ANY
        share = parse_fraction(value if equals else name, where=where)
        if not 0 < share < 1:
            raise InputError(f"`{part}` takes off nothing, or all", where=where, hint="20%")
        found[who] = share

    for part in _parts(text or ""):
        get(partial(one, part))
    get.raise_all()
    return found


def parse_parts(
    text: str | None, allowed: Mapping[str, Sequence[str] | None], *, where: str = "--layout"
) -> dict[str, int | str]:
    """``tp=8,pp=2`` -> the parts by name, all mistakes at once.

    ``allowed`` has the values of a part that is a word, and None for one that is a whole number.
    """
    get = Collector(where)
    found: dict[str, int | str] = {}

    def one(part: str) -> None:
        name, equals, value = (piece.strip().lower() for piece in part.partition("="))
        name = name.replace("-", "_")
        if not equals or not value:
            raise InputError(f"`{part}` is not name=value", where=where, hint="tp=8,pp=2")
        if name not in allowed:
            raise UnknownNameError("part of a layout", name, allowed, where=where,
                                   hint=f"one of {', '.join(allowed)}")  # fmt: skip
        words = allowed[name]
        if words is not None:
            found[name] = choice(value, words, name, where=where)
        elif not re.fullmatch(r"\d{1,7}", value):
            raise InputError(f"{name}={value}: a whole number is needed", where=where)
        elif int(value) < 1 and name not in MAY_BE_ZERO:
            raise InputError(f"{name}={value}: at least 1 is needed", where=where)
        else:
            found[name] = int(value)

    for part in _parts(text or ""):
        get(partial(one, part))
    get.raise_all()
    return found


_KNOB_OF: Final = {"on": "accelerator", "global_batch": "batch"}
"""Options whose knob has another name."""


def parse_knobs(text: str, knobs: Sequence[str], *, where: str = "--what-if") -> dict[str, str]:
    """``tp=4,scale_out=2x`` -> names and values; a knob may have the name of its option.

    Raises all mistakes at once.
    """
    changes: dict[str, str] = {}
    get = Collector()

    def one(part: str) -> None:
        name, equals, value = (piece.strip() for piece in part.partition("="))
        name = name.replace("-", "_")
        name = name if name in knobs else _KNOB_OF.get(name, name)
        if not equals or not value:
            raise InputError(f"`{part.strip()}` is not name=value", where=where,
                             hint="for example tp=4,micro_batch=2 or scale_out=2x")  # fmt: skip
        if name not in knobs:
            raise UnknownNameError("knob", name, knobs, where=where,
                                   hint=f"the knobs are {', '.join(knobs)}")  # fmt: skip
        changes[name] = value

    for part in text.split(","):
        get(partial(one, part))
    get.raise_all()
    return changes


def price_text(own: Mapping[str, float], kinds: Sequence[str]) -> str:
    """What :func:`parse_prices` reads as these own prices and types."""
    said = [] if ANY in own else list(kinds)
    said += [f"${usd!r}/h" if chip == ANY else f"{chip}=${usd!r}/h" for chip, usd in own.items()]
    return ",".join(said)


def discount_text(discounts: Mapping[str, float]) -> str | None:
    """What :func:`parse_discounts` reads as these; None for none."""
    said = [f"{off!r}" if who == ANY else f"{who}={off!r}" for who, off in discounts.items()]
    return ",".join(said) or None


def parts_text(parts: Mapping[str, int | str]) -> str | None:
    """What :func:`parse_parts` reads as these; None for none."""
    return ",".join(f"{name}={value}" for name, value in parts.items()) or None


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
