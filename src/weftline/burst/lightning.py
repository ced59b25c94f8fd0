"""Lightning: ``Trainer(plugins=[BurstCheckpointIO(store)])``."""

from weftline.burst.frameworks.lightning import BurstCheckpointIO

__all__ = ["BurstCheckpointIO"]
