"""What ``catalog validate`` can say: the rules by name, and one finding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Severity = Literal["error", "warning"]

# Each rule, its severity in a user's catalogue, and what it means.
RULES: Final[dict[str, tuple[Severity, str]]] = {
    "not-readable": ("error", "the file or a row of it cannot be read"),
    "unknown-key": ("error", "a field that the format does not have"),
    "missing-key": ("error", "a field that the format needs"),
    "unit-missing": ("error", "a number without a unit, or with one weftline does not know"),
    "unit-mismatch": ("error", "a unit that does not fit its field"),
    "not-positive": ("error", "a number that must be above zero"),
    "label-missing": ("error", "a peak without dense or sparse, a bandwidth without direction"),
    "status-unknown": ("error", "not official, press, estimate, unconfirmed or hypothetical"),
    "source-dangling": ("error", "a source that is not listed"),
    "date-missing": ("error", "no date, or one that is not a date"),
    "date-future": ("error", "a date after today"),
    "duplicate": ("error", "the same thing twice"),
    "sparse-as-dense": ("error", "a peak that is the sparse figure, or that of a narrower format"),
    "unlabelled-peak": ("warning", "a peak that fits several formats and says which of none"),
    "wrong-memory": ("error", "memory more than 15 % off every figure known"),
    "value-spread": ("warning", "sources that differ threefold or more"),
    "peak-order": ("warning", "a wider number format faster than a narrower one"),
    "spot-above-on-demand": ("error", "a spot price above the on-demand price of the same offer"),
    "spot-equals-on-demand": ("warning", "a spot price equal to on-demand: a placeholder"),
    "sentinel-price": ("error", "a price that stands for `not available`"),
    "low-on-demand": ("warning", "an on-demand price half that of other regions: another product"),
    "missing-price": ("error", "an offer without a price"),
    "host-missing": ("warning", "a price of chips alone: their host comes on top"),
    "host-above-price": ("error", "a host that costs as much as host and chips together, or more"),
    "not-an-offer": ("warning", "an average or an index: no one sells at it"),
    "marked-stale": ("warning", "a row whose note says STALE: a newer price of it is known"),
    "marked-suspect": ("warning", "a row whose note says SUSPECT"),
    "marked-outlier": ("warning", "a row whose note says OUTLIER"),
    "day-unknown": ("warning", "a price without any day"),
    "stale-price": ("error", "a price older than asked for"),
    "price-spread": ("warning", "providers that differ threefold or more for one chip"),
    "unknown-accelerator": ("warning", "a chip this catalogue does not know"),
    "provider-missing": ("warning", "a table that covers only some of aws, azure, gcp"),
    "flag-mismatch": ("error", "a shipped row whose flags are not what the rules say"),
}
MARKS: Final = frozenset({"marked-stale", "marked-suspect", "marked-outlier"})
"""What a reader of the source wrote into the note: such a price is taken only when asked for."""
# Prices that break one of these are never taken, those with a mark only when asked for.
QUARANTINE: Final = MARKS | {
    "spot-above-on-demand", "spot-equals-on-demand", "sentinel-price", "low-on-demand",
    "missing-price", "not-positive", "host-above-price", "not-an-offer",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fault: which rule, where, what, the evidence and what to do."""

    rule: str
    where: str
    """``file:line``."""
    what: str
    evidence: str
    hint: str = ""
    severity: Severity = "error"
    subject: str = ""
    """The chip, instance or fabric it is about."""


def finding(
    rule: str, where: str, what: str, evidence: str, *, hint: str = "", subject: str = ""
) -> Finding:
    """A finding with its rule's severity."""
    return Finding(
        rule=rule,
        where=where,
        what=what,
        evidence=evidence,
        hint=hint,
        severity=RULES[rule][0],
        subject=subject,
    )
