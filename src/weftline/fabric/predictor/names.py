"""Names of collectives as libraries and tests write them, and bus bandwidth as nccl-tests does."""

from __future__ import annotations

from collections.abc import Mapping

from weftline.errors import InputError

COLLECTIVE_NAMES: Mapping[str, str] = {
    "all_reduce": "all-reduce", "allreduce": "all-reduce",
    "all_gather": "all-gather", "allgather": "all-gather",
    "reduce_scatter": "reduce-scatter", "reducescatter": "reduce-scatter",
    "all_to_all": "all-to-all", "alltoall": "all-to-all", "a2a": "all-to-all",
    "broadcast": "broadcast", "reduce": "broadcast",
    "send": "send", "sendrecv": "send", "p2p": "send", "permute": "send",
}  # fmt: skip


def collective_name(text: str) -> str:
    """One name for ``all_reduce``, ``allreduce_perf``, ``AllReduce``; raises InputError."""
    low = text.strip().lower().replace("-", "_").replace(" ", "_").removesuffix("_perf")
    known = COLLECTIVE_NAMES.get(low) or COLLECTIVE_NAMES.get(low.replace("_", ""))
    if known is None:
        raise InputError(
            f"unknown collective `{text}`", hint=f"known: {', '.join(sorted(COLLECTIVE_NAMES))}"
        )
    return known


def bus_factor(collective: str, ranks: int) -> float:
    """Bus bandwidth / algorithm bandwidth, as nccl-tests' PERFORMANCE.md defines it."""
    if collective == "all-reduce":
        return 2 * (ranks - 1) / ranks
    return (
        (ranks - 1) / ranks if collective in ("all-gather", "reduce-scatter", "all-to-all") else 1
    )
