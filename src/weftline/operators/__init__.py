"""Operator latency: measured efficiency surfaces by chip class and number format."""

from weftline.operators.architecture import ArchitectureFit, PhaseFit, architecture_fit
from weftline.operators.chips import Chip, chip_of
from weftline.operators.collectives import COLLECTIVES, Collective, Network
from weftline.operators.dtypes import CACHE_BYTES, FORMATS, NumberFormat, number_format
from weftline.operators.operators import Operators, Small, operators
from weftline.operators.spans import mean_span
from weftline.operators.sparse import SparseUnit, skipping_s

__all__ = [
    "CACHE_BYTES",
    "COLLECTIVES",
    "FORMATS",
    "ArchitectureFit",
    "Chip",
    "Collective",
    "Network",
    "NumberFormat",
    "Operators",
    "PhaseFit",
    "Small",
    "SparseUnit",
    "architecture_fit",
    "chip_of",
    "mean_span",
    "number_format",
    "operators",
    "skipping_s",
]
