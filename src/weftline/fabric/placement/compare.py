"""A placement beside the habits: row-major, Morton, snake and JAX's rule, on one measure each.

Two measures: ``bucket_s``, the closed forms, for maps that are an arrangement of factors; and
``ring_s``, rings in rank order, for any map at all (``rings``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from weftline.fabric.graph import IntArray, Topology
from weftline.fabric.placement.jax_rule import jax_arrangement
from weftline.fabric.placement.model import (
    AxisTraffic,
    GridSpeeds,
    grid_speeds,
    step_time_s,
)
from weftline.fabric.placement.orders import ORDERS, order_points
from weftline.fabric.placement.rings import axis_hops, ring_time_s
from weftline.fabric.placement.search import Measure, Placement, place, placement_of


def compare(
    axes: Mapping[str, int], topology: Topology, traffic: Sequence[AxisTraffic],
    measure: Measure = "links",
) -> dict[str, Any]:  # fmt: skip
    """The best placement and the habits: cost of each, and where JAX refuses.

    The dictionary of ``weftline simulate placement --json``. Raises InputError as ``place`` does.
    """
    best = place(axes, topology, traffic, measure)
    speeds = grid_speeds(topology)
    bucket_s = None
    if best.arrangement:
        bucket_s = step_time_s(speeds, best.box, best.arrangement, list(best.axes), traffic)[0]
    rows = [_map_row("search", best.rank_to_chip, bucket_s, speeds, best.axes, traffic)]
    if best.box == speeds.grid.shape:
        for split in (False, True):
            other = jax_placement(axes, speeds, traffic, split=split)
            name = "jax, splitting axes" if split else "jax"
            if other is None:
                rows.append({"order": name, "bucket_s": None, "ring_s": None, "hops_most": None,
                             "note": "JAX refuses this shape"})  # fmt: skip
            else:
                rows.append(_row(name, other, speeds, traffic))
        for order in ORDERS:
            chips = speeds.grid.rank(order_points(speeds.grid.shape, order))
            rows.append(_map_row(order, chips, None, speeds, axes, traffic))
    return {
        "axes": dict(best.axes), "grid": list(speeds.grid.shape), "box": list(best.box),
        "cost_s": best.cost_s, "cost_by_axis_s": dict(best.cost_by_axis_s),
        "physical": {k: [list(p) for p in v] for k, v in best.physical.items()},
        "rank_to_chip": best.rank_to_chip.tolist(), "looked_at": best.looked_at,
        "complete": best.complete, "measure": measure, "basis": dict(best.basis), "orders": rows,
    }  # fmt: skip


def jax_placement(
    axes: Mapping[str, int], speeds: GridSpeeds, traffic: Sequence[AxisTraffic], *, split: bool
) -> Placement | None:
    """What JAX's rule makes of a job that fills the grid; None where it refuses.

    JAX wants axes in the order of rising intensity: here the bytes a rank sends along each.
    """
    sizes = dict(axes)
    weight = {n: sum(t.count * t.size_bytes for t in traffic if n in t.axes) for n in sizes}
    order = sorted(sizes, key=lambda n: weight[n])
    found = jax_arrangement(speeds.grid.shape, [sizes[n] for n in order], split=split)
    if found is None:
        return None
    names = list(sizes)
    renamed = tuple(tuple((names.index(order[j]), f) for j, f in axis) for axis in found)
    return placement_of(sizes, speeds, speeds.grid.shape, renamed, traffic, method="jax",
                        rings=False)  # fmt: skip


def _row(
    name: str, found: Placement, speeds: GridSpeeds, traffic: Sequence[AxisTraffic]
) -> dict[str, Any]:
    return _map_row(name, found.rank_to_chip, found.cost_s, speeds, found.axes, traffic)


def _map_row(
    name: str, chips: IntArray, bucket_s: float | None, speeds: GridSpeeds,
    axes: Mapping[str, int], traffic: Sequence[AxisTraffic],
) -> dict[str, Any]:  # fmt: skip
    return {
        "order": name, "bucket_s": bucket_s,
        "ring_s": ring_time_s(speeds, chips, axes, traffic),
        "hops_most": axis_hops(speeds.grid, chips, axes), "note": None,
    }  # fmt: skip
