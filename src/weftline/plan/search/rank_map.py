"""The rank map of a plan: which rank runs where, by cost.

The step's exchanges of the chosen layout (bytes and counts, as the step model has them) go to the
fabric room's placement search: on the torus, where the chips form one, else behind switches, where
it decides which ranks share a host, a scale-up domain and what is spare in one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from weftline.errors import InputError
from weftline.fabric.graph import Topology
from weftline.fabric.placement import (
    AxisTraffic,
    axes_of_layout,
    grid_speeds,
    jax_placement,
    pack,
    place_layout,
    tiers_of_cluster,
    traffic_of_layout,
)
from weftline.fabric.schedule import Collective
from weftline.fabric.topologies import grid
from weftline.model import Model
from weftline.plan.step.compiled import Compiled, compile_layouts
from weftline.plan.step.frameworks import Framework
from weftline.plan.step.layouts import columns_of
from weftline.spec import Cluster, Layout
from weftline.spec.rank_map import RankMap, runs_of


def rank_map_of(
    model: Model, cluster: Cluster, frame: Framework, layout: Layout, *, seq_len: int,
    precision: str,
) -> RankMap | None:  # fmt: skip
    """The cheapest placement of ``layout`` on the cluster; None for a single chip.

    Also None where the layout's ranks do not fill the torus, or cannot be laid on its sides.
    """
    torus = torus_of(cluster)
    if layout.chips == 1 or (torus is not None and torus.ranks != layout.chips):
        return None
    one = compile_layouts(
        model,
        cluster,
        frame,
        columns_of(layout, len(model.layers)),
        seq_len=seq_len,
        precision=precision,
    )
    traffic = traffic_of(one, layout)
    if not traffic:
        return None
    if torus is None:
        return _behind_switches(cluster, layout, traffic)
    try:
        found = place_layout(layout, torus, traffic)
    except InputError:  # groups that end unevenly, or sides that no product of degrees makes
        return None
    speeds = grid_speeds(torus)
    named = traffic_of_layout(layout, traffic)
    jax = jax_placement(found.axes, speeds, named, split=False)
    return RankMap(
        shape=speeds.grid.shape,
        runs=runs_of(found.rank_to_chip.tolist()),
        physical=dict(found.physical),
        exchange_s=found.cost_s,
        jax_s=None if jax is None else jax.cost_s,
        basis="closed forms on the torus, nothing overlapped",
    )


def _behind_switches(
    cluster: Cluster, layout: Layout, traffic: Sequence[AxisTraffic]
) -> RankMap | None:
    """The map on a network of tiers; None where expert groups end unevenly."""
    tiers = tiers_of_cluster(cluster)
    try:
        axes = axes_of_layout(layout)
        found = pack(axes, tiers, traffic_of_layout(layout, traffic))
    except InputError:
        return None
    names = ["chip", *(t.name for t in tiers.tiers[:-1])]
    return RankMap(
        shape=tiers.shape, runs=runs_of(found.rank_to_chip.tolist()), physical={},
        exchange_s=found.cost_s, jax_s=None, tiers=tuple(reversed(names)),
        shares=dict(found.shares), rank_order_s=found.habits.get("rank order"),
        spare_chips=len(found.spares),
        basis="closed forms tier by tier, the slowest group, nothing overlapped",
    )  # fmt: skip


def torus_of(cluster: Cluster) -> Topology | None:
    """The cluster as one torus or mesh; None where a level is something else.

    Nested tori (a ring of instances that are 4x4 tori) become one grid, the outer axes first.
    """
    levels = [level for level in cluster.levels if level.size > 1]
    if not levels or any(level.kind != "torus" or not level.shape for level in levels):
        return None
    shape: list[int] = []
    links: list[float] = []
    waits: list[float] = []
    wraps: list[bool] = []
    for level in reversed(levels):
        sides = len(level.shape)
        shape += level.shape
        links += [level.bandwidth_bytes_per_s / (2 * sides)] * sides
        waits += [level.latency_s] * sides
        wraps += [not level.open_sides] * sides
    return grid(shape, links, waits, wraps=wraps)


def traffic_of(one: Compiled, layout: Layout) -> Sequence[AxisTraffic]:
    """What each axis of one layout sends in a step; nccl-tests' sizes."""
    key = int(one.key[0])
    layers = float(one.stage_layers[0])
    runs = float(layout.num_micro_batches)
    pairs = float(_first(one.work.tp_collectives, key))
    found: list[AxisTraffic] = []

    def add(axes: tuple[str, ...], collective: Collective, size: float, count: float) -> None:
        if size > 0 and count > 0:
            found.append(
                AxisTraffic(axes=axes, collective=collective, size_bytes=size, count=count)
            )

    # Forward and backward each: a gather and a scatter a pair, which make one all-reduce.
    if layout.tp > 1:
        add(("tp",), "all-reduce", float(one.work.tp_bytes[key]), 2 * pairs * layers * runs)
    if layout.cp > 1:
        add(("cp",), "all-gather", float(one.work.cp_bytes[key]), 3 * layers * runs)
    if layout.ep > 1:
        moe = float(one.moe_fraction[0]) * layers
        add(("ep",), "all-to-all", float(one.work.ep_bytes[key]), 4 * moe * runs)
    if layout.dp > 1:
        add(("dp",), "reduce-scatter", float(one.dp_reduce_bytes[0]), 1.0)
        add(("dp",), "all-gather", float(one.dp_gather_bytes[0]), 1.0)
    if layout.pp > 1:
        add(("pp",), "send", float(one.pp_bytes[0]), 2 * runs * layout.vp)
    return found


def _first(value: object, key: int) -> float:
    array = np.asarray(value, dtype=float)
    return float(array if array.ndim == 0 else array[key])
