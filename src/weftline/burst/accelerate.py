"""Accelerate: ``BurstState(accelerator, store)``."""

from weftline.burst.frameworks.accelerate import BurstState

__all__ = ["BurstState"]
