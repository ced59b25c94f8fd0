"""What people write, as values: choices, prices, and every mistake of one question at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

from weftline.errors import InputError, InputErrors, UnknownNameError
from weftline.spec.job import PRICE_CHOICES, PriceType
from weftline.units import parse_usd

__all__ = ["Collector", "choice", "own_price", "parse_price"]

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
