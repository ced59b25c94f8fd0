"""Learning from few measurements: a process over labelled rows, and intervals that hold."""

from weftline.learn.conformal import conformal_quantile, half_width, weighted_quantile
from weftline.learn.process import (
    Features,
    Kernel,
    Process,
    Shape,
    code_of,
    fit_kernel,
    fit_process,
    stack,
)

__all__ = [
    "Features",
    "Kernel",
    "Process",
    "Shape",
    "code_of",
    "conformal_quantile",
    "fit_kernel",
    "fit_process",
    "half_width",
    "stack",
    "weighted_quantile",
]
