"""A checkpoint tier: memory, a log on local disk, and whatever holds copies behind it."""

from typing import TYPE_CHECKING

from weftline._lazy import lazily

if TYPE_CHECKING:
    from weftline.burst.commit.commits import CheckpointInfo
    from weftline.burst.options import Options, Retention
    from weftline.burst.plain import load, save
    from weftline.burst.read.restore import Target
    from weftline.burst.stage.state import Shard
    from weftline.burst.store import Store

__all__ = [
    "CheckpointInfo",
    "Options",
    "Retention",
    "Shard",
    "Store",
    "Target",
    "load",
    "save",
]

__getattr__ = lazily(__name__)
