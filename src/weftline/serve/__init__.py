"""Serving: what a request costs in time, chips and money, on any accelerator."""

from weftline.serve.closed_form import Load, compile_load, solve
from weftline.serve.config import PoolConfig, ServingConfig
from weftline.serve.intervals import band
from weftline.serve.memory import memory
from weftline.serve.step import StepSurface, prefill_surface, surface

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
