"""torchtitan: ``BurstCheckpointManager.Config(...)``."""

from weftline.burst.frameworks.torchtitan import BurstCheckpointManager

__all__ = ["BurstCheckpointManager"]
