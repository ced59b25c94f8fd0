"""Seconds that communication shows in a step: one place prices every collective of the planner.

:func:`collective_s` is what to change when collectives are priced otherwise; all else here says how
many there are, and how much of them a recipe hides behind compute.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weftline.fabric.closed_forms import GroupCost
from weftline.plan.step.compiled import Compiled
from weftline.plan.step.constants import Constants, FloatArray, Number

__all__ = ["Exchanged", "collective_s", "exchanges", "gradient_s", "send_s", "shown"]


def collective_s(cost: GroupCost, nbytes: Number, c: Constants) -> FloatArray:
    """Seconds of one collective that moves ``nbytes`` in each of its groups."""
    return cost.seconds(nbytes, c.scale_up_efficiency, c.scale_out_efficiency)


def shown(overlapped: Number, exposed: Number) -> Number:
    """The share of communication that shows: all of it where a recipe does not overlap it."""
    return 1.0 - np.asarray(overlapped) * (1.0 - np.asarray(exposed))


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchanged:
    """Exposed seconds in a mean layer's forward pass."""

    tp_s: FloatArray
    cp_s: FloatArray
    ep_s: FloatArray


def exchanges(x: Compiled, c: Constants) -> Exchanged:
    """Tensor, context and expert exchange of a mean layer, one entry a layout."""
    lay, key, recipe = x.layouts, x.key, x.recipe
    pair = 2 * np.where(lay.tp > 1, collective_s(x.tp_cost, x.work.tp_bytes[key], c), 0.0)
    tp_s = x.work.tp_collectives * pair * shown(recipe.overlap_tp, c.tp_exposed)
    ring = x.cp_cost.latency_s + collective_s(x.cp_cost, x.work.cp_bytes[key], c)
    heads = 2 * x.heads_cost.latency_s + collective_s(x.heads_cost, x.work.heads_bytes[key], c)
    cp_s = np.where(lay.cp > 1, np.where(lay.ulysses > 0, heads, ring), 0.0)
    cp_s = cp_s * shown(recipe.overlap_cp, c.cp_exposed)
    routed = np.where(lay.ep > 1, 2 * _routed_s(x, c), 0.0)
    split = np.where(lay.etp > 1, 2 * collective_s(x.etp_cost, x.etp_bytes, c), 0.0)
    ep_s = (routed + split) * x.dispatch_share * shown(recipe.overlap_ep, c.ep_exposed)
    return Exchanged(tp_s=tp_s, cp_s=cp_s, ep_s=ep_s)


def _routed_s(x: Compiled, c: Constants) -> FloatArray:
    """One dispatch: a copy for each chosen expert, or one for each rank and node that has some."""
    once = x.recipe.once_a_node
    up = 1.0 - once * (1.0 - x.once_a_rank)
    out = 1.0 - once * (1.0 - x.once_a_node)
    cost = x.ep_cost
    return collective_s(
        GroupCost(cost.latency_s, cost.up_s_per_byte * up, cost.out_s_per_byte * out, cost.at_once),
        x.work.ep_bytes[x.key], c,
    )  # fmt: skip


def send_s(x: Compiled, c: Constants) -> FloatArray:
    """One send of a micro-batch to the next stage."""
    return np.where(x.layouts.pp > 1, collective_s(x.pp_cost, x.pp_bytes, c), 0.0)


def gradient_s(x: Compiled, c: Constants) -> FloatArray:
    """Reduce-scatter and all-gather of dense and expert parameters, before overlap."""
    seconds = np.zeros(len(x.layouts))
    for cost, reduce_bytes, gather_bytes in (
        (x.dp_cost, x.dp_reduce_bytes, x.dp_gather_bytes),
        (x.edp_cost, x.edp_reduce_bytes, x.edp_gather_bytes),
    ):
        groups = cost.up_s_per_byte + cost.out_s_per_byte > 0
        both = collective_s(cost, reduce_bytes, c) + collective_s(cost, gather_bytes, c)
        seconds = seconds + np.where(groups & (reduce_bytes > 0), both, 0.0)
    replicas = 2 * collective_s(x.replica_cost, x.replica_bytes, c)
    return seconds + np.where(x.replica_bytes > 0, replicas, 0.0)
