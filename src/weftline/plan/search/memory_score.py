"""Counted memory against logged peaks, and whether layouts that ran are taken as possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from weftline.plan.calibrate.row import Row
from weftline.plan.calibrate.sources import source_of
from weftline.plan.search.fits import MEMORY_BAND, fits_on
from weftline.plan.step.memory import memory_of
from weftline.spec import Job

__all__ = ["ScoredMemory", "score_memory", "score_memory_to_dict"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredMemory:
    """One run: what is counted, what was logged, and whether the planner would take its layout."""

    id: str
    accelerator: str
    framework: str
    model: str
    source: str
    counted_bytes: float
    """Of what the framework logs: tensors alone, or with the allocator's holes."""
    peak_bytes: float | None
    capacity_bytes: float
    held_bytes: float | None
    """What the layout as stated takes in all, least over what it leaves open; None where nothing is
    stated."""
    accepted: bool | None
    """Whether the planner takes the layout as stated; None where nothing is stated."""
    offloaded: bool
    """Whether it takes it with more in host memory alone."""

    @property
    def error_pct(self) -> float | None:
        """Counted over logged, less one, in per cent."""
        if self.peak_bytes is None:
            return None
        return 100 * (self.counted_bytes / self.peak_bytes - 1)

    @property
    def in_band(self) -> bool | None:
        """Whether the logged peak lies within the band that a plan states."""
        if self.peak_bytes is None:
            return None
        return abs(self.peak_bytes / self.counted_bytes - 1) <= MEMORY_BAND


def score_memory(rows: Sequence[Row]) -> tuple[ScoredMemory, ...]:
    """Every row that logs a peak or states a layout.

    Nothing of the count is fitted to runs: sources left out and sources seen are one.
    """
    return tuple(_scored(row) for row in rows if row.held or row.peak_memory_bytes is not None)


def _scored(row: Row) -> ScoredMemory:
    found = memory_of(row.model, row.frame, row.layout, seq_len=row.seq_len)
    reserved = row.frame.reserved_share is not None
    holes = row.frame.context_bytes if reserved else found.overhead_bytes[0]
    held, accepted, offloaded = _held(row) if row.held else (None, None, False)
    return ScoredMemory(
        id=row.id, accelerator=row.accelerator, framework=row.framework, model=row.model_name,
        source=source_of(row.source or row.framework),
        counted_bytes=float(found.total_bytes[0] - holes), peak_bytes=row.peak_memory_bytes,
        capacity_bytes=row.cluster.memory_bytes, held_bytes=held, accepted=accepted,
        offloaded=offloaded,
    )  # fmt: skip


def _held(row: Row) -> tuple[float | None, bool, bool]:
    """(bytes of the layout as stated, whether it is taken, whether with more offloaded)."""
    lay = row.layout
    micro = max(1, round(float(lay.micro_batch[0])))
    batch = micro * max(1, round(float(lay.num_micro_batches[0]))) * round(float(lay.dp[0]))
    stages = tuple(sorted({*row.frame.zero_stages, int(row.held["zero"])}))
    frame = replace(row.frame, zero_stages=stages)
    job = Job(
        model=row.model_name, tokens=batch * row.seq_len, seq_len=row.seq_len, global_batch=batch,
        chips=row.cluster.chips, precision=row.precision,  # type: ignore[arg-type]
        layout={**row.held, "micro_batch": micro},
    )  # fmt: skip
    found = fits_on(row.model, job, frame, row.cluster)
    if found is None:
        return None, False, False
    any_fits = bool(found.fits.any())
    taken = found.total_bytes[found.fits] if any_fits else found.total_bytes
    more = found.frame != frame
    return float(taken.min()), any_fits, any_fits and more


def score_memory_to_dict(scored: Sequence[ScoredMemory]) -> dict[str, Any]:
    """The score as ``--json`` prints it: summary, groups by source, rows."""
    names = sorted({s.source for s in scored})
    groups = [
        {"source": name, **_summary([s for s in scored if s.source == name])} for name in names
    ]
    rows = [{**asdict(s), "error_pct": s.error_pct, "in_band": s.in_band} for s in scored]
    return {"summary": _summary(scored), "groups": groups, "rows": rows}


def _summary(scored: Sequence[ScoredMemory]) -> dict[str, float | int | None]:
    errors = np.array([e for s in scored if (e := s.error_pct) is not None])
    hits = [h for s in scored if (h := s.in_band) is not None]
    stated = [s for s in scored if s.accepted is not None]
    over = sum(s.held_bytes is not None and s.held_bytes > s.capacity_bytes for s in stated)
    return {
        "rows": len(scored),
        "logged": len(errors),
        "mape_pct": round(float(np.abs(errors).mean()), 3) if len(errors) else None,
        "bias_pct": round(float(errors.mean()), 3) if len(errors) else None,
        "band_held_pct": round(100 * float(np.mean(hits)), 3) if hits else None,
        "stated": len(stated),
        "rejected": sum(not s.accepted for s in stated),
        "offloaded": sum(s.offloaded for s in stated),
        "over_pct": round(100 * over / len(stated), 3) if stated else None,
    }
