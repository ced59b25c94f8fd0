"""Which ranks exchange what in a layout: the groups of every collective of a step, as times.

Ranks are numbered tp, cp, dp, pp from the innermost out, or tp, pp, dp where pipeline neighbours
share a domain; experts' groups lie inside tp, cp and dp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np

from weftline.fabric import CollectiveTimes, GroupTimes, domain_of, group_times
from weftline.plan.step.columns import Layouts
from weftline.plan.step.constants import FloatArray
from weftline.plan.step.workload import Keys
from weftline.spec import Cluster

_BUCKET_PARAMETERS: Final = 40e6
_BUCKET_PARAMETERS_A_RANK: Final = 1e6
"""Gradients are reduced by buckets of so many parameters, more over many ranks: Megatron-Core's
``DistributedDataParallelConfig`` (core/distributed/distributed_data_parallel.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """Times of all groups. The first eight have one entry a key, the rest one a layout."""

    tp: GroupTimes
    cp: GroupTimes
    heads: GroupTimes
    """Ulysses: all-to-all of heads over a context-parallel group."""
    ep: GroupTimes
    """All-to-all of an expert-parallel group."""
    ep_inside: GroupTimes
    """That of those of its ranks that share a domain."""
    ep_share: FloatArray
    """Which share of the ranks they are."""
    ep_domains: FloatArray
    etp: GroupTimes
    pp: GroupTimes
    """A send to the next stage."""
    dp_reduce: GroupTimes
    """Reduce-scatter; all-reduce where nothing is sharded and ``dp_gather`` costs nothing."""
    dp_gather: GroupTimes
    edp_reduce: GroupTimes
    edp_gather: GroupTimes
    replica: GroupTimes
    """HSDP: all-reduce of a shard's gradients across replicas."""
    dp_calls: FloatArray
    """Collectives a step that gradients are reduced in."""

    @staticmethod
    def joined(parts: Sequence[Groups]) -> Groups:
        """Several as one, in their order."""
        made: dict[str, Any] = {}
        for f in fields(Groups):
            values = [getattr(p, f.name) for p in parts]
            together = GroupTimes.joined if isinstance(values[0], GroupTimes) else np.concatenate
            made[f.name] = together(values)
        return Groups(**made)


def groups_of(
    cluster: Cluster, keys: Keys, layouts: Layouts, stage_layers: FloatArray, dense: FloatArray
) -> Groups:
    """The groups of layouts on a cluster, and of their keys.

    ``stage_layers`` and ``dense`` are layers and parameters that the fullest stage's chips train.
    """
    times = group_times(cluster)
    lay, zero3 = layouts, layouts.zero >= 3
    stage_chips = lay.tp * lay.cp * lay.dp
    inner = lay.pp_inner > 0
    dp_stride = lay.tp * np.where(inner, lay.pp, 1.0)
    pp_stride = np.where(inner, lay.tp, stage_chips)
    expert_ranks = lay.ep * lay.etp
    dp_reduce, dp_gather = _gradients(times, lay, lay.shard, dp_stride)
    edp_reduce, edp_gather = _gradients(times, lay, stage_chips / expert_ranks, expert_ranks)
    replicas = lay.cp * lay.dp / lay.shard
    here = np.clip(domain_of(cluster) // keys.etp, 1.0, keys.ep)
    bucket = np.maximum(_BUCKET_PARAMETERS, _BUCKET_PARAMETERS_A_RANK * lay.shard)
    one = np.ones_like(keys.tp)
    return Groups(
        tp=times.groups("all-gather", keys.tp, one),
        cp=times.groups("all-gather", keys.cp, keys.tp),
        heads=times.groups("all-to-all", keys.cp, keys.tp),
        ep=times.groups("all-to-all", keys.ep, keys.etp),
        ep_inside=times.groups("all-to-all", here, keys.etp),
        ep_share=here / keys.ep,
        ep_domains=np.ceil(keys.ep / here),
        etp=times.groups("all-gather", keys.etp, one),
        pp=times.groups("send", np.minimum(lay.pp, 2.0), pp_stride),
        dp_reduce=dp_reduce,
        dp_gather=dp_gather,
        edp_reduce=edp_reduce,
        edp_gather=edp_gather,
        replica=times.groups("all-reduce", replicas, dp_stride * lay.shard)
        if (replicas > 1).any() else dp_gather.where(np.zeros(len(lay), dtype=np.bool_)),
        dp_calls=np.where(
            zero3, lay.num_micro_batches * stage_layers, np.maximum(dense / bucket, 1.0)
        ),
    )  # fmt: skip


def _gradients(
    times: CollectiveTimes, lay: Layouts, size: FloatArray, stride: FloatArray
) -> tuple[GroupTimes, GroupTimes]:
    """Reducing gradients and gathering weights: one all-reduce where nothing is sharded."""
    whole = lay.zero == 0
    halves = times.groups("reduce-scatter", size, stride)
    if not whole.any():
        return halves, halves
    at_once = times.groups("all-reduce", np.where(whole, size, 1.0), np.where(whole, stride, 1.0))
    return GroupTimes.either(whole, at_once, halves), halves.where(~whole)
