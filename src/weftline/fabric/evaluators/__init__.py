"""How long a schedule takes: by formula, by symmetry orbits, by fair flow, by single events."""

from weftline.fabric.evaluators.choice import evaluate
from weftline.fabric.evaluators.flow import Background, fair_rates
from weftline.fabric.evaluators.timing import (
    Evaluator,
    Timing,
    algorithm_bandwidth,
    bus_bandwidth,
)

__all__ = [
    "Background",
    "Evaluator",
    "Timing",
    "algorithm_bandwidth",
    "bus_bandwidth",
    "evaluate",
    "fair_rates",
]
