"""Nouns of co-design: architectures of equal worth, what each costs where, who favours which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from weftline.spec.notebook import Shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """One architecture, sized to the asked quality."""

    name: str
    """What differs from the base: ``window=1024/6, heads=32:8``; ``base`` for none."""
    size: float
    """Layers over those of the base."""
    spec: str
    """The model as every command takes it: ``gpt:layers=32,...``."""
    knobs: Mapping[str, str]
    parameters: int
    active_parameters: int
    quality: float
    """The proxy, as near to the target as a whole width comes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DesignCost:
    """One design on one chip; US dollars a million tokens."""

    design: str
    size: float
    chip: str
    train_usd_per_m: float | None
    """With failures, of the cheapest layout and count; None where it cannot be trained there."""
    serve_usd_per_m: float | None
    """Of prompt and answer tokens, at the rate that the fleet keeps within its targets."""
    usd: float | None
    """Of the tokens trained and served."""
    trained: str = ""
    """Layout, precision, count."""
    served: str = ""
    basis: str = ""
    lost: str = ""
    """Why it has no plan there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Iso:
    """One point of an iso-cost curve: what a design is worth there for the base's money."""

    chip: str
    design: str
    size: float
    """Layers over those of the base that cost as much on this chip as the base does."""
    parameters: float
    quality: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Codesign(Shown):
    """Which architecture each chip favours, what one for all costs, and what fragmentation is."""

    kind: Literal["codesign"] = "codesign"
    weftline: str
    catalog_date: str
    model: str
    base: str
    """The base as a ``gpt:`` line."""
    quality: str
    """The proxy that all designs keep."""
    target: float
    tokens: float
    served: float
    chips: tuple[str, ...]
    designs: tuple[Design, ...]
    costs: tuple[DesignCost, ...]
    favoured: Mapping[str, str]
    """Chip -> the design of least cost there."""
    portable: str | None
    """The design whose worst cost over the favoured ones' is least; None where none runs on all."""
    portable_loss: Mapping[str, float]
    """Chip -> cost of the portable design over that of the favoured one, less 1."""
    fragmentation: Mapping[str, Mapping[str, float | None]]
    """Chip -> chip whose favourite is run on it -> cost over its own favourite's, less 1."""
    iso: tuple[Iso, ...] = ()
    why: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    asked: Mapping[str, Any] = field(default_factory=dict)
