"""Serving: what a request costs in time, chips and money, on any accelerator."""

from weftline.serve.calibrate.intervals import band
from weftline.serve.engine.closed_form import Load, compile_load, solve
from weftline.serve.engine.config import PoolConfig, ServingConfig
from weftline.serve.engine.memory import memory
from weftline.serve.simulate.step import StepSurface, prefill_surface, surface

__all__ = [
    "Load",
    "PoolConfig",
    "ServingConfig",
    "StepSurface",
    "band",
    "compile_load",
    "memory",
    "prefill_surface",
    "solve",
    "surface",
]
