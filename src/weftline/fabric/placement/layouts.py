"""Placement of a plan's Layout: its axes, and the map from the plan's ranks to chips."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from weftline.errors import InputError
from weftline.fabric.graph import Topology
from weftline.fabric.placement.model import AxisTraffic
from weftline.fabric.placement.search import Placement, place
from weftline.spec import Layout


def axes_of_layout(layout: Layout) -> dict[str, int]:
    """Axes of a Layout, outermost first, as its ranks are numbered.

    Expert parallelism is folded into tp, cp and dp: where its groups end within dp, dp is cut into
    ``dp`` (between groups) and ``dp_in`` (within one). Raises InputError where they end unevenly.
    """
    sizes: dict[str, int] = {
        str(axis): int(getattr(layout, axis)) for axis in reversed(layout.order)
    }
    inner = math.prod(getattr(layout, a) for a in ("tp", "cp")) // layout.etp
    if layout.ep > inner and layout.dp > 1:
        if layout.ep % inner or layout.dp % (layout.ep // inner):
            raise InputError(
                f"ep={layout.ep} groups end within ranks of tp={layout.tp}, cp={layout.cp}",
                hint="tp * cp / etp should divide ep",
            )
        within = layout.ep // inner
        cut: dict[str, int] = {}
        for name, size in sizes.items():
            if name == "dp":
                cut |= {"dp": size // within, "dp_in": within}
            else:
                cut[name] = size
        sizes = cut
    return sizes


def place_layout(layout: Layout, topology: Topology, traffic: Sequence[AxisTraffic]) -> Placement:
    """``place`` for a Layout; ``rank_to_chip`` is indexed by the plan's own rank numbers.

    Traffic names tp, cp, dp, pp and ep; ep means the experts' groups, dp all of data parallelism.
    """
    return place(axes_of_layout(layout), topology, traffic_of_layout(layout, traffic))


def traffic_of_layout(layout: Layout, traffic: Sequence[AxisTraffic]) -> list[AxisTraffic]:
    """``traffic`` with tp, cp, dp, pp and ep written as the axes of :func:`axes_of_layout`."""
    sizes = axes_of_layout(layout)
    return [replace(t, axes=_named(t.axes, sizes, layout)) for t in traffic]


def _named(axes: Sequence[str], sizes: dict[str, int], layout: Layout) -> tuple[str, ...]:
    found: list[str] = []
    for axis in axes:
        if axis == "ep":
            found += ["dp_in"] if "dp_in" in sizes else []
            found += [a for a in ("cp", "tp") if not (a == "tp" and layout.etp > 1)]
        elif axis == "dp" and "dp_in" in sizes:
            found += ["dp", "dp_in"]
        else:
            found.append(axis)
    return tuple(dict.fromkeys(found))
