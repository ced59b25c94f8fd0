"""Collectives between the chips of one replica: measured inside a domain, predicted beyond.

Inside one scale-up domain the vendor's measured tables hold (NCCL's, and the engines' own
all-reduce of small messages). Chips with other links have their transfer part scaled by the link
rates. Groups beyond the domain, and chips without tables, take what ``fabric.predict`` says their
library reaches.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, Literal

import numpy as np

from weftline.catalog import Accelerator, accelerator
from weftline.errors import InputError, UnknownNameError
from weftline.fabric import CollectiveTimes, Machine, machine_from
from weftline.operators.chips import Chip, kin_of
from weftline.operators.lookup import carried, look_up
from weftline.operators.surface import FloatArray, Number, Surface
from weftline.operators.tables import measured

Collective = Literal[
    "all_reduce", "all_reduce_eager", "all_reduce_nccl", "all_gather", "reduce_scatter",
    "all_to_all",
]  # fmt: skip
COLLECTIVES: Final[tuple[Collective, ...]] = (
    "all_reduce", "all_reduce_eager", "all_reduce_nccl", "all_gather", "reduce_scatter",
    "all_to_all",
)  # fmt: skip
_MEASURED_GROUP: Final = 8
_SWITCH_HOP_S: Final = 3.4e-6
"""One hop inside a switched domain: NCCL's tuner (nccl@5067397c src/graph/tuning.cc)."""
_UNKNOWN_LIKE: Final = "a100-80-sxm"
"""Whose library a chip has that no catalogue knows; its links are its own."""
ONE_SHOT_REACHED: Final = 0.75
"""Share of its links that a rank's stores to all others reach: assumed, what NCCL's largest
all-reduces reach of them."""
_OUT_BYTES_PER_S: Final = 12.5e9
"""Network share of a chip whose sources state none: 100 Gbit/s."""


def _crossing_growth(size: FloatArray, edge: float) -> FloatArray:
    """A larger group sends a larger part of its buffer over the links: (n - 1) / n."""
    return (size - 1.0) / size * edge / (edge - 1.0)


