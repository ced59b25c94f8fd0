"""DeepSpeed: ``engine.checkpoint_engine = BurstCheckpointEngine(store)``."""

from weftline.burst.frameworks.deepspeed import BurstCheckpointEngine

__all__ = ["BurstCheckpointEngine"]
