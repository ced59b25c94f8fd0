"""Seconds that communication shows in a step: one place prices every collective of the planner.

:func:`collective_s` is what to change when collectives are priced otherwise; all else here says how
many there are, and how much of them a recipe hides behind compute.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weftline.fabric import GroupTimes
from weftline.plan.step.compiled import Compiled
from weftline.plan.step.constants import Constants, FloatArray, Number

_HEADS_CALLS = 4.0
"""Ulysses exchanges queries, keys, values and outputs (arXiv:2309.14509, section 3.1)."""

__all__ = ["Exchanged", "collective_s", "exchanges", "gradient_s", "send_s", "shown"]


def collective_s(
    group: GroupTimes, nbytes: Number, c: Constants, calls: Number = 1.0
) -> FloatArray:
    """Seconds of collectives that move ``nbytes`` in all in each group, in so many calls.

    What the library reaches where nothing else runs is ``fabric.predict``'s; in training, beside
    kernels that want the same memory and beside other jobs, it takes the loss times that.
    """
    loss = np.where(group.several > 0, c.scale_out_loss, c.scale_up_loss)
    return group.seconds(nbytes / calls) * calls * loss


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
    g, key, recipe = x.groups, x.key, x.recipe
    tp_s = 2 * x.work.tp_collectives * collective_s(g.tp, x.work.tp_bytes, c)
    ring = collective_s(g.cp, x.work.cp_bytes, c)
    heads = collective_s(g.heads, x.work.heads_bytes, c, _HEADS_CALLS)
    routed = 2 * _routed_s(x, c) + 2 * collective_s(g.etp, x.etp_bytes, c)
    cp_s = np.where(x.layouts.ulysses > 0, heads[key], ring[key])
    return Exchanged(
        tp_s=tp_s[key] * shown(recipe.overlap_tp, c.tp_exposed),
        cp_s=cp_s * shown(recipe.overlap_cp, c.cp_exposed),
        ep_s=routed[key] * x.dispatch_share * shown(recipe.overlap_ep, c.ep_exposed),
    )


def _routed_s(x: Compiled, c: Constants) -> FloatArray:
    """One dispatch: a copy for each chosen expert, or one for each rank and node that has some.

    Ranks of a domain and domains exchange at the same time: the slower of both shows.
    """
    g, once = x.groups, x.recipe.once_a_node
    inside = 1.0 - once * (1.0 - x.once_a_rank)
    across = np.where(g.ep_domains > 1, 1.0 - once * (1.0 - x.once_a_node), inside)
    return np.maximum(
        collective_s(g.ep, x.work.ep_bytes * across, c),
        collective_s(g.ep_inside, x.work.ep_bytes * inside * g.ep_share, c),
    )


def send_s(x: Compiled, c: Constants) -> FloatArray:
    """One send of a micro-batch to the next stage."""
    return collective_s(x.groups.pp, x.pp_bytes, c)


def gradient_s(x: Compiled, c: Constants) -> FloatArray:
    """Reduction and gathering of dense and expert parameters, before overlap."""
    g = x.groups
    seconds = np.zeros(len(x.layouts))
    gathers = g.dp_calls * np.where(x.layouts.zero >= 3, 2.0, 1.0)
    for group, nbytes, calls in (
        (g.dp_reduce, x.dp_reduce_bytes, g.dp_calls),
        (g.dp_gather, x.dp_gather_bytes, gathers),
        (g.edp_reduce, x.edp_reduce_bytes, g.dp_calls),
        (g.edp_gather, x.edp_gather_bytes, gathers),
        (g.replica, x.replica_bytes, 1.0),
    ):
        if (moved := nbytes > 0).any():
            seconds = seconds + np.where(moved, collective_s(group, nbytes, c, calls), 0.0)
    return seconds
