"""Nouns of the policy gate: what a rule comes to on a plan, and the record of a decision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from weftline.spec.notebook import Shown

Outcome = Literal["pass", "notify", "undecided", "refuse"]
OUTCOMES: Final[tuple[Outcome, ...]] = get_args(Outcome)
"""From what lets a plan go to what stops it; a decision is the last of its rules'."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """One rule on one plan."""

    rule: str
    title: str
    outcome: Outcome
    why: str
    missing: str = ""
    """What has to be declared before it can be decided."""
    says: str = ""
    in_force: str = ""
    source: str = ""
    date: str = ""
    """When the source was read."""
    disagree: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision(Shown):
    """All rules on one plan, as they stand on a day."""

    outcome: Outcome
    plan_sha256: str
    plan: str
    """The plan in a line."""
    flop: float
    """Training operations exactly as planned, without recomputation; 0 where nothing is trained."""
    rules_version: str
    decided_on: str
    weftline: str
    declared: dict[str, str]
    rulings: tuple[Ruling, ...]
    note: str
