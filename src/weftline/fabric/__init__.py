"""The network: topologies, costs of collectives, clusters of real accelerators."""

from weftline.fabric.closed_forms import (
    GroupCost,
    all_to_all_cost,
    gather_cost,
    members_per_level,
    send_cost,
    torus_shape,
)
from weftline.fabric.cluster import cluster_of

__all__ = [
    "GroupCost",
    "all_to_all_cost",
    "cluster_of",
    "gather_cost",
    "members_per_level",
    "send_cost",
    "torus_shape",
]
