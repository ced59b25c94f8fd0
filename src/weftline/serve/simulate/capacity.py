"""What a replica works off when there is always more: its steady-state throughput.

A queue that grows without end keeps any median for a while. So a plan needs a rate below what its
fleet works off for ever, with headroom, whatever its latency targets are.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import Final

import numpy as np

from weftline.errors import NoFeasiblePlanError
from weftline.serve.engine.config import ServingConfig
from weftline.serve.engine.memory import memory
from weftline.serve.simulate.fleet import Outcome, simulate
from weftline.spec import Traffic

__all__ = ["capacity_per_s", "found_capacity_per_s", "least_stable"]

LIVES: Final = 5.0
"""Requests of a run, over what runs at once: the first lives fill the batch, the last empty it."""
FEWEST, MOST = 240, 6000
JITTER: Final = 0.2
"""Lengths are spread by so much to either side: equal ones would run in waves."""
KEPT: Final = 0.98
"""Share of the cache that the longest request may take for its length to be spread."""
MOST_FOUND: Final = 0.99
COUNTED: Final = (0.3, 0.9)
"""The share of requests, in the order they end, whose rate is taken."""


def capacity_per_s(config: ServingConfig, traffic: Traffic) -> float:
    """Requests a second that one replica (or group) serves while others wait; 0 where none fits.

    ``traffic`` gives the lengths. What its prefix blocks would find is not followed here: the
    configuration's ``cache_hit`` says it.
    """
    if traffic.hash_ids is None:
        return _of_lengths(config, _Lengths(traffic))
    bare = replace(traffic, hash_starts=None, hash_ids=None)
    return _of_lengths(config, _Lengths(bare))


def found_capacity_per_s(config: ServingConfig, traffic: Traffic, done: Outcome) -> float:
    """The same with what the prefix cache found when ``traffic`` was played."""
    if not config.prefix_cache or config.cache_hit or traffic.hash_ids is None:
        return capacity_per_s(config, traffic)
    tokens = float(done.prefill_tokens[done.fits].sum())
    share = float(done.cached_tokens[done.fits].sum()) / max(1.0, tokens)
    return capacity_per_s(replace(config, cache_hit=min(share, MOST_FOUND)), traffic)


class _Lengths:
    """Traffic by the lengths of its requests alone, as a key."""

    def __init__(self, traffic: Traffic) -> None:
        self.traffic = traffic
        self._key = (traffic.prefill_tokens.tobytes(), traffic.decode_tokens.tobytes())

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Lengths) and self._key == other._key


@lru_cache(maxsize=256)
def _of_lengths(config: ServingConfig, lengths: _Lengths) -> float:
    traffic = lengths.traffic
    each = float(traffic.prefill_tokens.mean() + traffic.decode_tokens.mean())
    try:
        held = memory(config).kv_capacity_tokens
        memory(config.prefilling())
    except NoFeasiblePlanError:
        return 0.0
    at_once = min(float(config.max_batch), max(held / max(each, 1.0), 1.0)) * config.decode_workers
    n = int(min(MOST, max(FEWEST, LIVES * at_once)))
    rng = np.random.default_rng(0)
    pick = rng.integers(0, traffic.requests, n)
    whole = (traffic.prefill_tokens + traffic.decode_tokens)[pick]
    # What just fits must not be made longer.
    jitter = np.where((1.0 + JITTER) * whole < KEPT * held, JITTER, 0.0)
    factor = 1.0 + jitter * rng.uniform(-1.0, 1.0, (2, n))
    queued = Traffic(
        name="queued", arrived_s=np.linspace(0.0, n * 1e-6, n),
        prefill_tokens=np.maximum(traffic.prefill_tokens[pick] * factor[0], 1).astype(np.int64),
        decode_tokens=np.maximum(traffic.decode_tokens[pick] * factor[1], 1).astype(np.int64),
    )  # fmt: skip
    done = simulate(config, queued, routing="round-robin")
    ends = np.sort(done.finished_s[done.fits & np.isfinite(done.finished_s)])
    if ends.size < FEWEST // 2:
        return 0.0
    low, high = (int(share * (ends.size - 1)) for share in COUNTED)
    span = float(ends[high] - ends[low])
    return (high - low) / span if span > 0 else 0.0


def least_stable(rate_per_s: float, each_per_s: float, headroom: float) -> int:
    """The fewest replicas whose steady-state throughput leaves the headroom above the rate."""
    return max(1, math.ceil(rate_per_s / (each_per_s * (1.0 - headroom)) - 1e-9))
