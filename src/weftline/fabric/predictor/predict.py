"""``predict``: the time of one collective on one machine, with its band and its parts.

All of weftline that prices a collective ends here: plan, serve, ``simulate collective`` and
``score collectives``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from weftline.fabric.predictor.constants import Constants, shipped_record
from weftline.fabric.predictor.direct import direct_ways
from weftline.fabric.predictor.machines import Harness, Machine
from weftline.fabric.predictor.names import bus_factor
from weftline.fabric.predictor.ways import FloatArray, Way, gpu_ways

MIB = 2.0**20
HOST_SHARE: Mapping[Harness, float] = {"device": 0.0, "unsaid": 0.5, "host": 1.0}
"""What of a call's cost on the host a timing holds: none where calls are queued and timed on the
device, all where a framework's calls are timed one by one, half where nobody says."""
BAND_DEFAULT = 2.0
"""Ratio of a band where fewer rows than ``fit`` asks for tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectivePrediction:
    """Seconds with a band of 90 %, and how the library is taken to have gone."""

    time_s: float
    low_s: float
    high_s: float
    algorithm: str
    bus_bytes_per_s: float
    parts: Mapping[str, float]
    """Seconds of startup, hops, fill, bytes and host; they add up to ``time_s``."""
    assumed: str = ""
    basis: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Constants, and the bands that systems left out gave them."""

    constants: Constants
    band: Mapping[str, tuple[float, float]]
    """Class of levels and sizes -> measured over predicted, lowest and highest of 90 %."""
    record: Mapping[str, Any] = field(default_factory=dict)

    def predict(
        self,
        machine: Machine,
        collective: str,
        size_bytes: float,
        *,
        algorithm: str = "auto",
        harness: Harness = "unsaid",
    ) -> CollectivePrediction:
        """Time of one collective with its band of 90 %.

        ``size_bytes`` is nccl-tests' size (output of an all-gather, input of everything else).
        """
        c = self.constants
        size = np.array([max(size_bytes, 1.0)])
        way = quickest(c, machine, collective, size, algorithm)[0][0]
        host_s = call_s(c, machine, harness)
        parts = {
            "startup_s": way.startup_s,
            "hops_s": way.hops_s - way.host_s,
            "fill_s": float(way.filled_s(size)[0]),
            "bytes_s": float(size[0] / way.bytes_per_s),
            "host_s": way.host_s + host_s,
        }
        time_s = float(way.seconds(size)[0]) + host_s
        low, high = self.band.get(band_key(machine, size_bytes), (1 / BAND_DEFAULT, BAND_DEFAULT))
        return CollectivePrediction(
            time_s=time_s, low_s=time_s * low, high_s=time_s * high, algorithm=way.name,
            bus_bytes_per_s=size_bytes / time_s * bus_factor(collective, machine.ranks),
            parts=parts, assumed=machine.assumed, basis=str(self.record.get("basis", "")),
        )  # fmt: skip


def quickest(
    c: Constants, m: Machine, collective: str, size: FloatArray, asked: str = "auto"
) -> tuple[list[Way], FloatArray]:
    """[sizes] the quickest way of each size, and its seconds."""
    if m.kind in ("torus", "neuron"):
        ways = direct_ways(c, m, collective)
    else:
        ways = gpu_ways(c, m, collective, asked)
    seconds = np.stack([w.seconds(size) for w in ways])
    best = seconds.argmin(axis=0)
    return [ways[int(i)] for i in best], seconds[best, np.arange(len(size))]


def times_s(
    c: Constants,
    m: Machine,
    collective: str,
    size: FloatArray,
    *,
    algorithm: str = "auto",
    harness: Harness = "unsaid",
) -> FloatArray:
    """[sizes] seconds."""
    seconds = quickest(c, m, collective, size, algorithm)[1]
    return seconds + call_s(c, m, harness)


def call_s(c: Constants, m: Machine, harness: Harness) -> float:
    """What calling a collective costs on the host; nothing where a compiled program holds it."""
    return 0.0 if m.kind in ("torus", "neuron") else HOST_SHARE[harness] * c.host_s


def size_band(size_bytes: float) -> str:
    """``below 1 MiB`` or ``1 MiB and up``."""
    return "below 1 MiB" if size_bytes < MIB else "1 MiB and up"


def band_key(machine: Machine, size_bytes: float) -> str:
    """What the band of a prediction is learnt by."""
    return f"{machine.level_class}, {size_band(size_bytes)}"


def calibration() -> Calibration:
    """The shipped calibration."""
    record = shipped_record()
    return Calibration(
        constants=Constants(**record["constants"]),
        band={k: (float(v[0]), float(v[1])) for k, v in record["band_90"].items()},
        record=record,
    )
