"""Megatron-Core: ``BurstSaveStrategy(store)``, ``BurstLoadStrategy()``."""

from weftline.burst.frameworks.megatron import BurstLoadStrategy, BurstSaveStrategy

__all__ = ["BurstLoadStrategy", "BurstSaveStrategy"]