class Network:
    """What groups of one chip pay to exchange bytes."""

    def __init__(self, chip: Chip) -> None:
        self.chip = chip
        self.kin = kin_of(chip.like) if chip.like else None
        # Chips without links of their own meet over the host's bus.
        self.domain = chip.link_domain if chip.link_domain > 1 else max(chip.chips_per_host, 1)
        self._surface = lru_cache(maxsize=None)(self._make_surface)
        self._times = CollectiveTimes(self._machine)

    def seconds(
        self, kind: Collective, nbytes: Number, size: Number, per_host: Number | None = None
    ) -> FloatArray:
        """Seconds of one collective over ``size`` chips.

        ``nbytes`` is the full buffer: what every chip holds after an all-gather or all-reduce,
        before a reduce-scatter, or sends in an all-to-all. ``per_host`` is how many of the group
        share one scale-up domain (all that fit, by default). A group of one costs nothing.
        """
        if kind not in COLLECTIVES:
            raise InputError(f"unknown collective `{kind}`", hint=", ".join(COLLECTIVES))
        size = np.asarray(size, dtype=np.float64)
        nbytes = np.asarray(nbytes, dtype=np.float64)
        most = float(self.domain)
        within = np.minimum(size, most if per_host is None else np.asarray(per_host, dtype=float))
        inside = self._inside(kind, nbytes, np.maximum(within, 1.0))
        across = size > np.maximum(within, 1.0)
        if not bool(np.any(across)):
            return np.where(size > 1.0, inside, 0.0)
        # A group of several hosts is never faster than the part of it on one.
        beyond = np.maximum(self._predicted(kind, nbytes, size, within), inside)
        return np.where(size > 1.0, np.where(across, beyond, inside), 0.0)

    def one_shot_s(self, nbytes: Number, size: Number) -> FloatArray:
        """Seconds of an all-reduce whose ranks each send all of their buffer to every other.

        What the smallest costs, and ``(size - 1) nbytes`` over the rank's own links.
        """
        size = np.asarray(size, dtype=np.float64)
        if self.chip.link_bytes_per_s <= 0:
            return self.seconds("all_reduce", nbytes, size)
        least = self.seconds("all_reduce", 1.0, size)
        sent = np.maximum(size - 1.0, 0.0) * np.asarray(nbytes, dtype=np.float64)
        return np.asarray(least + sent / (ONE_SHOT_REACHED * self.chip.link_bytes_per_s))

    def _inside(self, kind: Collective, nbytes: FloatArray, size: FloatArray) -> FloatArray:
        surface = self._surface(kind)
        if surface is None:
            return self._predicted(kind, nbytes, size, size)

        found = look_up(
            surface, (np.maximum(nbytes, 1.0), np.maximum(size, 2.0)), {1: _crossing_growth}
        )
        # A larger domain than was measured adds hops: the tree's depth grows with log2.
        deeper = np.maximum(np.log2(np.maximum(size, 1.0) / _MEASURED_GROUP), 0.0)
        return np.where(size > 1.0, found + deeper * _SWITCH_HOP_S, 0.0)

    def _make_surface(self, kind: Collective) -> Surface | None:
        if self.kin is None or self.chip.link_bytes_per_s <= 0 or self.chip.link_domain < 2:
            return None
        found = measured("other", kind, self.kin.name, "bytes")
        if found is None or self.kin.name == self.chip.name:
            return found
        there = np.asarray(1.0 / self.kin.link_bytes_per_s)
        return carried(found, there, np.asarray(1.0 / self.chip.link_bytes_per_s))

    def _predicted(
        self, kind: Collective, nbytes: Number, size: FloatArray, within: FloatArray
    ) -> FloatArray:
        """What the chip's library is predicted to reach, over one domain or several."""
        name = "all-reduce" if kind.startswith("all_reduce") else kind.replace("_", "-")
        found = self._times.seconds(name, nbytes, np.ceil(size), np.maximum(within, 1.0))
        return found.reshape(np.broadcast_shapes(np.shape(nbytes), size.shape, within.shape))

    def _machine(self, ranks: int, per_domain: int) -> Machine:
        return machine_from(
            self._catalogued(), ranks, per_domain,
            link_bytes_per_s=self.chip.link_bytes_per_s or None,
            out_bytes_per_s=self.chip.out_bytes_per_s or _OUT_BYTES_PER_S, host=self.chip.host,
        )  # fmt: skip

    def _catalogued(self) -> Accelerator:
        """The chip's record; of a chip nobody catalogued that of the one it is like."""
        try:
            return accelerator(self.chip.name)
        except UnknownNameError:
            return accelerator(self.chip.like or _UNKNOWN_LIKE)

    def send_s(self, nbytes: Number, across_hosts: bool = True) -> FloatArray:
        """Seconds of one point-to-point transfer (pipeline stages, KV caches)."""
        return self._times.seconds("send", nbytes, 2.0, 1.0 if across_hosts else 2.0)

    def exchange_s(
        self, step: Literal["dispatch", "combine"], tokens: Number, hidden: Number,
        ranks: Number, *, low_latency: bool, value_bytes: float = 1.0,
    ) -> FloatArray:  # fmt: skip
        """Seconds to send each rank's ``tokens`` to their experts' ranks, or their results back.

        Measured for 8 ranks with DeepEP's kernels; other counts scale what crosses the links.
        """
        surface = self._exchange(f"{step}_{'low_latency' if low_latency else 'high_throughput'}")
        ranks = np.asarray(ranks, dtype=np.float64)
        tokens = np.asarray(tokens, dtype=np.float64)
        if surface is None:
            width = value_bytes if step == "dispatch" else 2.0
            return self.seconds("all_to_all", tokens * hidden * width, ranks)

        found = look_up(surface, (np.maximum(tokens, 1.0), hidden))
        crossing = (ranks - 1.0) / ranks * _MEASURED_GROUP / (_MEASURED_GROUP - 1.0)
        return np.where(ranks > 1.0, found * np.minimum(crossing, 1.0), 0.0)

    def _exchange(self, name: str) -> Surface | None:
        if self.kin is None or self.chip.link_bytes_per_s <= 0 or self.chip.link_domain < 2:
            return None
        found = measured("other", name, self.kin.name, "tokens")
        if found is None or self.kin.name == self.chip.name:
            return found
        there = np.asarray(1.0 / self.kin.link_bytes_per_s)
        return carried(found, there, np.asarray(1.0 / self.chip.link_bytes_per_s))
