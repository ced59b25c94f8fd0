"""What a check is given, read with units; and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from weftline.catalog import Accelerator, accelerator
from weftline.errors import InputError, UnknownNameError
from weftline.spec.audit import Verdict

__all__ = ["AS_TOLD", "Finding", "MissingChipError", "Terms"]

T = TypeVar("T")
AS_TOLD = "-as-told"
"""A user's `inferentia3-as-told` stands for the catalogue's `inferentia3`, which has no figures."""


class MissingChipError(Exception):
    """A claim is about a chip that nobody sells: undecidable, until the user describes one."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(name)
        self.name, self.why = name, why


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The terms of one claim."""

    values: Mapping[str, Any]
    where: str
    hypothetical: frozenset[str] = frozenset()
    """Chips that the user described for this audit."""
    prices: Mapping[str, float] = field(default_factory=dict)
    """US dollars a chip-hour of those."""
    described: str | None = None
    """Those chips as the option --chip has them, for the planners."""

    def read(self, name: str, parse: Callable[..., T]) -> T:
        """A term through one of the parsers of units. Raises InputError where it is missing."""
        if name not in self.values:
            raise InputError(f"`{name}` is missing", where=self.where)
        return parse(str(self.values[name]), where=self.where)

    def number(self, name: str, default: float | None = None) -> float:
        """A plain number."""
        value = self.values.get(name, default)
        try:
            return float(str(value))
        except ValueError:
            raise InputError(f"`{name}`: a number is needed, not `{value}`",
                             where=self.where) from None  # fmt: skip

    def text(self, name: str, default: str = "") -> str:
        """A word."""
        return str(self.values.get(name, default))

    def chip(self, name: str = "chip") -> Accelerator:
        """A chip; one that no maker sells counts only where the user described it.

        Raises MissingChipError for those, InputError for a mistyped name.
        """
        word = self.text(name)
        told = [chip for chip in self.hypothetical if chip.removesuffix(AS_TOLD) == word]
        if told:
            return accelerator(told[0])
        try:
            found = accelerator(word)
        except UnknownNameError as error:
            if self.text("unknown") == word:  # the claim's own words: such a chip may not exist
                raise MissingChipError(word, "no chip of that name is in the catalogue") from None
            error.where = self.where
            raise
        if found.hypothetical and found.id not in self.hypothetical:
            raise MissingChipError(found.id, "no maker has announced it")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a check comes to."""

    verdict: Verdict
    condition: str
    missing: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    command: str = ""
    evidence: tuple[str, ...] = field(default_factory=tuple)
    disagree: tuple[str, ...] = field(default_factory=tuple)
