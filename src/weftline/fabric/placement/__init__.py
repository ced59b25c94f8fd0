"""A job's axes on a network's axes, and its ranks on chips, by cost."""

from weftline.fabric.placement.compare import compare, jax_placement
from weftline.fabric.placement.jax_rule import jax_arrangement
from weftline.fabric.placement.layouts import (
    axes_of_layout,
    place_layout,
    traffic_of_layout,
)
from weftline.fabric.placement.model import AxisTraffic, GridSpeeds, grid_speeds
from weftline.fabric.placement.orders import ORDERS, order_points, ring_points
from weftline.fabric.placement.packing import Packed, pack
from weftline.fabric.placement.rings import (
    RingQuality,
    check_map,
    ring_quality,
    ring_time_s,
)
from weftline.fabric.placement.search import Measure, Placement, place
from weftline.fabric.placement.tiers import Tier, Tiers, tiers_of, tiers_of_cluster

__all__ = [
    "ORDERS",
    "AxisTraffic",
    "GridSpeeds",
    "Measure",
    "Packed",
    "Placement",
    "RingQuality",
    "Tier",
    "Tiers",
    "axes_of_layout",
    "check_map",
    "compare",
    "grid_speeds",
    "jax_arrangement",
    "jax_placement",
    "order_points",
    "pack",
    "place",
    "place_layout",
    "ring_points",
    "ring_quality",
    "ring_time_s",
    "tiers_of",
    "tiers_of_cluster",
    "traffic_of_layout",
]
