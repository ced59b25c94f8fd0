"""How load is driven and what is written down: benchmarks as data.

The same server reads differently under each: a closed loop keeps a number of requests in flight, a
queued one has all of them at the start, a static batch is put together once, and MLPerf's Server
and Interactive scenarios send Poisson arrivals at the highest rate that keeps two limits. A row
names its harness; corrections learnt under one are never taken for another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["HARNESSES", "Harness", "Limits", "harness_of", "limits_of"]

Arrival = Literal["closed", "queued", "static", "poisson"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Harness:
    """One way to measure a server."""

    title: str
    arrival: Arrival
    length_share: float = 1.0
    """Mean length over the stated one: InferenceX draws uniformly from 0.8 to 1 of it."""
    equal: bool = False
    """Whether all requests of a closed loop are of one length: they then run in waves."""
    statistic: str = "mean"
    """What times are: of all requests, unless a row says otherwise."""
    warm_cache: bool = False
    """Whether prompts are sent again, so that a prefix cache has seen them."""
    era: str = ""
    """Year and month of its software, where rows do not say."""
    eager: bool = False
    """Whether its servers decode without captured graphs, as none could in 2023."""
    max_batch: float = float("inf")
    """Sequences a replica may run at once where the harness queues everything."""


HARNESSES: Final[Mapping[str, Harness]] = {
    "inferencex": Harness(title="InferenceX sweep", arrival="closed", length_share=0.9),
    "inferencex-positions": Harness(
        title="InferenceX, times by token position", arrival="closed", statistic="median",
        era="2026-03",
    ),
    "fixed-length": Harness(title="equal lengths, fixed concurrency", arrival="closed",
                            equal=True),
    "trtllm-bench": Harness(
        title="trtllm-bench throughput", arrival="queued", era="2025-09", max_batch=1024.0
    ),
    "mlperf-offline": Harness(
        title="MLPerf Offline", arrival="queued", era="2025-09", max_batch=2048.0
    ),
    "mlperf-server": Harness(
        title="MLPerf Server", arrival="poisson", statistic="p99", era="2025-09", max_batch=2048.0
    ),
    "mlperf-interactive": Harness(
        title="MLPerf Interactive", arrival="poisson", statistic="p99", era="2025-09",
        max_batch=2048.0,
    ),
    "neuronx-batch": Harness(title="Neuron, batch", arrival="static", statistic="p50"),
    "neuronx-real-time": Harness(title="Neuron, real time", arrival="static", statistic="p50"),
    "tpu": Harness(title="published TPU points", arrival="closed"),
    "splitwise": Harness(
        title="Splitwise, static batches", arrival="static", statistic="median", era="2023-11",
        eager=True,
    ),
    "nim": Harness(title="NIM (genai-perf)", arrival="closed"),
    "vllm-bench": Harness(title="vllm bench serve", arrival="closed"),
    "published": Harness(title="published, harness not named", arrival="closed"),
}  # fmt: skip
"""Batches of queued harnesses: open MLPerf v5.1 submissions state 1,232 to 2,401 (Krai's READMEs);
trtllm-bench's rows keep 1,024 or what the cache holds."""


def harness_of(group: str, scenario: str) -> str:
    """The harness of a published set and scenario, as the files name them."""
    scene = scenario.strip().lower()
    if group.startswith("mlperf"):
        return f"mlperf-{scene}" if f"mlperf-{scene}" in HARNESSES else "published"
    if group.startswith("trtllm_perf_overview"):
        return "trtllm-bench"
    if group == "aws_neuron":
        return "neuronx-batch" if scene == "batch" else "neuronx-real-time"
    for start, name in (("splitwise", "splitwise"), ("inferencex_token", "inferencex-positions"),
                        ("nim", "nim"), ("tpu", "tpu"), ("vllm_bench", "vllm-bench")):  # fmt: skip
        if group.startswith(start):
            return name
    return "published"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What 99 % of requests must keep for a rate to count."""

    ttft_s: float
    tpot_s: float


_LIMITS: Final[Mapping[tuple[str, str], Limits]] = {
    ("mlperf-server", "llama-2-70b"): Limits(ttft_s=2.0, tpot_s=0.2),
    ("mlperf-interactive", "llama-2-70b"): Limits(ttft_s=0.45, tpot_s=0.04),
    ("mlperf-server", "mixtral-8x7b"): Limits(ttft_s=2.0, tpot_s=0.2),
    ("mlperf-server", "llama-3.1-405b"): Limits(ttft_s=6.0, tpot_s=0.175),
    ("mlperf-interactive", "llama-3.1-405b"): Limits(ttft_s=4.5, tpot_s=0.08),
    ("mlperf-server", "llama-3.1-8b"): Limits(ttft_s=2.0, tpot_s=0.1),
    ("mlperf-interactive", "llama-3.1-8b"): Limits(ttft_s=0.5, tpot_s=0.03),
    ("mlperf-server", "deepseek-r1"): Limits(ttft_s=2.0, tpot_s=0.08),
    ("mlperf-interactive", "deepseek-r1"): Limits(ttft_s=1.5, tpot_s=0.015),
}  # fmt: skip
"""``ttft_latency`` and ``tpot_latency`` of MLPerf's own configuration (github mlcommons/inference,
loadgen/mlperf.conf at 001712e9, read 2026-11-30); its Server scenario holds 99 % of requests to
them (``target_latency_percentile``). Offline has none."""


def limits_of(harness: str, model: str) -> Limits | None:
    """The limits a harness holds a model to; None where it has none, or they are not known."""
    return _LIMITS.get((harness, model))
