"""PyTorch checkpoints: ``save`` and ``load``, and both ends for torch.distributed.checkpoint."""

from weftline.burst.pytorch.planner import BurstSavePlanner, PerRank
from weftline.burst.pytorch.reader import BurstStorageReader
from weftline.burst.pytorch.state import load, save
from weftline.burst.pytorch.writer import BurstStorageWriter

__all__ = [
    "BurstSavePlanner",
    "BurstStorageReader",
    "BurstStorageWriter",
    "PerRank",
    "load",
    "save",
]
