"""A serving plan beside what was measured of a server: the same metrics, and whether bands hold."""

from __future__ import annotations

from dataclasses import dataclass

from weftline.runtime.load.rows import ServedRow
from weftline.spec import ServePlan

__all__ = ["Beside", "ServedRowBeside", "beside"]

_FAR = 0.1
"""Share by which the load may differ from the planned one before that is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """One metric; a side that does not exist is None."""

    name: str
    predicted_s: float | None
    low_s: float | None
    high_s: float | None
    measured_s: float | None

    @property
    def within(self) -> bool | None:
        """Whether the band holds what was measured."""
        if None in (self.low_s, self.high_s, self.measured_s):
            return None
        return bool(self.low_s <= self.measured_s <= self.high_s)  # type: ignore[operator]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedRowBeside:
    """A plan's promises and a server's row."""

    model: str
    row: ServedRow
    rows: tuple[Beside, ...]
    differs: tuple[str, ...]
    """In what the load is not the planned one."""


def beside(plan: ServePlan, row: ServedRow) -> ServedRowBeside:
    """Predicted and measured, metric by metric; load that differs is named, not corrected."""
    measured = {
        "ttft_p50": row.ttft_p50_s, "ttft_p99": row.ttft_p99_s,
        "tpot_p50": row.tpot_p50_s, "tpot_p99": row.tpot_p99_s,
    }  # fmt: skip
    rows = []
    for key, value in measured.items():
        found = plan.estimates.get(key)
        if found is not None or value is not None:
            rows.append(Beside(
                name=key.replace("_", " "), measured_s=value,
                predicted_s=found.value if found else None, low_s=found.low if found else None,
                high_s=found.high if found else None,
            ))  # fmt: skip
    demand = plan.demand
    pairs = (("tokens of a prompt", demand.input_tokens, row.input_tokens),
             ("tokens of an answer", demand.output_tokens, row.output_tokens),
             ("requests a second", demand.rate_per_s, row.rate_per_s))  # fmt: skip
    differs = [f"{name}: planned {planned:g}, measured {got:g}" for name, planned, got in pairs
               if got is not None and abs(got / planned - 1) > _FAR]  # fmt: skip
    if row.rate_per_s is None:
        differs.append("the load is a closed loop, the plan is for a rate")
    return ServedRowBeside(model=demand.model, row=row, rows=tuple(rows), differs=tuple(differs))
