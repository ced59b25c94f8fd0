"""The network: topologies, collective schedules and their proofs, bounds, times, placement."""

from typing import TYPE_CHECKING

from weftline._lazy import lazily

if TYPE_CHECKING:
    from weftline.fabric.algorithms import ALGORITHMS, algorithms_for, build
    from weftline.fabric.bounds import Bound, bound
    from weftline.fabric.checker import Proof, check, check_orbit
    from weftline.fabric.choice import Candidate, Choice, choose
    from weftline.fabric.cluster import cluster_of
    from weftline.fabric.evaluators import Background, Timing, evaluate, fair_rates
    from weftline.fabric.failures import fail_links, slow_links, without_links
    from weftline.fabric.graph import Grid, Topology
    from weftline.fabric.named import named_fabric, named_fabrics
    from weftline.fabric.orbit import OrbitSchedule, expand
    from weftline.fabric.parse import parse_topology
    from weftline.fabric.placement import AxisTraffic, Placement, place, place_layout
    from weftline.fabric.predictor.asked import predict
    from weftline.fabric.predictor.groups import group_times
    from weftline.fabric.predictor.machines import Machine
    from weftline.fabric.predictor.networks import domain_of, machine_from
    from weftline.fabric.predictor.predict import CollectivePrediction
    from weftline.fabric.predictor.surface import CollectiveTimes, GroupTimes
    from weftline.fabric.routing import Routes, routes
    from weftline.fabric.schedule import COLLECTIVES, Collective, Schedule
    from weftline.fabric.synthesis import Synthesis, subgroup, synthesize
    from weftline.fabric.torus import torus_shape

__all__ = [
    "ALGORITHMS",
    "COLLECTIVES",
    "AxisTraffic",
    "Background",
    "Bound",
    "Candidate",
    "Choice",
    "Collective",
    "CollectivePrediction",
    "CollectiveTimes",
    "Grid",
    "GroupTimes",
    "Machine",
    "OrbitSchedule",
    "Placement",
    "Proof",
    "Routes",
    "Schedule",
    "Synthesis",
    "Timing",
    "Topology",
    "algorithms_for",
    "bound",
    "build",
    "check",
    "check_orbit",
    "choose",
    "cluster_of",
    "domain_of",
    "evaluate",
    "expand",
    "fail_links",
    "fair_rates",
    "group_times",
    "machine_from",
    "named_fabric",
    "named_fabrics",
    "parse_topology",
    "place",
    "place_layout",
    "predict",
    "routes",
    "slow_links",
    "subgroup",
    "synthesize",
    "torus_shape",
    "without_links",
]

__getattr__ = lazily(__name__)
