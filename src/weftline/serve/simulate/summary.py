"""What a simulation says in numbers: percentiles, rates, occupancy over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from weftline.serve.simulate.fleet import Outcome

if TYPE_CHECKING:
    from numpy.typing import NDArray

MARKS: Final = 56
SHARES: Final = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)


def summary(outcome: Outcome, *, workers: int, capacity_per_s: float) -> dict[str, Any]:
    """Numbers of a simulation, ready for JSON; times in seconds.

    ``workers`` are the replicas whose time counts as at work or not (decode workers, where prompts
    have workers of their own); ``capacity_per_s`` is the steady-state throughput of all of them, of
    which ``busy_share`` is used.
    """
    fits = outcome.fits
    asked = float(fits.sum()) / max(1e-9, float(np.ptp(outcome.arrived_s)))
    served = max(1e-9, outcome.end_s - float(outcome.arrived_s[0]))
    prompts = int(outcome.prefill_tokens[fits].sum())
    return {
        "requests": int(outcome.arrived_s.size),
        "unservable": int((~fits).sum()),
        "ttft_s": distribution(outcome.ttft_s[fits]),
        "tpot_s": distribution(outcome.tpot_s[fits]),
        "e2e_s": distribution(outcome.e2e_s[fits]),
        "queue_s": distribution(outcome.queue_s[fits]),
        "requests_per_s": float(fits.sum()) / served,
        "output_tokens_per_s": int(outcome.decode_tokens[fits].sum()) / served,
        "input_tokens_per_s": prompts / served,
        "cached_share": int(outcome.cached_tokens[fits].sum()) / max(1, prompts),
        "thrown_out": int((outcome.thrown_out > 0).sum()),
        "capacity_per_s": capacity_per_s,
        "busy_share": min(1.0, asked / capacity_per_s) if capacity_per_s else 1.0,
        "working_share": min(1.0, float(outcome.timeline.busy.sum()) * outcome.timeline.width_s
                          / (served * workers)),
        "end_s": outcome.end_s,
        "timeline": timeline(outcome),
    }  # fmt: skip


def distribution(values: NDArray[np.float64]) -> dict[str, Any]:
    """Mean, percentiles and a curve of (share, value); empty where there are no values."""
    values = values[~np.isnan(values)]
    if values.size == 0:
        return {}
    p50, p90, p99 = (float(v) for v in np.percentile(values, [50, 90, 99]))
    curve = [(share, float(np.quantile(values, share))) for share in SHARES]
    return {"mean": float(values.mean()), "p50": p50, "p90": p90, "p99": p99, "curve": curve}


def timeline(outcome: Outcome) -> dict[str, Any]:
    """Occupancy over time in at most ``MARKS`` means."""
    line = outcome.timeline
    bins = line.busy.size
    step = max(1, -(-bins // MARKS))
    edges = np.arange(0, bins, step)

    def means(values: NDArray[np.float64]) -> list[float]:
        sums = np.add.reduceat(values, edges)
        counts = np.diff(np.append(edges, bins))
        return [float(v) for v in sums / counts]

    return {
        "mark_s": line.width_s * step, "busy": means(line.busy), "running": means(line.running),
        "waiting": means(line.waiting), "kv_share": means(line.kv_share),
    }  # fmt: skip
