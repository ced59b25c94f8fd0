"""What an evaluator answers, and the two bandwidths by which collectives are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from weftline.fabric.graph import FloatArray, Topology
from weftline.fabric.schedule import Collective

Evaluator = Literal["closed-form", "orbit", "flow", "steps", "events"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Timing:
    """The time of one collective on one network, and what it did to the links."""

    time_s: float
    evaluator: Evaluator
    exact: bool
    """Whether this is the time of the model itself; if not, ``note`` says what was taken."""
    link_load_bytes: FloatArray
    """[links] bytes that cross each link in all."""
    busiest_link: int
    """The link with the longest time at full rate; -1 where nothing moves."""
    busiest_share: float
    """Share of ``time_s`` that the busiest link needs for its bytes."""
    steps: int
    note: str = ""
    low_s: float | None = None
    """Of an estimate: times of the model between which it is expected; None where exact."""
    high_s: float | None = None


def timing_of(
    topology: Topology, evaluator: Evaluator, time_s: float, load: FloatArray, steps: int,
    *, exact: bool = True, note: str = "", between_s: tuple[float, float] | None = None,
) -> Timing:  # fmt: skip
    """A Timing with the busiest link found from the loads."""
    needed_s = load / topology.bandwidth_bytes_per_s
    busiest = int(np.argmax(needed_s)) if len(load) and needed_s.max() > 0 else -1
    share = float(needed_s[busiest]) / time_s if busiest >= 0 and time_s > 0 else 0.0
    return Timing(
        time_s=time_s, evaluator=evaluator, exact=exact, link_load_bytes=load,
        busiest_link=busiest, busiest_share=share, steps=steps, note=note,
        low_s=None if between_s is None else between_s[0],
        high_s=None if between_s is None else between_s[1],
    )  # fmt: skip


def algorithm_bandwidth(size_bytes: float, time_s: float) -> float:
    """Bytes a second of the user's buffer: nccl-tests' algbw."""
    return size_bytes / time_s if time_s > 0 else 0.0


def bus_bandwidth(collective: Collective, ranks: int, size_bytes: float, time_s: float) -> float:
    """Bytes a second a perfect link of each rank would carry: nccl-tests' busbw.

    Source: nccl-tests doc/PERFORMANCE.md: algbw times 2(n-1)/n for all-reduce, (n-1)/n for
    reduce-scatter, all-gather and all-to-all, 1 for broadcast and send.
    """
    factor = {
        "all-reduce": 2 * (ranks - 1) / ranks,
        "reduce-scatter": (ranks - 1) / ranks,
        "all-gather": (ranks - 1) / ranks,
        "all-to-all": (ranks - 1) / ranks,
    }.get(collective, 1.0)
    return algorithm_bandwidth(size_bytes, time_s) * factor
