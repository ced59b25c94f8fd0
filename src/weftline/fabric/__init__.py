"""The network: topologies, collective schedules and their proofs, bounds, times, placement."""

from weftline.fabric.algorithms import ALGORITHMS, algorithms_for, build
from weftline.fabric.bounds import Bound, bound
from weftline.fabric.checker import Proof, check, check_orbit
from weftline.fabric.choose import Candidate, Choice, choose
from weftline.fabric.closed_forms import (
    GroupCost,
    all_to_all_cost,
    gather_cost,
    members_per_level,
    send_cost,
    torus_shape,
)
from weftline.fabric.cluster import cluster_of
from weftline.fabric.evaluators import Timing, evaluate
from weftline.fabric.failures import fail_links, slow_links, without_links
from weftline.fabric.graph import Grid, Topology
from weftline.fabric.named import named_fabric, named_fabrics
from weftline.fabric.orbit import OrbitSchedule, expand
from weftline.fabric.parse import parse_topology
from weftline.fabric.schedule import COLLECTIVES, Collective, Schedule

__all__ = [
    "ALGORITHMS",
    "COLLECTIVES",
    "Bound",
    "Candidate",
    "Choice",
    "Collective",
    "Grid",
    "GroupCost",
    "OrbitSchedule",
    "Proof",
    "Schedule",
    "Timing",
    "Topology",
    "algorithms_for",
    "all_to_all_cost",
    "bound",
    "build",
    "check",
    "check_orbit",
    "choose",
    "cluster_of",
    "evaluate",
    "expand",
    "fail_links",
    "gather_cost",
    "members_per_level",
    "named_fabric",
    "named_fabrics",
    "parse_topology",
    "send_cost",
    "slow_links",
    "torus_shape",
    "without_links",
]
