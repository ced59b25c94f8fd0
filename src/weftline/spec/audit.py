"""Nouns of the audit: a published claim, and what our own commands make of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from weftline.spec.notebook import Shown

Verdict = Literal["holds", "fails", "conditional", "undecidable", "arithmetic"]
VERDICTS: Final[tuple[Verdict, ...]] = get_args(Verdict)
"""``arithmetic``: the claim states no figure; what follows from its words is worked out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What somebody published, and how it is tested."""

    id: str
    document: str
    quote: str
    metric: str
    value: str
    check: str
    terms: Mapping[str, Any]
    """What the check needs: chip, model, dollars..."""
    where: str = ""
    """File and line, of a claim of the user's own."""
    public_value: str = ""
    """What public sources say."""
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited:
    """A claim with its verdict and what shows it."""

    claim: Claim
    verdict: Verdict
    condition: str
    """When it holds, what flips it, or how far it is off."""
    missing: str = ""
    """What would have to be known, of an undecidable one."""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    command: str = ""
    """What anybody can run to see the same figure."""
    evidence: tuple[str, ...] = ()
    disagree: tuple[str, ...] = ()
    """Source against source, where they do not say the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit(Shown):
    """All claims that were asked for."""

    weftline: str
    catalog_date: str
    hypothetical: tuple[str, ...] = ()
    """Chips that nobody has announced, given by the user."""
    audited: tuple[Audited, ...] = field(default_factory=tuple)
