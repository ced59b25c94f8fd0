"""A day's load under autoscaling: replica-hours, dollars, and who waits, beside a fixed fleet.

The fleet is followed as a fluid in steps of seconds: what comes beyond the steady-state throughput
of the replicas that are up queues, and is worked off later. The scaler sees the rate of now, wants
as many replicas as leave the headroom, and gets them after the time a replica takes to start; it
lets go of what was too many for a while (as Kubernetes' stabilization window does).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from weftline.errors import InputError

__all__ = ["Day", "curve_of", "day_of", "start_s_of"]

FloatArray = npt.NDArray[np.float64]

DAY_S: Final = 86400.0
STEP_S: Final = 10.0
DECIDED_S: Final = 60.0
"""Between two looks of the scaler."""
SETTLED_S: Final = 300.0
"""A replica is let go when it was too many for so long."""
BOOT_S: Final = 120.0
"""From the decision to a process that loads weights and back to the first request, without the
loading: a node of the pool that is there, container, engine start, graph capture. Assumed."""
LOAD_BYTES_PER_S: Final = 2e9
"""Weights from a local or cluster cache to one replica: assumed."""
MOST_RATIO: Final = 50.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """What a day comes to; replica-hours count replicas that start, too, as they are paid."""

    fixed_replicas: int
    least: int
    most: int
    fixed_hours: float
    scaled_hours: float
    late_share: float
    """Share of the day's requests that come while there is a queue."""
    longest_wait_s: float
    lead: float
    """The headroom that covers all growth of the load while a replica starts."""
    mean_rate_per_s: float

    @property
    def saved_share(self) -> float:
        """Replica-hours that scaling spares."""
        return 1.0 - self.scaled_hours / self.fixed_hours


def curve_of(text: str, *, where: str = "--daily") -> Callable[[FloatArray], FloatArray]:
    """``2`` (a sine, peak over mean) or a CSV file of evenly spaced rates -> load over its peak.

    The curve takes seconds of the day. Raises InputError.
    """
    try:
        ratio = float(text)
    except ValueError:
        return _curve_of_file(Path(text), where)
    if not 1.0 <= ratio <= 2.0:
        raise InputError(f"a peak of {text} x the mean: a sine has 1 to 2", where=where,
                         hint="a CSV file of the day's rates for steeper ones")  # fmt: skip
    swing = ratio - 1.0
    return lambda t: (1.0 - swing * np.cos(2 * np.pi * t / DAY_S)) / ratio


def _curve_of_file(path: Path, where: str) -> Callable[[FloatArray], FloatArray]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"`{path}` is no number and cannot be read: {error}", where=where,
                         hint="--daily 2, or a CSV file") from None  # fmt: skip
    rates: list[float] = []
    for number, line in enumerate(lines, 1):
        cell = line.rpartition(",")[2].strip()
        if not cell or (number == 1 and not _is_number(cell)):
            continue
        if not (_is_number(cell) and math.isfinite(float(cell)) and float(cell) >= 0):
            raise InputError(f"`{cell[:40]}` is not a rate", where=f"{path}:{number}",
                             hint="a number of at least 0, last in its line")  # fmt: skip
        rates.append(float(cell))
    if len(rates) < 2 or max(rates) <= 0:
        raise InputError("fewer than two rates, or none above zero", where=str(path))
    held = np.array(rates) / max(rates)
    at = np.arange(len(rates) + 1) * (DAY_S / len(rates))
    return lambda t: np.interp(t % DAY_S, at, np.append(held, held[0]))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def start_s_of(weight_bytes: float) -> float:
    """Seconds until a replica that holds so many bytes of weights serves."""
    return BOOT_S + weight_bytes / LOAD_BYTES_PER_S


def wanted_of(rate_per_s: float, each_per_s: float, headroom: float) -> int:
    """Replicas that leave the headroom at a rate; one at least."""
    return max(1, math.ceil(rate_per_s / (each_per_s * (1.0 - headroom)) - 1e-9))


def day_of(
    curve: Callable[[FloatArray], FloatArray], *, peak_per_s: float, each_per_s: float,
    headroom: float, start_s: float, fixed: int,
) -> Day:  # fmt: skip
    """Follow the second of two equal days. ``fixed`` replicas are what serves the peak."""
    if each_per_s <= 0 or start_s < 0:
        raise InputError("a replica serves something, and starts after no less than no time")
    t = np.arange(0.0, 2 * DAY_S, STEP_S)
    load = peak_per_s * np.asarray(curve(t))
    half = len(t) // 2
    up, paid, queue = _followed(load, each_per_s, headroom, start_s, fixed)
    day = slice(half, len(t))
    late = load[day] * (queue[day] > 1e-9)
    ahead = round((start_s + DECIDED_S) / STEP_S)
    later = np.array([load[day][i : i + ahead + 1].max() for i in range(half - ahead)])
    served = np.maximum(load[day][: half - ahead], each_per_s * (1.0 - headroom))
    grown = 1.0 - served / np.maximum(later, served)
    return Day(
        fixed_replicas=fixed, least=int(up[day].min()), most=int(up[day].max()),
        fixed_hours=24.0 * fixed, scaled_hours=float(paid[day].mean()) * 24.0,
        late_share=float(late.sum() / load[day].sum()),
        longest_wait_s=float((queue[day] / (up[day] * each_per_s)).max()),
        lead=float(grown.max(initial=0.0)), mean_rate_per_s=float(load[day].mean()),
    )  # fmt: skip


def _followed(
    load: FloatArray, each_per_s: float, headroom: float, start_s: float, fixed: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(replicas up, replicas paid, requests that wait) at every step."""
    looks = round(DECIDED_S / STEP_S)
    settled = deque[int](maxlen=max(1, round(SETTLED_S / DECIDED_S)))
    up = wanted_of(float(load[0]), each_per_s, headroom)
    coming: Sequence[tuple[int, int]] = ()
    waiting = 0.0
    out = np.zeros((3, len(load)))
    for i, rate in enumerate(load):
        ready = sum(n for at, n in coming if at <= i)
        if ready:
            up, coming = up + ready, tuple(c for c in coming if c[0] > i)
        if i % looks == 0:
            wanted = min(wanted_of(float(rate), each_per_s, headroom), fixed)
            settled.append(wanted)
            more = wanted - up - sum(n for _, n in coming)
            if more > 0:
                coming = (*coming, (i + math.ceil(start_s / STEP_S), more))
                if start_s == 0:
                    up, coming = up + more, coming[:-1]
            elif len(settled) == settled.maxlen:
                up = max(min(up, max(settled)), 1)
        waiting = max(0.0, waiting + (float(rate) - up * each_per_s) * STEP_S)
        out[:, i] = up, up + sum(n for _, n in coming), waiting
    return out[0], out[1], out[2]
