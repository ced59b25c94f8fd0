"""How much of what plans rest on has a source: the share of figures that are unconfirmed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from weftline.catalog._read import accelerators
from weftline.catalog.accelerators import Accelerator

PLANNED: Final = (
    "peak.bf16", "peak.fp16", "peak.fp8", "peak.fp4", "peak.int8", "memory", "memory_bandwidth",
    "scale_up", "scale_up_domain", "scale_out", "tdp", "chips_per_host",
)  # fmt: skip
"""The fields that the planners read of a chip."""

_WORDS: Final = {
    "scale_up": "scale-up bandwidth", "scale_up_domain": "scale-up domain",
    "scale_out": "scale-out bandwidth", "tdp": "power", "chips_per_host": "chips a host",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Of the figures that plans may take: how many there are, and which have no source."""

    facts: int
    which: tuple[str, ...]
    """``a10 tdp`` and so on."""

    @property
    def unconfirmed(self) -> int:
        """How many have no source."""
        return len(self.which)

    @property
    def fraction(self) -> float:
        """Unconfirmed over all."""
        return self.unconfirmed / self.facts if self.facts else 0.0


def unconfirmed_of(acc: Accelerator) -> tuple[str, ...]:
    """The fields whose figure taken has no source, of those that plans read."""
    found = ((f, acc.choice(f)) for f in PLANNED)
    return tuple(f for f, c in found if c is not None and c.fact.status == "unconfirmed")


def field_words(field: str) -> str:
    """``fp8 peak``, ``scale-out bandwidth``: a field of a chip in words."""
    if field.startswith("peak."):
        return f"{field[5:]} peak"
    return _WORDS.get(field, field.replace("_", " "))


def unconfirmed_words(acc: Accelerator) -> tuple[str, ...]:
    """A line for an answer that rests on figures without a source; none where all have one."""
    names = [field_words(f) for f in unconfirmed_of(acc)]
    if not names:
        return ()
    return (f"unconfirmed: no source for the {', '.join(names)} of {acc.id}",)


def unconfirmed_share() -> Share:
    """Over all chips that can be had and planned for: the figures taken, those without a source."""
    tried = [a for a in accelerators().values() if a.purchasable and a.use != "cpu" and a.dtypes]
    taken = sum(a.choice(f) is not None for a in tried for f in PLANNED)
    which = tuple(f"{a.id} {f}" for a in tried for f in unconfirmed_of(a))
    return Share(facts=taken, which=which)
